"""What every request goes through, whichever way it came: who asks, how often, what an error says, and the counting."""

import time
from collections.abc import Iterable

from pilotage.errors import NotAllowed, RateLimited, Unauthenticated
from pilotage.runtime.access import admission
from pilotage.runtime.access.caller import Role
from serving.endpoints import Endpoint, Many
from serving.exchange import Exchange
from serving.operate import refused_status
from serving.protocols import Rendered, oip
from serving.replies import Reply, as_told, error_reply
from serving.tracing import Traced


def identify(exchange: Exchange, role: Role | None) -> None:
    """Finds out who asks.

    Args:
        exchange: The request.
        role: That it takes; ``None`` for any or none.

    Raises:
        Unauthenticated: They have no key that is valid now.
        NotAllowed: They don't have the role.
    """
    scope = exchange.scope
    client = scope["client"]
    exchange.caller = admission.admit(exchange.core.ring, scope["headers"], client[0] if client else None)
    if role is not None:
        exchange.caller.require(role)


def identify_for(exchange: Exchange, roles: tuple[Role, ...]) -> None:
    """``identify``, where each of some roles will do; the first one is asked for.

    Raises:
        Unauthenticated: As there.
        NotAllowed: They have none of them.
    """
    identify(exchange, None)
    if exchange.caller.roles.isdisjoint(roles):
        exchange.caller.require(roles[0])


def admit(exchange: Exchange, role: Role) -> None:
    """``identify``, and counts the request for its key.

    Before the body is read and parsed, which has a cost even if it makes no sense; a batch counts its other rows when
    they are known.

    Raises:
        Unauthenticated: As there.
        NotAllowed: As there.
        RateLimited: The key has used up what it may ask for now.
    """
    identify(exchange, role)
    exchange.core.limiter.take(exchange.caller)


def refuse(
    exchange: Exchange,
    endpoint: Endpoint | None,
    error: Exception,
    *,
    status: int | None = None,
    more: Iterable[tuple[bytes, bytes]] = (),
) -> Reply:
    """Counts an error, and gives its answer in the words of the route's protocol. ``finish`` comes after.

    Args:
        exchange: The request.
        endpoint: That was asked; ``None`` for a page, or for nothing that there is.
        error: What went wrong.
        status: Another than the error's own.
        more: Further headers.
    """
    metrics = exchange.core.metrics
    if isinstance(error, RateLimited) and endpoint is not None:
        metrics.rate_limited()
    elif isinstance(error, Unauthenticated):
        metrics.turned_away("unauthenticated")
    elif isinstance(error, NotAllowed):
        metrics.turned_away("not_allowed")
    elif endpoint is not None and endpoint.role == "predict":
        metrics.failed(endpoint.model, error)
    status = status or refused_status(error)
    reply = error_reply(
        error,
        request_id=exchange.request_id.encode(),
        status=status,
        model=exchange.model,
        more=more,
        rendered=_in_its_words(endpoint, exchange.scope["path"], error, status),
    )
    exchange.status, exchange.error = reply.status, type(error).__name__
    return reply


def finish(exchange: Exchange, route: str | None) -> None:
    """Counts a request that was answered, and traces one to a model.

    Args:
        exchange: The request.
        route: Template of its route; ``None`` if it came to none.
    """
    core = exchange.core
    core.metrics.requested(route or "other", exchange.status)
    if core.tracing is None or route is None or exchange.model is None:
        return
    ended = time.time_ns()
    parent = exchange.traceparent
    core.tracing.record(
        Traced(
            method=exchange.scope["method"],
            route=route,
            status=exchange.status,
            request_id=exchange.request_id,
            traceparent=parent.decode("latin-1") if parent is not None else None,
            started=ended - (time.perf_counter_ns() - exchange.started),
            ended=ended,
            model=exchange.model,
            answer=exchange.answer,
            seconds=exchange.seconds,
            error=exchange.error,
        )
    )


def _in_its_words(endpoint: Endpoint | None, path: str, error: Exception, status: int | None) -> Rendered | None:
    """An error in the form of the route's protocol; ``None`` for our own."""
    told = as_told(error)
    if endpoint is not None:
        # In our own words a defect is told without the route, which may have it.
        return endpoint.refuse(told, status=status) if told is error or isinstance(endpoint, Many) else None
    return oip.refuse(told, status=status) if path.startswith("/v2/") else None
