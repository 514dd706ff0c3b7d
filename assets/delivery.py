"""An ingest report as the UI shows it: what was taken, what was left, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.ingestion import raw_key
from assets.metadata import column_schema, span, table
from pilotage.data.ingest import Misfit
from pilotage.data.ingested import IngestReport
from pilotage.data.source import SourceSpec
from pilotage.settings import Settings


def raw_metadata(spec: SourceSpec, report: IngestReport, settings: Settings) -> dict[str, Any]:
    """What one ingest wrote. A daily source tells file, hash and rows with each day."""
    metadata: dict[str, Any] = {
        "dagster/uri": f"{settings.lake}/raw/{spec.name}",
        "dagster/column_schema": column_schema(spec.columns),
        "rows_written": report.rows,
        "deliveries": len(report.files),
        "unchanged": len(report.unchanged),
        "corrections": len(report.corrections),
    }
    if report.version is not None:
        metadata["lake_version"] = report.version
    if spec.daily:
        metadata["days"] = span(report.days)
    else:
        metadata["dagster/row_count"] = report.rows
        metadata["files"] = table(
            {"file": item.name, "rows": item.rows, "sha256": item.sha256} for item in report.files
        )
    return metadata


def delivery_check(report: IngestReport) -> dg.AssetCheckResult:
    """Whether everything that landed could be used, and nothing is missing. It warns: what is there goes on."""
    rejected = [
        {"file": item.name, "day": item.day, "reason": item.reason, "fix": item.fix} for item in report.rejected
    ]
    told = [item.reason for item in report.rejected[:3]]
    if len(rejected) > len(told):
        told.append(f"{len(rejected) - len(told)} more files were rejected: see the table.")
    if report.missing_days:
        told.append(f"Nothing was delivered for {span(report.missing_days)}.")
    if report.extra_columns:
        told.append(f"Ignored columns that are not declared: {', '.join(report.extra_columns)}.")
    return dg.AssetCheckResult(
        check_name="delivery",
        passed=not rejected and not report.missing_days and not report.extra_columns,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(told) or "Every file could be read; no day is missing.",
        metadata={
            "rejected_files": len(rejected),
            "missing_days": len(report.missing_days),
            "duplicates": len(report.duplicates),
            "superseded": len(report.superseded),
            "rejected": table(rejected),
            "set_aside": table(
                {"file": item.name, "day": item.day, "counts": item.by, "same_bytes": item.same}
                for item in report.set_aside
            ),
            "missing": span(report.missing_days),
        },
    )


def misnamed(source: str, misfits: Sequence[Misfit]) -> dg.AssetCheckEvaluation:
    """What the check says of files whose names fit no day: no day is asked for on their account, so no run tells it."""
    return dg.AssetCheckEvaluation(
        asset_key=raw_key(source),
        check_name="delivery",
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(f"{misfit.name}: {misfit.reason}." for misfit in misfits[:3]),
        metadata={
            "rejected_files": dg.MetadataValue.int(len(misfits)),
            "rejected": table(
                {"file": misfit.name, "day": None, "reason": misfit.reason, "fix": misfit.fix} for misfit in misfits
            ),
        },
    )
