"""Requests in, predictions out, by one bundle. No HTTP, no files: the state is handed in.

One request goes through ``prepare`` (check, state, features) and ``decide`` (model, calibration, decision); between
the two a caller may find that it knows the answer already. Frames, for notebooks and bulk, go through ``predict``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec
import polars as pl

from pilotage.errors import BundleCorrupt, ModelNotReady, PilotageError, StateUnavailable
from pilotage.runtime.answer import Explanation
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.contract import Contract
from pilotage.runtime.explain import Explainer
from pilotage.runtime.row import RowPath, verify_rows
from pilotage.runtime.state import OnlineState, Snapshot


class StateLookup(Protocol):
    """As-of columns at the prediction moment; ``pilotage.runtime.state.OnlineState`` in the service."""

    @property
    def through(self) -> datetime | None:
        """What is known up to here (UTC) is in the state; ``None`` if it can't say."""

    def attach(self, requests: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
        """The requests with the bundle's as-of columns; a fact that is not known is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answer."""

    model: str
    version: int
    probability: float
    """Calibrated, 0..1, of the label."""
    decision: bool
    """Whether acting as if the label were true is the cheaper choice."""
    state_through: datetime | None
    """How far the as-of features knew (UTC); ``None`` for a model without any."""
    features: dict[str, Any] | None = None
    """What the model saw, where it was asked for."""


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


class Predictor:
    """One version, ready to answer. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, version: int) -> None:
        self.bundle = bundle
        self.version = version
        self.contract = Contract(bundle.request)
        self.path = RowPath(bundle)
        self._scorer = bundle.scorer
        self._asof = bool(bundle.asof)
        self._fields = tuple(self.contract.fields)
        self._names = tuple(bundle.view.schema)
        self._threshold = bundle.threshold
        self._band = bundle.refer_between
        self._explainer = Explainer(bundle)

    def prepare(self, request: Mapping[str, Any], state: OnlineState | None) -> Prepared:
        """Checks one request, looks up its state and computes its features.

        Args:
            request: A decoded JSON object.
            state: Where as-of features come from; needed if the model has any.

        Raises:
            InvalidRequest: The request breaks the contract.
            ModelNotReady: The model needs state, and there is none.
            StateUnavailable: The state can't answer.
        """
        values = self.contract.row(request)
        path = self.path
        row = path.stored(values)
        moment = path.moment(row)
        snapshot = None
        if self._asof:
            snapshot = self._snapshot(state)
            row += path.asof(row, moment, snapshot.store)
        return self._prepared(values, moment, row, path.features(row), snapshot)

    def prepare_many(
        self, requests: Sequence[Mapping[str, Any]], state: OnlineState | None
    ) -> list[Prepared | PilotageError]:
        """``prepare`` of several requests, each with its own result or error, in order; looks up all at once.

        Raises:
            ModelNotReady: The model needs state, and there is none.
            StateUnavailable: There is no state that could be loaded.
        """
        snapshot = self._snapshot(state) if self._asof else None
        path = self.path
        results: list[Any] = []
        checked: list[tuple[int, list[Any], int | None, list[Any]]] = []
        for request in requests:
            try:
                values = self.contract.row(request)
                row = path.stored(values)
                checked.append((len(results), values, path.moment(row), row))
                results.append(None)
            except PilotageError as error:
                results.append(error)
        rows, moments = [row for *_, row in checked], [moment for _, _, moment, _ in checked]
        known = path.asof_many(rows, moments, None if snapshot is None else snapshot.store)
        for (slot, values, moment, row), columns in zip(checked, known, strict=True):
            try:
                if isinstance(columns, StateUnavailable):
                    raise columns
                full = [*row, *columns]
                results[slot] = self._prepared(values, moment, full, path.features(full), snapshot)
            except PilotageError as error:
                results[slot] = error
        return results

    def _prepared(
        self, values: list[Any], moment: int | None, row: list[Any], features: list[Any], snapshot: Snapshot | None
    ) -> Prepared:
        return Prepared(
            fields=self._fields,
            values=values,
            moment=moment,
            row=row,
            names=self._names,
            computed=features,
            key=self._scorer.encode_row(features),
            state_through=None if snapshot is None else snapshot.through,
            state=None if snapshot is None else snapshot.id,
        )

    def decide(self, prepared: Prepared) -> Scored:
        """Predicts, calibrates and decides a prepared request.

        Raises:
            BundleCorrupt: The model answers something that is no probability.
        """
        return self.decided(prepared, self._scorer.score_row(prepared.key))

    def decided(self, prepared: Prepared, probability: float) -> Scored:
        """The decision on a probability that is known, such as from a cache.

        Raises:
            BundleCorrupt: It is no probability.
        """
        probability = self._probability(probability)
        band = self._band
        referred = band is not None and band[0] <= probability < band[1]
        return Scored(prepared, probability, None if referred else probability >= self._threshold, referred)

    def score_one(self, request: Mapping[str, Any], state: OnlineState | None) -> Scored:
        """``prepare`` and ``decide`` in one."""
        return self.decide(self.prepare(request, state))

    def score_many(self, rows: Sequence[Mapping[str, Any]], state: OnlineState | None) -> list[Scored | PilotageError]:
        """Scores requests, each with its own result or error, in order; the model is asked once for all."""
        try:
            prepared = self.prepare_many(rows, state)
        except (ModelNotReady, StateUnavailable) as error:
            return [error] * len(rows)
        scores = iter(self._scorer.score_rows([each.key for each in prepared if isinstance(each, Prepared)]))
        return [self._decided_or_error(each, scores) for each in prepared]

    def rule(self, request: Prepared | Mapping[str, Any], state: OnlineState | None = None) -> float:
        """The probability that the spec's fallback rule gives; the model is not asked.

        Args:
            request: A prepared request, or a decoded JSON object.
            state: Where as-of columns come from. Without one, or with one that can't answer, they are unknown.

        Raises:
            InvalidRequest: The request breaks the contract.
            BundleCorrupt: The rule gives something that is no probability.
        """
        if isinstance(request, Prepared):
            row = request.row
        else:
            row = self.path.stored(self.contract.row(request))
            row += self._known(row, state)
        (probability,) = self.path.rule(row)
        # Written so that null and NaN fail.
        if probability is None or not 0.0 <= probability <= 1.0:
            raise BundleCorrupt(
                f"The fallback rule of {self.bundle.model} gives {probability}, which is no probability.",
                fix="Correct fallback.rule in the model's file, and release a version with it.",
            )
        return float(probability)

    def explain(self, scored: Scored) -> Explanation:
        """Why an answer is what it is: exact TreeSHAP contributions, in the spec's own words. Takes milliseconds."""
        return self._explainer.explain(scored)

    def predict(
        self,
        requests: pl.DataFrame | Sequence[Mapping[str, Any]],
        state: StateLookup | None = None,
        *,
        with_features: bool = False,
    ) -> list[Prediction]:
        """Predicts, one answer per request, in order.

        Args:
            requests: Decoded JSON objects, or typed rows.
            state: Where as-of features come from; needed if the model has any.
            with_features: Whether answers carry the features.

        Raises:
            InvalidRequest: A request breaks the contract; nothing is predicted.
            ModelNotReady: The model needs state, and there is none.
            BundleCorrupt: The model answers something that is no probability.
        """
        frame = (
            self.contract.check_frame(requests) if isinstance(requests, pl.DataFrame) else self.contract.frame(requests)
        )
        through = None
        if self.bundle.asof:
            if state is None:
                raise self._stateless()
            through = state.through
            frame = state.attach(frame, self.bundle)
        rows = self.bundle.compute(frame).to_dicts() if with_features else None
        return [
            Prediction(
                model=self.bundle.model,
                version=self.version,
                probability=self._probability(float(value)),
                decision=bool(value >= self.bundle.threshold),
                state_through=through,
                features=rows[index] if rows else None,
            )
            for index, value in enumerate(self.bundle.score(frame))
        ]

    def warm(self) -> None:
        """Predicts the golden rows once, so that the first request does not pay for lazy set-up."""
        self.bundle.score(self.bundle.golden)
        verify_rows(self.bundle, self.path)

    def _known(self, row: list[Any], state: OnlineState | None) -> list[Any]:
        """The as-of columns for the rule, the last resort: what can't be looked up is not known."""
        try:
            store = None if state is None else state.snapshot.store
            return self.path.asof(row, self.path.moment(row), store)
        except StateUnavailable:
            return self.path.asof(row, None, None)

    def _decided_or_error(self, prepared: Prepared | PilotageError, scores: Iterator[float]) -> Scored | PilotageError:
        if isinstance(prepared, PilotageError):
            return prepared
        try:
            return self.decided(prepared, next(scores))
        except BundleCorrupt as error:
            return error

    def _snapshot(self, state: OnlineState | None) -> Snapshot:
        if state is None:
            raise self._stateless()
        return state.snapshot

    def _stateless(self) -> ModelNotReady:
        return ModelNotReady(
            f"{self.bundle.model} needs as-of features, and there is no online state.",
            fix=f"Materialise the asset online_state of {self.bundle.model}.",
            model=self.bundle.model,
        )

    def _probability(self, value: float) -> float:
        # Written so that a NaN fails.
        if not 0.0 <= value <= 1.0:
            raise BundleCorrupt(
                f"{self.bundle.model} version {self.version} answered {value}, which is no probability.",
                fix="Roll back to the version before.",
            )
        return value
