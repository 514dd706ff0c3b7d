"""What a drift report says, as the UI shows it: checks, tables, a picture, the page and its copy in MLflow."""

import base64
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.alarms import JUDGED, VERSION
from assets.metadata import DAY, span, table
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.drift import DriftReport, DriftState, DriftVerdict
    from pilotage.settings import Settings

INPUTS, TRUTH, EXPECTED = "stable_inputs", "stable_predictions_and_labels", "expected_performance"
INCIDENT = "no_incident"
NO_CHAMPION = "There is no champion whose past this could be compared with: nothing was judged."


def drift_checks(verdict: "DriftVerdict", *, since: date | None = None) -> list[dg.AssetCheckResult]:
    """The verdict as checks. Each warns: drift is a reason to look, never one to promote or to stop.

    Args:
        verdict: What the window means.
        since: Last day of the window that opened the alarm; ``None`` while none is open. By it the data of a retraining
            is chosen that learns from what came after a change.
    """
    inputs = [each for each in verdict.columns if each.role == "input"]
    others = [each for each in verdict.columns if each.role != "input"]
    expected, together = verdict.expected_loss, verdict.multivariate
    moved = any(each.raised for each in inputs) or bool(together and together.drifted)
    results: list[tuple[str, bool, str, dict[str, Any]]] = [
        (INPUTS, not moved, verdict.why, _measured(inputs)),
        (TRUTH, not any(each.raised for each in others), verdict.why, _measured(others)),
        (
            EXPECTED,
            not (verdict.alarm and expected and expected.suffers),
            (
                "There are no predictions to tell from."
                if expected is None
                else f"Expected cost a row {expected.reference_cost:.4g} → {expected.cost:.4g}."
            ),
            {}
            if expected is None
            else {"value": expected.cost_change, "threshold": expected.threshold, "expected_cost": expected.cost},
        ),
    ]
    results.append((INCIDENT, not verdict.incident, verdict.why, {"days": span(verdict.incident)}))
    shared: dict[str, str | int | None] = {
        VERSION: verdict.version,
        "window": _window(verdict),
        "alarm": verdict.alarm,
        "alarm_since": None if since is None else since.isoformat(),
        "what_to_do": "docs/how-to/read-drift.md",
    }
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=why,
            metadata={key: value for key, value in {**more, **shared}.items() if value is not None},
        )
        for name, passed, why, more in results
    ]


def unjudged_checks() -> list[dg.AssetCheckResult]:
    """A result of every check where there was nothing to judge."""
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            description=NO_CHAMPION,
            metadata={JUDGED: False},
        )
        for name in (INPUTS, TRUTH, EXPECTED, INCIDENT)
    ]


def tell_drift(
    context: dg.AssetExecutionContext,
    platform: PlatformHome,
    spec: ModelSpec,
    verdict: "DriftVerdict",
    state: "DriftState",
) -> None:
    """Raises and clears the alarms of drift and of incidents, as the newest window has them.

    What is open is raised again by each window, and not only by the one that opened it: a run that was killed before
    this line would otherwise have told nobody.

    Args:
        context: Says which run it was.
        platform: Where the book of alarms is.
        spec: The model.
        verdict: What the window means.
        state: What is remembered after it.
    """
    from pilotage.monitoring.alerts import Alert, AlertBook

    if verdict.last is not None and state.through is not None and verdict.last < state.through:
        context.log.info(f"{verdict.last} is not the newest window: no alarm changes.")
        return
    settings = platform.settings
    about: dict[str, Any] = {"model": spec.name, "run_url": f"{settings.dagster_ui}/runs/{context.run.run_id}"}
    shared = {"window": _window(verdict), "champion": verdict.version}
    with AlertBook.of(settings) as book:
        if verdict.alarm:
            book.raise_(Alert.of("drift", verdict.why, evidence={**shared, **_evidence(verdict, state)}, **about))
        else:
            book.clear("drift", spec.name)
        now = {f"{each[0]}": span(each) for each in _incidents(verdict, state)}
        for first, days in now.items():
            book.raise_(
                Alert.of(
                    "incident",
                    f"{spec.title}: {days} is unlike all of the weeks before. {verdict.why}",
                    subject=first,
                    evidence={**shared, "days": days},
                    # It stays in the window for a week, and is one thing that happened.
                    occurrence=first,
                    **about,
                )
            )
        for key in [alarm.key for alarm in book.alarms()]:
            if (key.kind, key.model) == ("incident", spec.name) and key.subject not in now:
                book.clear(*key)


def _incidents(verdict: "DriftVerdict", state: "DriftState") -> list[list[date]]:
    """The days of each incident that the window still has a day of, also those that it has left."""
    found: list[list[date]] = []
    for day in state.incidents:
        if found and day - found[-1][-1] == DAY:
            found[-1].append(day)
        else:
            found.append([day])
    return [each for each in found if set(each) & set(verdict.incident)]


def _evidence(verdict: "DriftVerdict", state: "DriftState") -> dict[str, Any]:
    told: dict[str, Any] = {
        "since": state.alarm_since,
        "top_columns": verdict.raised[:10],
        "share_of_gain": round(verdict.matters, 3),
    }
    told |= {
        f"{name} of {each.column}": measured.value
        for each in verdict.columns[:3]
        for name, measured in each.measures.items()
        if measured.threshold is not None and measured.value is not None and measured.value >= measured.threshold
    }
    if verdict.expected_loss is not None:
        told |= {
            "expected_cost_change": verdict.expected_loss.cost_change,
            "performance_suffers": verdict.expected_loss.suffers,
        }
    return told


def _measured(columns: list[Any]) -> dict[str, Any]:
    """The worst measure against its threshold, and the columns that are raised, the worst first."""
    beyond = [
        (measured.value / measured.threshold, each.column, name, measured)
        for each in columns
        for name, measured in each.measures.items()
        if measured.value is not None and measured.threshold
    ]
    raised = [each.column for each in columns if each.raised]
    told: dict[str, Any] = {"raised": len(raised), "top_columns": ", ".join(raised[:10]) or "none"}
    if beyond:
        _, column, name, worst = max(beyond, key=lambda one: one[0])
        told |= {"value": worst.value, "threshold": worst.threshold, "measure": f"{name} of {column}"}
    return told


def drift_metadata(report: "DriftReport") -> dict[str, Any]:
    from pilotage.monitoring.drift.picture import draw

    verdict, thresholds = report.verdict, report.thresholds
    told: dict[str, Any] = {
        "alarm": verdict.alarm,
        "why": verdict.why,
        "champion": verdict.version,
        **({"alarm_since": report.state.alarm_since.isoformat()} if report.state.alarm_since else {}),
        "window": _window(verdict),
        "source": f"{report.source}: {report.why_source}",
        "rows": verdict.rows,
        "reference_rows": verdict.reference_rows,
        "drifted_columns": len(verdict.drifted),
        "drifted": ", ".join(verdict.drifted) or "none",
        "matters": round(verdict.matters, 4),
        "largest_psi": max((_value(each, "psi") or 0.0 for each in verdict.columns), default=0.0),
        "incident": span(verdict.incident),
        # A wider table would widen the page beyond its column.
        "columns": table(
            {
                "column": each.column,
                "raised": each.raised,
                "importance": None if each.importance is None else round(each.importance, 3),
                "farthest": _farthest(each),
            }
            for each in verdict.columns
        ),
        "measures": dg.MetadataValue.json(
            {
                each.column: {
                    "null_rate": round(each.null_rate, 4),
                    "null_rate_before": round(each.reference_null_rate, 4),
                    **{
                        name: {"value": measured.value, "threshold": measured.threshold}
                        for name, measured in each.measures.items()
                    },
                }
                for each in verdict.columns
            }
        ),
        "thresholds": thresholds.why,
        "learned_from": f"{thresholds.learned.first} … {thresholds.learned.last}",
        "not_learned_from": span(thresholds.learned.left_out),
        "false_alarms_a_year": thresholds.false_alarms_a_year,
        "thresholds_file": dg.MetadataValue.path(str(report.learned_file)),
        "picture": dg.MetadataValue.md(
            f"![reference and window](data:image/png;base64,{base64.b64encode(draw(report)).decode()})"
        ),
    }
    if (expected := verdict.expected_loss) is not None:
        told |= {"expected_cost": expected.cost, "expected_cost_change": expected.cost_change}
    if (together := verdict.multivariate) is not None:
        told |= {
            "together_auc": 0.5 + together.effect,
            "together_threshold": "too few past windows" if together.threshold is None else 0.5 + together.threshold,
            "together_by": ", ".join(f"{name} {share:.0%}" for name, share in together.used.items()),
        }
    return told


def drift_page(
    context: dg.AssetExecutionContext, spec: ModelSpec, settings: "Settings", report: "DriftReport"
) -> dict[str, Any]:
    """Evidently's page, linked and kept with the champion's other evidence in MLflow."""
    from pilotage.errors import RegistryUnavailable
    from pilotage.monitoring.evidently_report import write_html
    from pilotage.release.drift_log import log_drift

    path = settings.reports / spec.name / "drift.html"
    rows = write_html(report, path)
    told: dict[str, Any] = {
        "report": dg.MetadataValue.url(f"{settings.reports_ui}/{spec.name}/drift.html"),
        "report_rows": rows,
    }
    try:
        told["mlflow_run"] = dg.MetadataValue.url(
            log_drift(report, settings=settings, page_file=path, run_id=context.run.run_id)
        )
    except RegistryUnavailable as error:
        # What was measured stands without its copy.
        context.log.warning(f"The report is not in MLflow: {error}")
        told["mlflow_run"] = f"not logged: {error.message}"
    return told


def _farthest(each: Any) -> str:
    """The measure that is nearest to its threshold, or farthest beyond: ``ks 0.12 of 0.25``."""
    told = [
        (measured.value / measured.threshold, f"{name} {measured.value:.2g} of {measured.threshold:.2g}")
        for name, measured in each.measures.items()
        if measured.value is not None and measured.threshold
    ]
    return max(told)[1] if told else ""


def _window(verdict: "DriftVerdict") -> str:
    return f"{verdict.first} … {verdict.last}" if verdict.last else "rows without days"


def _value(each: Any, name: str) -> float | None:
    return each.measures[name].value if name in each.measures else None
