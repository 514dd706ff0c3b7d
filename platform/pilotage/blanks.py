"""Blanks in a file that ``pilotage new`` wrote: what a person still has to say before it can be loaded."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import DeclarationError

MARK = "FILL_IN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blank:
    """One blank of a file."""

    line: int
    what: str
    """What belongs there, in words."""


def FILL_IN(what: str) -> Any:
    """Marks a blank. Replace the whole call by a value.

    Args:
        what: What belongs there, in words.

    Raises:
        DeclarationError: Always; it lists every blank of the file that calls it.
    """
    file = sys._getframe(1).f_code.co_filename
    require_filled(Path(file))
    raise DeclarationError(f"A blank is left: {what}.", fix="Replace FILL_IN(…) by a value.", what=what)


def blanks(path: Path) -> list[Blank]:
    """The blanks of a file, in the order of its lines. A file that is no Python has none: importing it says more."""
    text = path.read_text(encoding="utf-8")
    if f"{MARK}(" not in text:
        return []
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    found = [
        Blank(line=node.lineno, what=_what(node))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == MARK
    ]
    return sorted(found, key=lambda blank: blank.line)


def require_filled(path: Path, *, shown: str = "") -> None:
    """Refuses a file with blanks, before it is run: some of them may be in functions, and would be met much later.

    Args:
        path: The file.
        shown: How to call it in the error.

    Raises:
        DeclarationError: Blanks are left; lists them by line.
    """
    if left := blanks(path):
        name = shown or path.name
        told = "; ".join(f"line {blank.line}: {blank.what}" for blank in left)
        count = "1 blank is" if len(left) == 1 else f"{len(left)} blanks are"
        raise DeclarationError(
            f"{count} left in {name}: {told}.",
            fix=f"Replace every {MARK}(…) in {name} by a value.",
            file=str(path),
            lines=[blank.line for blank in left],
        )


def _what(call: ast.Call) -> str:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "a value"
