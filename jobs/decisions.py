"""A job for each decision about a model, to launch from the Dagster UI. The launchpad shows what a decision needs.

Recorded like the command of the same name. They wait for nothing that trains: see the run queue in ``dagster.yaml``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from pilotage.declaration import within
from pilotage.errors import ConfigError
from pilotage.release.stages import ModelState
from pilotage.run_tags import ACTOR, DECISION, MODEL
from pilotage.spec import ModelSpec
from resources.failures import plainly
from resources.platform_home import PlatformHome

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


Command = Callable[..., ModelState]


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


def _job(spec: ModelSpec, decision: str, config: type[Decision], description: str) -> dg.JobDefinition:
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
        platform: PlatformHome = context.resources.platform
        actor = context.op_config["actor"] or context.run.tags.get(ACTOR) or ""
        state = take(decision, spec, context.op_config, platform=platform, actor=actor)
        context.log.info(in_words(state))
        context.add_output_metadata(metadata_of(state))

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


def take(
    decision: str, spec: ModelSpec, values: Mapping[str, Any], *, platform: PlatformHome, actor: str
) -> ModelState:
    """Takes a decision with what was filled in.

    Raises:
        ConfigError: A field that it needs is empty.
    """
    from pilotage.release import commands
    from pilotage.release.champions import states
    from pilotage.release.retraining.requests import withdraw

    if decision == "approve" and not actor:
        raise ConfigError("An approval needs a name.", fix="Fill in `actor` in the launchpad.", field="actor")
    if "version" in values and decision != "rollback" and not values["version"]:
        raise ConfigError(
            f"Which version of {spec.name} is it about?", fix="Fill in `version` in the launchpad.", field="version"
        )
    arguments: dict[str, Any] = {
        "settings": platform.settings,
        "actor": actor or "somebody in the Dagster UI",
        "why": values["why"],
    }
    match decision:
        case "kill":
            return commands.kill(spec.name, **arguments)
        case "resume":
            return commands.resume(spec.name, **arguments)
        case "rollback":
            to, version = values["to"] or None, values["version"] or None
            return commands.rollback(spec.name, to, version=version, spec=spec, **arguments)
        case "shadow":
            return commands.shadow(spec.name, values["version"], **arguments)
        case "reject":
            return commands.reject(spec.name, values["version"], **arguments)
        case "approve":
            return commands.approve(spec.name, values["version"], spec=spec, **arguments)
        case "canary":
            share = values["share"] or None
            return commands.canary(spec.name, values["version"], share, spec=spec, **arguments)
        case "promote":
            return commands.promote(spec.name, values["version"], spec=spec, **arguments)
        case "withdraw":
            withdraw(spec.name, **arguments)
            return states(settings=platform.settings)[spec.name]
    raise ConfigError(f"There is no decision {decision!r}.", fix="See jobs/decisions.py.")


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
