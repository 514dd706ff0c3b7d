"""Many rows of one request: answered in turns, and on the disk with one commit."""

import asyncio
import time
from collections.abc import Sequence

from pilotage.errors import LogUnavailable, PilotageError
from pilotage.runtime.answer import Answer, PredictionRecord
from pilotage.runtime.responder import Many
from pilotage.runtime.scribe import Drafted
from serving.exchange import Exchange

_AT_ONCE = 100
"""Rows that are answered before others get their turn: 3 ms. Fewer at once cost more each."""


async def answer_rows(
    exchange: Exchange, model: str, rows: Sequence[object], *, whole: bool, version: int | None = None
) -> list[Answer | PilotageError]:
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
    drafts, payloads = await _drafts(exchange, model, rows, version)
    errors = [each for each in drafts if isinstance(each, PilotageError)]
    for error in errors:
        core.metrics.failed(model, error)
    if whole and errors:
        return [each.answer if isinstance(each, Drafted) else each for each in drafts]
    lost: PilotageError | None = None
    if payloads:
        try:
            await core.log.submit(*payloads)
            exchange.committed = payloads
        except LogUnavailable as error:
            lost = error
    answers: list[Answer | PilotageError] = []
    core.metrics.timed_batch(model, (time.perf_counter_ns() - exchange.started) * 1e-9)
    for each in drafts:
        if isinstance(each, Drafted):
            answer = each.answer if lost is None else core.unlogged(each.answer, lost)
            core.metrics.answered(answer)
            core.shadows.offer(each)
            answers.append(answer)
        else:
            answers.append(each)
    return answers


async def repeat_rows(
    exchange: Exchange, model: str, rows: Sequence[object], logged: Sequence[PredictionRecord]
) -> list[Answer | PilotageError]:
    """The answers that a worker which died had logged already.

    Raises:
        LogUnavailable: It can't be told any more which row is whose.
    """
    scribe = exchange.core.responder.desks[model].scribe
    # Rows that break the contract were not logged; they break it still.
    drafts, _ = await _drafts(exchange, model, rows)
    if sum(isinstance(each, Drafted) for each in drafts) != len(logged):
        raise LogUnavailable(
            "The request was answered before, and its answers can't be put together again.",
            fix="Send it with another id if it may be answered twice.",
        )
    records = iter(logged)
    return [scribe.repeat(next(records), each.asked.request) if isinstance(each, Drafted) else each for each in drafts]


async def _drafts(exchange: Exchange, model: str, rows: Sequence[object], version: int | None = None) -> Many:
    results: list[Drafted | PilotageError] = []
    payloads: list[bytes] = []
    for first in range(0, len(rows), _AT_ONCE):
        if first:
            # Others wait for the loop as well.
            await asyncio.sleep(0)
        some = exchange.core.responder.answer_many(
            model,
            rows[first : first + _AT_ONCE],
            request_id=exchange.request_id,
            caller=exchange.caller.id,
            version=version,
        )
        results += some.results
        payloads += some.payloads
    return Many(results, payloads)
