"""Checked requests with everything that the model needs, and what it said to them: one, and many as columns."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from pilotage.errors import PilotageError
from pilotage.features.columns import Column
from pilotage.runtime.results import Results
from pilotage.runtime.state import Snapshot


class Prepared(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A checked request with everything that the model needs to answer it."""

    fields: tuple[str, ...]
    """Names of the request's fields, in the contract's order."""
    values: Sequence[Any]
    """What they hold, checked; times are datetimes in UTC."""
    moment: int | None
    """The prediction moment, microseconds since 1970 UTC; ``None`` for a model without a time."""
    row: Sequence[Any]
    """Request and as-of columns as ``RowPath`` computes with them."""
    names: tuple[str, ...]
    """Names of the features, in the model's order."""
    computed: Sequence[Any]
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
    """``Prepared`` of many rows; what is said of each is in the order of the rows that have no error."""

    fields: tuple[str, ...]
    """Of every ``Prepared``."""
    names: tuple[str, ...]
    """Of every ``Prepared``."""
    moments: Sequence[int | None]
    """One a row."""

    def __init__(self, number: int, errors: Mapping[int, PilotageError], snapshot: Snapshot | None) -> None:
        """Takes what they share.

        Args:
            number: How many rows there are.
            errors: Why some were not prepared, by place.
            snapshot: The state that the as-of columns are from; ``None`` for a model without any.
        """
        super().__init__(number, errors)
        self.prepared_ns = time.perf_counter_ns()
        """When they were there."""
        self.state_through = None if snapshot is None else snapshot.through
        self.state = None if snapshot is None else snapshot.id

    @abstractmethod
    def matrix(self) -> np.ndarray:
        """The numbers that the model reads; shape (rows without an error, features)."""

    @abstractmethod
    def row_keys(self) -> list[bytes]:
        """Each row of the matrix, as in ``Prepared``."""

    @abstractmethod
    def requests(self) -> Sequence[Sequence[Any]]:
        """The values of ``fields``, row by row."""

    @abstractmethod
    def features(self) -> Sequence[Sequence[Any]]:
        """The values of ``names``, row by row."""


class PreparedColumns(PreparedRows):
    """Rows that were prepared at once."""

    def __init__(
        self,
        number: int,
        errors: Mapping[int, PilotageError],
        snapshot: Snapshot | None,
        *,
        fields: tuple[str, ...],
        values: Sequence[Sequence[Any]],
        moments: Sequence[int | None],
        row: Sequence[Column],
        names: tuple[str, ...],
        computed: Sequence[Column],
        matrix: np.ndarray,
    ) -> None:
        """Takes the columns, with an entry for each row that has no error; see ``Prepared``.

        Args:
            number: How many rows there are.
            errors: Why some were not prepared, by place.
            snapshot: See ``PreparedRows``.
            fields: Names of the columns in ``values``.
            values: One column a field.
            moments: One a row.
            row: Request and as-of columns.
            names: Names of the columns in ``computed``.
            computed: One column a feature.
            matrix: The numbers that the model reads.
        """
        super().__init__(number, errors, snapshot)
        self.fields = fields
        self.names = names
        self.moments = moments
        self._values = values
        self._row = row
        self._computed = computed
        self._matrix = matrix
        self._requests: list[Sequence[Any]] | None = None
        self._features: list[Sequence[Any]] | None = None

    def result(self, index: int) -> Prepared:
        """One row by itself."""
        return self._prepared(
            [column[index] for column in self._values],
            self.moments[index],
            [column.values[index] for column in self._row],
            [column.values[index] for column in self._computed],
            self._matrix[index].tobytes(),
        )

    def all(self) -> Iterator[Prepared]:
        """See ``Results``."""
        rows = zip(*(column.values for column in self._row), strict=True)
        requests, features = map(list, self.requests()), map(list, self.features())
        return map(self._prepared, requests, self.moments, map(list, rows), features, self.row_keys())

    def matrix(self) -> np.ndarray:
        """See above."""
        return self._matrix

    def row_keys(self) -> list[bytes]:
        """See above."""
        return list(map(np.ndarray.tobytes, self._matrix))

    def requests(self) -> Sequence[Sequence[Any]]:
        """See above."""
        if self._requests is None:
            self._requests = list(zip(*self._values, strict=True))
        return self._requests

    def features(self) -> Sequence[Sequence[Any]]:
        """See above."""
        if self._features is None:
            self._features = list(zip(*(column.values for column in self._computed), strict=True))
        return self._features

    def _prepared(
        self, values: Sequence[Any], moment: int | None, row: Sequence[Any], computed: Sequence[Any], key: bytes
    ) -> Prepared:
        return Prepared(
            fields=self.fields,
            values=values,
            moment=moment,
            row=row,
            names=self.names,
            computed=computed,
            key=key,
            state_through=self.state_through,
            state=self.state,
        )


class PreparedOneByOne(PreparedRows):
    """Rows that were prepared each by itself."""

    def __init__(
        self,
        prepared: Sequence[Prepared],
        errors: Mapping[int, PilotageError],
        snapshot: Snapshot | None,
        *,
        fields: tuple[str, ...],
        names: tuple[str, ...],
    ) -> None:
        """Takes them in order; see ``PreparedColumns``."""
        super().__init__(len(prepared) + len(errors), errors, snapshot)
        self.fields = fields
        self.names = names
        self.moments = [each.moment for each in prepared]
        self._prepared = prepared

    def result(self, index: int) -> Prepared:
        """One row."""
        return self._prepared[index]

    def matrix(self) -> np.ndarray:
        """See above."""
        return np.frombuffer(b"".join(self.row_keys())).reshape(len(self._prepared), len(self.names))

    def row_keys(self) -> list[bytes]:
        """See above."""
        return [each.key for each in self._prepared]

    def requests(self) -> Sequence[Sequence[Any]]:
        """See above."""
        return [each.values for each in self._prepared]

    def features(self) -> Sequence[Sequence[Any]]:
        """See above."""
        return [each.computed for each in self._prepared]


class PreparedPart(PreparedRows):
    """Some of the rows that were prepared together, as if by themselves."""

    def __init__(self, whole: PreparedRows, number: int, errors: Mapping[int, PilotageError], some: slice) -> None:
        """Takes a part.

        Args:
            whole: What was prepared together.
            number: How many rows the part has.
            errors: Those of the part, by place in it.
            some: The rows of it that have no error, among those of the whole that have none.
        """
        Results.__init__(self, number, errors)
        self.prepared_ns = whole.prepared_ns
        self.state_through = whole.state_through
        self.state = whole.state
        self.fields = whole.fields
        self.names = whole.names
        self.moments = whole.moments[some]
        self._whole = whole
        self._some = some

    def result(self, index: int) -> Prepared:
        """One row by itself."""
        return self._whole.result(self._some.start + index)

    def matrix(self) -> np.ndarray:
        """See above."""
        return self._whole.matrix()[self._some]

    def row_keys(self) -> list[bytes]:
        """See above."""
        return self._whole.row_keys()[self._some]

    def requests(self) -> Sequence[Sequence[Any]]:
        """See above."""
        return self._whole.requests()[self._some]

    def features(self) -> Sequence[Sequence[Any]]:
        """See above."""
        return self._whole.features()[self._some]


class ScoredRows(Results[Scored]):
    """``Scored`` of many rows, as columns."""

    def __init__(
        self,
        prepared: PreparedRows,
        probabilities: Sequence[float],
        decisions: Sequence[bool | None],
        referred: Sequence[bool],
    ) -> None:
        """Takes one of each for each row that was prepared; see ``Scored``."""
        super().__init__(len(prepared), prepared.errors)
        self.prepared = prepared
        self.probabilities = probabilities
        self.decisions = decisions
        self.referred = referred

    def parts(self, sizes: Iterable[int]) -> Iterator[ScoredRows]:
        """The same rows, so many after so many, each part as if it had been scored by itself."""
        place = index = 0
        for size in sizes:
            errors = (
                {at: self.errors[place + at] for at in range(size) if place + at in self.errors} if self.errors else {}
            )
            some = slice(index, index + size - len(errors))
            prepared = PreparedPart(self.prepared, size, errors, some)
            yield ScoredRows(prepared, self.probabilities[some], self.decisions[some], self.referred[some])
            place, index = place + size, some.stop

    def all(self) -> Iterator[Scored]:
        """See ``Results``."""
        return map(Scored, self.prepared.all(), self.probabilities, self.decisions, self.referred)

    def result(self, index: int) -> Scored:
        """One row by itself."""
        return Scored(
            self.prepared.result(index), self.probabilities[index], self.decisions[index], self.referred[index]
        )
