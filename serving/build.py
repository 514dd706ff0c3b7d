"""Builds the BentoML service of some models: their typed routes, and our gateway in front of them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import bentoml  # noqa: TID253 - serving is BentoML's shell
from starlette.types import ASGIApp

from pilotage.runtime.baked import Baked
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from serving.connections import use_connections
from serving.gateway import Gateway
from serving.parent_death import die_with_parent
from serving.protocols import decode
from serving.schemas import Answer, Body, request_model
from serving.worker import Core

_SETTLE_S = 30.0
"""Longest time that a worker loads before it takes requests all the same."""


class HostedService(bentoml.Service[Any]):  # type: ignore[misc]
    """A BentoML service whose requests come to our gateway first, and to BentoML's application after it.

    ``add_asgi_middleware`` would put the gateway behind BentoML's own middleware, of which one can't be turned off: it
    makes a task and a timer for each request, which cost as much as the prediction.
    """

    __slots__ = ("gateway",)

    gateway: Callable[[ASGIApp], Gateway]

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application that the worker serves, on connections of our own."""
        gateway = self.gateway(super().to_asgi(is_main=is_main))
        use_connections(gateway.express)
        return gateway


class _Worker:
    """What BentoML makes in each worker process. Its routes are added by ``build``, since they depend on the models."""

    specs: Mapping[str, ModelSpec]
    baked: Baked | None
    core: Core | None = None

    def __init__(self) -> None:
        """Runs in the worker, never at import: settings are read, threads and metrics are made here."""
        die_with_parent()
        type(self).core = Core(self.specs, Settings.load(), baked=self.baked)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Begins to answer: not before it can, since who says no at once gets most of the requests of its fellows."""
        if self.core is not None:
            self.core.start()
            await asyncio.to_thread(self.core.follower.until_settled, _SETTLE_S)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Ends after the requests in flight."""
        core, type(self).core = self.core, None
        if core is not None:
            await core.stop()

    async def __is_ready__(self) -> bool:
        """BentoML's ``/readyz``: every model can answer, with the state that it needs."""
        return self.core is not None and self.core.follower.ready()


def build(specs: Mapping[str, ModelSpec], *, name: str = "PredictionService", baked: Baked | None = None) -> Any:
    """Makes the service.

    Args:
        specs: Model → its declaration.
        name: Name of the service.
        baked: Plans and bundles that came with the code, where there is no ledger.

    Returns:
        A ``bentoml.Service``; bind it to a module's variable of the same name.
    """
    routes = {f"predict_{model}": _route(spec) for model, spec in specs.items()}
    doc = "Predictions of the champions.\n\n" + "\n".join(
        f"- `POST /{model}/predict`: {spec.title}" for model, spec in specs.items()
    )
    inner: type[_Worker] = type(name, (_Worker,), {"__doc__": doc, "specs": dict(specs), "baked": baked, **routes})
    # Requests are counted by our own metrics, which know routes and not addresses; a log line each would fill the disk.
    off: Any = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}
    service = bentoml.service(name=name, service_class=HostedService, workers=1, **off)(inner)
    service.gateway = lambda app: Gateway(app, specs=specs, core=lambda: inner.core)
    return service


def _route(spec: ModelSpec) -> Any:
    async def predict(self: _Worker, request: Body, /) -> Answer:
        # For clients in the same process; requests over HTTP are the gateway's.
        if (core := self.core) is None:
            raise RuntimeError("The worker is not running.")
        drafted = core.responder.answer(spec.name, decode(request.raw), request_id=core.responder.ids(), caller="")
        return await core.settle(drafted)  # type: ignore[return-value]

    predict.__doc__ = f"{spec.title}. {spec.objective}"
    predict.__name__ = f"predict_{spec.name}"
    predict.__annotations__ = {"request": request_model(spec), "return": Answer}
    api: Callable[[Callable[..., Awaitable[Any]]], Any] = bentoml.api(route=f"/{spec.name}/predict")
    return api(predict)
