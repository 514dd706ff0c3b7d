"""``pilotage audit``: what an auditor asks of the ledger itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pilotage.cli.console import out, print_json
from pilotage.cli.decisions import AS_JSON
from pilotage.cli.history import Moment, show_at, show_log
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.release.audit import Audit, Known
    from pilotage.settings import Settings

RUNBOOK = "docs/runbooks/ledger-does-not-verify.md"

_SHOWN = 20
"""Faults that people are shown; JSON has all of them."""


MODELS = click.argument("models", nargs=-1, metavar="[MODEL]...")


@click.group(short_help="Verify the ledger of decisions, and look back in it.")
def audit() -> None:
    """What an auditor asks of the ledger itself. See docs/how-to/answer-an-auditor.md."""


@audit.command(short_help="Find every edit, deletion, reordering and truncation.")
@click.option("--head", "heads", multiple=True, metavar="NUMBER:HASH", help="An event that you noted elsewhere.")
@AS_JSON
def verify(heads: tuple[str, ...], as_json: bool) -> None:
    """Verify that the ledger holds what was written to it, all of it, in that order.

    It is held against the head file of its home, and against the heads that runs of Dagster noted.

    Exit code 0: it does. 1: it does not; each fault is told with the number of its event.
    """
    sys.exit(_verify(_settings(), heads, as_json=as_json))


@audit.command(short_help="Every decision: when, by whom and why.")
@MODELS
@click.option("--version", type=click.IntRange(min=1), default=None, help="Only about this version.")
@click.option("--from", "first", type=Moment(end=False), help="Leave out what was decided before this day or moment.")
@click.option("--to", "last", type=Moment(end=True), help="Leave out what was decided after this day or moment.")
@AS_JSON
def log(
    models: tuple[str, ...], version: int | None, first: datetime | None, last: datetime | None, as_json: bool
) -> None:
    """Show the ledger's events about the MODELs, oldest first; as JSON, with what each decision went by.

    Days and moments are UTC unless they name a zone.
    """
    show_log(_settings(), models, version=version, first=first, last=last, as_json=as_json)


@audit.command(short_help="What was in production at a moment.")
@click.argument("moment", type=Moment(end=True))
@MODELS
@AS_JSON
def at(moment: datetime, models: tuple[str, ...], as_json: bool) -> None:
    """Show what was in production at MOMENT, since and until when, trained on what, and approved by whom.

    MOMENT is a day, which stands for its end, or a moment: 2026-05-03T14:00:00+02:00. UTC unless it names a zone.
    """
    show_at(_settings(), moment, models, as_json=as_json)


def _verify(settings: Settings, heads: Sequence[str], *, as_json: bool) -> int:
    """Verifies the ledger, says what is wrong with it, and gives the exit code.

    Args:
        settings: Whose ledger.
        heads: Events that were noted elsewhere, as ``NUMBER:HASH``.
        as_json: Whether a program reads the answer.
    """
    from pilotage.release.audit import Known
    from pilotage.release.audit import audit as audited

    known = [Known.parse(text) for text in heads]
    by_runs, problem = _noted_by_runs(settings)
    found = audited(settings, known=[*known, *by_runs])
    if problem is not None:
        found = replace(found, notes=(*found.notes, problem))
    if as_json:
        print_json({"ok": not found.faults, **asdict(found), "noted_by_dagster": len(by_runs)})
    else:
        _show(found, settings, by_runs=len(by_runs))
    return 1 if found.faults else 0


def _noted_by_runs(settings: Settings) -> tuple[list[Known], str | None]:
    """The heads that Dagster's runs noted, and why they are not known."""
    from pilotage.cli import declared

    try:
        return declared.noted_heads(settings), None
    except PilotageError:
        raise
    except Exception as error:
        # Whatever its storage says: the ledger itself can be verified without it.
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [], f"The heads that Dagster's runs noted can't be read ({told}): compare with one of yours (--head)."


def _show(found: Audit, settings: Settings, *, by_runs: int) -> None:
    from rich.text import Text

    console = out()
    counted = f"{found.events} event{'s' * (found.events != 1)}"
    if found.keyed:
        counted += f", {found.keyed} of them keyed (since event {found.keyed_since})"
    for fault in found.faults[:_SHOWN]:
        where = "a row" if fault.sequence is None else f"event {fault.sequence}"
        console.print(Text.assemble(("✗ ", "bold red"), (f"{where}, {fault.kind}: ", "red"), fault.detail))
    if (more := len(found.faults) - _SHOWN) > 0:
        console.print(f"… and {more} more; --json lists all of them.", highlight=False)
    if found.faults:
        console.print(f"The ledger does not verify ({counted}). What to do: {RUNBOOK}", highlight=False)
    else:
        console.print(Text.assemble(("✓ ", "bold green"), f"The ledger verifies: {counted}."))
        if found.events:
            console.print(f"Head: {found.head}:{found.head_hash}, appended {found.head_at}", highlight=False)
        if found.noted is not None:
            console.print(f"Event {found.noted} is noted in {settings.ledger_head}", highlight=False, markup=False)
        if by_runs:
            console.print(f"Dagster noted it the same in {by_runs} run{'s' * (by_runs != 1)}", highlight=False)
    for note in found.notes:
        console.print(Text.assemble(("! ", "yellow"), note))


def _settings() -> Settings:
    from pilotage.settings import Settings

    return Settings.load()
