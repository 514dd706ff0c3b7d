"""The jobs of retraining: to ask for one, to hold runs against attempts. The training itself is ``train_<model>``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.lineage import model_key
from assets.metadata import table
from assets.retraining import repeated
from jobs.decisions import PRIORITY, URGENT, metadata_of
from pilotage.declaration import within
from pilotage.errors import ConfigError
from pilotage.run_tags import ACTOR, ATTEMPT, CAUSE, DECISION, MODEL, REQUEST
from pilotage.spec import ModelSpec
from resources.failures import in_a_line, plainly, what_failed

if TYPE_CHECKING:
    from pilotage.release.retraining.reconcile import Launched, Stand
    from resources.platform_home import PlatformHome

ASK = "retrain"
PUT_RIGHT = "reconcile_retraining"
STANDS: Mapping[dg.DagsterRunStatus, "Stand"] = {
    dg.DagsterRunStatus.SUCCESS: "finished",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "cancelled",
}
"""Every other status is a run that may still do something."""
VERDICTS = ("ask", "needs_a_person", "blocked")
"""What an alarm may want: a retraining, or somebody to look."""


class Wish(dg.Config):
    """What a request to retrain says."""

    why: str = Field(default="", description="The reason, for the record. A request without one is refused.")
    actor: str = Field(default="", description="Who asks. Empty: somebody in the Dagster UI.")
    cause: str = Field(default="manual", description="manual; alarms and schedules say nightly, drift or performance.")
    evidence: dict[str, Any] = Field(default={}, description="What an alarm measured.")
    once: str = Field(
        default="",
        description="Names the occasion: asked for again under it, nothing is recorded. A repeated run is another one.",
    )
    verdict: str = Field(
        default="ask", description="ask; needs_a_person or blocked call a person instead, once, and train nothing."
    )


def ask_job_name(model: str) -> str:
    return f"{ASK}_{model}"


def wish(model: str, **values: Any) -> dict[str, Any]:
    """Run configuration of the job that asks."""
    return {"ops": {f"ask_for_{ask_job_name(model)}": {"config": {**Wish().model_dump(), **values}}}}


def retraining_jobs(models: Mapping[str, ModelSpec]) -> Iterator[dg.JobDefinition]:
    """One to ask for each model, and one that puts right."""
    for spec in models.values():
        yield _ask_job(spec)
        yield _watch_job(spec)
    yield _put_right_job(models)


def _ask_job(spec: ModelSpec) -> dg.JobDefinition:
    name = ask_job_name(spec.name)

    @dg.op(
        name=f"ask_for_{name}",
        config_schema=Wish.to_fields_dict(),
        required_resource_keys={"platform"},
        out=dg.Out(dg.Nothing),
    )
    @plainly
    def ask(context: dg.OpExecutionContext) -> None:
        from pilotage.release.decide import signed
        from pilotage.release.retraining.requests import call_a_person, request

        platform: PlatformHome = context.resources.platform
        values = context.op_config
        if values["verdict"] not in VERDICTS:
            raise ConfigError(
                f"{values['verdict']!r} is no verdict.",
                fix=f"Fill in one of {', '.join(VERDICTS)} for `verdict` in the launchpad.",
                field="verdict",
            )
        # Who repeats the run of a schedule or an alarm asks again: it is another occasion, and another one who asks.
        again = repeated(context.run)
        told_by = "" if again else values["actor"] or context.run.tags.get(ACTOR)
        by: dict[str, Any] = {
            "settings": platform.settings,
            "actor": told_by or "somebody in the Dagster UI",
            "why": values["why"],
        }
        signed(by["actor"], by["why"])
        evidence = {**values["evidence"], "run": context.run.run_id}
        if values["verdict"] != "ask":
            about = str(evidence.get("alarm") or values["cause"])
            new = call_a_person(spec.name, about, evidence=evidence, **by)
            context.log.error(f"{values['why']}" if new else f"Somebody was called for {about} already.")
            context.add_output_metadata({"called": new, "about": about, "why": values["why"]})
            return
        # Dagster tries a run again that crashed, whether or not it had asked.
        once = None if again else values["once"] or context.run.root_run_id or context.run.run_id
        made = request(spec.name, values["cause"], evidence, once=once, **by)
        told = f"part of request {made.number}" if made else "an attempt runs: it is part of the next request"
        if made is not None and made.outcome is not None:
            told = f"asked for before; request {made.number} is over ({made.outcome}), and nothing was recorded"
        context.log.info(f"{spec.name}: {told}.")
        context.add_output_metadata({"request": made.number if made else "the next one", "cause": values["cause"]})

    @dg.job(
        name=name,
        description=(
            f"Asks for a retraining of {within(spec.title)}; several wishes make one request, and a sensor starts its "
            "run when it is due. Needs a reason: fill in `why`."
        ),
        config=wish(spec.name),
        tags={DECISION: ASK, MODEL: spec.name, PRIORITY: URGENT},
    )
    def job() -> None:
        ask()

    return job


def watch_job_name(model: str) -> str:
    return f"watch_{model}"


def _watch_job(spec: ModelSpec) -> dg.JobDefinition:
    name = watch_job_name(spec.name)

    @dg.op(name=f"compare_champions_of_{spec.name}", required_resource_keys={"platform"}, out=dg.Out(dg.Nothing))
    @plainly
    def compare(context: dg.OpExecutionContext) -> None:
        from pilotage.release.retraining.watch import look

        platform: PlatformHome = context.resources.platform
        now, run = datetime.now(UTC), context.run_id
        looked = look(spec, settings=platform.settings, lake=platform.lake, now=now, run=run)
        context.log.info(f"{looked.did.replace('_', ' ')}: {looked.why}")
        told = {"did": looked.did, "why": looked.why, **metadata_of(looked.state)}
        if tests := looked.evidence.get("tests"):
            told["tests"] = table(tests)
        context.add_output_metadata(told)
        if looked.did in ("rolled_back", "killed"):
            context.log_event(
                dg.AssetObservation(
                    model_key(spec.name, "registered_version"),
                    description=f"{looked.did.replace('_', ' ')}: {looked.why}",
                    metadata=told,
                )
            )

    @dg.job(
        name=name,
        description=(
            f"Holds the champion of {within(spec.title)} against the one before it, which goes on predicting unheard, "
            "and against its limit: takes it back, or lets the fallback take over. A sensor launches it."
        ),
        tags={DECISION: "watch", MODEL: spec.name},
    )
    def job() -> None:
        compare()

    return job


def _put_right_job(models: Mapping[str, ModelSpec]) -> dg.JobDefinition:
    @dg.op(name="hold_runs_against_attempts", required_resource_keys={"platform"}, out=dg.Out(dg.Nothing))
    @plainly
    def compare(context: dg.OpExecutionContext) -> None:
        from pilotage.release.ledger import opened
        from pilotage.release.retraining.reconcile import put_right

        platform: PlatformHome = context.resources.platform
        rows = []
        with opened(platform.settings, None) as book:
            for spec in models.values():
                done = put_right(
                    spec.name,
                    spec.retraining,
                    book=book,
                    stand_of=stands(context.instance),
                    launched=launches(context.instance, spec.name),
                    now=datetime.now(UTC),
                    said=lambda run: in_a_line(what_failed(context.instance, run)),
                )
                rows += [
                    {"model": spec.name, "what": each.kind.replace("_", " "), "why": each.why, "run": each.run}
                    for each in done
                ]
        for row in rows:
            context.log.warning(f"{row['model']}: {row['why']}")
        context.add_output_metadata({"found": len(rows), "what": table(rows)})

    @dg.job(
        name=PUT_RIGHT,
        description=(
            "Tells the ledger of retraining runs that failed, were cancelled, fell silent or vanished, so that their "
            "request is tried again, or given up. A sensor launches it."
        ),
        tags={DECISION: PUT_RIGHT},
    )
    def job() -> None:
        compare()

    return job


def stands(instance: dg.DagsterInstance) -> Callable[[str], "Stand"]:
    """How a run stands, by Dagster."""

    def stand_of(run_id: str) -> "Stand":
        run = instance.get_run_by_id(run_id)
        return "gone" if run is None else STANDS.get(run.status, "alive")

    return stand_of


def launches(instance: dg.DagsterInstance, model: str) -> Callable[[int, int], Sequence["Launched"]]:
    """The runs that were asked for an attempt, newest first, by their tags."""

    def launched(request: int, number: int) -> list["Launched"]:
        from pilotage.release.retraining.reconcile import Launched

        tags = {MODEL: model, REQUEST: str(request), ATTEMPT: str(number)}
        records = instance.get_run_records(dg.RunsFilter(job_name=f"train_{model}", tags=tags), limit=10)
        return [
            Launched(
                run=record.dagster_run.run_id,
                stand=STANDS.get(record.dagster_run.status, "alive"),
                since=datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None,
            )
            for record in records
        ]

    return launched


def tags_of_attempt(request: int, number: int, *, causes: Sequence[str], actor: str, why: str) -> dict[str, str]:
    """What a run of a request says of itself, from the alarm to the attempt."""
    from pilotage.run_tags import EVIDENCE

    return {
        CAUSE: "+".join(causes),
        ACTOR: actor,
        REQUEST: str(request),
        ATTEMPT: str(number),
        EVIDENCE: why[:250],
        # A crashed run is tried again by its request, which counts; not by Dagster as well.
        "dagster/max_retries": "0",
    }
