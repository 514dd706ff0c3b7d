"""Answers of one version to the rows of one request: what they share once, and a column for each field that is a row's.

Nearly all of them only become JSON, which needs no object for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pilotage.errors import PilotageError
from pilotage.runtime.answer import Answer
from pilotage.runtime.results import Results

REFERRED = ("the probability is in the band in which a person decides",)
_encoder = msgspec.json.Encoder()


class Own(NamedTuple):
    """The fields of an ``Answer`` that are each row's own, as columns; in the order of its fields."""

    prediction_id: Sequence[str]
    probability: Sequence[float]
    decision: Sequence[bool | None]
    referred: Sequence[bool]
    reasons: Sequence[tuple[str, ...]]
    entity: Sequence[dict[str, Any]]


class AnsweredRows(Results[Answer]):
    """The answers, or errors, of the rows of one request, in order."""

    def __init__(self, number: int, errors: Mapping[int, PilotageError], shared: Answer, own: Own) -> None:
        """Takes the columns.

        Args:
            number: How many rows there are.
            errors: By the place of the row.
            shared: An answer; what is each row's own in it does not count.
            own: An entry for each row that has no error.
        """
        super().__init__(number, errors)
        self.shared = shared
        self.own = own

    def result(self, index: int) -> Answer:
        """One answer by itself."""
        own = self.own
        return msgspec.structs.replace(
            self.shared,
            prediction_id=own.prediction_id[index],
            probability=own.probability[index],
            decision=own.decision[index],
            referred=own.referred[index],
            reasons=own.reasons[index],
            entity=own.entity[index],
        )

    def kinds(self) -> Mapping[tuple[bool | None, bool], int]:
        """How many answers have a decision, and were referred to a person."""
        return Counter(zip(self.own.decision, self.own.referred, strict=True))

    def as_json(self, around: bytes = b"%b") -> list[bytes]:
        """The answers without the errors, each as the JSON of an ``Answer``.

        Args:
            around: Stands around each, in place of its ``%b``.
        """
        fields = []
        for name in Answer.__struct_fields__:
            value = _encoder.encode(getattr(self.shared, name)).replace(b"%", b"%%")
            fields.append(b'"%b":%b' % (name.encode(), b"%b" if name in Own._fields else value))
        template = around % (b"{%b}" % b",".join(fields))
        # There is no line end within JSON.
        columns = [_encoder.encode_lines(column).splitlines() for column in self.own]
        return [template % own for own in zip(*columns, strict=True)]
