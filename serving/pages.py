"""What can be looked at with GET: what is served, by whom, and how it is described."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from pilotage.errors import PilotageError
from pilotage.runtime.access.caller import Role
from serving import explorer, openapi
from serving.endpoints import request_fields, version_named, versions
from serving.exchange import Exchange
from serving.metrics_text import CONTENT_TYPE
from serving.protocols import Rendered, invocations, json_answer, oip
from serving.worker import Core

Page = Callable[[Exchange], Awaitable[Rendered]]


class Found(NamedTuple):
    """What a path names."""

    page: Page | None
    """What answers; ``None``: BentoML."""
    roles: tuple[Role, ...]
    """It takes one of them; none for whoever asks."""
    route: str
    """Its template, for metrics."""


_READ: tuple[Role, ...] = ("read",)
_METADATA: tuple[Role, ...] = ("predict", "read")
"""Clients of the protocol ask how to ask, with the key that they predict with."""


async def models(exchange: Exchange) -> Rendered:
    """``/models``: what this worker serves."""
    return json_answer({"worker": exchange.core.name, "models": exchange.core.follower.status()})


async def workers(exchange: Exchange) -> Rendered:
    """``/workers``: what each worker of this host serves."""
    return json_answer({"workers": await asyncio.to_thread(exchange.core.heartbeat.workers)})


async def docs(exchange: Exchange) -> Rendered:
    """``/docs.json``: OpenAPI."""
    return json_answer(openapi.page(exchange.core.specs))


async def metrics(exchange: Exchange) -> Rendered:
    """``/metrics``: of all workers, for Prometheus."""
    body = await asyncio.to_thread(exchange.core.metrics.page)
    return Rendered(status=200, headers=(("content-type", CONTENT_TYPE),), body=body)


async def explore(_: Exchange) -> Rendered:
    """``/``: the OpenAPI page, to read and to try."""
    return explorer.page()


async def ping(exchange: Exchange) -> Rendered:
    """``/ping`` and ``/health``, as MLflow's scoring server has them."""
    return invocations.ping(exchange.core.follower.ready())


async def mlflow_version(_: Exchange) -> Rendered:
    """``/version``: MLflow's."""
    return invocations.mlflow_version()


async def live(_: Exchange) -> Rendered:
    """``/v2/health/live``."""
    return oip.health("live", ok=True)


async def ready(exchange: Exchange) -> Rendered:
    """``/v2/health/ready``."""
    return oip.health("ready", ok=exchange.core.follower.ready())


async def server(_: Exchange) -> Rendered:
    """``/v2``."""
    return oip.server()


PAGES: dict[str, tuple[Page | None, tuple[Role, ...]]] = {
    "/": (explore, ()),
    # Swagger UI's own files, which BentoML has: nothing of ours is in them.
    **dict.fromkeys((f"{explorer.STATIC}{name}" for name in explorer.FILES), (None, ())),
    # BentoML's description of itself.
    "/schema.json": (None, _READ),
    "/models": (models, _READ),
    "/workers": (workers, _READ),
    "/docs.json": (docs, _READ),
    "/metrics": (metrics, ()),
    "/ping": (ping, ()),
    "/health": (ping, ()),
    "/version": (mlflow_version, ()),
    "/v2": (server, ()),
    "/v2/health/live": (live, ()),
    "/v2/health/ready": (ready, ()),
}
"""By their paths: what answers, and the roles; see ``Found``."""


def find(core: Core, path: str) -> Found | None:
    """The page that a path names; ``None`` if it names none."""
    return Found(*PAGES[path], path) if path in PAGES else _of_model(core, path)


def _of_model(core: Core, path: str) -> Found | None:
    """The page of one model (``/v2/models/<model>…``)."""
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4 or parts[3] not in core.specs:
        return None
    model, rest = parts[3], parts[4:]
    asked = None
    if rest[:1] == ["versions"] and len(rest) >= 2:
        asked, rest = rest[1], rest[2:]
    if rest not in ([], ["ready"]):
        return None

    async def page(_: Exchange) -> Rendered:
        try:
            if asked is not None:
                version_named(core, model, asked)
        except PilotageError as error:
            return oip.refuse(error)
        if rest:
            return oip.model_ready(model, ok=core.follower.ready(model))
        return oip.metadata(model, request_fields(core, model, asked), versions(core, model))

    route = "/".join(("/v2/models/{model}", *(() if asked is None else ("versions", "{version}")), *rest))
    return Found(page, () if rest else _METADATA, route)
