"""Writes answers, and the records of them that go into the prediction log: whose answer it is was decided before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pilotage.errors import PilotageError
from pilotage.pseudonyms import Pseudonyms
from pilotage.runtime.answer import Answer, AnsweredBy, BatchRecord, BatchRow, PredictionRecord, Written
from pilotage.runtime.answered import REFERRED, AnsweredRows, Own
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.contract import Contract
from pilotage.runtime.drafts import Asked, AskedRows, Drafted, DraftedRows, Stage, Turn
from pilotage.runtime.prepared import Prepared, PreparedRows, ScoredRows
from pilotage.runtime.state import OnlineState
from pilotage.spec import ModelSpec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_BYTES = 12


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


class AnswerWriter:
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
            by: The version whose contract the request was checked by; ``None`` if that was the spec's.

        Raises:
            InvalidRequest: The request breaks the contract, and nobody found out before.
        """
        spec = self._spec
        sent = asked.request
        micros = time.time_ns() // 1000
        prediction_id = self._ids()
        logged = seen.request if seen is not None else self._checked(sent, by)
        features = seen.features if seen is not None else None
        if self._personal or board.personal:
            logged, features = self._hidden(logged, features, board, by)
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
            latency_us=_since(asked),
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

    def write_rows(
        self, board: Board, turn: Turn, asked: Sequence[Asked], scored: ScoredRows
    ) -> tuple[DraftedRows, bytes]:
        """Writes the answers that one version gave to several requests at once, and one record for all of them.

        Args:
            board: Who was there.
            turn: The version, whose turn it was for all; nothing was drawn by lot.
            asked: The requests, or ``AskedRows`` of one.
            scored: What the version said, to at least one of them.
        """
        loaded, seen, label = turn.loaded, scored.prepared, self._spec.label.name
        answered_by: AnsweredBy = "previous_champion" if turn.stage == "previous_champion" else "model"
        micros = time.time_ns() // 1000
        if seen.state is not None and seen.state != self._state_told:
            self._tell_state(board.state, seen.state)
        entity = [name for name in self._entity if name in seen.fields]
        whole, each, sent = _asked_together(asked, seen.places)
        own = Own(
            prediction_id=self._ids.many(len(sent)),
            probability=scored.probabilities,
            decision=scored.decisions,
            referred=scored.referred,
            reasons=[REFERRED if referred else () for referred in scored.referred],
            entity=[{name: row[name] for name in entity if name in row} for row in sent],
        )
        requests, features = self._logged_values(seen, board, loaded)
        ids, probabilities, decisions, referred, reasons, _ = own
        said = ids, seen.moments, probabilities, decisions, referred, reasons
        record = BatchRecord(
            request_id=whole.request_id,
            model=board.model,
            at=micros,
            version=loaded.version,
            stage=turn.stage,
            answered_by=answered_by,
            latency_us=_since(whole),
            caller=whole.caller,
            state=seen.state,
            entity_names=tuple(entity),
            request_names=seen.fields,
            feature_names=seen.names,
            # Tuples are written as such rows are, and take a third of the time to make.
            rows=cast(list[BatchRow], list(zip(*said, requests, features, *each, strict=True))),
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

    def protect(self, values: Mapping[str, Any], board: Board | None = None) -> dict[str, Any]:
        """Values by field, with pseudonyms for those that identify a person; ``board`` says what its versions know."""
        return self._pseudonyms.hide(values, self._personal if board is None else self._all_personal(board))

    def _all_personal(self, board: Board) -> frozenset[str]:
        """What is personal to any version is to all: they are asked the same."""
        return self._personal if self._personal >= board.personal else self._personal | board.personal

    def _hidden(
        self, request: dict[str, Any], features: dict[str, Any] | None, board: Board, by: Loaded | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Request and features as the log may hold them."""
        personal = self._all_personal(board)
        request = self._pseudonyms.hide(request, personal)
        if features and by is not None:
            texts = {name for name in by.telling(personal) if isinstance(features.get(name), str)}
            features = self._pseudonyms.hide(features, texts) if texts else features
        return request, features

    def _logged_values(
        self, seen: PreparedRows, board: Board, by: Loaded
    ) -> tuple[Iterable[Sequence[Any]], Iterable[Sequence[Any]]]:
        """Requests and features of rows as the log may hold them."""
        if self._personal or board.personal:
            hidden = [self._hidden(each.request, each.features, board, by) for each in seen.all()]
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


def _asked_together(
    asked: Sequence[Asked], places: Sequence[int]
) -> tuple[Asked, tuple[Sequence[Any], ...], list[Any]]:
    """What requests share in a record, columns of what they do not, and what was sent; of those in some places."""
    if isinstance(asked, AskedRows):
        whole = asked.whole
        return whole, (), [whole.request[place] for place in places]
    some = [asked[place] for place in places]
    # The record itself is nobody's.
    nobody = Asked((), "", "", some[0].started)
    own = [each.request_id for each in some], [each.caller for each in some], list(map(_since, some))
    return nobody, own, [each.request for each in some]


def _since(asked: Asked) -> int:
    """Microseconds."""
    return (time.perf_counter_ns() - asked.started) // 1000
