"""Requests in, predictions out, by one bundle. No HTTP, no files: the state is handed in.

One request goes through ``prepare`` (check, state, features) and ``decide`` (model, calibration, decision); between
the two a caller may find that it knows the answer already. Frames, for notebooks and bulk, go through ``predict``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from pilotage.errors import BundleCorrupt, ModelNotReady, PilotageError, StateUnavailable
from pilotage.runtime.answer import Explanation
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.contract import Contract
from pilotage.runtime.explain import Explainer
from pilotage.runtime.prepared import Prepared, PreparedRows, Scored, ScoredRows
from pilotage.runtime.preparer import Preparer
from pilotage.runtime.row import RowPath, verify_rows
from pilotage.runtime.state import OnlineState, Snapshot

_NO_BAND = (1.0, 0.0)
"""Holds no probability."""


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


class Predictor:
    """One version, ready to answer. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, version: int) -> None:
        self.bundle = bundle
        self.version = version
        self.contract = Contract(bundle.request)
        self.path = RowPath(bundle)
        self._preparer = Preparer(bundle, self.contract, self.path)
        self._scorer = bundle.scorer
        self._asof = bool(bundle.asof)
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
        return self._preparer.one(request, self._snapshot(state) if self._asof else None)

    def prepare_many(self, requests: Sequence[Any], state: OnlineState | None) -> PreparedRows:
        """``prepare`` of several requests, each with its own result or error, all from one state.

        Raises:
            ModelNotReady: The model needs state, and there is none.
            StateUnavailable: There is no state that could be loaded.
        """
        return self._preparer.many(requests, self._snapshot(state) if self._asof else None)

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
        return Scored(prepared, probability, *self._verdict(probability))

    def probabilities(self, keys: Sequence[bytes]) -> list[float]:
        """What ``decide`` decides on, for several prepared requests by their keys; the model is asked once for all."""
        return self._scorer.score_rows(keys)

    def decided_many(self, prepared: PreparedRows, probabilities: Sequence[float]) -> ScoredRows:
        """``decided`` of many rows.

        Raises:
            BundleCorrupt: One is no probability.
        """
        for probability in probabilities:
            if not 0.0 <= probability <= 1.0:
                self._probability(probability)
        threshold, (low, high) = self._threshold, self._band or _NO_BAND
        referred = [low <= probability < high for probability in probabilities]
        decisions = [
            None if refer else probability >= threshold
            for probability, refer in zip(probabilities, referred, strict=True)
        ]
        return ScoredRows(prepared, probabilities, decisions, referred)

    def score_one(self, request: Mapping[str, Any], state: OnlineState | None) -> Scored:
        """``prepare`` and ``decide`` in one."""
        return self.decide(self.prepare(request, state))

    def score_many(self, rows: Sequence[Any], state: OnlineState | None) -> Sequence[Scored | PilotageError]:
        """Scores requests, each with its own result or error, in order; the model is asked once for all.

        Returns:
            ``ScoredRows``, unless all have the same error, or the model answers something that is no probability.
        """
        try:
            prepared = self.prepare_many(rows, state)
        except (ModelNotReady, StateUnavailable) as error:
            return [error] * len(rows)
        scores = self._scorer.score_matrix(prepared.matrix())
        try:
            return self.decided_many(prepared, scores)
        except BundleCorrupt:
            rest = iter(scores)
            return [each if isinstance(each, PilotageError) else self._decided(each, next(rest)) for each in prepared]

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
    ) -> list[Prediction]:
        """Predicts, one answer per request, in order.

        Args:
            requests: Decoded JSON objects, or typed rows.
            state: Where as-of features come from; needed if the model has any.

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
        return [
            Prediction(
                model=self.bundle.model,
                version=self.version,
                probability=self._probability(float(value)),
                decision=bool(value >= self.bundle.threshold),
                state_through=through,
            )
            for value in self.bundle.score(frame)
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

    def _decided(self, prepared: Prepared, probability: float) -> Scored | BundleCorrupt:
        try:
            return self.decided(prepared, probability)
        except BundleCorrupt as error:
            return error

    def _verdict(self, probability: float) -> tuple[bool | None, bool]:
        """What follows from a probability: ``decision`` and ``referred`` of a ``Scored``.

        Raises:
            BundleCorrupt: It is none.
        """
        self._probability(probability)
        band = self._band
        if band is not None and band[0] <= probability < band[1]:
            return None, True
        return probability >= self._threshold, False

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
