"""Writes answers, and the records of them that go into the prediction log: whose answer it is was decided before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, cast

from pilotage.errors import PilotageError
from pilotage.runtime.answer import Answer, AnsweredBy, BatchRecord, BatchRow, PredictionRecord, Written
from pilotage.runtime.answered import REFERRED, AnsweredRows, Own
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.contract import Contract
from pilotage.runtime.prepared import Prepared, PreparedRows, Scored, ScoredRows
from pilotage.runtime.pseudonyms import Pseudonyms
from pilotage.runtime.results import Results
from pilotage.runtime.state import OnlineState
from pilotage.spec import ModelSpec

Stage = Literal["champion", "canary", "previous_champion"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_BYTES = 12


class Asked(NamedTuple):
    """What is known of a request beside its fields."""

    request: Any
    """As sent; of a batch, all rows."""
    request_id: str
    """The client's, or ours."""
    caller: str
    """Id of the API key; ``""`` where none is needed."""
    started: int
    """``time.perf_counter_ns`` from which on it takes time."""


class Turn(NamedTuple):
    """Whose turn it is to answer a request."""

    loaded: Loaded
    stage: Stage
    drawn_by: int | None
    """See ``PredictionRecord``."""


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


class DraftedRows(Results[Drafted]):
    """What one version said to the rows of one request; there is one record of all, which is not in the drafts."""

    def __init__(self, board: Board, loaded: Loaded, asked: Asked, scored: ScoredRows, answers: AnsweredRows) -> None:
        """Takes what belongs together, row by row."""
        super().__init__(len(scored), scored.errors)
        self.board = board
        self.answers = answers
        self._loaded = loaded
        self._asked = asked
        self._scored = scored

    def result(self, index: int) -> Drafted:
        """The draft of one row."""
        return Drafted(
            answer=self.answers.result(index),
            payload=b"",
            board=self.board,
            asked=self._asked._replace(request=self._asked.request[self.places[index]]),
            loaded=self._loaded,
            scored=self._scored.result(index),
        )


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

    def many(self, number: int) -> list[str]:
        """The next ones, in a fifth of the time."""
        names, digits = os.urandom(_ID_BYTES * number).hex(), 2 * _ID_BYTES
        return [names[start : start + digits] for start in range(0, len(names), digits)]


class Scribe:
    """Writes for one model."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        pseudonyms: Pseudonyms,
        encode: Callable[[Written], bytes],
        keep: Callable[[str, bytes], bool],
        ids: Ids,
    ) -> None:
        """Prepares what every record needs.

        Args:
            spec: The model's declaration.
            pseudonyms: Stand for values that identify a person.
            encode: Writes a record of the prediction log.
            keep: Sees to it that each segment of the log begins with a record, under a key.
            ids: Names predictions.
        """
        self._spec = spec
        fields = {field.name for field in spec.request}
        self._entity = tuple(name for name in spec.entity if name in fields)
        self._personal = frozenset(field.name for field in spec.request if field.personal)
        self._state_told: str | None = None
        """Id of the state that the log knows of."""
        self._pseudonyms = pseudonyms
        self._encode = encode
        self._keep = keep
        self._ids = ids

    def write(
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
        """Writes an answer and its record.

        Args:
            board: Who was there.
            asked: The request.
            version: That answered; with what it said in the arguments after it, see ``PredictionRecord``.
            stage: Of that version.
            answered_by: The step of the fallback chain.
            probability: 0..1.
            decision: See ``Answer``.
            referred: See ``Answer``.
            reasons: See ``Answer``.
            seen: The request as the version saw it, where one did.
            turn: Whose turn it was.
            by: The version whose contract the request was checked by.

        Raises:
            InvalidRequest: The request breaks the contract, and nobody found out before.
        """
        spec = self._spec
        sent = asked.request
        micros = time.time_ns() // 1000
        prediction_id = self._ids()
        logged = seen.request if seen is not None else self._checked(sent, by)
        features = seen.features if seen is not None else None
        if self._personal or (by is not None and by.personal):
            logged, features = self._hidden(logged, features, by)
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

    def write_batch(self, board: Board, turn: Turn, asked: Asked, scored: ScoredRows) -> tuple[DraftedRows, bytes]:
        """Writes the answers that one version gave to the rows of one request, and one record for all of them.

        Args:
            board: Who was there.
            turn: The version, whose turn it was for all; nothing was drawn by lot.
            asked: The request.
            scored: What the version said, to at least one of the rows.
        """
        loaded, seen, label = turn.loaded, scored.prepared, self._spec.label.name
        answered_by: AnsweredBy = "previous_champion" if turn.stage == "previous_champion" else "model"
        micros = time.time_ns() // 1000
        if seen.state is not None and seen.state != self._state_told:
            self._tell_state(board.state, seen.state)
        entity = [name for name in self._entity if name in seen.fields]
        sent = [asked.request[place] for place in seen.places]
        own = Own(
            prediction_id=self._ids.many(len(sent)),
            probability=scored.probabilities,
            decision=scored.decisions,
            referred=scored.referred,
            reasons=[REFERRED if referred else () for referred in scored.referred],
            entity=[{name: row[name] for name in entity if name in row} for row in sent],
        )
        requests, features = self._logged_values(seen, loaded)
        record = BatchRecord(
            request_id=asked.request_id,
            model=board.model,
            at=micros,
            version=loaded.version,
            stage=turn.stage,
            answered_by=answered_by,
            latency_us=(time.perf_counter_ns() - asked.started) // 1000,
            caller=asked.caller,
            state=seen.state,
            entity_names=tuple(entity),
            request_names=seen.fields,
            feature_names=seen.names,
            rows=_batch_rows(own, seen.moments, requests, features),
        )
        shared = Answer(
            prediction_id="",
            model=board.model,
            version=loaded.version,
            stage=turn.stage,
            answered_by=answered_by,
            probability=None,
            decision=None,
            referred=False,
            label=label,
            entity={},
            predicted_at=_EPOCH + timedelta(microseconds=micros),
            state_through=seen.state_through,
        )
        answers = AnsweredRows(len(scored), scored.errors, shared, own)
        return DraftedRows(board, loaded, asked, scored, answers), self._encode(record)

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
            label=self._spec.label.name,
            entity={name: request[name] for name in self._entity if name in request},
            predicted_at=_EPOCH + timedelta(microseconds=record.at),
            state_through=None,
        )

    def protect(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field, with pseudonyms for those that identify a person."""
        return self._pseudonyms.hide(values, self._personal)

    def _hidden(
        self, request: dict[str, Any], features: dict[str, Any] | None, by: Loaded | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Request and features as the log may hold them."""
        request = self._pseudonyms.hide(request, self._personal | by.personal if by is not None else self._personal)
        if features and by is not None and by.telling:
            texts = {name for name in by.telling if isinstance(features[name], str)}
            features = self._pseudonyms.hide(features, texts)
        return request, features

    def _logged_values(self, seen: PreparedRows, by: Loaded) -> tuple[Iterable[Sequence[Any]], Iterable[Sequence[Any]]]:
        """Requests and features of rows as the log may hold them."""
        if self._personal or by.personal:
            hidden = [self._hidden(each.request, each.features, by) for each in seen.all()]
            return [list(request.values()) for request, _ in hidden], [list((f or {}).values()) for _, f in hidden]
        return seen.requests(), seen.features()

    def _tell_state(self, state: OnlineState, wanted: str) -> None:
        """Has the log explain which state its predictions are from."""
        try:
            record = state.record()
        except PilotageError:
            return
        # Another one may have taken its place in the meantime; its own first prediction tells it.
        if record.state == wanted and self._keep(self._spec.name, self._encode(record)):
            self._state_told = wanted

    def _checked(self, request: Any, loaded: Loaded | None) -> dict[str, Any]:
        """The request's values as a contract reads them.

        Raises:
            InvalidRequest: It breaks the contract.
        """
        contract = loaded.predictor.contract if loaded is not None else Contract(self._spec.request)
        return dict(zip(contract.fields, contract.row(request), strict=True))


def _batch_rows(
    own: Own, moments: Iterable[int | None], requests: Iterable[Sequence[Any]], features: Iterable[Sequence[Any]]
) -> list[BatchRow]:
    ids, probabilities, decisions, referred, reasons, _ = own
    # Tuples are written as such rows are, and take a third of the time to make.
    rows = zip(ids, moments, probabilities, decisions, referred, reasons, requests, features, strict=True)
    return cast(list[BatchRow], list(rows))
