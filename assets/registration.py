"""Registration as events: a version with links to MLflow, or a refusal with its reasons."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.retraining import held, keeping, request_of
from pilotage.governance.card import model_card
from pilotage.release import commands
from pilotage.release.champions import champion
from pilotage.release.records import Provenance, Refused, Registered
from pilotage.release.registry import record
from pilotage.release.tick import begin_rollout
from pilotage.run_tags import ACTOR, CAUSE
from pilotage.settings import PROJECT, Settings
from pilotage.spec import ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.gate import judge
from pilotage.training.one_work import check_one_work
from pilotage.training.records import Candidate, Evaluation, TrainingSet
from pilotage.training.refit import refit

Events = Iterator["dg.Output[Registered] | dg.AssetObservation"]


def registration_events(
    context: dg.AssetExecutionContext,
    spec: ModelSpec,
    settings: Settings,
    config: TrainConfig,
    training_set: TrainingSet,
    candidate: Candidate,
    evaluation: Evaluation,
) -> Events:
    """Records the candidate; a refused one leaves an observation and no materialization.

    Raises:
        TrainingError: The gate would judge by another candidate's evaluation.
    """
    check_one_work(training_set, candidate, evaluation)
    provenance = _provenance(context, settings)
    lease = held(context, spec, settings)
    verdict = judge(spec, evaluation)
    with keeping(lease, checked=False):
        if verdict.passed and spec.retraining.refit:
            candidate = refit(
                spec,
                training_set,
                candidate,
                config=config,
                directory=Path(candidate.bundle).parent,
                threads=candidate.threads,
                progress=context.log.info,
            )
        card = model_card(
            spec,
            training_set=training_set,
            candidate=candidate,
            evaluation=evaluation,
            verdict=verdict,
            provenance=provenance,
            confidence=config.evaluation.confidence,
        )
        result = record(
            spec,
            settings=settings,
            training_set=training_set,
            candidate=candidate,
            evaluation=evaluation,
            verdict=verdict,
            provenance=provenance,
            config=config.model_dump(mode="json", exclude_defaults=True),
            card=card,
            lease=lease,
        )
    if isinstance(result, Refused):
        reasons = " ".join(result.reasons)
        context.log.warning(f"The gate refused the candidate; the champion stays. {reasons}")
        yield dg.AssetObservation(
            context.asset_key,
            description=f"Refused: {reasons}",
            metadata={
                "refused": reasons,
                "model_card": dg.MetadataValue.md(card),
                "mlflow_run": dg.MetadataValue.url(result.url),
            },
        )
        return
    released = _release(context, spec, settings, result, provenance)
    yield dg.Output(
        result,
        metadata={
            "version": result.version,
            "mlflow_version": dg.MetadataValue.url(result.url),
            "model_card": dg.MetadataValue.md(card),
            "mlflow_run_id": result.mlflow_run_id,
            "bundle": dg.MetadataValue.path(result.bundle),
            "bundle_sha256": result.bundle_sha256,
            "released": released,
        },
    )


def _release(
    context: dg.AssetExecutionContext, spec: ModelSpec, settings: Settings, result: Registered, provenance: Provenance
) -> str:
    """A model without a champion takes the first version that passed; later ones enter their rollout, or wait."""
    version = result.version
    by_hand = f"`pilotage shadow {spec.name} {version}` begins its rollout."
    if champion(spec.name, settings=settings) is not None:
        if not spec.rollout.automatic:
            return f"No: {by_hand}"
        return _enter(context, spec, settings, version)
    if spec.approvals:
        return (
            f"No: a person has to approve it (`pilotage approve {spec.name} {version}`), and then to make it the first "
            f"champion (`pilotage promote {spec.name} {version}`)."
        )
    commands.promote(
        spec.name,
        version,
        settings=settings,
        actor=provenance.actor,
        why="The first version that passed its gate.",
        spec=spec,
        how="first version",
    )
    context.log.info(f"{spec.name} {version} is the first champion.")
    return "Yes: it is the first version that passed its gate."


def _enter(context: dg.AssetExecutionContext, spec: ModelSpec, settings: Settings, version: int) -> str:
    """The first stage of an automatic rollout."""
    ticked = begin_rollout(spec, settings=settings)
    context.log.info(f"{spec.name}: {ticked.did.replace('_', ' ')}. {ticked.why}")
    stage = ticked.state.versions[version].stage
    return f"Its rollout has begun: it is in {stage}." if stage != "candidate" else f"Not yet: {ticked.why}"


def _provenance(context: dg.AssetExecutionContext, settings: Settings) -> Provenance:
    tags = context.run.tags
    cause = tags.get(CAUSE, "manual")
    return Provenance(
        run_id=context.run.run_id,
        run_url=f"{settings.dagster_ui}/runs/{context.run.run_id}",
        git_commit=_git_commit(),
        cause=cause,
        actor=tags.get(ACTOR) or f"dagster ({cause})",
        request=request_of(context.run),
    )


def _git_commit() -> str:
    """Commit of the code that runs, with a ``+`` if files differ from it; says so where there is no checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return "no git checkout"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
