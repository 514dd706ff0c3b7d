"""What versions answered lately, by the values of the request: for when no version can answer any more.

It is written with every answer and hardly ever read. So answers are kept packed, in 60 bytes each: to keep their dozen
objects instead has each request work in memory that is in no cache any more, a tenth of the time of rows in bulk.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from pilotage.runtime.answer import Answer
from pilotage.runtime.answered import AnsweredRows

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Earlier(NamedTuple):
    """An answer of before; see ``Answer``."""

    version: int
    predicted_at: datetime
    probability: float | None
    decision: bool | None
    referred: bool


class EarlierAnswers:
    """A bounded memory; what is oldest is forgotten first. For the event loop's thread alone."""

    __slots__ = ("_known", "_size", "_waiting", "_written")

    def __init__(self, size: int) -> None:
        """Remembers up to ``size`` answers; with 0, none."""
        self._size = size
        self._written: deque[tuple[int, bytes]] = deque()
        """What was written together, and how many answers that is; sorted in when somebody asks."""
        self._waiting = 0
        """Answers in it."""
        self._known: OrderedDict[Hashable, Earlier] = OrderedDict()

    def get(self, version: int, values: Sequence[Any]) -> Earlier | None:
        """What the same request got last from a version, if it is still known.

        Args:
            version: The version.
            values: What its contract reads in the fields of the request, in its order.
        """
        known = self._known
        while self._written:
            by, at, *rows = _unpack(self._written.popleft()[1])
            for each, *said in zip(*rows, strict=True):
                # Of another contract's request, the same values may stand in other fields.
                key = (by, *each)
                known[key] = Earlier(by, at, *said)
                known.move_to_end(key)
        self._waiting = 0
        while len(known) > self._size:
            known.popitem(last=False)
        return known.get((version, *values))

    def put(self, values: Sequence[Any], answer: Answer) -> None:
        """Remembers a version's answer to a request with such values."""
        said = (answer.probability,), (answer.decision,), (answer.referred,)
        self._write(1, _pack((answer.version, answer.predicted_at, (values,), *said)))

    def put_many(self, requests: Iterable[Sequence[Any]], answers: AnsweredRows) -> None:
        """Remembers the answers to several requests, of which at least one has no error; their values are in order."""
        shared, own = answers.shared, answers.own
        said = own.probability, own.decision, own.referred
        self._write(len(answers.places), _pack((shared.version, shared.predicted_at, list(requests), *said)))

    def _write(self, number: int, packed: bytes) -> None:
        written = self._written
        written.append((number, packed))
        self._waiting += number
        while written and self._waiting - written[0][0] >= self._size:
            # As many came since.
            self._waiting -= written.popleft()[0]
        if self._known and self._waiting >= self._size:
            self._known = OrderedDict()
