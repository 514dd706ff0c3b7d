"""A job for each decision about a model, to launch from the Dagster UI. The launchpad shows what a decision needs.

Recorded like the command of the same name. They wait for nothing that trains: see the run queue in ``dagster.yaml``.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from pilotage.declaration import within
from pilotage.errors import ConfigError, LedgerConflict, PilotageError
from pilotage.release.stages import ModelState
from pilotage.run_tags import ACTOR, DECISION, MODEL
from pilotage.spec import ModelSpec
from resources.failures import plainly
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.release.sight import Decision as Name
    from pilotage.release.sight import Sight, Taken
    from pilotage.settings import Settings

PRIORITY = "dagster/priority"
URGENT = "100"
"""Before anything else that waits in the queue."""


class Decision(dg.Config):
    """What every decision needs."""

    why: str = Field(default="", description="The reason, for the record. A decision without one is refused.")
    actor: str = Field(default="", description="Who decides. Empty: somebody in the Dagster UI (not for approvals).")


class OnVersion(Decision):
    """A decision about one version."""

    version: int = Field(default=0, ge=0, description="The version. Needed: 0 is none.")


class Share(OnVersion):
    """A decision that gives traffic."""

    share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the entities, 0..1. 0: the next step that the model's file names.",
    )


class Back(Decision):
    """A decision that takes back."""

    to: int = Field(
        default=0, ge=0, description="The version that answers instead of the champion. 0: the last one that verifies."
    )
    version: int = Field(
        default=0,
        ge=0,
        description="The version to take back. 0: what was released last, a canary before the champion.",
    )


def decision_jobs(spec: ModelSpec) -> Iterator[dg.JobDefinition]:
    """The decisions about one model, the urgent ones first."""
    title = within(spec.title)
    yield _job(
        spec, "kill", Decision, f"No version of {title} answers any more, within two seconds: its fallback does."
    )
    yield _job(spec, "resume", Decision, f"After a kill: {title} answers again.")
    yield _job(
        spec,
        "rollback",
        Back,
        f"Takes back what was released last of {title}: a canary if one runs, else the champion, for the one before.",
    )
    yield _job(spec, "approve", OnVersion, f"Says that a version of {title} may get traffic.")
    yield _job(spec, "reject", OnVersion, f"Says that a version of {title} is not to be released.")
    yield _job(spec, "shadow", OnVersion, f"Begins the rollout of a version of {title}: it predicts and is not heard.")
    yield _job(spec, "canary", Share, f"Gives a version of {title} a share of the traffic, or its canary the next one.")
    yield _job(
        spec, "promote", OnVersion, f"Makes a version of {title} the champion, for first versions and emergencies."
    )
    yield _job(
        spec, "withdraw", Decision, f"Takes back the open request to retrain {title}; a run of it records nothing more."
    )


def _job(spec: ModelSpec, decision: "Name", config: type[Decision], description: str) -> dg.JobDefinition:
    name = f"{decision}_{spec.name}"
    step = f"decide_{name}"

    # Not annotated with the config's own class: that differs from job to job.
    @dg.op(
        name=step,
        description=description,
        config_schema=config.to_fields_dict(),
        required_resource_keys={"platform"},
        out=dg.Out(dg.Nothing),
    )
    @plainly
    def decide(context: dg.OpExecutionContext) -> None:
        from pilotage.release.aliases import show

        platform: PlatformHome = context.resources.platform
        settings = platform.settings
        values = {**context.op_config, "actor": context.op_config["actor"] or context.run.tags.get(ACTOR) or ""}
        # A kill waits for nothing; not for a ledger that hangs, either.
        at_once = decision == "kill" and context.run.root_run_id is None
        at = None if at_once else _launched(context)
        sight = take(decision, spec, values, at=at, settings=settings.without_mlflow())
        if sight.recorded is not None:
            context.log.warning(f"This is on record as event {sight.recorded.sequence}; it was not recorded again.")
        # Told before MLflow is, which takes seconds: who stops the run then knows what was decided.
        context.log.info(in_words(sight.state))
        context.add_output_metadata(metadata_of(sight.state))
        if decision != "withdraw":
            show(sight.state, settings=settings)

    empty = {field_name: field.default for field_name, field in config.model_fields.items()}

    @dg.job(
        name=name,
        description=f"{description} Needs a reason: fill in `why`.",
        # The launchpad opens with every field there is.
        config={"ops": {step: {"config": empty}}},
        tags={DECISION: decision, MODEL: spec.name, PRIORITY: URGENT},
    )
    def job() -> None:
        decide()

    return job


def _launched(context: dg.OpExecutionContext) -> datetime:
    """When somebody launched the run; of one that is repeated, or tried again by Dagster, the first of them.

    Raises:
        ConfigError: Nobody knows any more.
    """
    first = context.run.root_run_id or context.run.run_id
    known = context.instance.get_run_stats(first)
    if (at := known.enqueued_time or known.launch_time or known.start_time) is None:
        raise ConfigError(
            f"When this was decided is not known: run {first[:8]}, which is repeated here, is deleted.",
            fix="Decide again, by a run from the launchpad.",
        )
    return datetime.fromtimestamp(at, UTC)


def take(
    decision: "Name", spec: ModelSpec, values: Mapping[str, Any], *, at: datetime | None, settings: "Settings"
) -> "Sight":
    """Takes a decision with what was filled in, unless it is on record already.

    Args:
        decision: Its name.
        spec: The model.
        values: What was filled in.
        at: When: what was decided later, whoever decided this did not know. ``None`` for just now.
        settings: Where everything is.

    Raises:
        ConfigError: A field that it needs is empty.
        LedgerConflict: What it is about has changed since.
    """
    from pilotage.release.decide import signed
    from pilotage.release.sight import Sight, Taken

    if decision == "approve" and not values["actor"]:
        raise ConfigError("An approval needs a name.", fix="Fill in `actor` in the launchpad.", field="actor")
    if "version" in values and decision != "rollback" and not values["version"]:
        raise ConfigError(
            f"Which version of {spec.name} is it about?", fix="Fill in `version` in the launchpad.", field="version"
        )
    taken = Taken(
        decision=decision,
        model=spec.name,
        at=at or datetime.now(UTC),
        actor=values["actor"] or "somebody in the Dagster UI",
        why=values["why"],
        version=values.get("version") or None,
        asked={name: values[name] for name in ("to", "share") if values.get(name)},
    )
    signed(taken.actor, taken.why)
    sight = _sight(taken, settings) if at is not None else None
    if sight is not None and sight.recorded is not None:
        return sight
    seen = sight.state.sequence if sight is not None else None
    return Sight(state=_carried_out(taken, spec, seen, settings), recorded=None)


def _sight(taken: "Taken", settings: "Settings") -> "Sight | None":
    """What there is to do; ``None`` for a kill, if the ledger can't say."""
    from pilotage.release.ledger import SqlLedger
    from pilotage.release.sight import sight_of

    book = SqlLedger.to_read(settings)
    try:
        return sight_of(taken, book.events())
    except LedgerConflict:
        raise
    except PilotageError:
        if taken.decision != "kill":
            raise
        return None
    finally:
        book.close()


def _carried_out(taken: "Taken", spec: ModelSpec, seen: int | None, settings: "Settings") -> ModelState:
    from pilotage.release import commands
    from pilotage.release.champions import states
    from pilotage.release.retraining.requests import withdraw

    model, number, asked = spec.name, taken.version or 0, taken.asked
    by: dict[str, Any] = {"settings": settings, "actor": taken.actor, "why": taken.why}
    match taken.decision:
        case "kill":
            return commands.kill(model, **by)
        case "resume":
            return commands.resume(model, **by)
        case "rollback":
            return commands.rollback(model, asked.get("to"), version=taken.version, spec=spec, seen=seen, **by)
        case "shadow":
            return commands.shadow(model, number, seen=seen, **by)
        case "reject":
            return commands.reject(model, number, **by)
        case "approve":
            return commands.approve(model, number, spec=spec, **by)
        case "canary":
            return commands.canary(model, number, asked.get("share"), spec=spec, seen=seen, **by)
        case "promote":
            return commands.promote(model, number, spec=spec, seen=seen, **by)
        case "withdraw":
            withdraw(model, **by)
            return states(settings=settings)[model]


def in_words(state: ModelState) -> str:
    """Where a model stands."""
    if state.killed is not None:
        return f"{state.model} is killed ({state.killed.why}): its fallback answers."
    champion = f"version {state.champion.version} answers" if state.champion else "no version answers"
    beside = f", version {state.challenger.version} has {state.challenger.share:.0%}" if state.challenger else ""
    return f"{state.model}: {champion}{beside}."


def metadata_of(state: ModelState) -> dict[str, Any]:
    """Where a model stands, as Dagster shows it."""
    return {
        "state": in_words(state),
        "ledger_event": state.sequence,
        "champion": state.champion.version if state.champion else "none",
        "challenger": state.challenger.version if state.challenger else "none",
        "share": state.challenger.share if state.challenger else 0.0,
        "shadows": ", ".join(str(each.version) for each in state.shadows) or "none",
        "killed": state.killed.why if state.killed else "no",
    }
