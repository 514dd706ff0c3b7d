"""How good a model is in use: measured as the truth arrives, and estimated before it does."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.alarms import JUDGED, VERSION, tell
from assets.fairness import fairness_asset
from assets.kpi import kpi_asset
from assets.labels import label_assets
from assets.lineage import model_asset, model_key
from assets.metadata import Materialized, picture, span, table
from pilotage.monitoring.labels import label_source
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.measured import PerformanceReport

ALERTS = {"as_promised": "performance", "as_estimated": "performance"}
WINDOW, LONG = 7, 28
"""Days, as ``pilotage.monitoring.performance.WINDOWS`` has them."""
UNEXPECTED = 0.05
"""Nats a day's log loss may on average be above its estimate: a tenth of what knowing nothing of flights costs."""


def monitored_steps(spec: ModelSpec) -> list[str]:
    """What one look at a model in use makes, in its order."""
    return [
        *(["source_outcomes"] if label_source(spec) is not None else []),
        *("label_quality", "performance", "kpi"),
        *(["fairness"] if spec.protected else []),
    ]


def performance_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Labels, performance and KPI of one model; fairness, where it names protected columns."""
    return [
        *label_assets(spec),
        _performance(spec),
        kpi_asset(spec),
        *([fairness_asset(spec)] if spec.protected else []),
    ]


def _performance(spec: ModelSpec) -> dg.AssetsDefinition:
    key = model_key(spec.name, "performance")

    @model_asset(
        spec,
        "performance",
        kinds={"polars", "deltalake"},
        description=(
            "AUC, log loss, Brier score, calibration, cost and abstentions by day, version, stage and slice, with "
            "block-bootstrap intervals; champion, canary and shadow side by side; and what was to be expected before "
            f"the truth was known. Kept in `performance/{spec.name}`; only days of which more is known are measured."
        ),
        deps=[model_key(spec.name, "label_quality")],
        check_specs=[
            dg.AssetCheckSpec(
                "as_promised",
                asset=key,
                description="The champion's last 28 days meet what the gate asks of a holdout, as far as chance goes.",
            ),
            dg.AssetCheckSpec(
                "as_estimated",
                asset=key,
                description="The champion's losses are about those that its probabilities promised before.",
            ),
        ],
        pool=f"monitoring_{spec.name}",
    )
    def performance(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.monitoring.measured import update_performance
        from pilotage.monitoring.plots import draw_performance

        report = update_performance(spec, settings=platform.settings, lake=platform.lake, run_id=context.run.run_id)
        context.log.info(f"Measured {span(report.measured)} from {report.answers:,} answers.")
        metadata = _metadata(report)
        if report.table.height:
            metadata["plot: days"] = picture("days", draw_performance(spec, report.table))
        checks = [promised_check(spec, report), estimated_check(report)]
        return dg.MaterializeResult(metadata=metadata, check_results=tell(context, platform, spec, checks, ALERTS))

    return performance


def _metadata(report: "PerformanceReport") -> dict[str, Any]:
    """The champion's window as single numbers (Dagster plots them), the rest as tables."""
    told: dict[str, Any] = {
        "data_clock": report.now.isoformat(timespec="minutes"),
        "days_measured": span(report.measured),
        "answers_read": report.answers,
    }
    for days in (WINDOW, LONG):
        window = report.window(days)
        if window is not None:
            told |= {f"{name}_{days}d": value.value for name, value in window.metrics.items()}
            told |= {f"labelled_{days}d": window.labelled, f"abstentions_{days}d": window.abstentions}
    newest = max(report.measured, default=None)
    expected = next(
        (
            p.estimated
            for p in report.found
            if p.day == newest and p.days == 1 and (p.stage, p.version) == ("champion", report.champion) and p.estimated
        ),
        None,
    )
    if expected is not None:
        told |= {f"estimated_{name}": value.value for name, value in expected.metrics.items()}
    whole = [p for p in report.found if p.slice_column is None]
    windows = {
        f"{_by(p)}, {p.days} days": p
        for p in sorted(whole, key=lambda p: (p.stage, p.version or 0, p.days, p.day))
        if p.days > 1
    }
    # A row a metric: seven columns of intervals are wider than the page.
    told["windows"] = table(
        {
            "metric": name,
            **{head: _span(p.metrics[name], form=".3g") if name in p.metrics else None for head, p in windows.items()},
        }
        for name in dict.fromkeys(name for p in windows.values() for name in p.metrics)
    )
    told["days"] = table(
        {"day": f"{p.day:%m-%d}", "by": _by(p), "labelled": p.labelled, **_points(p)}
        for p in sorted(whole, key=lambda p: p.day, reverse=True)
        if p.days == 1
    )
    told["slices"] = table(
        {
            "slice": f"{p.slice_column}={p.slice_value}",
            "by": _by(p),
            "labelled": p.labelled,
            **_points(p),
        }
        for p in report.found
        if p.slice_column is not None and p.days == LONG
    )
    told["side_by_side"] = table(
        {
            "version": b.version,
            "stage": b.stage,
            "champion": b.champion,
            "metric": name,
            "value": value.value,
            "champion_value": b.champion_metrics.get(name),
            "difference": _span(b.difference[name]) if name in b.difference else None,
            "answers": b.rows,
            "same_requests": b.same_requests,
        }
        for b in report.beside
        for name, value in b.metrics.items()
    )
    told["estimates"] = table(
        {
            "metric": e.metric,
            "days": e.days,
            "mean_error": e.mean_error,
            "mean_absolute_error": e.mean_absolute_error,
            "naive_absolute_error": e.naive_absolute_error,
            "inside_range": e.inside,
        }
        for e in report.estimates
    )
    return told


def promised_check(spec: ModelSpec, report: "PerformanceReport") -> dg.AssetCheckResult:
    """Warns where the whole interval of a metric is beyond what the gate asked. About this champion alone: what the one
    before it answered asks for no retraining."""
    window = report.window(LONG)
    metrics = {} if window is None else window.metrics
    asked = [("at least", metric, limit) for metric, limit in spec.gate.at_least.items()]
    asked += [("at most", metric, limit) for metric, limit in spec.gate.at_most.items()]
    rows, broken = [], []
    for sign, metric, limit in asked:
        value = metrics.get(metric)
        if value is None:
            continue
        missed = value.high < limit if sign == "at least" else value.low > limit
        rows.append({"metric": metric, "value": _span(value), "asked": f"{sign} {limit}", "missed": missed})
        if missed:
            broken.append(f"{metric} is {_span(value)}, {sign} {limit} was asked")
    if not rows:
        said = "No answer of the champion in the last 28 days has a label: nothing was judged."
    else:
        said = f"{'; '.join(broken)}." if broken else "Within what the gate asked, as far as chance goes."
    return dg.AssetCheckResult(
        check_name="as_promised",
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
        metadata={
            JUDGED: bool(rows),
            **_version(report),
            "missed": len(broken),
            "criteria": table(rows),
            "labelled": 0 if window is None else window.labelled,
            "what_to_do": "docs/how-to/read-performance.md",
        },
    )


def estimated_check(report: "PerformanceReport") -> dg.AssetCheckResult:
    """Warns when the log loss was well above what was expected: then the world has changed, and not only the inputs."""
    record = next((e for e in report.estimates if e.metric == "log_loss"), None)
    judged = record if record is not None and record.days >= WINDOW else None
    if judged is None:
        passed, said = True, f"Fewer than {WINDOW} days with a known truth: nothing was judged."
    else:
        passed = judged.mean_error <= UNEXPECTED
        said = (
            f"Over {judged.days} days the log loss was {judged.mean_error:+.3f} nats off its estimate "
            f"({judged.mean_absolute_error:.3f} on average); up to {UNEXPECTED} more is put up with."
        )
    return dg.AssetCheckResult(
        check_name="as_estimated",
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
        metadata={
            JUDGED: judged is not None,
            **_version(report),
            "days": 0 if record is None else record.days,
            "threshold": UNEXPECTED,
            **({} if record is None else {"mean_error": record.mean_error, "inside_range": record.inside}),
            "what_to_do": "docs/how-to/read-performance.md",
        },
    )


def _version(report: "PerformanceReport") -> dict[str, Any]:
    """Metadata of a check: which version it is about."""
    return {} if report.champion is None else {VERSION: report.champion}


def _by(measured: Any) -> str:
    return measured.stage if measured.version is None else f"{measured.stage} {measured.version}"


def _points(measured: Any) -> dict[str, float]:
    """Metrics without their intervals, which are in the lake: the page is not wide enough for all."""
    short = {"calibration_error": "calibration", "expected_cost": "cost"}
    return {short.get(name, name): float(f"{value.value:.3g}") for name, value in measured.metrics.items()}


def _span(interval: Any, *, form: str = ".4f") -> str:
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"
