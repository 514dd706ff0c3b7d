"""Requests in, predictions out, by one bundle. No HTTP, no files: the state is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from pilotage.errors import BundleCorrupt, ModelNotReady
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.contract import Contract


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


class Predictor:
    """One version, ready to answer. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, version: int) -> None:
        self.bundle = bundle
        self.version = version
        self.contract = Contract(bundle.request)

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
                raise ModelNotReady(
                    f"{self.bundle.model} needs as-of features, and there is no online state.",
                    fix=f"Materialise the asset online_state of {self.bundle.model}.",
                    model=self.bundle.model,
                )
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

    def _probability(self, value: float) -> float:
        # Written so that a NaN fails.
        if not 0.0 <= value <= 1.0:
            raise BundleCorrupt(
                f"{self.bundle.model} version {self.version} answered {value}, which is no probability.",
                fix="Roll back to the version before.",
            )
        return value
