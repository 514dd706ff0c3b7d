"""What is different about the columns of a delivery: renamed, missing, retyped or extra, each told apart and named.

Only comparison lives here. Reading is in ``readers/``, and what happens to a delivery that differs in ``ingest.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import polars as pl

from pilotage.errors import SchemaChanged

ALIKE = 0.6
"""Similarity of two names, 0 to 1, from which one is taken for the other's new name. ``dep_delay`` and
``departure_delay`` have 0.73, ``carrier`` and ``airline`` 0.29."""

LONGEST = 100
"""Characters of a delivered name that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """One column that is not what the source declares."""

    kind: Literal["renamed", "missing", "retyped", "extra"]
    column: str
    """The declared column; of an extra one, the delivered column."""
    now: str = ""
    """The probable new name, or the type that the values have now."""
    declared: str = ""
    """The declared type."""

    @property
    def fatal(self) -> bool:
        """Whether rows can't be read without a person's decision. An extra column is ignored."""
        return self.kind != "extra"

    def __str__(self) -> str:
        match self.kind:
            case "renamed":
                return f"{self.column} is renamed, probably to {_shown(self.now)}"
            case "missing":
                return f"{self.column} is missing"
            case "retyped":
                return f"{self.column} is retyped from {self.declared} to {self.now}"
            case _:
                return f"{_shown(self.column)} is extra"

    @property
    def fix(self) -> str:
        match self.kind:
            case "renamed":
                return f"Deliver it as {self.column} again, or rename it in `columns` and `prepare` of the source."
            case "missing":
                return f"Deliver {self.column} again, or name it in `optional` of the source."
            case "retyped":
                return f"Deliver {self.column} as {self.declared} again, or change its type in `columns` of the source."
            case _:
                return f"Declare {self.column} in `columns` of the source if it is of use."


def compare_names(
    columns: Mapping[str, pl.DataType],
    delivered: Sequence[str],
    *,
    optional: Collection[str] = (),
    fits: Callable[[str, pl.DataType], bool] = lambda _name, _dtype: True,
) -> list[SchemaChange]:
    """Compares the declared columns with the delivered names.

    Args:
        fits: Whether the values of a delivered column can be read as a type; a rename keeps the type.

    Returns:
        Renamed and missing columns in the order of declaration, then extra ones in the order of delivery.
    """
    missing = [column for column in columns if column not in delivered]
    extra = [name for name in delivered if name not in columns]
    pairs = sorted(
        (
            (_likeness(column, name), column, name)
            for column in missing
            for name in extra
            if _likeness(column, name) >= ALIKE and fits(name, columns[column])
        ),
        reverse=True,
    )
    renamed: dict[str, str] = {}
    for _, column, name in pairs:
        if column not in renamed and name not in renamed.values():
            renamed[column] = name
    changes = [
        SchemaChange(kind="renamed", column=column, now=renamed[column], declared=str(columns[column]))
        if column in renamed
        else SchemaChange(kind="missing", column=column, declared=str(columns[column]))
        for column in missing
        if column in renamed or column not in optional
    ]
    return changes + [SchemaChange(kind="extra", column=name) for name in extra if name not in renamed.values()]


def refuse(changes: Sequence[SchemaChange], name: str) -> None:
    """Raises ``SchemaChanged`` for a delivery whose rows can't be read, with every difference named."""
    fatal = [change for change in changes if change.fatal]
    if fatal:
        ignored = [str(change) for change in changes if not change.fatal]
        more = f" (Also: {'; '.join(ignored)}.)" if ignored else ""
        raise SchemaChanged(
            f"{name}: {'; '.join(map(str, fatal))}.{more}",
            fix=" ".join(dict.fromkeys(change.fix for change in fatal)),
            file=name,
            changes=[str(change) for change in changes],
        )


def _shown(name: str) -> str:
    """A delivered name, of which a file that is no table can make anything."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}…"


def _likeness(one: str, other: str) -> float:
    plain_one, plain_other = (name.lower().replace("_", "").replace(" ", "").replace("-", "") for name in (one, other))
    return SequenceMatcher(None, plain_one, plain_other, autojunk=False).ratio()
