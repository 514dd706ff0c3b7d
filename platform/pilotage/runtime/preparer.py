"""Checks requests, looks up their state and computes their features: one by one, or a batch as columns.

Both give the same bits; a property test holds them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotage.errors import PilotageError
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.contract import Contract
from pilotage.runtime.matrix import MatrixEncoder
from pilotage.runtime.prepared import Prepared, PreparedColumns, PreparedOneByOne, PreparedRows
from pilotage.runtime.row import RowPath
from pilotage.runtime.state import Snapshot

_FEWEST = 24
"""Rows from which it is quicker to prepare all at once than one by one."""


class Preparer:
    """Prepares the requests of one version. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, contract: Contract, path: RowPath) -> None:
        """Prepares what every request needs.

        Args:
            bundle: The version.
            contract: Of its requests.
            path: Its look-ups and features.
        """
        self._contract = contract
        self._path = path
        self._fields = tuple(contract.fields)
        self._names = tuple(bundle.view.schema)
        self._encode_row = bundle.scorer.encode_row
        self._encode = MatrixEncoder(bundle.scorer.columns, bundle.scorer.categories)

    def one(self, request: Any, snapshot: Snapshot | None) -> Prepared:
        """Prepares one request.

        Args:
            request: A decoded JSON object.
            snapshot: The state; ``None`` for a model without any.

        Raises:
            InvalidRequest: The request breaks the contract.
            StateUnavailable: The state can't answer.
        """
        values = self._contract.row(request)
        path = self._path
        row = path.stored(values)
        moment = path.moment(row)
        if snapshot is not None:
            row += path.asof(row, moment, snapshot.store)
        computed = path.features(row)
        return Prepared(
            fields=self._fields,
            values=values,
            moment=moment,
            row=row,
            names=self._names,
            computed=computed,
            key=self._encode_row(computed),
            state_through=None if snapshot is None else snapshot.through,
            state=None if snapshot is None else snapshot.id,
        )

    def many(self, requests: Sequence[Any], snapshot: Snapshot | None) -> PreparedRows:
        """Prepares several, each with its own result or error, in order."""
        rows = None
        if len(requests) >= _FEWEST:
            try:
                rows = self._at_once(requests, snapshot)
            except PilotageError:
                # It may concern a few of them: each is told for itself.
                rows = None
        return self._one_by_one(requests, snapshot) if rows is None else rows

    def _at_once(self, requests: Sequence[Any], snapshot: Snapshot | None) -> PreparedColumns | None:
        """``None`` where the state is not in memory, or where few rows are left.

        Raises:
            PilotageError: Something that keeps the contract can't be prepared all the same.
        """
        values, errors = self._contract.columns(requests)
        if len(requests) - len(errors) < _FEWEST:
            return None
        path = self._path
        row = path.stored_columns(values)
        moments = path.moments(row)
        if snapshot is not None:
            known = path.asof_columns(row, moments, snapshot.store)
            if known is None:
                return None
            row += known
        computed = path.features.many(row)
        return PreparedColumns(
            len(requests),
            errors,
            snapshot,
            fields=self._fields,
            values=values,
            moments=moments,
            row=row,
            names=self._names,
            computed=computed,
            matrix=self._encode(computed),
        )

    def _one_by_one(self, requests: Sequence[Any], snapshot: Snapshot | None) -> PreparedOneByOne:
        prepared: list[Prepared] = []
        errors: dict[int, PilotageError] = {}
        for place, request in enumerate(requests):
            try:
                prepared.append(self.one(request, snapshot))
            except PilotageError as error:
                errors[place] = error
        return PreparedOneByOne(prepared, errors, snapshot, fields=self._fields, names=self._names)
