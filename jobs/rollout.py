"""The jobs of the rollout: the tick of each model, and what brings MLflow's aliases back to the ledger."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from assets.lineage import model_key
from assets.metadata import table
from jobs.decisions import decision_jobs, metadata_of
from pilotage.declaration import within
from pilotage.run_tags import DECISION, MODEL
from pilotage.spec import ModelSpec
from resources.failures import plainly
from resources.platform_home import PlatformHome

TICK = "rollout"
RECONCILE = "reconcile_aliases"


def rollout_job_name(model: str) -> str:
    return f"{TICK}_{model}"


def release_jobs(models: Mapping[str, ModelSpec]) -> Iterator[dg.JobDefinition]:
    """Everything about releases that can be launched."""
    for spec in models.values():
        yield _rollout_job(spec)
        yield from decision_jobs(spec)
    yield _reconcile_job(models)


def _rollout_job(spec: ModelSpec) -> dg.JobDefinition:
    name = rollout_job_name(spec.name)

    @dg.op(name=f"look_at_{spec.name}", out=dg.Out(dg.Nothing))
    @plainly
    def look(context: dg.OpExecutionContext, platform: PlatformHome) -> None:
        from pilotage.release.tick import tick

        now, run = datetime.now(UTC), context.run_id
        ticked = tick(spec, settings=platform.settings, lake=platform.lake, now=now, run=run)
        about = f"version {ticked.version}: " if ticked.version is not None else ""
        context.log.info(f"{ticked.did.replace('_', ' ')}, {about}{ticked.why}")
        told: dict[str, Any] = {"did": ticked.did, "why": ticked.why, **metadata_of(ticked.state)}
        if guardrails := ticked.evidence.get("guardrails"):
            told["guardrails"] = table({key: value for key, value in row.items() if _flat(value)} for row in guardrails)
        context.add_output_metadata(told)
        if ticked.did not in ("nothing", "held"):
            # On the version's page, where people look for what became of it.
            context.log_event(
                dg.AssetObservation(
                    model_key(spec.name, "registered_version"),
                    description=f"{ticked.did.replace('_', ' ')} version {ticked.version}: {ticked.why}",
                    metadata=told,
                )
            )

    @dg.job(
        name=name,
        description=(
            f"Looks at the version of {within(spec.title)} that is in shadow or canary: holds, goes on, promotes it or "
            "takes it back, by what the guardrails say. A sensor launches it; to launch it by hand looks at once."
        ),
        tags={DECISION: TICK, MODEL: spec.name},
    )
    def job() -> None:
        look()

    return job


def _reconcile_job(models: Mapping[str, ModelSpec]) -> dg.JobDefinition:
    @dg.op(name="compare_aliases", out=dg.Out(dg.Nothing))
    @plainly
    def reconcile_all(context: dg.OpExecutionContext, platform: PlatformHome) -> None:
        from pilotage.release.reconcile import reconcile

        done = [item for spec in models.values() for item in reconcile(spec, settings=platform.settings)]
        for item in done:
            context.log.warning(item.words)
        context.add_output_metadata(
            {
                "edits": len(done),
                "what": table(
                    {
                        "model": item.edit.model,
                        "alias": item.edit.alias,
                        "ledger": item.edit.expected,
                        "found": item.edit.found,
                        "action": item.action,
                        "why": item.why,
                    }
                    for item in done
                ),
            }
        )

    @dg.job(
        name=RECONCILE,
        description=(
            "Records aliases that somebody changed in MLflow by hand, and adopts or reverts each as its model's file "
            "says."
        ),
        tags={DECISION: RECONCILE},
    )
    def job() -> None:
        reconcile_all()

    return job


def _flat(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
