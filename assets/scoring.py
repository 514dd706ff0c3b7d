"""Bulk scoring: rows of the lake through the champion, by the predictor that the service uses."""

from collections.abc import Mapping

import dagster as dg

from assets.ingestion import validated_key
from assets.lineage import model_asset, model_key
from assets.metadata import Materialized, span, table
from assets.partitions import daily_partitions, days_of, tell_rows_of_days
from pilotage.data.source import SourceSpec
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome


def scoring_assets(spec: ModelSpec, sources: Mapping[str, SourceSpec]) -> list[dg.AssetsDefinition]:
    """The scores of one model."""
    daily = sources[spec.source].daily

    @model_asset(
        spec,
        "scores",
        kinds={"lightgbm", "deltalake"},
        description=(
            f"Rows of `{spec.source}` as the champion scores them, each as of its own prediction moment: the same "
            "numbers as the service would have answered. A day that is scored again is replaced."
        ),
        # Not on the source's partitions: a released version is what a run of this job waits for, not new data.
        deps=[validated_key(spec.source), model_key(spec.name, "registered_version")],
        partitions_def=daily_partitions(daily) if daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if daily else None,
        pool=f"scores_{spec.name}",
    )
    def scores(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.release.feed import PlanFeed
        from pilotage.release.ledger import SqlLedger
        from pilotage.runtime.bulk import champion_predictor, score_rows

        settings, lake = platform.settings, platform.lake
        ledger = SqlLedger.of(settings)
        try:
            plan = PlanFeed(ledger)().get(spec.name)
        finally:
            ledger.close()
        predictor = champion_predictor(plan, spec.name, bundles=settings.bundles)
        report = score_rows(
            spec,
            predictor,
            lake=lake,
            days=days_of(context) if daily else None,
            run_id=context.run.run_id,
            progress=context.log.info,
        )
        if daily:
            tell_rows_of_days(context, model_key(spec.name, "scores"), lake.rows_of_days(report.table))
        return dg.MaterializeResult(
            metadata={
                "rows": report.rows,
                "scored": report.scored,
                "without_score": report.rows - report.scored,
                "positive": report.positive,
                "referred": report.referred,
                "mean_probability": report.mean_probability if report.mean_probability is not None else "none",
                "champion": report.version,
                "days": span(report.days),
                "read": report.read,
                "lake_version": report.lake_version,
                "dagster/uri": f"{settings.lake}/{report.table}",
                "errors": table({"why": why, "rows": rows} for why, rows in report.errors.items()),
            }
        )

    return [scores]
