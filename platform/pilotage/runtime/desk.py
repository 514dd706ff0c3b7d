"""What a worker keeps at hand for one model, and how an answer and its record are written.

Nothing here chooses who answers; ``responder.py`` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pilotage.errors import ModelNotReady, PilotageError, StateUnavailable
from pilotage.runtime.answer import Answer, AnsweredBy, PredictionRecord, Record
from pilotage.runtime.answers_cache import Remembered
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.contract import Contract
from pilotage.runtime.predictor import Prepared, Scored
from pilotage.runtime.pseudonyms import Pseudonyms
from pilotage.runtime.routing import EntityHash
from pilotage.runtime.state import OnlineState
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from pilotage.runtime.fallback import Ruled

Stage = Literal["champion", "canary", "previous_champion"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REFERRED = ("the probability is in the band in which a person decides",)
_ID_BYTES = 12


class Asked(NamedTuple):
    """What is known of a request beside its fields."""

    request: Any
    """As sent."""
    request_id: str
    """The client's, or ours."""
    caller: str
    """Id of the API key; ``""`` where none is needed."""
    started: int
    """``time.perf_counter_ns`` when it was parsed."""


class Turn(NamedTuple):
    """Whose turn it is to answer a request."""

    loaded: Loaded
    stage: Stage
    drawn_by: int | None
    """See ``PredictionRecord``."""


class Earlier(NamedTuple):
    """An answer of before, which the same request may get again when nothing better can be had."""

    version: int
    at: datetime
    probability: float
    decision: bool | None
    referred: bool


@dataclass(slots=True, kw_only=True)
class Drafted:
    """An answer that waits for its record to be on disk."""

    answer: Answer
    payload: bytes
    """The record, as the log holds it."""
    board: Board
    asked: Asked
    loaded: Loaded | None
    """The version that answered, if one did."""
    scored: Scored | None
    """What it saw and said."""
    prepared_ns: int = 0
    """``time.perf_counter_ns`` when the features were there, and the model was about to be asked; 0 if it was not."""


class Ids:
    """Names that nobody can guess, at a fifth of a microsecond each (``uuid4`` takes ten)."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def __call__(self) -> str:
        """The next: 24 hexadecimal digits."""
        start = self._at
        if start >= len(self._pool):
            self._pool, start = os.urandom(_ID_BYTES * 512), 0
        self._at = end = start + _ID_BYTES
        return self._pool[start:end].hex()


class Desk:
    """One model's desk."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        pseudonyms: Pseudonyms,
        encode: Callable[[Record], bytes],
        keep: Callable[[str, bytes], bool],
        ids: Ids,
    ) -> None:
        """Prepares what every request needs.

        Args:
            spec: The model's declaration.
            pseudonyms: Stand for values that identify a person.
            encode: Writes a record of the prediction log.
            keep: Sees to it that each segment of the log begins with a record, under a key.
            ids: Names predictions.
        """
        fields = {field.name: field for field in spec.request}
        self.spec = spec
        self.entities = EntityHash(spec.entity, fields)
        self.answers: Remembered[float] = Remembered(spec.serving.cached_answers)
        """Probabilities, by version and features."""
        self.earlier: Remembered[Earlier] = Remembered(spec.serving.cached_answers)
        """Answers, by the values of the request."""
        self._state_told: str | None = None
        """Id of the state that the log knows of."""
        self._entity = tuple(name for name in spec.entity if name in fields)
        self._personal = frozenset(field.name for field in spec.request if field.personal)
        self._pseudonyms = pseudonyms
        self._encode = encode
        self._keep = keep
        self._ids = ids

    def score(self, loaded: Loaded, request: Mapping[str, Any], state: OnlineState) -> tuple[Scored, int]:
        """Asks a version, or remembers what it said to the same features; and says when these were there.

        Raises:
            PilotageError: It can't answer.
        """
        predictor = loaded.predictor
        prepared = predictor.prepare(request, state)
        prepared_ns = time.perf_counter_ns()
        key = (loaded.version, prepared.key)
        known = self.answers.get(key)
        if known is not None:
            return predictor.decided(prepared, known), prepared_ns
        scored = predictor.decide(prepared)
        self.answers.put(key, scored.probability)
        return scored, prepared_ns

    def draft(
        self,
        board: Board,
        asked: Asked,
        turn: Turn,
        scored: Scored,
        *,
        loaded: Loaded | None = None,
        stage: Stage | None = None,
        reasons: tuple[str, ...] = (),
        prepared_ns: int = 0,
    ) -> Drafted:
        """Writes a version's answer and its record.

        Args:
            board: Who was there.
            asked: The request.
            turn: Whose turn it was.
            scored: What the version said.
            loaded: The version that answered in its place, if another one did.
            stage: Its stage.
            reasons: Why it did.
            prepared_ns: When its features were there.
        """
        by = loaded or turn.loaded
        role = stage or turn.stage
        drafted = self._write(
            board,
            asked,
            version=by.version,
            stage=role,
            answered_by="previous_champion" if role == "previous_champion" else "model",
            probability=scored.probability,
            decision=scored.decision,
            referred=scored.referred,
            reasons=reasons + _REFERRED if scored.referred else reasons,
            seen=scored.prepared,
            turn=turn,
            by=by,
        )
        drafted.loaded, drafted.scored, drafted.prepared_ns = by, scored, prepared_ns
        answer = drafted.answer
        self.earlier.put(
            tuple(scored.prepared.request.values()),
            Earlier(by.version, answer.predicted_at, scored.probability, scored.decision, scored.referred),
        )
        return drafted

    def draft_earlier(
        self, board: Board, asked: Asked, turn: Turn, earlier: Earlier, reasons: tuple[str, ...]
    ) -> Drafted:
        """Writes the answer of before again."""
        return self._write(
            board,
            asked,
            version=earlier.version,
            stage=None,
            answered_by="cached_answer",
            probability=earlier.probability,
            decision=earlier.decision,
            referred=earlier.referred,
            reasons=reasons,
            seen=None,
            turn=turn,
            by=turn.loaded,
        )

    def draft_rule(
        self, board: Board, asked: Asked, turn: Turn | None, ruled: Ruled, reasons: tuple[str, ...]
    ) -> Drafted:
        """Writes the rule's answer, or that there is none."""
        return self._write(
            board,
            asked,
            version=None,
            stage=None,
            answered_by="nothing" if ruled.probability is None else "rule",
            probability=ruled.probability,
            decision=ruled.decision,
            referred=ruled.referred,
            reasons=reasons,
            seen=ruled.prepared,
            turn=turn,
            by=turn.loaded if turn else next(iter(board.loaded().values()), None),
        )

    def repeat(self, record: PredictionRecord, request: Mapping[str, Any]) -> Answer:
        """The answer that was logged to a request, which its client never got."""
        return Answer(
            prediction_id=record.prediction_id,
            model=record.model,
            version=record.version,
            stage=record.stage,  # type: ignore[arg-type]
            answered_by=record.answered_by,
            probability=record.probability,
            decision=record.decision,
            referred=record.referred,
            reasons=record.reasons,
            label=self.spec.label.name,
            entity={name: request[name] for name in self._entity if name in request},
            predicted_at=_EPOCH + timedelta(microseconds=record.at),
            state_through=None,
        )

    def protect(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field, with pseudonyms for those that identify a person."""
        return self._pseudonyms.hide(values, self._personal)

    @staticmethod
    def is_about_state(error: Exception) -> bool:
        """Whether a failure says nothing of the version: without history, no version can answer."""
        return isinstance(error, (StateUnavailable, ModelNotReady))

    def _write(
        self,
        board: Board,
        asked: Asked,
        *,
        version: int | None,
        stage: Stage | None,
        answered_by: AnsweredBy,
        probability: float | None,
        decision: bool | None,
        referred: bool,
        reasons: tuple[str, ...],
        seen: Prepared | None,
        turn: Turn | None,
        by: Loaded | None,
    ) -> Drafted:
        spec = self.spec
        sent = asked.request
        micros = time.time_ns() // 1000
        prediction_id = self._ids()
        checked = seen.request if seen is not None else self._checked(sent, by)
        features = seen.features if seen is not None else None
        logged = checked
        if self._personal or (by is not None and by.personal):
            logged = self._pseudonyms.hide(checked, self._personal | by.personal if by is not None else self._personal)
            if features and by is not None and by.telling:
                texts = {name for name in by.telling if isinstance(features[name], str)}
                features = self._pseudonyms.hide(features, texts)
        if seen is not None and seen.state is not None and seen.state != self._state_told:
            self._tell_state(board.state, seen.state)
        record = PredictionRecord(
            prediction_id=prediction_id,
            request_id=asked.request_id,
            model=board.model,
            entity={name: logged[name] for name in self._entity if name in logged},
            at=micros,
            moment=seen.moment if seen is not None else None,
            version=version,
            stage=stage,
            answered_by=answered_by,
            probability=probability,
            decision=decision,
            referred=referred,
            reasons=reasons,
            latency_us=(time.perf_counter_ns() - asked.started) // 1000,
            caller=asked.caller,
            request=logged,
            features=features,
            state=seen.state if seen is not None else None,
            routed_version=turn.loaded.version if turn is not None else None,
            drawn_by=turn.drawn_by if turn is not None else None,
        )
        answer = Answer(
            prediction_id=prediction_id,
            model=board.model,
            version=version,
            stage=stage,
            answered_by=answered_by,
            probability=probability,
            decision=decision,
            referred=referred,
            reasons=reasons,
            label=spec.label.name,
            entity={name: sent[name] for name in self._entity if name in sent},
            predicted_at=_EPOCH + timedelta(microseconds=micros),
            state_through=seen.state_through if seen is not None else None,
        )
        return Drafted(answer=answer, payload=self._encode(record), board=board, asked=asked, loaded=None, scored=None)

    def _tell_state(self, state: OnlineState, wanted: str) -> None:
        """Has the log explain which state its predictions are from."""
        try:
            record = state.record()
        except PilotageError:
            return
        # Another one may have taken its place in the meantime; its own first prediction tells it.
        if record.state == wanted and self._keep(self.spec.name, self._encode(record)):
            self._state_told = wanted

    def _checked(self, request: Any, loaded: Loaded | None) -> dict[str, Any]:
        """The request's values as a contract reads them.

        Raises:
            InvalidRequest: It breaks the contract.
        """
        contract = loaded.predictor.contract if loaded is not None else Contract(self.spec.request)
        return dict(zip(contract.fields, contract.row(request), strict=True))
