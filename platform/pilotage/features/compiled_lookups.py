"""As-of look-ups of one row as one generated function: no call for each look-up, and nothing is looked up twice.

For the ``Latest`` temperature at ``row[2]`` that is at most six hours old, and a ``Window`` of twelve hours with the
mean over what has the key ``row[1], row[2]``, it makes::

    def answer(row, at, bisect, float, bool, get0, known0, edges0, c0_0, z0_0, get1, known1, edges1, c1_0, …):
        r1 = row[1]
        r2 = row[2]
        at1 = at - 43200000000
        span = get0(r2)
        if span is None:
            n0 = -1                                 # the position of the newest row at ``at``: there is none
        else:
            shift = span[2]
            if shift is None:
                first, end, shift = span            # few rows
                n0 = bisect(known0, at, first, end) - 1
                if n0 < first:
                    n0 = -1
            else:
                first, end, shift, begins, ends, offset = span
                if at >= ends:
                    n0 = end - 1
                elif at >= begins:
                    bucket = (at >> shift) + offset
                    n0 = bisect(known0, at, edges0[bucket], edges0[bucket + 1]) - 1
                else:
                    n0 = -1
        if n0 < 0 or at - known0[n0] > 21600000000:
            v0 = None
        else:
            v0 = c0_0[n0]
            if v0 != v0:                            # NaN stands for null
                v0 = None
        …                                           # the same for n1 at ``at``, and for n2 at ``at1``
        if n1 < 0:
            count1 = sum1 = 0
        else:
            count1 = c1_0[n1]
            sum1 = c1_1[n1]
        …
        count = count1 - count2
        v1 = float(sum1 - sum2) / float(count) if count else None
        return [v0, v1]

What comes after ``at`` are defaults, of which each state has its own. State that is not in memory is asked for
positions by ``find``; what follows is the same. The text is made of this module's templates, numbers, and names with
numbers in them: nothing that stands in a bundle ever becomes code.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import polars as pl

from pilotage.features.asof import Lookup
from pilotage.spec import Latest, Window

if TYPE_CHECKING:
    from pilotage.features.spans import Spans
    from pilotage.features.state import Column, RowTimeline

RowFunction = Callable[[Sequence[Any], int], list[Any]]
"""Gives the as-of columns of a row of request columns, at a moment in microseconds since 1970 UTC."""

NO_INTEGER = 2**63
"""Equals nothing that a store holds."""
_US = timedelta(microseconds=1)
_BUILTINS = {"bisect": bisect_right, "float": float, "bool": bool}
_READS = {"count": ("count",), "sum": ("sum",), "mean": ("count", "sum")}
"""What each aggregate reads of running totals, whose columns are the count and the sum."""


class SearchedTimeline(Protocol):
    """One timeline in memory: ``MemoryTimeline``."""

    @property
    def spans(self) -> Spans: ...
    @property
    def known_at(self) -> Column: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...
    def direct(self, slot: int, *, floats: bool | None) -> tuple[Column, int]: ...


@dataclass(slots=True, kw_only=True)
class _Ask:
    """A look-up."""

    lookup: Lookup
    positions: list[str]
    """Variables of the positions that it reads."""
    values: list[str]
    """Variables of its columns."""


@dataclass(slots=True, kw_only=True)
class _Place:
    """A timeline with the request columns of its key. Whatever asks it for a moment shares the answer."""

    number: int
    name: str
    slots: list[int]
    """Where the parts of the key are in a row."""
    columns: list[bool | None]
    """The payload. Whether NaN stands for null, or an integer does; ``None`` where nothing does."""
    positions: dict[str, str] = field(default_factory=dict)
    """Variable of a moment → variable of the position then."""
    asks: list[_Ask] = field(default_factory=list)

    @property
    def parts(self) -> list[str]:
        """Of the key."""
        return [f"r{slot}" for slot in self.slots]

    @property
    def payload(self) -> list[str]:
        """Of each column, its name, and that of the integer that stands for null."""
        return [f"{letter}{self.number}_{slot}" for slot in range(len(self.columns)) for letter in "cz"]


_Lines = Callable[[_Place], list[str]]


class CompiledLookups:
    """The look-ups of one feature view. Safe to share between threads."""

    def __init__(self, lookups: Sequence[Lookup], request: Mapping[str, int]) -> None:
        """Compiles once.

        Args:
            lookups: What to look up.
            request: Where each request column is in a row.
        """
        self._moments = {timedelta(0): "at"}
        """How long before the row's moment → the variable of that moment."""
        self._places: dict[tuple[str, tuple[str, ...]], _Place] = {}
        self._width = 0
        for lookup in lookups:
            self._add(lookup, request)
        places = self._places.values()
        self.names = tuple(place.name for place in places)
        """The timelines that functions are made of; one with several keys is there for each of them."""
        self._in_memory = self._compiled(
            [name for place in places for name in (*_numbered(place, "get", "known", "edges"), *place.payload)], _search
        )
        self._asked = self._compiled(
            [name for place in places for name in (*_numbered(place, "find", "known"), *place.payload)], _ask
        )

    def in_memory(self, timelines: Sequence[SearchedTimeline]) -> RowFunction:
        """The look-ups in ``names``; for all rows."""
        values: list[object] = []
        for place, timeline in zip(self._places.values(), timelines, strict=True):
            values += (timeline.spans.of.get, timeline.known_at, timeline.spans.edges)
            for slot, (floats, _) in enumerate(zip(place.columns, timeline.columns, strict=True)):
                values += timeline.direct(slot, floats=floats)
        return _with(self._in_memory, values)

    def asked(self, timelines: Sequence[RowTimeline]) -> RowFunction:
        """The look-ups in ``names``, of any kind; for as many rows as they are for."""
        values: list[object] = []
        for place, timeline in zip(self._places.values(), timelines, strict=True):
            values += (timeline.find, timeline.known_at)
            for column, _ in zip(timeline.columns, place.columns, strict=True):
                values += (column, NO_INTEGER)
        return _with(self._asked, values)

    def _add(self, lookup: Lookup, request: Mapping[str, int]) -> None:
        where = (lookup.timeline.name, lookup.on)
        if where not in self._places:
            totals = isinstance(lookup.declared, Window)
            self._places[where] = _Place(
                number=len(self._places),
                name=lookup.timeline.name,
                slots=[request[name] for name in lookup.on],
                columns=[None, None] if totals else [_null(dtype) for dtype in lookup.outputs.values()],
            )
        place = self._places[where]
        asked = [self._moments.setdefault(before, f"at{len(self._moments)}") for before in lookup.before]
        found = sum(len(each.positions) for each in self._places.values())
        for moment in asked:
            if moment not in place.positions:
                place.positions[moment] = f"n{found}"
                found += 1
        values = [f"v{self._width + slot}" for slot in range(len(lookup.outputs))]
        self._width += len(values)
        place.asks.append(_Ask(lookup=lookup, positions=[place.positions[moment] for moment in asked], values=values))

    def _compiled(self, parameters: Sequence[str], position: _Lines) -> FunctionType:
        places = self._places.values()
        lines = [
            *(f"r{slot} = row[{slot}]" for slot in sorted({slot for place in places for slot in place.slots})),
            *(f"{moment} = at - {before // _US}" for before, moment in self._moments.items() if before),
            *(line for place in places for lines in (position, _totals, _answers) for line in lines(place)),
            f"return [{', '.join(f'v{slot}' for slot in range(self._width))}]",
        ]
        text = "\n".join([f"def answer(row, at, {', '.join([*_BUILTINS, *parameters])}):", *_indented(lines)])
        namespace: dict[str, Any] = {"__builtins__": {}}
        # The text is this module's own templates over numbered names; see above.
        exec(compile(text, "<row look-ups>", "exec"), namespace)  # noqa: S102
        function: FunctionType = namespace["answer"]
        return function


def _with(function: FunctionType, values: Sequence[object]) -> RowFunction:
    """The function with a state's values as defaults: a little quicker than the cells of a closure."""
    made = FunctionType(function.__code__, function.__globals__, function.__name__, (*_BUILTINS.values(), *values))
    return cast(RowFunction, made)


def _null(dtype: pl.DataType) -> bool | None:
    return None if dtype == pl.String() else dtype.is_float()


def _numbered(place: _Place, *names: str) -> list[str]:
    return [f"{name}{place.number}" for name in names]


def _indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line for line in lines]


def _ask(place: _Place) -> list[str]:
    """Finds positions in a timeline of any kind."""
    [find], key = _numbered(place, "find"), ", ".join([*place.parts, ""])
    return [f"{position} = {find}(({key}), {moment})" for moment, position in place.positions.items()]


def _search(place: _Place) -> list[str]:
    """Finds positions in memory; see ``spans.py``."""
    get, known, edges = _numbered(place, "get", "known", "edges")
    key = place.parts[0] if len(place.parts) == 1 else f"({', '.join(place.parts)})"
    few, many = ["first, end, shift = span"], ["first, end, shift, begins, ends, offset = span"]
    for moment, position in place.positions.items():
        few += [
            f"{position} = bisect({known}, {moment}, first, end) - 1",
            f"if {position} < first:",
            f"    {position} = -1",
        ]
        many += [
            f"if {moment} >= ends:",
            f"    {position} = end - 1",
            f"elif {moment} >= begins:",
            f"    bucket = ({moment} >> shift) + offset",
            f"    {position} = bisect({known}, {moment}, {edges}[bucket], {edges}[bucket + 1]) - 1",
            "else:",
            f"    {position} = -1",
        ]
    return [
        f"span = {get}({key})",
        "if span is None:",
        f"    {' = '.join(place.positions.values())} = -1",
        "else:",
        "    shift = span[2]",
        "    if shift is None:",
        *_indented(few, 2),
        "    else:",
        *_indented(many, 2),
    ]


# Every rule below stands in ``_answers`` of ``state.py`` too; a property test holds them together.


def _totals(place: _Place) -> list[str]:
    """Reads running totals, as far as windows need them; where nothing is known they are 0."""
    windows = [ask.lookup.declared for ask in place.asks if isinstance(ask.lookup.declared, Window)]
    parts = sorted({part for window in windows for part in _READS[window.aggregate]})
    lines: list[str] = []
    for position in place.positions.values() if parts else ():
        names = [_total(part, position) for part in parts]
        reads = [f"c{place.number}_{_READS['mean'].index(part)}[{position}]" for part in parts]
        lines += [
            f"if {position} < 0:",
            f"    {' = '.join(names)} = 0",
            "else:",
            *(f"    {name} = {read}" for name, read in zip(names, reads, strict=True)),
        ]
    return lines


def _total(part: str, position: str) -> str:
    return f"{part}{position[1:]}"


def _answers(place: _Place) -> list[str]:
    lines: list[str] = []
    for ask in place.asks:
        declared = ask.lookup.declared
        lines += _latest(place, ask, declared) if isinstance(declared, Latest) else _window(ask, declared.aggregate)
    return lines


def _latest(place: _Place, ask: _Ask, declared: Latest) -> list[str]:
    [position] = ask.positions
    too_old = ""
    if declared.max_age is not None:
        too_old = f" or at - known{place.number}[{position}] > {declared.max_age // _US}"
    lines = [f"if {position} < 0{too_old}:", f"    {' = '.join(ask.values)} = None", "else:"]
    for slot, (value, dtype) in enumerate(zip(ask.values, ask.lookup.outputs.values(), strict=True)):
        column, null = f"c{place.number}_{slot}", f"z{place.number}_{slot}"
        lines.append(f"    {value} = {column}[{position}]")
        if place.columns[slot] is not None:
            is_null = f"{value} != {value}" if place.columns[slot] else f"{value} == {null}"
            lines += [f"    if {is_null}:", f"        {value} = None"]
        if dtype == pl.Boolean():
            lines += [f"    if {value} is not None:", f"        {value} = bool({value})"]
    return lines


def _window(ask: _Ask, aggregate: Literal["count", "sum", "mean"]) -> list[str]:
    [value] = ask.values
    now, then = ask.positions
    if aggregate != "mean":
        return [f"{value} = {_total(aggregate, now)} - {_total(aggregate, then)}"]
    return [
        f"count = {_total('count', now)} - {_total('count', then)}",
        # Both to float first, as there.
        f"{value} = float({_total('sum', now)} - {_total('sum', then)}) / float(count) if count else None",
    ]
