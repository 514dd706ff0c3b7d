"""A request whose client chose its id is answered once: sent again, it gets the same bytes, and no second log row."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.idempotency import Fresh, Logged, Stored
from pilotage.runtime.log import singles
from serving.exchange import Exchange
from serving.protocols import Rendered

_Kept = tuple[tuple[tuple[str, str], ...], bytes]
"""Headers and body of an answer, as they are stored."""


class Replies(Protocol):
    """An endpoint whose answers can be stored."""

    model: str

    async def reply(self, exchange: Exchange, body: bytes, logged: Sequence[PredictionRecord] | None) -> Rendered:
        """Answers.

        Args:
            exchange: The request.
            body: Its body.
            logged: What was logged of it by a worker that died before it could answer: nothing is predicted or logged
                again.
        """


async def once(exchange: Exchange, endpoint: Replies, body: bytes) -> Rendered:
    """The answer of a request with an id.

    Raises:
        RequestConflict: The id was used for another content.
        LogUnavailable: It can't be known whether it was.
        TimedOut: Another one with this id is not answered yet.
    """
    scope = exchange.scope
    content = hashlib.sha256(b"\0".join((scope["path"].encode(), scope["query_string"], body))).digest()
    claim = await exchange.core.idempotency.admit(
        exchange.caller.id, exchange.request_id, content, model=endpoint.model
    )
    if isinstance(claim, Stored):
        headers, kept = msgspec.msgpack.decode(claim.body, type=_Kept)
        return Rendered(status=claim.status, headers=headers, body=kept)
    # What is on its way to the log goes on when the client's time is up: the next with this id gets its answer.
    task = asyncio.ensure_future(_claimed(exchange, endpoint, body, claim))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


async def _claimed(exchange: Exchange, endpoint: Replies, body: bytes, claim: Fresh | Logged) -> Rendered:
    idempotency = exchange.core.idempotency
    try:
        rendered = await endpoint.reply(exchange, body, claim.records if isinstance(claim, Logged) else None)
    except BaseException:
        _give_up(exchange, claim)
        raise
    if rendered.status >= 400:
        _give_up(exchange, claim)
    else:
        idempotency.finish(claim, msgspec.msgpack.encode((rendered.headers, rendered.body)), rendered.status)
    return rendered


def _give_up(exchange: Exchange, claim: Fresh | Logged) -> None:
    """The next one tries again; it is not logged again if it was."""
    if exchange.committed:
        records = [record for line in exchange.committed for record in singles(line)]
        exchange.core.idempotency.hand_on(claim, records)
    else:
        exchange.core.idempotency.abandon(claim)
