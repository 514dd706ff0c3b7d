"""``pilotage approve · reject · promote · rollback · kill · resume · shadow · canary · ab``: decisions on record.

Here are their commands; what may be decided is in ``pilotage.release``.
Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pilotage.cli.actor import actor_of
from pilotage.cli.console import percent, say
from pilotage.cli.evidence import ab_report, evidence

if TYPE_CHECKING:
    from pilotage.release.stages import ModelState

MODEL = click.argument("model")
VERSION = click.argument("version", type=click.IntRange(min=1))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


def recorded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds who decides, and why."""
    why = click.option("--why", required=True, help="The reason, for the record.")
    actor = click.option("--actor", default=None, help="Who decides. Default: your user name.")
    return why(actor(command))


@click.command(short_help="Say that a version may get traffic.")
@MODEL
@VERSION
@recorded
def approve(model: str, version: int, why: str, actor: str | None) -> None:
    """Say that VERSION of MODEL may get traffic.

    Models of high risk need it before a canary or a promotion. Who may is in the model's file; by default anybody but
    the one who trained the version.
    """
    from pilotage.release import commands
    from pilotage.release.legality import missing_approvals
    from pilotage.release.state import ApprovalRule

    spec, by = _spec(model), _by(actor, why)
    state = commands.approve(model, version, spec=spec, **by)
    known, rule = state.versions[version], ApprovalRule.of(spec)
    have, missing = len(known.approved_by(rule)), missing_approvals(known, rule)
    left = f"{missing} more to go." if missing else "It may get traffic."
    say(f"{model} version {version} is approved by {by['actor']} ({have} of {rule.needed} needed). {left}")


@click.command(short_help="Say that a version is not to be released.")
@MODEL
@VERSION
@recorded
def reject(model: str, version: int, why: str, actor: str | None) -> None:
    """Say that VERSION of MODEL is not to be released; it loses its traffic if it had any."""
    from pilotage.release import commands

    state = commands.reject(_known(model), version, **_by(actor, why))
    say(f"{model} version {version} is rejected. {_answers(state)}")


@click.command(short_help="Make a version the champion.")
@MODEL
@VERSION
@recorded
def promote(model: str, version: int, why: str, actor: str | None) -> None:
    """Make VERSION of MODEL the champion: the prediction service takes it up without a restart.

    A rollout does this by itself at its end. By hand it is for first versions and emergencies, and recorded as such.
    """
    from pilotage.release import commands

    state = commands.promote(model, version, spec=_spec(model), **_by(actor, why))
    if (done := state.champion) is not None:
        say(f"{model} version {done.version} is in production, promoted by {done.actor}: {done.why}")
    _tell_killed(state)


@click.command(short_help="Take back what was released last, or go to an earlier version.")
@MODEL
@click.option("--to", type=click.IntRange(min=1), help="The version that answers instead of the champion.")
@click.option("--version", type=click.IntRange(min=1), help="The version to take back; refused if it gets no traffic.")
@recorded
def rollback(model: str, to: int | None, version: int | None, why: str, actor: str | None) -> None:
    """Take back what was released last: a canary or A/B test if one runs, else the champion.

    Instead of the champion, the one before it answers whose bundle verifies, or the version that --to names.
    """
    from pilotage.release import commands

    # A version that was never champion needs approvals; those before need no file.
    spec = _spec_that_loads(model) if to is not None else None
    state = commands.rollback(_known(model), to, version=version, spec=spec, **_by(actor, why))
    gone = max(state.versions.values(), key=lambda each: each.sequence if each.stage == "rolled_back" else 0)
    say(f"{model} version {gone.version} is rolled back. {_answers(state)}")


@click.command(short_help="Let no version of a model answer.")
@MODEL
@recorded
def kill(model: str, why: str, actor: str | None) -> None:
    """Let no version of MODEL answer: within two seconds the service answers from the model's fallback."""
    from pilotage.release import aliases, commands
    from pilotage.settings import Settings

    settings = Settings.load()
    name = model if _served_here(model) else _known(model)
    state = commands.kill(name, settings=settings.without_mlflow(), actor=actor_of(actor), why=why)
    # Told before MLflow is, which takes seconds.
    say(f"{model} is killed: its fallback answers until you `pilotage resume {model} --why …`.")
    if state.champion is None:
        say(f"No version of it was in production. Is {settings.home} the home that you mean?", err=True)
    aliases.show(state, settings=settings)


@click.command(short_help="Let a killed model answer again.")
@MODEL
@recorded
def resume(model: str, why: str, actor: str | None) -> None:
    """Let MODEL answer again after `pilotage kill`."""
    from pilotage.release import commands

    state = commands.resume(_known(model), **_by(actor, why))
    say(f"{model} is resumed. {_answers(state)}")


@click.command(short_help="Let a version predict without being heard.")
@MODEL
@VERSION
@recorded
def shadow(model: str, version: int, why: str, actor: str | None) -> None:
    """Let VERSION of MODEL predict on every request without being heard: the first stage of a rollout.

    Also begins the rollout of a version again that was rejected or rolled back.
    """
    from pilotage.release import commands

    state = commands.shadow(_known(model), version, **_by(actor, why))
    say(f"{model} version {version} is in shadow: its predictions are logged and never returned.")
    _tell_killed(state)


@click.command(short_help="Give a version a share of the traffic, or its canary the next one.")
@MODEL
@VERSION
@click.option("--share", type=SHARE, help="Share of the entities, 0 to 1. Default: the next step in the model's file.")
@recorded
def canary(model: str, version: int, share: float | None, why: str, actor: str | None) -> None:
    """Give VERSION of MODEL a share of the traffic, or its canary the next step that the model's file declares."""
    from pilotage.release import commands

    state = commands.canary(model, version, share, spec=_spec(model), **_by(actor, why))
    if (running := state.canary) is not None:
        some = " of the first segment" if running.segment else ""
        say(f"{model} version {version} is a canary: it answers {percent(running.share)} of the entities{some}.")
    _tell_killed(state)


@click.group(short_help="Begin or end an A/B test.")
def ab() -> None:
    """Compare a version with the champion on a fixed share of the entities, each of which always gets the same one."""


@ab.command("start", short_help="Give a version a share, for as long as the test runs.")
@MODEL
@VERSION
@click.option("--share", type=SHARE, default=0.5, show_default=True, help="Share of the entities, 0 to 1.")
@recorded
def ab_start(model: str, version: int, share: float, why: str, actor: str | None) -> None:
    """Begin an A/B test of VERSION of MODEL against the champion."""
    from pilotage.release import commands

    state = commands.start_ab(model, version, share, spec=_spec(model), **_by(actor, why))
    say(f"{model} version {version} answers {percent(share)} of the entities until `pilotage ab end {model} --why …`.")
    _tell_killed(state)


@ab.command("end", short_help="Give all traffic back to the champion.")
@MODEL
@recorded
def ab_end(model: str, why: str, actor: str | None) -> None:
    """End the A/B test of MODEL: the champion answers everybody, and the other version waits for a decision."""
    from pilotage.release import commands

    state = commands.end_ab(_known(model), **_by(actor, why))
    say(f"The A/B test of {model} has ended. {_answers(state)}")


ab.add_command(ab_report)

COMMANDS: tuple[click.Command, ...] = (approve, reject, promote, rollback, kill, resume, shadow, canary, ab, evidence)


def _by(actor: str | None, why: str) -> dict[str, Any]:
    from pilotage.settings import Settings

    return {"settings": Settings.load(), "actor": actor_of(actor), "why": why}


def _spec(model: str) -> Any:
    from pilotage.cli import declared

    return declared.model(model)


def _spec_that_loads(model: str) -> Any:
    """The model's file; ``None`` for one that does not load, which must keep nobody from taking a version back."""
    from pilotage.errors import ConfigError, DeclarationError

    try:
        return _spec(model)
    except (ConfigError, DeclarationError):
        return None


def _known(model: str) -> str:
    """The model, if there is one of this name: in the ledger, or else declared.

    The ledger is asked first, so that a file that does not load keeps nobody from taking a model out of production.
    """
    from pilotage.cli import declared
    from pilotage.cli.history import events_of
    from pilotage.errors import LedgerUnavailable
    from pilotage.settings import Settings

    try:
        if model in {event.model for event in events_of(Settings.load())}:
            return model
    except LedgerUnavailable:
        # Whoever decides says so; a kill holds without it.
        pass
    declared.model(model)
    return model


def _served_here(model: str) -> bool:
    """Whether the service on this host knows the model: then a kill waits for nobody before it holds."""
    from pilotage.runtime.plans_file import PlansFile
    from pilotage.settings import Settings

    try:
        known = PlansFile(Settings.load().service_state).read()
    except (OSError, ValueError):
        return False
    return known is not None and model in known.plans


def _tell_killed(state: ModelState) -> None:
    """Says of a decision that gives a version something to do that it takes effect later."""
    if state.killed is not None:
        say(f"But {state.model} is killed: no version is asked until you `pilotage resume {state.model} --why …`.")


def _answers(state: ModelState) -> str:
    if state.killed is not None:
        return f"{state.model} is killed: no version answers."
    if state.champion is None:
        return "No version answers."
    return f"Version {state.champion.version} answers."
