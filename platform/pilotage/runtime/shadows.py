"""Shadow versions: they predict on the same requests after the answer is out, and nobody waits for them.

Their predictions go to the log and nowhere else. The queue is bounded; what does not fit is dropped, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pilotage.runtime.answer import Record, ShadowRecord
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.drafts import Drafted, DraftedRows
from pilotage.runtime.fallback import told
from pilotage.runtime.prepared import Scored

WAITING = 1_000
"""Requests that may wait for their shadows; 30 ms of work."""
_AT_ONCE = 32
"""Requests that a shadow sees before others get their turn; 1 ms. Together they take less than one by one."""


class _Work(NamedTuple):
    """A request that was answered."""

    board: Board
    request: Mapping[str, Any]
    prediction_id: str


class Shadows:
    """Runs shadow versions on a worker's loop, a few requests at a turn, so that what is asked for goes first."""

    def __init__(
        self,
        *,
        encode: Callable[[Record], bytes],
        log: Callable[[bytes], bool],
        report: Callable[[str], None],
        count: Callable[[str, int, str], None] = lambda *_: None,
    ) -> None:
        """Makes an empty queue.

        Args:
            encode: Writes a record of the prediction log.
            log: Takes it, without waiting; says whether it did.
            report: Called with a sentence when a shadow fails.
            count: Told of each: model, version, and ``answered``, ``error`` or ``dropped``.
        """
        self._encode = encode
        self._log = log
        self._report = report
        self._count = count
        self._waiting: deque[_Work] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self.dropped = 0
        """Requests that no shadow saw, and records that the log did not take."""

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says where to run."""
        self._loop = loop

    def offer(self, drafted: Drafted) -> None:
        """Takes a request that was answered, if its model has shadows. Whatever goes wrong, the answer stands."""
        self.offer_many([drafted])

    def offer_many(self, drafts: Sequence[Drafted | Exception]) -> None:
        """``offer`` of several that were answered together."""
        if type(drafts) is DraftedRows and not _has_shadows(drafts.board):
            return
        try:
            for each in drafts:
                if isinstance(each, Drafted):
                    self._offer(each)
        except Exception as error:
            # A fault of ours, and no reason to fail a request that is answered and in the log.
            self._report(f"{len(drafts)} answered requests could not be offered to shadow versions: {error!r}")

    def _offer(self, drafted: Drafted) -> None:
        if not _has_shadows(drafted.board):
            return
        if len(self._waiting) >= WAITING or self._loop is None:
            self.dropped += 1
            for loaded in drafted.board.shadows:
                self._count(drafted.board.model, loaded.version, "dropped")
            return
        self._waiting.append(_Work(drafted.board, drafted.asked.request, drafted.answer.prediction_id))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._waiting:
            return
        board = self._waiting[0].board
        works = [self._waiting.popleft()]
        while self._waiting and self._waiting[0].board is board and len(works) < _AT_ONCE:
            works.append(self._waiting.popleft())
        for loaded in board.shadows:
            for record in self._predict(loaded, board, works):
                taken = self._log(self._encode(record))
                if not taken:
                    self.dropped += 1
                result = "dropped" if not taken else "answered" if record.error is None else "error"
                self._count(record.model, record.version, result)
        if self._waiting and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _predict(self, loaded: Loaded, board: Board, works: Sequence[_Work]) -> Iterator[ShadowRecord]:
        started = time.perf_counter_ns()
        results = self._results(loaded, board, works)
        latency_us = (time.perf_counter_ns() - started) // 1000 // len(works)
        at = time.time_ns() // 1000
        for work, result in zip(works, results, strict=True):
            scored, error = (result, None) if isinstance(result, Scored) else (None, result)
            yield ShadowRecord(
                prediction_id=work.prediction_id,
                model=board.model,
                version=loaded.version,
                at=at,
                probability=scored.probability if scored else None,
                decision=scored.decision if scored else None,
                referred=scored.referred if scored else False,
                error=error,
                latency_us=latency_us,
            )

    def _results(self, loaded: Loaded, board: Board, works: Sequence[_Work]) -> list[Scored | str]:
        """What a version says to each request, or why it says nothing."""
        if len(works) > 1 and loaded.breaker.allows():
            try:
                many = loaded.predictor.score_many([work.request for work in works], board.state)
            except Exception:
                # Each is asked alone, so that one of them does not fail the others.
                loaded.breaker.untried()
                many = []
            if many:
                return [self._said(loaded, board, result) for result in many]
        return [self._alone(loaded, board, work) for work in works]

    def _alone(self, loaded: Loaded, board: Board, work: _Work) -> Scored | str:
        if not loaded.breaker.allows():
            return "not asked for a while, since it failed repeatedly"
        try:
            return self._said(loaded, board, loaded.predictor.score_one(work.request, board.state))
        except Exception as failure:
            return self._said(loaded, board, failure)

    def _said(self, loaded: Loaded, board: Board, result: Scored | Exception) -> Scored | str:
        if isinstance(result, Scored):
            loaded.breaker.succeeded()
            return result
        if loaded.failed(result):
            self._report(f"{board.model}: shadow version {loaded.version} failed: {result}")
        return told(result)


def _has_shadows(board: Board) -> bool:
    return bool(board.shadows) and board.plan.killed is None
