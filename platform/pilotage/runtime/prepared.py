"""Checked requests with everything that the model needs, and what it said to them: one, and many as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from pilotage.errors import PilotageError
from pilotage.features.columns import Column
from pilotage.runtime.results import Results
from pilotage.runtime.state import Snapshot

Verdict = tuple[bool | None, bool]
"""``decision`` and ``referred`` of a ``Scored``."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A checked request with everything that the model needs to answer it."""

    fields: tuple[str, ...]
    """Names of the request's fields, in the contract's order."""
    values: list[Any]
    """What they hold, checked; times are datetimes in UTC."""
    moment: int | None
    """The prediction moment, microseconds since 1970 UTC; ``None`` for a model without a time."""
    row: list[Any]
    """Request and as-of columns as ``RowPath`` computes with them."""
    names: tuple[str, ...]
    """Names of the features, in the model's order."""
    computed: list[Any]
    """What the model sees."""
    key: bytes
    """The numbers that the model reads, as doubles: two requests with the same key get the same probability."""
    state_through: datetime | None
    """How far the as-of features knew (UTC)."""
    state: str | None
    """Id of the state that the as-of features are from; ``None`` for a model without any."""

    @property
    def request(self) -> dict[str, Any]:
        """The checked values by field."""
        return dict(zip(self.fields, self.values, strict=True))

    @property
    def features(self) -> dict[str, Any]:
        """What the model sees, by name."""
        return dict(zip(self.names, self.computed, strict=True))


class Scored(msgspec.Struct, frozen=True, gc=False):
    """A prepared request with its answer."""

    prepared: Prepared
    probability: float
    """Calibrated, 0..1, of the label."""
    decision: bool | None
    """Whether acting as if the label were true is the cheaper choice; ``None`` if a person should decide."""
    referred: bool
    """Whether a person should decide, because the probability is in the band that the spec declares."""


class PreparedRows(Results[Prepared]):
    """``Prepared`` of many rows. Everything in it is a column, with an entry for each row that has no error."""

    def __init__(
        self,
        number: int,
        errors: Mapping[int, PilotageError],
        *,
        fields: tuple[str, ...],
        values: Sequence[Sequence[Any]],
        moments: Sequence[int | None],
        row: Sequence[Column],
        names: tuple[str, ...],
        computed: Sequence[Column],
        matrix: np.ndarray,
        snapshot: Snapshot | None,
    ) -> None:
        """Takes the columns; see ``Prepared``.

        Args:
            number: How many rows there are.
            errors: Why some were not prepared, by place.
            fields: Names of the columns in ``values``.
            values: One column a field.
            moments: One a row.
            row: Request and as-of columns.
            names: Names of the columns in ``computed``.
            computed: One column a feature.
            matrix: The numbers that the model reads; shape (rows without an error, features).
            snapshot: The state that the as-of columns are from; ``None`` for a model without any.
        """
        super().__init__(number, errors)
        self.fields = fields
        self.values = values
        self.moments = moments
        self.row = row
        self.names = names
        self.computed = computed
        self.matrix = matrix
        self.state_through = None if snapshot is None else snapshot.through
        self.state = None if snapshot is None else snapshot.id

    def result(self, index: int) -> Prepared:
        """One row by itself."""
        return Prepared(
            fields=self.fields,
            values=[column[index] for column in self.values],
            moment=self.moments[index],
            row=[column.values[index] for column in self.row],
            names=self.names,
            computed=[column.values[index] for column in self.computed],
            key=self.matrix[index].tobytes(),
            state_through=self.state_through,
            state=self.state,
        )


class ScoredRows(Results[Scored]):
    """``Scored`` of many rows, as columns."""

    def __init__(self, prepared: PreparedRows, probabilities: Sequence[float], verdicts: Sequence[Verdict]) -> None:
        """Takes one probability and one verdict for each row that was prepared."""
        super().__init__(len(prepared), prepared.errors)
        self.prepared = prepared
        self.probabilities = probabilities
        self.decisions = [decision for decision, _ in verdicts]
        self.referred = [referred for _, referred in verdicts]

    def result(self, index: int) -> Scored:
        """One row by itself."""
        return Scored(
            self.prepared.result(index), self.probabilities[index], self.decisions[index], self.referred[index]
        )
