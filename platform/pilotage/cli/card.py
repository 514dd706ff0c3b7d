"""``pilotage card``: a version's model card, and what was decided about it since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pilotage.cli.console import say
from pilotage.cli.decisions import MODEL

if TYPE_CHECKING:
    from pilotage.release.history import Decision, VersionRecord
    from pilotage.settings import Settings


@click.command(short_help="A version's model card, and what was decided about it.")
@MODEL
@click.argument("version", type=click.IntRange(min=1), required=False)
def card(model: str, version: int | None) -> None:
    """Print the model card of VERSION of MODEL, as Markdown; by default of the one in production.

    What it is for, what it learned from, how good it is and for whom, and what the gate asked: as it was declared and
    measured when it was trained, if the ledger knows it so. Then what was decided since, by whom and why.
    """
    from pilotage.release.cards import read_card
    from pilotage.settings import Settings

    settings = Settings.load()
    found = _version(settings, model, version)
    say(read_card(model, found, settings=settings).rstrip())
    say(f"\n## Version {found.version} since then: {found.stage}\n")
    for each in found.decisions:
        say(_line(each))


def _version(settings: Settings, model: str, number: int | None) -> VersionRecord:
    """The version that was asked for.

    Raises:
        ConfigError: The ledger knows nothing of the model.
        NotReleasable: There is no such version, or no champion.
    """
    from pilotage.cli.history import events_of, known
    from pilotage.errors import NotReleasable
    from pilotage.release.history import version_record
    from pilotage.release.state import fold_model

    events = events_of(settings)
    known([model], {event.model for event in events})
    state = fold_model(model, events)
    if number is None and state.champion is not None:
        number = state.champion.version
    found = version_record(state, number, events)
    if found is None:
        there = ", ".join(map(str, sorted(state.versions)))
        raise NotReleasable(
            f"{model} has no version {number}." if number else f"{model} has no champion.",
            fix=f"Name one of its versions: {there}." if there else f"See pilotage status {model}.",
        )
    return found


def _line(each: Decision) -> str:
    from pilotage.cli.console import one_line, utc
    from pilotage.governance.card import as_text

    kind, actor, why = map(as_text, map(one_line, (each.kind.replace("_", " "), each.actor, each.why)))
    return f"- {utc(each.at)}: {kind} by {actor}: {why} (event {each.sequence})"
