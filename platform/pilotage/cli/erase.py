"""``pilotage erase``: what the platform holds of a person, and its erasure, on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pilotage.cli.decisions import AS_JSON, MODEL, recorded
from pilotage.errors import ConfigError

if TYPE_CHECKING:
    from pilotage.governance.erasure import Erasure, Picture
    from pilotage.release.events import Event

_SHOWN = 10
"""Files that people are shown; JSON has all of them."""


@click.command(short_help="Erase a person, or count what there is of them.")
@MODEL
@click.argument("keys", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--yes", is_flag=True, help="Erase. Without it, nothing is changed: what would go is counted.")
@recorded
@AS_JSON
def erase(model: str, keys: tuple[str, ...], yes: bool, why: str, actor: str | None, as_json: bool) -> None:
    """Erase the person whom MODEL knows by KEY=VALUE, or without --yes count what there is of them, table by table.

    A KEY is a column of the model's entity, or a personal field of its request. What can't be undone is done only with
    --yes; what is kept, and what is left to do by hand, is said. See docs/how-to/erase-a-person.md.
    """
    from pilotage.cli.console import print_json

    erasure = _erasure(model, keys)
    if not yes:
        seen = erasure.look()
        print_json(_plain(seen)) if as_json else _show(seen)
        return
    from pilotage.cli.actor import actor_of

    seen, event = erasure.carry_out(actor=actor_of(actor), why=why)
    if as_json:
        print_json({**_plain(seen), "erased": event.sequence if event is not None else None})
    else:
        _show(seen, done=True, event=event)


def _erasure(model: str, keys: Sequence[str]) -> Erasure:
    from pilotage.cli import declared
    from pilotage.data.lake import Lake
    from pilotage.governance.erasure import Erasure
    from pilotage.governance.whom import Person
    from pilotage.pseudonyms import Pseudonyms
    from pilotage.settings import Settings

    given: dict[str, str] = {}
    for word in keys:
        name, sign, value = word.partition("=")
        if not sign or not value or name in given:
            raise ConfigError(
                "A key is given as KEY=VALUE, once.", fix="Write, for example, loan_id=17; quote what has spaces in it."
            )
        given[name] = value
    settings, models = Settings.load(), declared.models()
    spec, pseudonyms = declared.model(model), Pseudonyms.of(settings)
    return Erasure(
        person=Person.of(spec, given, pseudonyms=pseudonyms),
        models={**models, model: spec},
        sources=declared.sources(),
        settings=settings,
        lake=Lake(settings.lake),
        pseudonyms=pseudonyms,
    )


def _plain(seen: Picture) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "person": seen.person.pseudonym,
        "found": [asdict(each) for each in seen.found],
        "unmoved": dict(seen.unmoved),
        "kept": [asdict(each) for each in seen.kept],
        "elsewhere": seen.elsewhere,
        "written": seen.written,
        "unsearched": seen.unsearched,
        "earlier": [{"event": each.sequence, "at": each.at, "kind": each.kind} for each in seen.earlier],
    }


def _show(seen: Picture, *, done: bool = False, event: Event | None = None) -> None:
    from pilotage.cli.console import out, utc

    console = out()

    def line(text: str = "") -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    person = seen.person
    line(f"{person.model} knows them by {', '.join(person.key)}; the ledger calls them {person.pseudonym}.")
    for each in seen.earlier:
        what = "begun" if each.kind == "erasure_begun" else "finished"
        line(f"An erasure was {what} on {utc(each.at)} by {each.actor} (event {each.sequence}): {each.cause}")
        for said in each.payload.get("elsewhere", ()):
            line(f"  It was said then: {said}")
    for found in seen.found:
        rows = f"{found.rows:,} row{'s' * (found.rows != 1)}"
        old = f", and {found.old_files} file{'s' * (found.old_files != 1)} of older versions" if found.old_files else ""
        line(f"  {found.place:<46} {rows}{old}")
    for name, count in seen.unmoved.items():
        line(f"  {name:<46} {count:,} records, which move_prediction_log must move before anything can be erased")
    if seen.nothing:
        line("Nothing is left that could be erased." if seen.earlier else "There is nothing of them.")
    for kept in seen.kept:
        stage = kept.stage.replace("_", " ")
        rows = f"{kept.rows} row{'s' * (kept.rows != 1)}"
        line(f"Kept: {rows} of theirs in the bundle of {kept.model} version {kept.version} ({stage}).")
    if seen.found or seen.kept:
        line("Kept: what models learned before. A version that is trained after the erasure knows nothing of them.")
    for said in seen.elsewhere:
        line(f"By hand: {said}")
    if seen.written:
        more = f", and {len(seen.written) - _SHOWN} more (--json)" if len(seen.written) > _SHOWN else ""
        who = "By hand" if done or seen.nothing else "There, too"
        line(f"{who}: a value of theirs is written in {', '.join(seen.written[:_SHOWN])}{more}.")
    if seen.unsearched:
        line(f"Files were not searched for {', '.join(seen.unsearched)}: so short a value is found everywhere.")
    if done and event is not None:
        line(f"Erased, looked at again, and recorded as event {event.sequence}. Nothing is left but what is said here.")
        line("Backups, and what the source still has, are not the platform's to erase: docs/how-to/erase-a-person.md")
    elif not done and not seen.nothing:
        line("Nothing was changed. To erase it: the same with --yes. It can't be undone.")
