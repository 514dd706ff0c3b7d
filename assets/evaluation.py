"""An evaluation and its verdict as the UI shows them: numbers that plot, tables, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from assets.metadata import picture, table
from pilotage.spec import ModelSpec
from pilotage.training.records import Evaluation, FairnessReport, Verdict


def evaluation_metadata(spec: ModelSpec, result: Evaluation) -> dict[str, Any]:
    """Metrics as single numbers (Dagster plots them over time), the rest as tables and pictures."""
    metadata: dict[str, Any] = {
        "dagster/row_count": result.rows,
        "base_rate": result.positives / result.rows,
        "threshold": result.threshold,
        "latency_ms": result.latency_ms,
        "bundle_mb": result.bundle_mb,
    }
    metadata |= {name: interval.value for name, interval in result.metrics.items()}
    metadata["metrics"] = table(
        {"metric": name, "value": interval.value, "low": interval.low, "high": interval.high}
        for name, interval in result.metrics.items()
    )
    metadata["baselines"] = table({"baseline": name, **values} for name, values in result.baselines.items())
    if result.slices:
        metadata["slices"] = table(
            {
                "slice": f"{part.column}={part.value}",
                "rows": part.rows,
                **{name: interval.value for name, interval in part.metrics.items()},
            }
            for part in result.slices
        )
    if result.versus_champion is not None:
        versus = result.versus_champion
        metadata["versus_champion"] = table(
            {
                "metric": name,
                "candidate": versus.candidate[name],
                "champion": versus.champion[name],
                "difference": gap.value,
                "low": gap.low,
                "high": gap.high,
            }
            for name, gap in versus.difference.items()
        )
        metadata["champion"] = versus.champion_version
        metadata["rows_neither_saw"] = versus.rows
    if result.fairness is not None:
        metadata |= {f"fairness: {name}": shown for name, shown in fairness_tables(result.fairness).items()}
    told = {feature.name: feature.description for feature in spec.features}
    metadata["importance"] = table(
        {"feature": name, "share": round(share, 4), "description": told.get(name, "")}
        for name, share in sorted(result.importance.items(), key=lambda item: -item[1])
    )
    metadata |= {
        f"plot: {name}": picture(Path(path).stem, Path(path).read_bytes()) for name, path in result.plots.items()
    }
    return metadata


def fairness_tables(report: FairnessReport) -> dict[str, Any]:
    """How far apart groups are, and the rates of each."""
    return {
        "differences": table(
            {
                "column": gap.column,
                "rate": gap.rate,
                "highest": gap.highest,
                "lowest": gap.lowest,
                "difference": gap.value.value,
                "low": gap.value.low,
                "high": gap.value.high,
                "limit": gap.limit,
                "unfair": gap.unfair,
            }
            for gap in report.differences
        ),
        "groups": table(
            (
                {
                    "column": rate.column,
                    "group": rate.group,
                    "rate": rate.rate,
                    "rows": rate.rows,
                    "value": rate.value.value if rate.value else None,
                    "low": rate.value.low if rate.value else None,
                    "high": rate.value.high if rate.value else None,
                }
                for rate in report.rates
            ),
            limit=200,
        ),
    }


def gate_result(verdict: Verdict, key: dg.AssetKey) -> dg.AssetCheckResult:
    """The gate as an asset check: every criterion with what was measured and what was asked."""
    reasons = verdict.reasons
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="gate",
        passed=verdict.passed,
        # A refusal is the gate doing its work: the run goes on, and records it.
        severity=dg.AssetCheckSeverity.WARN,
        description="Every criterion is met." if verdict.passed else " ".join(reasons),
        metadata={
            "refusals": len(reasons),
            "criteria": table(
                {
                    "criterion": item.name,
                    "passed": item.passed,
                    "measured": item.measured,
                    "threshold": item.threshold,
                    "message": item.message,
                }
                for item in sorted(verdict.criteria, key=lambda item: item.passed)
            ),
        },
    )
