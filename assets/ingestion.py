"""A SourceSpec → its assets: raw as delivered, validated to build on, quarantine to look into.

The rules are the engine's (``pilotage.data``); here is only what Dagster needs to show and run them.
"""

from collections.abc import Iterator

import dagster as dg

from assets.metadata import Materialized
from assets.partitions import daily_partitions, days_of, tell_rows_of_days
from pilotage.data.declared import rules
from pilotage.data.source import Files, RestEndpoint, SourceSpec, SqlTable
from resources.checks import last_result
from resources.failures import plainly
from resources.platform_home import PlatformHome

GROUP = "sources"


def source_assets(spec: SourceSpec) -> list[dg.AssetsDefinition]:
    """Raw, validated and quarantine assets of one source."""
    return [_raw(spec), _validated(spec)]


def raw_key(source: str) -> dg.AssetKey:
    return dg.AssetKey(["raw", source])


def validated_key(source: str) -> dg.AssetKey:
    return dg.AssetKey(["validated", source])


def quarantine_key(source: str) -> dg.AssetKey:
    return dg.AssetKey(["quarantine", source])


def _origin(spec: SourceSpec) -> str:
    match spec.read:
        case Files() as files:
            return f"Files `{files.pattern}` ({files.format}) in the landing folder `{spec.name}/`."
        case RestEndpoint() as endpoint:
            return f"REST endpoint `{endpoint.url}`."
        case table_:
            return f"SQL table `{table_.table}`, incremental by `{table_.cursor}`."


def _raw(spec: SourceSpec) -> dg.AssetsDefinition:
    @dg.asset(
        key=raw_key(spec.name),
        group_name=GROUP,
        owners=[spec.owner],
        kinds={"deltalake", "sql" if isinstance(spec.read, SqlTable) else "polars"},
        description=f"{spec.title}, as delivered. {_origin(spec)}",
        partitions_def=daily_partitions(spec.daily) if spec.daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if spec.daily else None,
        check_specs=[
            dg.AssetCheckSpec(
                "delivery",
                asset=raw_key(spec.name),
                description="Every file that landed could be read as what it says it is, and no day is missing.",
            )
        ],
        pool=f"ingest_{spec.name}",
    )
    @plainly
    def raw(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from assets.delivery import delivery_check, raw_metadata
        from pilotage.data.ingest import ingest

        report = ingest(
            spec,
            lake=platform.lake,
            settings=platform.settings,
            days=days_of(context) if spec.daily else None,
            run_id=context.run.run_id,
            progress=context.log.info,
        )
        for file in report.files:
            if file.day is not None:
                context.add_asset_metadata(
                    {"file": file.name, "sha256": file.sha256}, partition_key=file.day.isoformat()
                )
        if spec.daily:
            tell_rows_of_days(context, raw_key(spec.name), platform.lake.rows_of_days(f"raw/{spec.name}"))
        return dg.MaterializeResult(
            metadata=raw_metadata(spec, report, platform.settings),
            check_results=[delivery_check(report)],
        )

    return raw


def _validated(spec: SourceSpec) -> dg.AssetsDefinition:
    key = validated_key(spec.name)
    blocking = {item.name for item in spec.expectations if item.severity == "block"}

    @dg.multi_asset(
        name=f"validate_{spec.name}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[raw_key(spec.name)],
                # With another one, the UI says of every day that was validated before that its code has changed.
                code_version=rules(spec),
                group_name=GROUP,
                owners=[spec.owner],
                kinds={"pandera", "greatexpectations", "deltalake"},
                description=f"{spec.description} Only batches that passed their blocking checks are in it.",
            ),
            dg.AssetSpec(
                quarantine_key(spec.name),
                deps=[raw_key(spec.name)],
                code_version=rules(spec),
                group_name=GROUP,
                owners=[spec.owner],
                kinds={"deltalake"},
                description=f"Rows of {spec.name} that broke the contract, each with every reason.",
            ),
        ],
        partitions_def=daily_partitions(spec.daily) if spec.daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if spec.daily else None,
        check_specs=[
            dg.AssetCheckSpec(
                "contract",
                asset=key,
                blocking=True,
                description=f"Rows fit the contract; at most {spec.tolerated:.0%} of a batch may be quarantined.",
            ),
            *(
                dg.AssetCheckSpec(item.name, asset=key, blocking=item.name in blocking, description=item.why)
                for item in spec.expectations
            ),
        ],
        pool=f"ingest_{spec.name}",
    )
    @plainly
    def validated(
        context: dg.AssetExecutionContext, platform: PlatformHome
    ) -> Iterator[Materialized | dg.AssetCheckResult]:
        from assets.validation import changed, check_results, quarantine_metadata, refusal, validated_metadata
        from pilotage.data.validate import validate

        settings = platform.settings
        report = validate(
            spec,
            lake=platform.lake,
            reports=settings.reports,
            days=days_of(context) if spec.daily else None,
            run_id=context.run.run_id,
            progress=context.log.info,
        )
        if report.days_by_other_rules:
            context.log.warning(changed(spec, report))
        if spec.daily:
            for layer in (key, quarantine_key(spec.name)):
                tell_rows_of_days(context, layer, platform.lake.rows_of_days("/".join(layer.path)))
        yield dg.MaterializeResult(asset_key=key, metadata=validated_metadata(spec, report, settings))
        yield dg.MaterializeResult(
            asset_key=quarantine_key(spec.name), metadata=quarantine_metadata(spec, report, settings)
        )
        yield from check_results(spec, report, key, settings)
        if report.refused and not report.published:
            delivery = last_result(context.instance, dg.AssetCheckKey(raw_key(spec.name), "delivery"))
            raise refusal(spec, report, delivered=delivery[1].description if delivery else None)

    return validated
