"""One request, from its decoded fields to the answer and the record of it. No HTTP, no disk.

Whatever happens to a model, a request gets an answer that says who gave it: the version whose turn it is, the champion
before it, the same request's answer of a moment ago, the spec's rule, or nothing (then a person should decide). Only
a request that is wrong, and a model that nothing was ever released of, are errors. Everything here runs on the event
loop's thread, and waits for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pilotage.errors import InvalidRequest, ModelNotReady, PilotageError, UnknownModel
from pilotage.pseudonyms import Pseudonyms
from pilotage.runtime.answer import Explanation, Written
from pilotage.runtime.answer_writer import AnswerWriter, Ids
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.desk import Desk
from pilotage.runtime.drafts import Asked, AskedRows, Drafted, Stage, Turn
from pilotage.runtime.earlier_answers import Earlier
from pilotage.runtime.fallback import rule_of, told
from pilotage.runtime.follower import Follower
from pilotage.runtime.prepared import Scored, ScoredRows
from pilotage.runtime.version_scores import VersionScores, parts_of
from pilotage.spec import ModelSpec

_Score = Callable[[Loaded, Sequence[Any]], Sequence[Scored | PilotageError]]
"""Asks a version, each of several requests with its own result or error."""
_LONGEST_REASON = 300
"""Characters of a reason in an answer."""


class Many(NamedTuple):
    """What was answered to many rows."""

    results: Sequence[Drafted | Exception]
    """Each one's own, in order: ``DraftedRows`` where one version answered them all. The log gets ``payloads``, and not
    what stands in a draft."""
    payloads: list[bytes]
    """The records of all answers, as the log holds them: one for all, or one each."""


class Responder:
    """Answers requests to the models of a worker."""

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        follower: Follower,
        *,
        pseudonyms: Pseudonyms,
        encode: Callable[[Written], bytes],
        keep: Callable[[str, bytes], bool],
        report: Callable[..., None],
    ) -> None:
        """Makes a desk for each model.

        Args:
            specs: Model → its declaration.
            follower: Keeps the boards.
            pseudonyms: Stand for values that identify a person.
            encode: Writes a record of the prediction log.
            keep: Sees to it that each segment of the log begins with a record, under a key.
            report: Called with a sentence when a version fails, and ``request``, the id of the one that it failed at.
        """
        self.ids = Ids()
        self.desks = {
            name: Desk(spec, AnswerWriter(spec, pseudonyms=pseudonyms, encode=encode, keep=keep, ids=self.ids))
            for name, spec in specs.items()
        }
        self._follower = follower
        self._boards = follower.boards
        self._report = report

    def answer(self, model: str, request: Any, *, request_id: str, caller: str) -> Drafted:
        """Answers one request.

        Args:
            model: Whose prediction is asked for.
            request: The decoded JSON object.
            request_id: For the log; the client's, or ours.
            caller: Id of the API key, for the log.

        Raises:
            UnknownModel: There is no such model.
            InvalidRequest: The request breaks the contract.
            ModelNotReady: No version was ever released.
        """
        return self._answer(model, Asked(request, request_id, caller, time.perf_counter_ns()))

    def answer_many(self, model: str, batches: Sequence[AskedRows], *, version: int | None = None) -> list[Many]:
        """Answers the rows of several requests, each with its own answer or error, in order.

        Together they take less time than one request after another; nothing else is shared.

        Args:
            model: Whose predictions are asked for.
            batches: The requests.
            version: The version that is asked for by its number, champion or canary; ``None`` for whose turn it is.

        Raises:
            UnknownModel: There is no such model.
            ModelNotReady: As in ``answer``.
        """
        board = self._boards.get(model) or self._missing(model)

        def score(loaded: Loaded, some: Sequence[Any]) -> Sequence[Scored | PilotageError]:
            return loaded.predictor.score_many(some, board.state)

        asked = [batch.whole.request for batch in batches]
        each: Iterable[list[VersionScores]]
        if board.canary is None:
            # One version answers them all.
            scored = self._scored(board, [row for rows in asked for row in rows], score, version)
            each = parts_of(scored, list(map(len, asked)))
        else:
            each = [self._scored(board, rows, score, version) for rows in asked]
        return [self._drafted(board, batch, some, version) for batch, some in zip(batches, each, strict=True)]

    def answer_each(self, model: str, asked: Sequence[Asked]) -> Many:
        """``answer`` of several requests that came together, each with its own answer or error, in order.

        Step by step for all of them, which takes half the time: what a step needs stays in the processor's cache.

        Raises:
            UnknownModel: There is no such model.
            ModelNotReady: As in ``answer``.
        """
        if len(asked) == 1:
            return _each_by_itself([self._alone(model, asked[0])])
        board = self._boards.get(model) or self._missing(model)

        def score(loaded: Loaded, some: Sequence[Any]) -> Sequence[Scored | PilotageError]:
            return self.desks[model].score_each(loaded, some, board.state)

        scored = self._scored(board, [each.request for each in asked], score, None)
        return self._drafted(board, asked, scored, None)

    def _answer(self, model: str, asked: Asked, version: int | None = None) -> Drafted:
        board = self._boards.get(model) or self._missing(model)
        desk = self.desks[model]
        if board.plan.killed is not None:
            return _killed(desk, board, asked)
        turn = self._turn(desk, board, asked.request) if version is None else _numbered(board, version)
        if turn is None:
            return _unloaded(desk, board, asked)
        loaded = turn.loaded
        if not loaded.breaker.allows():
            return self._fall_back(desk, board, asked, turn, None)
        try:
            scored, prepared_ns = desk.score(loaded, asked.request, board.state)
        except Exception as error:
            return self._fall_back(desk, board, asked, turn, error)
        loaded.breaker.succeeded()
        return desk.draft(board, asked, turn, scored, prepared_ns=prepared_ns)

    def _scored(self, board: Board, requests: Sequence[Any], score: _Score, version: int | None) -> list[VersionScores]:
        """What the versions say whose turn it is; nothing of requests where a single one would have to fall back."""
        return [
            VersionScores(turn, members, self._scores(turn, [requests[index] for index in members], score))
            for turn, members in self._turns(self.desks[board.model], board, requests, version)
        ]

    def _drafted(
        self, board: Board, asked: Sequence[Asked], scored: Sequence[VersionScores], version: int | None
    ) -> Many:
        """Each request's own answer or error."""
        desk = self.desks[board.model]
        if board.canary is None and scored:
            [(turn, _, scores)] = scored
            if isinstance(scores, ScoredRows) and _only_invalid(scores.errors):
                # Whatever keeps the contract was answered by the version whose turn it was: one record will do.
                try:
                    return _at_once(desk, board, asked, turn, scores)
                except Exception as error:
                    # A fault of ours, told to the one that it concerns.
                    self._report(f"{board.model}: {len(asked)} answers could not be written at once: {error!r}")
        results: list[Drafted | Exception | None] = [None] * len(asked)
        for turn, members, scores in scored:
            prepared_ns = scores.prepared.prepared_ns if isinstance(scores, ScoredRows) else 0
            for index, each in zip(members, scores, strict=True):
                if not isinstance(each, Scored):
                    continue
                try:
                    results[index] = desk.draft(board, asked[index], turn, each, prepared_ns=prepared_ns)
                except Exception as error:
                    results[index] = error
        # What is left goes the way of a single request, which knows how to fall back.
        return _each_by_itself(
            [
                self._alone(board.model, asked[at], version) if result is None else result
                for at, result in enumerate(results)
            ]
        )

    def _turns(
        self, desk: Desk, board: Board, rows: Sequence[Any], version: int | None
    ) -> list[tuple[Turn, Sequence[int]]]:
        """Whose turn it is to answer which rows; nobody's where a single request would have to fall back."""
        if board.plan.killed is not None or not rows:
            return []
        if version is not None or board.canary is None:
            # Without a canary a turn does not depend on the request.
            turn = _numbered(board, version) if version is not None else self._turn(desk, board, None)
            return [] if turn is None else [(turn, range(len(rows)))]
        turns: dict[Turn, list[int]] = {}
        for index, row in enumerate(rows):
            if (turn := self._turn(desk, board, row)) is not None:
                turns.setdefault(turn, []).append(index)
        return list(turns.items())

    def _scores(self, turn: Turn, requests: Sequence[Any], score: _Score) -> Sequence[Scored | PilotageError | None]:
        """What a version says to each request; ``None`` where it was not asked, or failed."""
        loaded = turn.loaded
        if not loaded.breaker.allows():
            return [None] * len(requests)
        try:
            scores = score(loaded, requests)
        except Exception as error:
            # Each is asked alone, and whose failure it is counts then.
            loaded.breaker.untried()
            who = f"{loaded.predictor.bundle.model} version {loaded.version}"
            self._report(f"{who} failed for {len(requests)} requests at once: {error}")
            return [None] * len(requests)
        if scores.places if isinstance(scores, ScoredRows) else any(isinstance(each, Scored) for each in scores):
            loaded.breaker.succeeded()
        else:
            loaded.breaker.untried()
        return scores

    @staticmethod
    def explain(drafted: Drafted) -> Explanation | None:
        """Why an answer is what it is; ``None`` where no version gave it. Takes milliseconds, and any thread may."""
        if drafted.loaded is None or drafted.scored is None:
            return None
        return drafted.loaded.predictor.explain(drafted.scored)

    def _alone(self, model: str, asked: Asked, version: int | None = None) -> Drafted | Exception:
        try:
            return self._answer(model, asked, version)
        except Exception as error:
            return error

    def _turn(self, desk: Desk, board: Board, request: Any) -> Turn | None:
        """The version whose turn it is; ``None`` if none could be loaded yet, of a model that was released.

        Raises:
            ModelNotReady: It was not.
        """
        drawn_by = None
        if (canary := board.canary) is not None and (canary.segment is None or canary.segment.takes(request)):
            if desk.entities.place(request, canary.salt) < canary.share:
                return Turn(canary.loaded, "canary", canary.sequence)
            drawn_by = canary.sequence
        if board.champion is not None:
            return Turn(board.champion, "champion", drawn_by)
        if board.previous is not None:
            return Turn(board.previous, "previous_champion", drawn_by)
        if board.plan.champion is not None:
            return None
        raise self._not_ready(board.model)

    def _fall_back(self, desk: Desk, board: Board, asked: Asked, turn: Turn, error: Exception | None) -> Drafted:
        """The next who can answer.

        Raises:
            InvalidRequest: The request breaks the contract.
        """
        reasons = [self._failed(turn.loaded, turn.stage, error, asked)]
        if isinstance(error, InvalidRequest) and turn.stage != "canary":
            raise error
        others: tuple[tuple[Loaded | None, Stage], ...] = (
            (board.champion, "champion"),
            (board.previous, "previous_champion"),
        )
        for other, stage in others:
            if other is None or other is turn.loaded:
                continue
            if not other.breaker.allows():
                reasons.append(self._failed(other, stage, None, asked))
                continue
            try:
                scored, prepared_ns = desk.score(other, asked.request, board.state)
            except Exception as another:
                reasons.append(self._failed(other, stage, another, asked))
                if isinstance(another, InvalidRequest) and (stage == "champion" or isinstance(error, InvalidRequest)):
                    # The champion's contract is what clients go by, not the one of a version on trial or of before.
                    raise
            else:
                other.breaker.succeeded()
                return desk.draft(
                    board,
                    asked,
                    turn,
                    scored,
                    loaded=other,
                    stage=stage,
                    reasons=tuple(reasons),
                    prepared_ns=prepared_ns,
                )
        if (found := _earlier(desk, board, asked)) is not None:
            by, earlier = found
            reasons.append(f"this is the answer that the same request got at {earlier.predicted_at:%F %T} UTC")
            return desk.draft_earlier(board, asked, turn, earlier, tuple(reasons), by=by)
        ruled = rule_of(desk.spec, board, asked.request)
        return desk.draft_rule(board, asked, turn, ruled, (*reasons, *ruled.reasons))

    def _failed(self, loaded: Loaded, stage: Stage, error: Exception | None, asked: Asked) -> str:
        """Counts a failure, and says it."""
        who = f"{stage.replace('_', ' ')} version {loaded.version}"
        if error is None:
            return f"{who} is not asked for a while, since it failed repeatedly"
        its_own = loaded.failed(error)
        if isinstance(error, InvalidRequest):
            return f"{who} does not take this request: {told(error)}"[:_LONGEST_REASON]
        if its_own:
            sentence = f"{loaded.predictor.bundle.model}: {who} failed: {type(error).__name__}: {error}"
            self._report(sentence, request=asked.request_id)
        return f"{who} failed: {told(error)}"[:_LONGEST_REASON]

    def _missing(self, model: str) -> Board:
        """Says why a model has no board.

        Raises:
            UnknownModel: There is no such model.
            ModelNotReady: It was never promoted.
        """
        board = self._follower.board(model)
        if board is None:
            raise self._not_ready(model)
        return board

    def _not_ready(self, model: str) -> ModelNotReady:
        problem = self._follower.trouble(model)
        return ModelNotReady(
            f"{model} has no champion that can be served" + (f": {problem}" if problem else "."),
            fix=f"Release one: pilotage promote {model} VERSION.",
            model=model,
        )


def _only_invalid(errors: Mapping[int, PilotageError]) -> bool:
    return all(isinstance(error, InvalidRequest) for error in errors.values())


def _at_once(desk: Desk, board: Board, asked: Sequence[Asked], turn: Turn, scores: ScoredRows) -> Many:
    if not scores.places:
        return Many(list(scores.errors.values()), [])
    drafts, payload = desk.draft_rows(board, turn, asked, scores)
    return Many(drafts, [payload])


def _each_by_itself(results: Sequence[Drafted | Exception]) -> Many:
    return Many(results, [each.payload for each in results if isinstance(each, Drafted)])


def _numbered(board: Board, version: int) -> Turn:
    """The turn of a version that was asked for by its number.

    Raises:
        UnknownModel: It is neither champion nor canary.
    """
    canary = board.canary.loaded if board.canary else None
    stages: tuple[tuple[Loaded | None, Stage], ...] = ((board.champion, "champion"), (canary, "canary"))
    for loaded, stage in stages:
        if loaded is not None and loaded.version == version:
            return Turn(loaded, stage, None)
    raise UnknownModel(
        f"Version {version} of {board.model} is not served.", fix="Ask without a version.", model=board.model
    )


def _killed(desk: Desk, board: Board, asked: Asked) -> Drafted:
    ruled = rule_of(desk.spec, board, asked.request)
    return desk.draft_rule(board, asked, None, ruled, (f"the model was killed: {board.plan.killed}", *ruled.reasons))


def _unloaded(desk: Desk, board: Board, asked: Asked) -> Drafted:
    ruled = rule_of(desk.spec, board, asked.request)
    return desk.draft_rule(board, asked, None, ruled, ("no version could be loaded yet", *ruled.reasons))


def _earlier(desk: Desk, board: Board, asked: Asked) -> tuple[Loaded, Earlier] | None:
    """The answer that the same request got from a version that may still answer, and that version."""
    for each in (board.champion, board.previous):
        if each is None:
            continue
        try:
            values = each.predictor.contract.row(asked.request)
        except InvalidRequest:
            continue
        if (found := desk.earlier.get(each.version, values)) is not None:
            return each, found
    return None
