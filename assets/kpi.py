"""The business number of a model in use, by the SQL that its spec holds."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.alarms import JUDGED, tell
from assets.lineage import model_asset, model_key
from assets.metadata import Materialized, table
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.kpi import KpiValue

WINDOW = 28
"""Days."""


def kpi_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The KPI of one model."""
    key = model_key(spec.name, "kpi")

    @model_asset(
        spec,
        "kpi",
        kinds={"duckdb"},
        description=f"{spec.kpi.name}, {spec.kpi.unit}, by the SQL in the model's file, over labelled answers.",
        deps=[model_key(spec.name, "label_quality")],
        check_specs=[
            dg.AssetCheckSpec(
                "meets_target", asset=key, description="The last 28 days reach the target, as far as chance goes."
            )
        ],
        pool=f"monitoring_{spec.name}",
    )
    def kpi(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.monitoring.answers import data_clock, read_answers, windows_lag
        from pilotage.monitoring.kpi import kpi_values

        settings, lake = platform.settings, platform.lake
        now = data_clock(spec, settings=settings, lake=lake)
        last = now.date() + timedelta(days=1) - windows_lag(spec)  # In no time zone is it later.
        answers = read_answers(
            spec,
            settings=settings,
            lake=lake,
            first=last - timedelta(days=WINDOW),
            last=last,
            known_by=now,
            everything=True,
            reasons=False,
        )
        values = kpi_values(answers, spec, window=WINDOW)
        checks = tell(context, platform, spec, [target_check(spec, values)], {"meets_target": "performance"})
        return dg.MaterializeResult(metadata=_kpi_metadata(spec, values), check_results=checks)

    return kpi


def _kpi_metadata(spec: ModelSpec, values: "list[KpiValue]") -> dict[str, Any]:
    told: dict[str, Any] = {
        "unit": spec.kpi.unit,
        "sql": dg.MetadataValue.md(f"```sql\n{spec.kpi.sql or 'mean cost'}\n```"),
    }
    if values:
        window = values[-1]
        numbers = {
            "value": window.value,
            "baseline": window.baseline,
            "target": window.target,
            "gain": window.gain(spec.kpi),
        }
        told |= {f"{name}_28d": number for name, number in numbers.items() if number is not None}
        told["labelled_28d"] = window.answers
    told["days"] = table(
        {
            "day": str(v.day),
            "answers": v.answers,
            "value": v.value,
            "baseline": v.baseline,
            "target": v.target,
        }
        for v in reversed(values[:-1])
    )
    return told


def target_check(spec: ModelSpec, values: "list[KpiValue]") -> dg.AssetCheckResult:
    """Warns when the target is missed by more than the days' scatter explains."""
    window = values[-1] if values else None
    if window is None or window.value is None:
        missed, said = None, "No answer of the last 28 days has a label: nothing was judged."
    else:
        missed = window.misses_target(spec.kpi)
        between = f" ({window.low:.4g} to {window.high:.4g})" if window.low is not None else ""
        target = "no target" if window.target is None else f"the target is {window.target:.4g}"
        baseline = "" if window.baseline is None else f", {window.baseline:.4g} without the model"
        early = " These are too few days to judge by." if missed is None and window.target is not None else ""
        said = f"{window.value:.4g}{between} {spec.kpi.unit}; {target}{baseline}.{early}"
    return dg.AssetCheckResult(
        check_name="meets_target",
        passed=not missed,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
        metadata={
            JUDGED: missed is not None,
            "answers": 0 if window is None else window.answers,
            "what_to_do": "docs/how-to/read-performance.md",
        },
    )
