"""Every job, made from the declarations. Names are stable: operators, sensors and the command line use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import dagster as dg

from assets.ingestion import quarantine_key, raw_key, validated_key
from assets.lineage import model_key
from assets.tags import MODEL
from pilotage.data.source import SourceSpec
from pilotage.spec import ModelSpec

MAX_RUNTIME = "dagster/max_runtime"


class Job(Protocol):
    """A job whose assets are not resolved yet: what ``define_asset_job`` returns."""

    name: str


def all_jobs(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> list[Job]:
    """Ingest, new data, features and training jobs, in the order in which an operator would run them."""
    daily = [name for name, spec in sources.items() if spec.daily]
    tables = [name for name, spec in sources.items() if not spec.daily]
    on_days = [spec for spec in models.values() if sources[spec.source].daily]
    jobs: list[Job] = []
    if daily:
        jobs.append(
            dg.define_asset_job(
                "ingest_daily",
                selection=_sources(daily),
                description="Daily sources: landed files → raw → validated, for a day or a range of days.",
            )
        )
        jobs.append(
            dg.define_asset_job(
                "new_data",
                selection=_sources(daily) | _steps(on_days, data_steps),
                description="What a landed day sets off: raw → validated → features and online state of every model.",
            )
        )
    if tables:
        jobs.append(
            dg.define_asset_job(
                "ingest_tables",
                selection=_sources(tables),
                description="Reference tables and SQL sources: newest file or new rows → raw → validated.",
            )
        )
    for spec in models.values():
        jobs.append(
            dg.define_asset_job(
                f"features_{spec.name}",
                selection=_steps([spec], lambda _: ["features"]),
                description=f"Features of {spec.title.lower()}, for a day or a range of days.",
                tags={MODEL: spec.name},
            )
        )
        jobs.append(
            dg.define_asset_job(
                f"train_{spec.name}",
                selection=_steps([spec], training_steps if spec in on_days else table_training_steps),
                description=(
                    f"Trains {spec.title.lower()}: training set → model → evaluation → gate → registered version. "
                    "Launch it with a changed `training` resource to try other data or parameters."
                ),
                tags={MODEL: spec.name, "retrain": spec.name, MAX_RUNTIME: "3600"},
            )
        )
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
