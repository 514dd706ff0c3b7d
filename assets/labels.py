"""The truth about what was predicted: collected from its source, and judged before anybody learns from it."""

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.alarms import JUDGED, tell
from assets.ingestion import validated_key
from assets.lineage import LAST_DAY, model_asset, model_key
from assets.metadata import Materialized, picture, table
from pilotage.monitoring.labels import label_source
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.label_defects import LabelDefect
    from pilotage.monitoring.label_quality import LabelReport

CHECKS = {
    "label_rate": "The share of true labels is as days before let expect; a sudden one is a defect.",
    "inverted_labels": "Labels do not contradict what the model ranks.",
    "late_labels": "As many predictions have their label in time as the model's file asks for.",
    "disagreement": "Those who tell the truth about a prediction say the same.",
    "unlabelled": "On no day so many will never have a label that the others are no fair picture of it.",
}
"""One check for each kind of ``LabelDefect``."""
RECENT = timedelta(days=28)
"""How long an outcome is told of whose prediction never came."""
NEW_LABELS = "new_labels"
"""Metadata: labelled rows that the last training did not have."""
ALERTS = dict.fromkeys(CHECKS, "label_quality") | {"late_labels": "label_lag"}


def label_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """What collects outcomes, where a source has them, and what judges labels."""
    return [*([_source_outcomes(spec)] if label_source(spec) is not None else []), _label_quality(spec)]


def _source_outcomes(spec: ModelSpec) -> dg.AssetsDefinition:
    about = label_source(spec)
    source = spec.source if about is None else about.source

    @model_asset(
        spec,
        "source_outcomes",
        kinds={"polars", "deltalake"},
        description=(
            f"What `validated/{source}` says became of what was predicted, appended to `outcomes/{spec.name}` once "
            "each, beside what applications tell the service."
        ),
        deps=[validated_key(source), model_key(spec.name, "predictions")],
        pool=f"outcomes_{spec.name}",
    )
    def source_outcomes(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.monitoring.answers import data_clock
        from pilotage.monitoring.labels import collect

        settings, lake = platform.settings, platform.lake
        now = data_clock(spec, settings=settings, lake=lake)
        found = collect(spec, settings=settings, lake=lake, now=now, received_at=datetime.now(UTC))
        if found is None:  # No such asset is made for a model without a source of labels.
            raise dg.Failure(f"{spec.name} has no source of labels.", allow_retries=False)
        if found.corrected:
            context.log.warning(f"{source} now says otherwise about {found.corrected} entities.")
        return dg.MaterializeResult(
            metadata={
                "source": found.source,
                "entities_predicted": found.looked_up,
                "entities_labelled": found.found,
                "new": found.new,
                "corrected": found.corrected,
                "data_clock": now.isoformat(timespec="minutes"),
                **({"lake_version": found.lake_version} if found.lake_version is not None else {}),
            }
        )

    return source_outcomes


def _label_quality(spec: ModelSpec) -> dg.AssetsDefinition:
    key = model_key(spec.name, "label_quality")
    collected = [model_key(spec.name, "source_outcomes")] if label_source(spec) is not None else []

    @model_asset(
        spec,
        "label_quality",
        kinds={"polars"},
        description=(
            "Whether labels can be trusted: coverage by age, lag, the label rate beside what is normal, disagreement, "
            "and what will never have a label. What is contested is kept, with every value, in "
            f"`quarantine/{spec.name}_outcomes`. Defects keep retraining from learning what is wrong."
        ),
        deps=[model_key(spec.name, "predictions"), model_key(spec.name, "outcomes"), *collected],
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=told) for name, told in CHECKS.items()],
        pool=f"monitoring_{spec.name}",
    )
    def label_quality(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.monitoring.label_quality import read_label_report
        from pilotage.monitoring.measured import quarantine_contested
        from pilotage.monitoring.overview import outcomes_overview
        from pilotage.monitoring.plots import draw_labels

        settings, lake = platform.settings, platform.lake
        report = read_label_report(spec, settings=settings, lake=lake)
        contested = quarantine_contested(spec, settings=settings, lake=lake, now=report.now, run_id=context.run.run_id)
        # By the wall clock: an outcome waits for its prediction from when it was received.
        told = outcomes_overview(settings, spec.name, lake=lake, now=datetime.now(UTC), back=RECENT)
        for defect in report.defects:
            context.log.warning(defect.what)
        if told.unknown:
            context.log.warning(f"{told.statuses['unknown']} outcomes are about predictions that never came.")
        newest = report.rates[-1] if report.rates else None
        new_labels = _new_labels(context.instance, spec, platform)
        return dg.MaterializeResult(
            metadata={
                "predictions": report.predictions,
                "labelled": report.labelled,
                "contested": contested,
                "will_have_none": sum(report.reasons.values()),
                "outcomes_waiting": told.statuses["waiting"],
                "outcomes_unknown": told.statuses["unknown"],
                **({NEW_LABELS: new_labels} if new_labels is not None else {}),
                "defects": len(report.defects),
                "blocking_defects": sum(defect.blocks for defect in report.defects),
                "window": f"{report.first} … {report.last}",
                "data_clock": report.now.isoformat(timespec="minutes"),
                **({f"lag_{name}_h": round(hours, 2) for name, hours in report.lag_h.items()}),
                **({f"coverage_{at.hours:g}h": at.labelled for at in report.coverage if at.hours in (6, 12, 24, 48)}),
                **({"label_rate": newest.rate, "label_rate_normal": newest.normal} if newest else {}),
                "days": table(report.days.reverse().iter_rows(named=True)),
                "coverage": table(
                    {"hours": at.hours, "predictions": at.predictions, "labelled": at.labelled}
                    for at in report.coverage
                ),
                "unknown": table(told.unknown),
                "reasons": table({"reason": why, "predictions": n} for why, n in report.reasons.items()),
                "plot: labels": picture("labels", draw_labels(spec, report)),
            },
            check_results=tell(context, platform, spec, _checks(report), ALERTS),
        )

    return label_quality


def _new_labels(instance: dg.DagsterInstance, spec: ModelSpec, platform: PlatformHome) -> int | None:
    """Labelled rows since the last training; ``None`` before the first."""
    from pilotage.monitoring.label_quality import labels_since

    event = instance.get_latest_materialization_event(model_key(spec.name, "training_set"))
    if event is None or event.asset_materialization is None:
        return None
    told = event.asset_materialization.metadata
    rows, last = (told[name].value if name in told else None for name in ("dagster/row_count", LAST_DAY))
    if spec.event_time is not None and last is None:
        return None  # Made before training sets told their last day.
    day = date.fromisoformat(str(last)) if last is not None else None
    return labels_since(spec, platform.lake, last=day, rows=int(str(rows)))


def _checks(report: "LabelReport") -> list[dg.AssetCheckResult]:
    """A result for every kind of defect, on every path."""
    found: dict[str, LabelDefect] = {defect.kind: defect for defect in report.defects}
    results = []
    for name in CHECKS:
        defect = found.get(name)
        results.append(
            dg.AssetCheckResult(
                check_name=name,
                passed=defect is None,
                severity=(
                    dg.AssetCheckSeverity.ERROR if defect is not None and defect.blocks else dg.AssetCheckSeverity.WARN
                ),
                description=defect.what if defect is not None else _fine(report, name),
                metadata={
                    **(
                        {
                            "measured": defect.measured,
                            "limit": defect.limit,
                            "first_day": str(defect.first),
                            "last_day": str(defect.last),
                            "blocks_retraining": defect.blocks,
                            "evidence": {**defect.evidence},
                        }
                        if defect is not None
                        else {}
                    ),
                    JUDGED: defect is not None or (report.rates != [] if name == "label_rate" else report.labelled > 0),
                    "what_to_do": "docs/how-to/send-outcomes.md",
                },
            )
        )
    return results


def _fine(report: "LabelReport", name: str) -> str:
    if name == "label_rate":
        if not report.rates:
            return "There are too few days with labels to say what is normal: nothing was judged."
        newest = report.rates[-1]
        return f"{newest.rate:.1%} on {newest.last}; {newest.low:.1%} to {newest.high:.1%} would be normal."
    if not report.labelled:
        return "No prediction of the last days has a label: nothing was judged."
    return "Nothing wrong was found."
