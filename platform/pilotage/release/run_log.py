"""Writes a candidate's MLflow run: parameters, metrics, data, pictures, trials. Nothing is decided here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.settings import Settings
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pilotage.release.records import Provenance
    from pilotage.training.records import Candidate, Evaluation, TrainingSet, Verdict

LONGEST_TAG = 5_000
"""Characters that MLflow keeps of a tag."""


def tags_of(
    *, training_set: TrainingSet, candidate: Candidate, verdict: Verdict, provenance: Provenance
) -> dict[str, str]:
    """The tags of a candidate's run, and of its version."""
    tags = {
        "kind": "candidate",
        "dagster_run_id": provenance.run_id,
        "dagster_run_url": provenance.run_url,
        "git_commit": provenance.git_commit,
        "cause": provenance.cause,
        "actor": provenance.actor,
        "retrain_request": "" if provenance.request is None else str(provenance.request),
        "lake_versions": json.dumps(training_set.lake_versions, sort_keys=True),
        "first_day": str(training_set.first or ""),
        "last_day": str(training_set.last or ""),
        "training_set_sha256": training_set.sha256,
        "feature_fingerprint": training_set.feature_fingerprint,
        "bundle_sha256": candidate.bundle_sha256,
        "gate": "passed" if verdict.passed else "refused",
        "gate_reasons": "\n".join(verdict.reasons),
        # What MLflow shows on top of the run's page.
        "mlflow.note.content": describe(verdict, provenance),
    }
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}


def describe(verdict: Verdict, provenance: Provenance) -> str:
    """A candidate in a few lines of Markdown, with the way back to Dagster."""
    judged = "The gate passed." if verdict.passed else "**The gate refused it.**"
    criteria = [f"- {'met' if each.passed else '**not met**'}: {each.message}" for each in verdict.criteria]
    way = f"[Dagster run {provenance.run_id[:8]}]({provenance.run_url})"
    asked = f"Cause: {provenance.cause}; asked for by {provenance.actor}; code {provenance.git_commit[:12]}."
    return "\n".join([f"{way}. {asked}", "", judged, "", *criteria])


def write_run(
    client: MlflowClient,
    run_id: str,
    *,
    spec: ModelSpec,
    settings: Settings,
    training_set: TrainingSet,
    candidate: Candidate,
    evaluation: Evaluation,
    verdict: Verdict,
    config: Mapping[str, Any],
) -> None:
    """Writes everything that is known about a candidate into its run."""
    import mlflow
    import msgspec
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    params = {**candidate.params, "rounds": candidate.rounds, "threads": candidate.threads}
    params |= {f"rows_{part}": rows for part, rows in candidate.parts.items()}
    metrics = [Metric(name, value, now, step) for name, value, step in _metrics(candidate, evaluation)]
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    for start in range(0, len(metrics), 500):
        client.log_batch(run_id, metrics=metrics[start : start + 500])
    for dataset, context in _datasets(spec, settings, training_set):
        mlflow.log_input(dataset, context=context)
    client.log_text(run_id, msgspec.json.format(msgspec.json.encode(evaluation)).decode(), "evaluation.json")
    client.log_text(run_id, msgspec.json.format(msgspec.json.encode(verdict)).decode(), "verdict.json")
    client.log_text(run_id, json.dumps(dict(config), indent=1, sort_keys=True, default=str), "config.json")
    for path in evaluation.plots.values():
        if Path(path).exists():
            client.log_artifact(run_id, path, "plots")
    _write_trials(client, run_id, candidate)


def _metrics(candidate: Candidate, evaluation: Evaluation) -> Iterator[tuple[str, float, int]]:
    """Name, value and step. Months have the step ``yyyymm``, folds their number."""
    for name, interval in evaluation.metrics.items():
        yield name, interval.value, 0
        yield f"{name}_low", interval.low, 0
        yield f"{name}_high", interval.high, 0
    for baseline, values in evaluation.baselines.items():
        for name, value in values.items():
            yield f"baseline_{baseline}_{name}", value, 0
    for month in evaluation.months:
        step = int("".join(digit for digit in month.value if digit.isdigit())[:6] or 0)
        for name, interval in month.metrics.items():
            yield f"{month.column}_month_{name}".replace("-", "_"), interval.value, step
    for fold, values in enumerate(candidate.cross_validation):
        for name, value in values.items():
            yield f"fold_{name}", value, fold
    if evaluation.versus_champion:
        for name, interval in evaluation.versus_champion.difference.items():
            yield f"minus_champion_{name}", interval.value, 0
    for gap in evaluation.fairness.differences if evaluation.fairness else ():
        yield f"fairness_{gap.column}_{gap.rate}", gap.value.value, 0
    yield "latency_ms", evaluation.latency_ms, 0
    yield "bundle_mb", evaluation.bundle_mb, 0
    yield "holdout_rows", float(evaluation.rows), 0


def _datasets(spec: ModelSpec, settings: Settings, training_set: TrainingSet) -> Iterator[tuple[Any, str]]:
    """What it was trained on, as descriptions: no row is loaded."""
    import polars as pl
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.filesystem_dataset_source import FileSystemDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.types import ColSpec, Schema

    source: FileSystemDatasetSource = LocalArtifactDatasetSource(training_set.path)
    columns = pl.read_parquet_schema(training_set.path) if Path(training_set.path).exists() else {}
    schema = Schema([ColSpec(_mlflow_type(dtype), name, required=False) for name, dtype in columns.items()])
    yield (
        MetaDataset(source, f"{spec.name}_training_set", training_set.sha256[:32], schema if columns else None),
        "training",
    )
    for table, version in sorted(training_set.lake_versions.items()):
        delta = DeltaDatasetSource(path=f"{settings.lake.rstrip('/')}/{table}", delta_table_version=version)
        yield MetaDataset(delta, table, f"version-{version}"), "source"


def _mlflow_type(dtype: Any) -> str:
    if dtype.is_integer():
        return "long"
    if dtype.is_temporal():
        return "datetime"
    return "boolean" if dtype == "Boolean" or str(dtype) == "Boolean" else "double" if dtype.is_float() else "string"


def _write_trials(client: MlflowClient, run_id: str, candidate: Candidate) -> None:
    """One nested run a trial."""
    from mlflow.entities import Metric, Param

    if not candidate.trials:
        return
    experiment = client.get_run(run_id).info.experiment_id
    now = int(time.time() * 1000)
    for trial in candidate.trials:
        nested = client.create_run(
            experiment,
            run_name=f"trial {trial.number}",
            tags={"mlflow.parentRunId": run_id, "kind": "trial"},
        ).info.run_id
        client.log_batch(
            nested,
            params=[Param(name, str(value)) for name, value in trial.params.items()],
            metrics=[Metric("log_loss", trial.log_loss, now, 0), Metric("seconds", trial.seconds, now, 0)],
        )
        client.set_terminated(nested)
