"""One request without a frame: checked values → as-of columns → features → the numbers that the model reads.

The same definition as for frames, to the same bits; ``verify_rows`` sees to that for each bundle before it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from pilotage.errors import BundleCorrupt, InvalidRequest
from pilotage.features.columnar import ColumnLookups
from pilotage.features.columns import Column
from pilotage.features.compiled import CompiledRow
from pilotage.features.state import RowLookups, RowState
from pilotage.features.timeline import stored_type
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.matrix import MatrixEncoder

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RowPath:
    """The row path of a bundle, compiled once, and the same for the columns of a batch. Safe to share between threads.

    What columns can't be computed for is an error, or ``None``: then the rows are for ``RowPath`` one by one.
    """

    def __init__(self, bundle: Bundle) -> None:
        definition, view = bundle.view.definition, bundle.view
        columns = {**view.request_types, **view.state_types}
        self.bundle = bundle
        self.lookups = RowLookups(view.lookups, view.request_types)
        self._column_lookups = ColumnLookups(view.lookups, view.request_types)
        self.features = view.compiled
        self.rule = CompiledRow({"fallback.rule": bundle.fallback.cast(pl.Float64)}, columns)
        at = definition.predicts_at
        self._moment = None if at is None else CompiledRow({"predicts_at": at}, view.request_types)
        self._times = [slot for slot, dtype in enumerate(view.request_types.values()) if isinstance(dtype, pl.Datetime)]
        self._unknown = [None] * len(view.state_types)

    @property
    def left_to_polars(self) -> tuple[str, ...]:
        """What is not compiled, and takes Polars a third of a millisecond a request."""
        moment = () if self._moment is None else self._moment.left_to_polars
        return (*moment, *self.features.left_to_polars, *self.rule.left_to_polars)

    def stored(self, values: Sequence[Any]) -> list[Any]:
        """Checked request values as look-ups and features take them: times in microseconds."""
        row = list(values)
        for slot in self._times:
            if row[slot] is not None:
                row[slot] = to_micros(row[slot])
        return row

    def moment(self, row: Sequence[Any]) -> int | None:
        """The prediction moment, microseconds since 1970 UTC; ``None`` for a model without a time.

        Raises:
            InvalidRequest: The request has none.
        """
        if self._moment is None:
            return None
        moment = self._moment(row)[0]
        if moment is None:
            raise _momentless()
        return int(moment)

    def asof(self, row: Sequence[Any], moment: int | None, state: RowState | None) -> list[Any]:
        """The as-of columns; without a state, or without a moment, nothing is known.

        Raises:
            StateUnavailable: The state can't answer.
        """
        if state is None or moment is None or not self.bundle.asof:
            return list(self._unknown)
        return self.lookups.answer(row, moment, state)

    def stored_columns(self, values: Sequence[list[Any]]) -> list[Column]:
        """``stored`` of many rows."""
        columns = list(values)
        for slot in self._times:
            columns[slot] = [None if value is None else to_micros(value) for value in columns[slot]]
        return list(map(Column, columns))

    def moments(self, request: Sequence[Column]) -> list[int | None]:
        """``moment`` of many rows.

        Raises:
            InvalidRequest: A request has none.
        """
        if self._moment is None:
            return [None] * len(request[0])
        moments = self._moment.many(request)[0].values
        if None in moments:
            raise _momentless()
        return moments

    def asof_columns(
        self, request: Sequence[Column], moments: Sequence[int | None], state: RowState
    ) -> list[Column] | None:
        """``asof`` of many rows; ``None`` if the state is not in memory, or there are no moments.

        Raises:
            StateUnavailable: The state can't answer for some row.
        """
        at = [moment for moment in moments if moment is not None]
        if len(at) < len(moments):
            return None
        state.require(min(at))
        return self._column_lookups.answer(request, np.array(at, dtype=np.int64), state)


def _momentless() -> InvalidRequest:
    return InvalidRequest(
        "The request has no prediction moment.", fix="Send every field that the moment is computed from."
    )


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def verify_rows(bundle: Bundle, path: RowPath) -> None:
    """Checks that golden rows give the same alone, in a batch and in a frame: features and probability, to the bit.

    Raises:
        BundleCorrupt: Something differs; the version would answer otherwise than it was evaluated.
    """
    golden, scorer = bundle.golden, bundle.scorer
    types = {**bundle.view.request_types, **bundle.view.state_types}
    stored = golden.select(
        pl.col(name).cast(dtype if dtype == pl.Boolean() else stored_type(dtype)) for name, dtype in types.items()
    )
    computed = bundle.rows.compute(golden)
    numbers, probabilities = scorer.encode(computed), scorer.score(computed)
    for number, row in enumerate(stored.rows()):
        key = scorer.encode_row(path.features(row))
        _compare(bundle, number, np.frombuffer(key), numbers[number], "by itself")
        probability = scorer.score_row(key)
        if probability != probabilities[number]:
            raise _differs(bundle, "answers", number, probability, probabilities[number], "by itself")
    columns = [Column(column.to_list()) for column in stored.iter_columns()]
    batch = MatrixEncoder(scorer.columns, scorer.categories)(path.features.many(columns))
    for number, encoded in enumerate(batch):
        _compare(bundle, number, encoded, numbers[number], "in a batch")


def _compare(bundle: Bundle, number: int, got: np.ndarray, wanted: np.ndarray, how: str) -> None:
    # Any NaN is as good as another: it says that the value is missing.
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    if not same.all():
        slot = int(np.argmin(same))
        raise _differs(bundle, f"computes {bundle.scorer.columns[slot]}", number, got[slot], wanted[slot], how)


def _differs(bundle: Bundle, does: str, row: int, got: float, wanted: float, how: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"{bundle.model} {does} {float(got)!r} for golden row {row} {how}, {float(wanted)!r} among others.",
        fix="Keep the version before, and report the expressions of this one's features.",
        row=row,
    )
