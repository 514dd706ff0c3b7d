"""A validation report as the UI shows it: one check a rule, each with measured value, threshold and failing rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from assets.metadata import span, table
from pilotage.data.report import ExpectationResult, ValidationReport
from pilotage.data.source import Expectation, SourceSpec
from pilotage.settings import Settings

Metadata = dict[str, Any]


def validated_metadata(spec: SourceSpec, report: ValidationReport, settings: Settings) -> Metadata:
    """What was published."""
    metadata: Metadata = {
        "rows_published": report.rows_published,
        "dagster/uri": f"{settings.lake}/validated/{spec.name}",
        "dagster/column_schema": dg.TableSchema(
            columns=[dg.TableColumn(name, type=dtype) for name, dtype in report.schema.items()]
        ),
        "rows_read": report.rows_in,
        "rows_quarantined": report.rows_quarantined,
        "batches_published": len(report.published),
        "batches_refused": len(report.refused),
    }
    if report.version is not None:
        metadata["lake_version"] = report.version
    if not spec.daily:
        metadata["dagster/row_count"] = report.rows_published
    else:
        metadata["published"] = span([day for day in report.published if day])
        # Of earlier runs too: a run over good days turns the checks green, and the refused ones are still missing.
        metadata["refused_days"] = len(report.refused_days)
        metadata["days_that_stand_refused"] = span(report.refused_days)
        if report.days_by_other_rules:
            metadata["days_by_other_rules"] = span(report.days_by_other_rules)
    if report.refused:
        metadata["refused"] = table(
            {"batch": _batch(item.batch), "reason": item.reason, "withdrawn": item.withdrawn} for item in report.refused
        )
    return metadata | _docs(report, settings)


def quarantine_metadata(spec: SourceSpec, report: ValidationReport, settings: Settings) -> Metadata:
    """What was kept out, and why."""
    return {
        "rows_quarantined": report.rows_quarantined,
        "dagster/uri": f"{settings.lake}/quarantine/{spec.name}",
        "share": report.rows_quarantined / report.rows_in if report.rows_in else 0.0,
        "rows": table(report.sample),
    }


def check_results(
    spec: SourceSpec, report: ValidationReport, key: dg.AssetKey, settings: Settings
) -> Iterator[dg.AssetCheckResult]:
    """The contract's check, then one for each declared expectation, in the order of the declaration."""
    yield _contract(spec, report, key)
    for declared in spec.expectations:
        results = [item for item in report.expectations if item.name == declared.name]
        yield _expectation(declared, results, report, key, settings)


def refusal(spec: SourceSpec, report: ValidationReport, *, delivered: str | None) -> dg.Failure:
    """What a run that publishes nothing fails with; Dagster itself would tell the names of the checks only.

    Args:
        spec: The source.
        report: Of a validation that refused every batch with rows.
        delivered: What the check of the delivery said last: why there may be no row.
    """
    told = [
        f"{spec.name} was refused.",
        *(f"{_batch(item.batch)}: {item.reason.rstrip('.')}." for item in report.refused[:3]),
    ]
    if len(report.refused) > 3:
        told.append(f"And {len(report.refused) - 3} more.")
    if not report.rows_in:
        told.insert(1, f"No row was there to check: {delivered or 'nothing was delivered.'}")
    fix = (
        f"Have it delivered again, or correct assets/sources/{spec.name}.py if that is wrong: "
        "docs/how-to/read-a-failed-check.md."
    )
    return dg.Failure(" ".join([*told, f"Fix: {fix}"]), metadata={"fix": fix}, allow_retries=False)


def changed(spec: SourceSpec, report: ValidationReport) -> str:
    """That ``prepare`` or the contract is another one than that of days published before, and what to do about it."""
    days = report.days_by_other_rules
    return (
        f"prepare or contract of {spec.name} changed since {len(days)} days were published: {span(days)}. "
        f"Materialise validated/{spec.name} for them, then the features that read it."
    )


def _contract(spec: SourceSpec, report: ValidationReport, key: dg.AssetKey) -> dg.AssetCheckResult:
    failing = [rule for rule in report.contract if rule.failures]
    unmet = {item.batch for item in report.expectations if not item.met and item.severity == "block"}
    refused = [item for item in report.refused if item.batch not in unmet]
    share = report.rows_quarantined / report.rows_in if report.rows_in else 0.0
    words = f"{report.rows_quarantined} of {report.rows_in} rows are in quarantine."
    if refused:
        words = f"{len(refused)} batches refused: {refused[0].reason}"
    if report.days_by_other_rules:
        words = f"{words} {changed(spec, report)}"
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="contract",
        passed=not refused,
        severity=_severity(report, blocking=True),
        description=words,
        metadata={
            "quarantined_share": share,
            "tolerated_share": spec.tolerated,
            "rules_broken": len(failing),
            "rules": table(
                {"column": rule.column or "(row)", "rule": rule.rule, "failures": rule.failures, "share": rule.share}
                for rule in sorted(failing, key=lambda rule: -rule.failures)
            ),
            "failing_rows": table(row for rule in failing for row in rule.examples[:3]),
        },
    )


def _expectation(
    declared: Expectation,
    results: list[ExpectationResult],
    report: ValidationReport,
    key: dg.AssetKey,
    settings: Settings,
) -> dg.AssetCheckResult:
    missed = [item for item in results if not item.met]
    newest = results[-1] if results else None
    metadata: Metadata = {
        "batches_judged": len(results),
        "batches_missed": len(missed),
        "missed": table(
            {
                "batch": _batch(item.batch),
                "measured": item.value,
                "low": item.low,
                "high": item.high,
                "message": item.message,
            }
            for item in missed
        ),
    }
    if newest is not None:
        # The newest batch as plain numbers, so that Dagster plots them from run to run.
        numbers = {"measured": newest.value, "low": newest.low, "high": newest.high}
        metadata |= {name: value for name, value in numbers.items() if value is not None}
    told = " ".join(item.message for item in missed[:3])
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=declared.name,
        passed=not missed,
        severity=_severity(report, blocking=declared.severity == "block"),
        description=told or f"Within its bounds in {len(results)} batches.",
        metadata=metadata | _docs(report, settings),
    )


def _severity(report: ValidationReport, *, blocking: bool) -> dg.AssetCheckSeverity:
    """A refused batch is kept out of the lake whatever happens next; the run stops only if nothing was published."""
    stops = blocking and not report.published
    return dg.AssetCheckSeverity.ERROR if stops else dg.AssetCheckSeverity.WARN


def _docs(report: ValidationReport, settings: Settings) -> Metadata:
    if report.docs is None:
        return {}
    page = Path(report.docs).relative_to(settings.reports).as_posix()
    return {"data_docs": dg.MetadataValue.url(f"{settings.reports_ui}/{page}")}


def _batch(batch: object) -> str:
    return "all rows" if batch is None else str(batch)
