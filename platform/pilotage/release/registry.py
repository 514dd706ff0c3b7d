"""Takes a judged candidate into the records: always an MLflow run and a ledger event, and a version if the gate passed.

Idempotent by the bundle's SHA-256: run again after a failure, it completes what is missing and registers once.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import polars as pl

from pilotage.errors import RegistryUnavailable
from pilotage.release import mlflow_store
from pilotage.release.aliases import show
from pilotage.release.cards import CARD_SHA256, keep_card
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.records import Provenance, Refused, Registered
from pilotage.release.retraining.attempts import finish
from pilotage.release.retraining.book import append_when, state_of
from pilotage.release.retraining.lease import Lease
from pilotage.release.retraining.state import FENCE
from pilotage.release.run_log import tags_of, write_run
from pilotage.release.state import ApprovalRule, ModelState
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.bundle_cache import fetch
from pilotage.runtime.probe import admit
from pilotage.runtime.tried import Tried
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pilotage.training.records import Candidate, Evaluation, TrainingSet, Verdict

_LOG = logging.getLogger(__name__)

COMPLETE = "complete"
"""Tag of a run to which everything was written."""
_BUNDLE = "bundle"
_CODE = Path(__file__).with_name("pyfunc_model.py")


def record(
    spec: ModelSpec,
    *,
    settings: Settings,
    training_set: TrainingSet,
    candidate: Candidate,
    evaluation: Evaluation,
    verdict: Verdict,
    provenance: Provenance,
    config: Mapping[str, Any],
    card: str,
    ledger: Ledger | None = None,
    lease: Lease | None = None,
) -> Registered | Refused:
    """Records a candidate, and registers it as a version if its gate passed.

    Beside everything that is known of it, its run in MLflow gets the model ``card`` (Markdown), whose hash the ledger
    keeps with a version.

    With a lease, what is recorded finishes its attempt and closes its request: one event says both.

    Raises:
        LedgerConflict: The lease is another attempt's; nothing is recorded.
        BundleCorrupt: The bundle is not what training wrote; nothing is recorded.
        RegistryUnavailable: MLflow failed. Nothing is half-registered: a version counts once the ledger has it.
    """
    from filelock import FileLock

    book = ledger or SqlLedger.of(settings)
    bundle = admit(Path(candidate.bundle), sha256=candidate.bundle_sha256, tried=Tried(settings.tried))
    tags = tags_of(training_set=training_set, candidate=candidate, verdict=verdict, provenance=provenance)
    settings.home.mkdir(parents=True, exist_ok=True)
    # A step that was started twice must not register twice.
    with FileLock(settings.home / f".record-{spec.name}.lock"), mlflow_store.session(settings) as client:
        if (known := _recorded(spec, settings, book, candidate, client)) is not None:
            if lease is not None:
                finish(spec.name, lease.fence, "unchanged", why="The same model is on record already.", book=book)
            return known
        if lease is not None:
            lease.check()
        experiment = mlflow_store.experiment_id(client, spec.name, settings)
        run_id = _run(client, experiment, tags)
        if run_id is None:
            run_id = _start(client, experiment, tags, provenance)
            try:
                _log(
                    client,
                    run_id,
                    bundle,
                    spec=spec,
                    settings=settings,
                    training_set=training_set,
                    candidate=candidate,
                    evaluation=evaluation,
                    verdict=verdict,
                    config=config,
                )
            except BaseException:
                _give_up(client, run_id)
                raise
        card_sha256 = keep_card(client, run_id, card)
        run_page = mlflow_store.page(settings, f"experiments/{experiment}/runs/{run_id}")
        if not verdict.passed:
            _append(
                book,
                settings,
                lease,
                candidate,
                Draft(
                    model=spec.name,
                    kind="refused",
                    actor=provenance.actor,
                    cause=provenance.cause,
                    payload={
                        "mlflow_run_id": run_id,
                        "run_url": provenance.run_url,
                        "bundle_sha256": candidate.bundle_sha256,
                        "reasons": verdict.reasons,
                    },
                ),
            )
            return Refused(model=spec.name, mlflow_run_id=run_id, url=run_page, reasons=verdict.reasons)
        version = _register(client, run_id, spec, tags, taken=state_of(spec.name, book).versions)
        home = _bundle_home(client, run_id, settings, model=spec.name, version=version, sha256=candidate.bundle_sha256)
        _append(
            book,
            settings,
            lease,
            candidate,
            Draft(
                model=spec.name,
                kind="registered",
                version=version,
                actor=provenance.actor,
                cause=provenance.cause,
                payload={
                    "bundle": str(home),
                    "bundle_sha256": candidate.bundle_sha256,
                    "mlflow_run_id": run_id,
                    "run_url": provenance.run_url,
                    "trained_at": bundle.manifest["created"],
                    **ApprovalRule.of(spec).payload(),
                    "facts": {
                        "rows": training_set.rows,
                        "first": training_set.first and training_set.first.isoformat(),
                        "last": training_set.last and training_set.last.isoformat(),
                        "lake_versions": training_set.lake_versions,
                        "feature_fingerprint": training_set.feature_fingerprint,
                        "git_commit": provenance.git_commit,
                        "metrics": {name: interval.value for name, interval in evaluation.metrics.items()},
                        CARD_SHA256: card_sha256,
                        **({"policy": candidate.policy} if candidate.policy else {}),
                    },
                },
            ),
        )
        return _registered(state_of(spec.name, book), candidate.bundle_sha256, settings)


def _append(book: Ledger, settings: Settings, lease: Lease | None, candidate: Candidate, draft: Draft) -> None:
    """Appends what a training came to, and shows it in MLflow; for an attempt only while it holds the lease, with its
    fence."""
    if lease is not None:
        tried = [asdict(each) for each in candidate.tried]
        draft = replace(draft, payload={**draft.payload, FENCE: lease.fence, "tried": tried})
    state, _ = append_when(book, draft.model, lambda _: draft)
    show(state, settings=settings)


def _recorded(
    spec: ModelSpec, settings: Settings, book: Ledger, candidate: Candidate, client: MlflowClient
) -> Registered | Refused | None:
    """What an earlier attempt finished."""
    state = state_of(spec.name, book)
    if state.version_of(candidate.bundle_sha256):
        return _registered(state, candidate.bundle_sha256, settings)
    for refusal in state.refused:
        if refusal.bundle_sha256 == candidate.bundle_sha256:
            experiment = mlflow_store.experiment_id(client, spec.name, settings)
            url = mlflow_store.page(settings, f"experiments/{experiment}/runs/{refusal.mlflow_run_id}")
            return Refused(model=spec.name, mlflow_run_id=refusal.mlflow_run_id, url=url, reasons=list(refusal.reasons))
    return None


def _registered(state: ModelState, bundle_sha256: str, settings: Settings) -> Registered:
    version = state.version_of(bundle_sha256)
    if version is None:
        raise RegistryUnavailable(
            f"The ledger lost the version of {state.model} that it was just told.", fix="Check the ledger's storage."
        )
    return Registered(
        model=state.model,
        version=version.version,
        mlflow_run_id=version.mlflow_run_id,
        url=mlflow_store.page(settings, f"models/{state.model}/versions/{version.version}"),
        bundle=version.bundle,
        bundle_sha256=bundle_sha256,
    )


def _run(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> str | None:
    """The complete run of an earlier attempt that failed afterwards."""
    query = f"tags.bundle_sha256 = '{tags['bundle_sha256']}' and tags.{COMPLETE} = 'true'"
    runs = client.search_runs([experiment], query, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _start(client: MlflowClient, experiment: str, tags: Mapping[str, str], provenance: Provenance) -> str:
    name = f"{provenance.cause} {tags['last_day'] or tags['bundle_sha256'][:8]}"
    return str(client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)


def _log(client: MlflowClient, run_id: str, bundle: Bundle, *, candidate: Candidate, **records: Any) -> None:
    import mlflow

    with mlflow.start_run(run_id=run_id, nested=mlflow.active_run() is not None):
        write_run(client, run_id, candidate=candidate, **records)
        if records["verdict"].passed:
            _log_model(bundle, Path(candidate.bundle))
        client.set_tag(run_id, COMPLETE, "true")


def _log_model(bundle: Bundle, folder: Path) -> None:
    import mlflow

    with warnings.catch_warnings():
        # It would like an input example: golden.parquet in the bundle holds ten, with their answers.
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_CODE),
            artifacts={_BUNDLE: str(folder)},
            signature=_signature(bundle),
            # Given, not inferred: to infer them MLflow imports everything (6.6 s).
            pip_requirements=[
                f"pilotage=={bundle.manifest['pilotage']}",
                f"polars=={bundle.manifest['polars']}",
                f"lightgbm=={bundle.manifest['lightgbm']}",
                f"mlflow=={mlflow.__version__}",
            ],
            metadata={"bundle_sha256": bundle.sha256},
        )


def _signature(bundle: Bundle) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = [ColSpec(_column_type(field.dtype, field.nullable), field.name) for field in bundle.request]
    columns += [ColSpec(_column_type(dtype, True), name) for name, dtype in bundle.state_types().items()]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema(
            [
                ColSpec("double", "probability"),
                ColSpec("boolean", "decision", required=bundle.refer_between is None),
            ]
        ),
    )


def _column_type(dtype: pl.DataType, nullable: bool) -> Any:
    """MLflow refuses times with a zone, and integers with gaps; there the contract in the bundle checks alone."""
    from mlflow.types.schema import AnyType

    if dtype.is_temporal() or (nullable and dtype != pl.String and not dtype.is_float()):
        return AnyType()
    if dtype == pl.String:
        return "string"
    return "boolean" if dtype == pl.Boolean else "long" if dtype.is_integer() else "double"


def _register(
    client: MlflowClient, run_id: str, spec: ModelSpec, tags: Mapping[str, str], *, taken: Collection[int]
) -> int:
    """Registers the run's model; once, even if an earlier attempt got this far.

    A number that is ``taken`` in the ledger is passed over: MLflow begins at 1 again when a model was deleted there, or
    its database is an older one, and a number must never stand for two versions.
    """
    import mlflow

    for version in client.search_model_versions(f"name = '{spec.name}'"):
        if version.run_id == run_id and int(version.version) not in taken:
            return int(version.version)
    outputs = client.get_run(run_id).outputs.model_outputs
    while True:
        made = mlflow.register_model(
            f"models:/{outputs[-1].model_id}",
            spec.name,
            await_registration_for=0,
            tags={name: value for name, value in tags.items() if not name.startswith("mlflow.")},
        )
        if int(made.version) not in taken:
            break
        _LOG.warning("MLflow gave %s the number %s again; it is passed over.", spec.name, made.version)
        client.delete_model_version(spec.name, str(made.version))
    client.update_registered_model(spec.name, f"{spec.title}. {spec.objective}")
    client.update_model_version(spec.name, str(made.version), tags["mlflow.note.content"])
    return int(made.version)


def _bundle_home(
    client: MlflowClient, run_id: str, settings: Settings, *, model: str, version: int, sha256: str
) -> Path:
    """Where the registered bundle lies: in MLflow's artifacts, if this machine sees them, else a copy."""
    import mlflow

    model_id = client.get_run(run_id).outputs.model_outputs[-1].model_id
    location = client.get_logged_model(model_id).artifact_location
    if urlparse(location).scheme in ("", "file"):
        return Path(unquote(urlparse(location).path)) / "artifacts" / _BUNDLE
    with tempfile.TemporaryDirectory() as folder:
        got = mlflow.artifacts.download_artifacts(artifact_uri=f"{location}/artifacts/{_BUNDLE}", dst_path=folder)
        return fetch(Path(got), sha256=sha256, bundles=settings.bundles, model=model, version=version)


def _give_up(client: MlflowClient, run_id: str) -> None:
    """Marks a run that could not be completed, if MLflow still listens. The first error is the one to tell."""
    from contextlib import suppress

    with suppress(Exception):
        client.set_terminated(run_id, "FAILED")
