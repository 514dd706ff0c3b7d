"""Many rows of one request: answered in turns, and on the disk with one commit."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from pilotage.errors import LogUnavailable, PilotageError
from pilotage.runtime.answer import Answer, PredictionRecord
from pilotage.runtime.answered import AnsweredRows
from pilotage.runtime.drafts import Asked, AskedRows, Drafted, DraftedRows
from pilotage.runtime.responder import Many
from pilotage.runtime.results import Joined
from serving.exchange import Exchange

if TYPE_CHECKING:
    from serving.worker import Core

_AT_ONCE = 100
"""Rows of one request that are answered before others get their turn: 2 ms. Fewer at once cost more each."""


async def answer_rows(
    exchange: Exchange, model: str, rows: Sequence[object], *, whole: bool, version: int | None = None
) -> Sequence[Answer | PilotageError]:
    """Answers rows, each with its own answer or error, in order.

    Args:
        exchange: The request.
        model: That is asked.
        rows: As sent.
        whole: Whether one bad row refuses all of them; then nothing is logged.
        version: The version that is asked for by its number.

    Raises:
        LogUnavailable: The answers can't be logged, and the model does not answer without.
    """
    core = exchange.core
    parts = await _drafts(exchange, model, rows, version)
    errors = [error for part in parts for error in _errors_of(part.results)]
    for error in errors:
        core.metrics.failed(model, error)
    if whole and errors:
        return Joined([_answers_of(part.results) for part in parts])
    lost: PilotageError | None = None
    if payloads := [payload for part in parts for payload in part.payloads]:
        try:
            await core.log.submit(*payloads)
            exchange.committed = payloads
        except LogUnavailable as error:
            lost = error
    core.metrics.timed_batch(model, (time.perf_counter_ns() - exchange.started) * 1e-9)
    answers: list[Sequence[Answer | PilotageError]] = []
    for part in parts:
        some = _answers_of(part.results)
        if lost is not None:
            some = [core.unlogged(each, lost) if isinstance(each, Answer) else each for each in some]
        _count(core, some)
        core.shadows.offer_many(part.results)
        answers.append(some)
    return Joined(answers)


async def repeat_rows(
    exchange: Exchange, model: str, rows: Sequence[object], logged: Sequence[PredictionRecord]
) -> Sequence[Answer | PilotageError]:
    """The answers that a worker which died had logged already.

    Raises:
        LogUnavailable: It can't be told any more which row is whose.
    """
    writer = exchange.core.responder.desks[model].writer
    # Rows that break the contract were not logged; they break it still.
    drafts = [each for part in await _drafts(exchange, model, rows) for each in part.results]
    if sum(isinstance(each, Drafted) for each in drafts) != len(logged):
        raise LogUnavailable(
            "The request was answered before, and its answers can't be put together again.",
            fix="Send it with another id if it may be answered twice.",
        )
    records = iter(logged)
    return [
        writer.repeat(next(records), each.asked.request) if isinstance(each, Drafted) else _told(each)
        for each in drafts
    ]


async def _drafts(exchange: Exchange, model: str, rows: Sequence[object], version: int | None = None) -> list[Many]:
    parts: list[Many] = []
    for first in range(0, len(rows), _AT_ONCE):
        some = Asked(rows[first : first + _AT_ONCE], exchange.request_id, exchange.caller.id, time.perf_counter_ns())
        part = await exchange.core.turns.answer(model, AskedRows(some), version)
        for each in part.results if not isinstance(part.results, DraftedRows) else ():
            if not isinstance(each, (Drafted, PilotageError)):
                raise each
        parts.append(part)
    return parts


def _errors_of(results: Sequence[Drafted | Exception]) -> Iterable[PilotageError]:
    if isinstance(results, DraftedRows):
        return results.errors.values()
    return [each for each in results if isinstance(each, PilotageError)]


def _answers_of(results: Sequence[Drafted | Exception]) -> Sequence[Answer | PilotageError]:
    if isinstance(results, DraftedRows):
        return results.answers
    return [each.answer if isinstance(each, Drafted) else _told(each) for each in results]


def _told(error: Exception) -> PilotageError:
    """What a row is told; ``_drafts`` raised everything else."""
    return cast("PilotageError", error)


def _count(core: "Core", answers: Sequence[Answer | PilotageError]) -> None:
    if isinstance(answers, AnsweredRows):
        core.metrics.answered_many(answers.shared, answers.kinds())
        return
    for each in answers:
        if isinstance(each, Answer):
            core.metrics.answered(each)
