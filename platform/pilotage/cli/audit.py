"""``pilotage audit``: what an auditor asks of the ledger itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pilotage.cli.console import out, print_json
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.release.audit import Audit

RUNBOOK = "docs/runbooks/ledger-does-not-verify.md"

_SHOWN = 20
"""Faults that people are shown; JSON has all of them."""


def verify(settings: Settings, heads: Sequence[str], *, as_json: bool) -> int:
    """Verifies the ledger, says what is wrong with it, and gives the exit code.

    Args:
        settings: Whose ledger.
        heads: Events that were noted elsewhere, as ``NUMBER:HASH``.
        as_json: Whether a program reads the answer.
    """
    from pilotage.release.audit import Known, audit

    found = audit(settings, known=[Known.parse(text) for text in heads])
    if as_json:
        print_json({"ok": not found.faults, **asdict(found)})
    else:
        _show(found, settings)
    return 1 if found.faults else 0


def _show(found: Audit, settings: Settings) -> None:
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
    for note in found.notes:
        console.print(Text.assemble(("! ", "yellow"), note))
