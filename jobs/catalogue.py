"""Every job, made from the declarations. Names are stable: operators, sensors and the command line use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.ingestion import quarantine_key, raw_key, validated_key
from assets.ledger import KEY as LEDGER
from assets.lineage import model_key
from jobs.alerts import alerts_job
from jobs.monitoring import monitoring_jobs
from jobs.retraining import retraining_jobs
from jobs.rollout import release_jobs
from jobs.serving import serving_jobs
from pilotage.data.source import SourceSpec
from pilotage.declaration import within
from pilotage.run_tags import CAUSE, DECISION, MODEL, SOURCE
from pilotage.spec import ModelSpec

MAX_RUNTIME = "dagster/max_runtime"
BY_HAND = {CAUSE: "manual"}
"""What a run is that somebody launches in the UI. Schedules and the command line put their own cause over it."""


Job = dg.JobDefinition | UnresolvedAssetJobDefinition
"""One made of ops, or what ``define_asset_job`` returns: its assets are resolved with the definitions."""


def all_jobs(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> list[Job]:
    """Ingest, data, features and training jobs, in the order in which an operator would run them."""
    tables = [name for name, spec in sources.items() if not spec.daily]
    jobs: list[Job] = [
        dg.define_asset_job(
            f"ingest_{name}",
            selection=_sources([name]),
            description=f"{spec.title}: what was delivered → raw → validated"
            + (", for a day or a range of days." if spec.daily else "."),
            tags=BY_HAND | {SOURCE: name},
        )
        for name, spec in sources.items()
    ]
    if tables:
        jobs.append(
            dg.define_asset_job(
                "ingest_tables",
                selection=_sources(tables),
                description="Reference tables and SQL sources: newest file or new rows → raw → validated.",
                tags=BY_HAND,
            )
        )
    for spec in models.values():
        days = sources[spec.source].daily
        if days:
            on_its_days = [name for name in spec.sources if sources[name].daily == days]
            jobs.append(
                dg.define_asset_job(
                    f"data_{spec.name}",
                    selection=_sources(on_its_days) | _steps([spec], data_steps),
                    description=(
                        f"All that {within(spec.title)} needs of a day or a range of days: its daily sources → raw → "
                        "validated → features and online state."
                    ),
                    tags=BY_HAND | {MODEL: spec.name},
                )
            )
        jobs.append(
            dg.define_asset_job(
                f"features_{spec.name}",
                selection=_steps([spec], lambda _: ["features"]),
                description=f"Features of {within(spec.title)}" + (", for a day or a range of days." if days else "."),
                tags=BY_HAND | {MODEL: spec.name},
            )
        )
        jobs.append(
            dg.define_asset_job(
                f"train_{spec.name}",
                selection=_steps([spec], training_steps if days else table_training_steps),
                description=(
                    f"Trains {within(spec.title)}: training set → model → evaluation → gate → registered version. "
                    "Launch it with a changed `training` resource to try other data or parameters."
                ),
                tags=BY_HAND | {MODEL: spec.name, "retrain": spec.name, MAX_RUNTIME: "3600"},
            )
        )
    jobs.extend(serving_jobs(sources, models))
    jobs.extend(monitoring_jobs(models))
    jobs.extend(release_jobs(models))
    jobs.extend(retraining_jobs(models))
    jobs.append(
        dg.define_asset_job(
            "audit_ledger",
            selection=dg.AssetSelection.assets(LEDGER),
            description="Verifies the ledger of decisions by its hashes and its earlier heads, and notes its head.",
            tags={DECISION: "audit"},
        )
    )
    jobs.append(alerts_job())
    return jobs


def data_steps(spec: ModelSpec) -> list[str]:
    """What new rows of its sources change."""
    return ["features", *(["online_state"] if spec.asof else [])]


def training_steps(spec: ModelSpec) -> list[str]:
    """What a training run makes, from features that are there."""
    return [
        *(["online_state"] if spec.asof else []),
        *("training_set", "trained_model", "evaluation", "registered_version"),
        *(["drift_report"] if spec.drift else []),
    ]


def table_training_steps(spec: ModelSpec) -> list[str]:
    """The same for a model without days: its features are one table, made again in every training run."""
    return ["features", *training_steps(spec)]


def _sources(names: Sequence[str]) -> dg.AssetSelection:
    keys = [key(name) for name in names for key in (raw_key, validated_key, quarantine_key)]
    return dg.AssetSelection.assets(*keys)


def _steps(specs: Sequence[ModelSpec], steps: Callable[[ModelSpec], list[str]]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(model_key(spec.name, step) for spec in specs for step in steps(spec)))
