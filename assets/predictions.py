"""The prediction log in the lake: what was answered, what shadows would have said, and what became of it."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lineage import model_key
from assets.metadata import Materialized, table
from pilotage.spec import ModelSpec
from resources.failures import plainly
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.predictions import MoveReport

LOG = dg.AssetKey(["prediction_log"])
STEPS = ("predictions", "shadows", "outcomes")
RECENT = timedelta(days=1)
"""What the overview of the answers is about."""


def log_assets(models: Mapping[str, ModelSpec]) -> list[dg.AssetsDefinition]:
    """One step moves the log of all models: they share its segments."""
    told = {
        "predictions": "Every answer of the service: what was asked, what the model saw, what it said, and which did.",
        "shadows": "What versions in shadow would have answered to the same requests. Nobody was told.",
        "outcomes": "The truth as applications told it. Of several about one prediction, the first that was known "
        "counts; none is thrown away.",
    }
    per_model = [
        dg.AssetSpec(
            model_key(spec.name, step),
            deps=[LOG, *([model_key(spec.name, "registered_version")] if step != "outcomes" else [])],
            group_name=spec.name,
            owners=[spec.owner],
            kinds={"deltalake"},
            description=told[step],
            skippable=True,
        )
        for spec in models.values()
        for step in STEPS
    ]

    @dg.multi_asset(
        name="move_log",
        specs=[
            dg.AssetSpec(
                LOG,
                group_name="serving",
                owners=["team:platform"],
                kinds={"file"},
                description=(
                    "The segments that the service writes, one worker each, on disk before an answer leaves. Each run "
                    "moves those that are sealed into the tables of the models, each record exactly once."
                ),
            ),
            *per_model,
        ],
        check_specs=[
            dg.AssetCheckSpec("undamaged", asset=LOG, description="Every segment could be read from end to end.")
        ],
        pool="prediction_log",
    )
    @plainly
    def move_log(
        context: dg.AssetExecutionContext, platform: PlatformHome
    ) -> Iterator[Materialized | dg.AssetCheckResult]:
        from pilotage.monitoring.moving import log_lag
        from pilotage.monitoring.predictions import move_log as move

        settings, lake = platform.settings, platform.lake
        report = move(settings, lake, models=models, progress=context.log.info)
        for problem in report.problems:
            context.log.error(problem)
        yield dg.MaterializeResult(
            asset_key=LOG,
            metadata={
                "segments": report.segments,
                "bytes": report.bytes,
                "records": sum(report.rows.values()),
                "adopted": report.adopted,
                "waiting": report.waiting,
                "lag_before_s": _age(report.oldest),
                "log_lag_s": round(log_lag(settings), 1),
                "seconds": round(report.seconds, 2),
                "records_by_table": report.rows,
            },
        )
        yield _undamaged(report)
        for spec in models.values():
            yield from _tables(context, spec, platform, report)

    return [move_log]


def _tables(
    context: dg.AssetExecutionContext, spec: ModelSpec, platform: PlatformHome, report: "MoveReport"
) -> Iterator[Materialized]:
    """What was moved of one model; a table that got nothing is not materialized."""
    import polars as pl

    for step in STEPS:
        name = f"{step}/{spec.name}"
        if not report.rows.get(name):
            continue
        rows = platform.lake.scan(name)
        metadata: dict[str, Any] = {
            "moved": report.rows[name],
            "dagster/row_count": rows.select(pl.len()).collect().item(),
            "dagster/uri": f"{platform.settings.lake}/{name}",
            "lake_version": platform.lake.version(name),
        }
        if step == "predictions":
            metadata |= _answers(spec, platform)
        elif step == "outcomes":
            metadata |= _outcomes(context, spec, platform)
        yield dg.MaterializeResult(asset_key=model_key(spec.name, step), metadata=metadata)


def _answers(spec: ModelSpec, platform: PlatformHome) -> dict[str, Any]:
    from pilotage.monitoring.overview import answers_by_version

    since = datetime.now(UTC) - RECENT
    answers = answers_by_version(platform.settings, spec.name, lake=platform.lake, since=since)
    total = int(answers["answers"].sum())
    by_model = int(answers.filter(answers["answered_by"] == "model")["answers"].sum())
    return {
        "answers_24h": total,
        "by_model_24h": by_model / total if total else 0.0,
        "referred_24h": int(answers["referred"].sum()) / total if total else 0.0,
        "answers": table(answers.iter_rows(named=True)),
    }


def _outcomes(context: dg.AssetExecutionContext, spec: ModelSpec, platform: PlatformHome) -> dict[str, Any]:
    from pilotage.monitoring.overview import outcomes_overview

    found = outcomes_overview(platform.settings, spec.name, lake=platform.lake, now=datetime.now(UTC))
    if found.statuses["conflicting"]:
        context.log.warning(f"{found.statuses['conflicting']} outcomes of {spec.name} say otherwise than what counts.")
    return {**found.statuses, "conflicts": table(found.conflicts)}


def _age(oldest: datetime | None) -> float:
    return 0.0 if oldest is None else round((datetime.now(UTC) - oldest).total_seconds(), 1)


def _undamaged(report: "MoveReport") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="undamaged",
        asset_key=LOG,
        passed=not report.problems,
        severity=dg.AssetCheckSeverity.ERROR,
        description=" ".join(report.problems) or "Every segment could be read from end to end.",
        metadata={
            "problems": len(report.problems),
            "what": table({"problem": problem} for problem in report.problems),
            "what_to_do": "docs/runbooks/prediction-log.md",
        },
    )
