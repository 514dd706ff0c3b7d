"""What is answered to a request, and what the prediction log holds of it. Records only; each is one JSON object.

A log record is told by its ``kind``. Times are microseconds since 1970 UTC in the log, ISO 8601 in answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

AnsweredBy = Literal["model", "previous_champion", "cached_answer", "rule", "nothing"]
"""The step of the fallback chain that gave the answer."""

R = TypeVar("R")


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature did to one answer."""

    feature: str
    description: str
    """In the spec's own words."""
    value: Any
    unit: str = ""
    contribution: float
    """Log-odds that the value adds to the base's, before calibration (TreeSHAP); positive speaks for the label."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why an answer is what it is."""

    method: Literal["exact TreeSHAP"] = "exact TreeSHAP"
    base_rate: float
    """Probability that the model gives without knowing anything of the request, calibrated, 0..1."""
    base_log_odds: float
    """The same as the model itself has it: log-odds, before calibration."""
    log_odds: float
    """What the model itself gave this request, before calibration: ``base_log_odds`` and all contributions, added."""
    contributions: tuple[Contribution, ...]
    """Every feature, the largest first."""
    reasons: tuple[str, ...] = ()
    """What spoke most for the decision that was made, in words; where it is negative or referred to a person, with what
    one can do about it."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to one request."""

    prediction_id: str
    """Names this prediction: in the log, in the lake and in outcomes."""
    model: str
    version: int | None
    """The version that answered; ``None`` if a rule did, or nothing."""
    stage: Literal["champion", "canary", "previous_champion"] | None
    answered_by: AnsweredBy
    probability: float | None
    """Calibrated, 0..1, of the label."""
    decision: bool | None
    """Whether acting as if the label were true is the cheaper choice; ``None`` if a person should decide."""
    referred: bool
    """Whether a person should decide."""
    reasons: tuple[str, ...] = ()
    """Why not the champion's model answered, or why a person should; empty for a plain answer."""
    label: str
    entity: dict[str, Any]
    predicted_at: datetime
    state_through: datetime | None
    """How far the as-of features knew (UTC)."""
    logged: bool = True
    """Whether the prediction is on disk. ``False`` only where a full disk must not stop the answers."""
    explanation: Explanation | None = None


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="prediction"):
    """One answered prediction."""

    prediction_id: str
    request_id: str
    """The client's, or ours; several predictions of one batch share it."""
    model: str
    entity: dict[str, Any]
    at: int
    """When it was answered."""
    moment: int | None
    """The prediction moment that its as-of features are of; ``None`` for a model without a time."""
    version: int | None
    stage: str | None
    answered_by: AnsweredBy
    probability: float | None
    decision: bool | None
    referred: bool
    reasons: tuple[str, ...]
    latency_us: int
    """From the parsed request to the record."""
    caller: str
    """Id of the API key; ``""`` where none is needed."""
    request: dict[str, Any]
    """The fields as sent, in the contract's order; personal ones as pseudonyms."""
    features: dict[str, Any] | None
    """What the model saw, in its order; ``None`` if no features were computed."""
    state: str | None
    """Id of the ``StateRecord`` that says which state its as-of features are from."""
    routed_version: int | None = None
    """The version whose turn it was, champion or canary; it failed if ``version`` is another. ``None`` if no version
    was to answer: the model was killed."""
    drawn_by: int | None = None
    """Sequence of the ledger event (a canary's step, an A/B test) whose share decided by lot whose turn it was, as the
    worker's plan had it. ``None`` if there was nothing to draw: no second version, or a request outside its segment.
    Only drawn requests say which version is better."""


class BatchRow(msgspec.Struct, frozen=True, array_like=True):
    """One prediction of a ``BatchRecord``."""

    prediction_id: str
    moment: int | None
    probability: float | None
    decision: bool | None
    referred: bool
    reasons: tuple[str, ...]
    request: Sequence[Any]
    """Values of ``request_names``; personal ones as pseudonyms."""
    features: Sequence[Any]
    """Values of ``feature_names``."""
    request_id: str | None = None
    """This, and what follows, where the batch is of several requests that came together."""
    caller: str | None = None
    latency_us: int | None = None


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="predictions"):
    """Predictions that one version answered at once, of one request or of several: what they share is written once.

    Only how the log writes them: whoever reads the log gets a ``PredictionRecord`` for each.
    """

    request_id: str
    model: str
    at: int
    version: int
    stage: str
    answered_by: AnsweredBy
    latency_us: int
    caller: str
    state: str | None
    entity_names: tuple[str, ...]
    """Fields of the request that are the entity's."""
    request_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    rows: list[BatchRow]

    def records(self) -> Iterator[PredictionRecord]:
        """The predictions, in order, as if each had been written alone."""
        requests, features = self.request_names, self.feature_names
        return self.each(
            PredictionRecord,
            request=lambda values: dict(zip(requests, values, strict=True)),
            features=lambda values: dict(zip(features, values, strict=True)),
        )

    def each(
        self,
        make: Callable[..., R],
        *,
        request: Callable[[Sequence[Any]], Any],
        features: Callable[[Sequence[Any]], Any],
    ) -> Iterator[R]:
        """The predictions, made with the fields of a ``PredictionRecord``.

        Args:
            make: Makes one of them.
            request: Makes its request of the values.
            features: Makes its features of the values.

        Raises:
            msgspec.ValidationError: A row has more or fewer values than there are names.
        """
        widths = len(self.request_names), len(self.feature_names)
        entity = [(name, self.request_names.index(name)) for name in self.entity_names]
        for row in self.rows:
            if (len(row.request), len(row.features)) != widths:
                raise msgspec.ValidationError(f"prediction {row.prediction_id} has not {widths} values")
            yield make(
                prediction_id=row.prediction_id,
                request_id=self.request_id if row.request_id is None else row.request_id,
                model=self.model,
                entity={name: row.request[place] for name, place in entity},
                at=self.at,
                moment=row.moment,
                version=self.version,
                stage=self.stage,
                answered_by=self.answered_by,
                probability=row.probability,
                decision=row.decision,
                referred=row.referred,
                reasons=row.reasons,
                latency_us=self.latency_us if row.latency_us is None else row.latency_us,
                caller=self.caller if row.caller is None else row.caller,
                request=request(row.request),
                features=features(row.features),
                state=self.state,
                routed_version=self.version,
            )


class ShadowRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="shadow"):
    """What a shadow version would have answered to a prediction. Never part of an answer."""

    prediction_id: str
    model: str
    version: int
    at: int
    probability: float | None
    decision: bool | None
    referred: bool
    error: str | None
    """Why there is no probability."""
    latency_us: int


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="outcome"):
    """The truth about a prediction or an entity, as an application told it."""

    outcome_id: str
    model: str
    prediction_id: str | None
    entity: dict[str, Any] | None
    label: bool
    known_at: int
    """When it became known."""
    received_at: int
    caller: str


class StateRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """The online state that the predictions after it were made with; once per segment and state."""

    state: str
    model: str
    through: int | None
    versions: dict[str, int]
    """Lake table → Delta version that the state was built from."""


Record = PredictionRecord | ShadowRecord | OutcomeRecord | StateRecord
"""What is read from the log."""
Written = Record | BatchRecord
"""What is written to it."""
