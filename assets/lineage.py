"""A ModelSpec → its assets, from features to the registered version.

One function a step. Each reads the record of the step before and hands on its own; the work is the engine's
(``pilotage.features``, ``pilotage.training``, ``pilotage.release``).
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, Unpack

import dagster as dg

from assets.ingestion import validated_key
from assets.metadata import Materialized, column_schema, span, table
from assets.partitions import daily_partitions, days_of, reaches_back, tell_rows_of_days
from assets.retraining import begun, held, keeping, refuse_bad_labels
from pilotage.data.source import SourceSpec
from pilotage.release.records import Registered
from pilotage.spec import ModelSpec
from pilotage.training.records import Candidate, Evaluation, TrainingSet
from resources.failures import plainly
from resources.platform_home import PlatformHome
from resources.training_run import TrainingRun

LAST_DAY = "last_day"
"""Metadata of a training set: its newest day."""
KEPT = 20
"""Newest trainings of a model whose work is kept, to be repeated from where they failed: nightly ones fill a disk. What
was registered is complete without it."""


def model_key(model: str, step: str) -> dg.AssetKey:
    return dg.AssetKey([model, step])


class StepOptions(TypedDict, total=False):
    """What ``dg.asset`` is told of one step beside what all share."""

    deps: Sequence[dg.AssetKey | dg.AssetDep]
    check_specs: Sequence[dg.AssetCheckSpec]
    partitions_def: dg.DailyPartitionsDefinition | None
    backfill_policy: dg.BackfillPolicy | None
    output_required: bool
    pool: str


def model_asset(
    spec: ModelSpec, step: str, *, kinds: set[str], description: str, **more: Unpack[StepOptions]
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """``dg.asset`` with what all steps of a model share."""
    asset = dg.asset(
        key=model_key(spec.name, step),
        group_name=spec.name,
        owners=[spec.owner],
        kinds=kinds,
        description=description,
        **more,
    )
    return lambda made_by: asset(plainly(made_by))


def model_assets(spec: ModelSpec, sources: Mapping[str, SourceSpec]) -> list[dg.AssetsDefinition]:
    """The lineage of one model."""
    return [
        _features(spec, sources),
        *([_online_state(spec)] if spec.asof else []),
        _training_set(spec),
        _trained_model(spec),
        _evaluation(spec),
        _registered_version(spec),
    ]


def _features(spec: ModelSpec, sources: Mapping[str, SourceSpec]) -> dg.AssetsDefinition:
    daily = sources[spec.source].daily

    def depends_on(source: str) -> dg.AssetDep:
        reads = [item for item in spec.asof if item.source == source]
        partitioned = daily is not None and sources[source].daily is not None
        return dg.AssetDep(validated_key(source), partition_mapping=reaches_back(reads) if partitioned else None)

    @model_asset(
        spec,
        "features",
        kinds={"polars", "deltalake"},
        description=(
            f"What the model knew of each row of `{spec.source}` at its prediction moment: row features and "
            "point-in-time as-of features, with the label where it is known."
        ),
        deps=[depends_on(source) for source in spec.sources],
        partitions_def=daily_partitions(daily) if daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if daily else None,
        pool=f"features_{spec.name}",
    )
    def features(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from assets.column_lineage import feature_lineage
        from pilotage.features.build import build_features

        report = build_features(
            spec,
            lake=platform.lake,
            days=days_of(context) if daily else None,
            run_id=context.run.run_id,
            progress=context.log.info,
        )
        if daily:
            rows_of_days = platform.lake.rows_of_days(report.table)
            tell_rows_of_days(context, model_key(spec.name, "features"), rows_of_days)
        told = {feature.name: feature.description for feature in spec.features}
        told |= {field.name: field.description for field in spec.request}
        return dg.MaterializeResult(
            metadata={
                "rows": report.rows,
                "dagster/uri": f"{platform.settings.lake}/features/{spec.name}",
                "dagster/column_schema": column_schema(report.column_schema, told),
                "dagster/column_lineage": feature_lineage(spec),
                "labelled": report.labelled,
                "days": span(report.days),
                "withdrawn_days": span(report.missing),
                "fingerprint": report.fingerprint,
                "lake_version": report.lake_version,
                "read": report.versions,
                "null_rates": {name: round(rate, 4) for name, rate in report.null_rates.items() if rate > 0},
                "seconds": round(report.seconds, 2),
            }
        )

    return features


def _online_state(spec: ModelSpec) -> dg.AssetsDefinition:
    @model_asset(
        spec,
        "online_state",
        kinds={"sqlite", "polars"},
        description="The newest as-of state, where the prediction service looks it up.",
        deps=[validated_key(source) for source in spec.sources],
        pool=f"online_{spec.name}",
    )
    def online_state(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.features.online import build_online
        from pilotage.release.champions import champion_view

        settings = platform.settings
        # A champion that is older than the spec still looks its own as-of features up here.
        served = champion_view(spec.name, settings=settings)
        report = build_online(
            spec,
            lake=platform.lake,
            path=settings.online / f"{spec.name}.db",
            run_id=context.run.run_id,
            also=[served] if served else [],
            progress=context.log.info,
        )
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.rows,
                "known_through": str(report.meta.materialised_through),
                "newest": {source: str(moment) for source, moment in report.meta.newest.items()},
                "fingerprint": report.meta.fingerprint,
                "path": dg.MetadataValue.path(report.path),
                "bytes": report.bytes,
                "seconds": round(report.seconds, 2),
            }
        )

    return online_state


def _training_set(spec: ModelSpec) -> dg.AssetsDefinition:
    @model_asset(
        spec,
        "training_set",
        kinds={"polars", "parquet"},
        description="The labelled rows of one training run, frozen as one file with its SHA-256.",
        deps=[model_key(spec.name, "features")],
        pool=f"train_{spec.name}",
    )
    def training_set(
        context: dg.AssetExecutionContext, platform: PlatformHome, training: TrainingRun
    ) -> dg.Output[TrainingSet]:
        from pilotage.training.dataset import assemble

        with keeping(lease := begun(context, spec, platform.settings)):
            record = assemble(
                spec,
                lake=platform.lake,
                config=training.config,
                directory=workspace(platform, spec, context.run.run_id),
                progress=context.log.info,
            )
        refuse_bad_labels(context, spec, platform, record, lease)
        raw = platform.lake.versions(table for name in spec.sources if platform.lake.exists(table := f"raw/{name}"))
        return dg.Output(
            record,
            metadata={
                "dagster/row_count": record.rows,
                "positives": record.positives,
                "base_rate": record.positives / record.rows,
                "days": "all" if record.first is None else f"{record.first} … {record.last}",
                **({LAST_DAY: record.last.isoformat()} if record.last is not None else {}),
                "sha256": record.sha256,
                # With those of the raw tables: the nightly schedule compares them with what there is.
                "lake_versions": record.lake_versions | raw,
                "path": dg.MetadataValue.path(record.path),
            },
        )

    return training_set


def _trained_model(spec: ModelSpec) -> dg.AssetsDefinition:
    @model_asset(
        spec,
        "trained_model",
        kinds={"lightgbm"},
        description="A calibrated LightGBM model as a self-contained bundle, not yet judged.",
        pool=f"train_{spec.name}",
    )
    def trained_model(
        context: dg.AssetExecutionContext, platform: PlatformHome, training: TrainingRun, training_set: TrainingSet
    ) -> dg.Output[Candidate]:
        from pilotage.training.candidates import train_candidates

        with keeping(held(context, spec, platform.settings)):
            candidate = train_candidates(
                spec,
                training_set,
                config=training.config,
                directory=workspace(platform, spec, context.run.run_id),
                threads=training.config.threads or platform.settings.threads,
                progress=context.log.info,
            )
        folds = [fold["log_loss"] for fold in candidate.cross_validation]
        return dg.Output(
            candidate,
            metadata={
                "rounds": candidate.rounds,
                "params": dict(candidate.params),
                "rows": dict(candidate.parts),
                "cross_validated_log_loss": sum(folds) / len(folds) if folds else "not asked for",
                "tuning_trials": len(candidate.trials),
                **({"tried": table(map(asdict, candidate.tried))} if candidate.tried else {}),
                "bundle": dg.MetadataValue.path(candidate.bundle),
                "bundle_sha256": candidate.bundle_sha256,
            },
        )

    return trained_model


def _evaluation(spec: ModelSpec) -> dg.AssetsDefinition:
    key = model_key(spec.name, "evaluation")

    @model_asset(
        spec,
        "evaluation",
        kinds={"lightgbm", "polars"},
        description="What the candidate shows on its holdout, beside the baselines and the champion; and the gate.",
        check_specs=[
            dg.AssetCheckSpec(
                "gate",
                asset=key,
                description="It may be registered: floors, baselines, champion, fairness, budgets.",
            )
        ],
        pool=f"train_{spec.name}",
    )
    def evaluation(
        context: dg.AssetExecutionContext,
        platform: PlatformHome,
        training: TrainingRun,
        training_set: TrainingSet,
        trained_model: Candidate,
    ) -> Iterator[dg.Output[Evaluation] | dg.AssetCheckResult]:
        from assets.evaluation import evaluation_metadata, gate_result
        from pilotage.release.champions import champion
        from pilotage.training.evaluate import evaluate
        from pilotage.training.fairness import groups_of
        from pilotage.training.gate import judge
        from pilotage.training.one_work import check_one_work

        check_one_work(training_set, trained_model)
        current = champion(spec.name, settings=platform.settings)
        with keeping(held(context, spec, platform.settings)):
            result = evaluate(
                spec,
                training_set,
                trained_model,
                champion_bundle=Path(current.bundle) if current else None,
                champion_version=current.version if current else None,
                config=training.config,
                directory=workspace(platform, spec, context.run.run_id),
                groups=groups_of(spec, platform.lake),
                progress=context.log.info,
            )
        yield dg.Output(result, metadata=evaluation_metadata(spec, result))
        yield gate_result(judge(spec, result), key)

    return evaluation


def _registered_version(spec: ModelSpec) -> dg.AssetsDefinition:
    @model_asset(
        spec,
        "registered_version",
        kinds={"mlflow"},
        description=(
            "The candidate in MLflow: a registered version if the gate let it pass, and the refusal with its reasons "
            "if not (then nothing is materialized here, and the champion stays)."
        ),
        output_required=False,
        pool=f"train_{spec.name}",
    )
    def registered_version(
        context: dg.AssetExecutionContext,
        platform: PlatformHome,
        training: TrainingRun,
        training_set: TrainingSet,
        trained_model: Candidate,
        evaluation: Evaluation,
    ) -> Iterator[dg.Output[Registered] | dg.AssetObservation]:
        from assets.registration import registration_events

        yield from registration_events(
            context, spec, platform.settings, training.config, training_set, trained_model, evaluation
        )

    return registered_version


def workspace(platform: PlatformHome, spec: ModelSpec, run_id: str) -> Path:
    """Where a training run works. To begin a new one takes away the work of old ones: see ``KEPT``."""
    folder = platform.settings.candidates / spec.name / run_id
    if not folder.exists():
        folder.mkdir(parents=True)
        for old in sorted(folder.parent.iterdir(), key=_changed_at, reverse=True)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _changed_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # Another run that begins now has taken it away.
        return 0.0
