"""The ASGI application in front of BentoML's: it answers our routes, and leaves the rest to BentoML.

For each request, in this order: is there room, who asks, may they, how often, and then the endpoint. Every error
becomes an answer here, and nowhere else. Nothing of Starlette's runs for our routes: its request and response objects,
and BentoML's middleware, cost more than the prediction.
"""

import asyncio
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from pilotage.errors import InvalidRequest, PilotageError, UnknownModel
from pilotage.spec import ModelSpec
from serving import logs, pages, reception
from serving.connections import hang_up
from serving.endpoints import Endpoint, Many, Outcomes, Predict, send_rendered, takes
from serving.exchange import Disconnected, Exchange
from serving.express import Express
from serving.in_flight import timed_out
from serving.operate import ACTIONS, Operate
from serving.protocols import batch, invocations, oip
from serving.replies import send_reply
from serving.worker import Core

_HEALTH = frozenset(("/livez", "/readyz", "/healthz"))
_BATCH = "/{model}/predict/batch"
_NOT_JSON = "Send it with Content-Type: application/json."


def endpoints(specs: Mapping[str, ModelSpec]) -> dict[str, Endpoint]:
    """Path → endpoint, for every model."""
    found: dict[str, Endpoint] = {}
    for name, spec in specs.items():
        found[f"/{name}/predict"] = Predict(name)
        largest = spec.serving.largest_batch
        found[f"/{name}/predict/batch"] = Many(name, batch, _BATCH, largest=largest)
        found[f"/{name}/outcomes"] = Outcomes(spec)
        found[f"/{name}/invocations"] = Many(name, invocations, "/{model}/invocations", largest=largest)
        found[f"/v2/models/{name}/infer"] = Many(name, oip, "/v2/models/{model}/infer", largest=largest)
        for action in ACTIONS:
            found[f"/admin/{name}/{action}"] = Operate(name, action)
    if len(specs) == 1:
        [(name, spec)] = specs.items()
        found["/invocations"] = Many(name, invocations, "/invocations", largest=spec.serving.largest_batch)
    return found


class Gateway:
    """See above."""

    def __init__(self, app: ASGIApp, *, specs: Mapping[str, ModelSpec], core: Callable[[], Core | None]) -> None:
        """Prepares the routes.

        Args:
            app: BentoML's.
            specs: The models.
            core: Gives the worker's parts, once it has started.
        """
        self._app = app
        self._specs = specs
        self._core = core
        self._endpoints = endpoints(specs)
        self._of_models = {each.route.removeprefix("/{model}/") for each in self._endpoints.values()}
        single = {path: each for path, each in self._endpoints.items() if isinstance(each, Predict)}
        self.express = Express(single, core)
        """For the connections: plain predictions need not come here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (core := self._core()) is None:
            await self._app(scope, receive, send)
            return
        endpoint = self._endpoints.get(scope["path"]) or self._of_version(scope["path"])
        if endpoint is None:
            await self._look(core, scope, receive, send)
            return
        exchange = Exchange(core, scope, receive, send)
        exchange.model = endpoint.model
        try:
            exchange.read_headers()
            # Of this task alone, which is the request's.
            logs.request_id.set(exchange.request_id)
            exchange.patience = core.in_flight.enter(_current_task().cancel)
        except PilotageError as error:
            await self._refuse(exchange, endpoint, error)
            return
        core.metrics.in_flight += 1
        try:
            await self._answer(exchange, endpoint)
        except asyncio.CancelledError:
            if not exchange.patience.over:
                raise
            _current_task().uncancel()
            if not hang_up(send):
                await self._refuse(exchange, endpoint, timed_out())
        finally:
            core.metrics.in_flight -= 1
            core.in_flight.leave(exchange.patience)

    def _of_version(self, path: str) -> Endpoint | None:
        """The endpoint of a version that is named by its number."""
        parts = path.split("/")
        if len(parts) != 7 or parts[:3] + parts[4:5] + parts[6:] != ["", "v2", "models", "versions", "infer"]:
            return None
        if (spec := self._specs.get(parts[3])) is None:
            return None
        route = "/v2/models/{model}/versions/{version}/infer"
        return Many(spec.name, oip, route, largest=spec.serving.largest_batch, version=parts[5])

    async def _answer(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Answers, if only with an error."""
        try:
            await self._serve(exchange, endpoint)
        except Disconnected:
            return
        except Exception as error:
            await self._refuse(exchange, endpoint, error)

    async def _serve(self, exchange: Exchange, endpoint: Endpoint) -> None:
        reception.admit(exchange, endpoint.role)
        exchange.check_headers()
        if (method := exchange.scope["method"]) != "POST":
            wrong = InvalidRequest(f"{method[:20]} does nothing here.", fix="Send it by POST.")
            await self._refuse(exchange, endpoint, wrong, status=405, more=((b"allow", b"POST"),))
            return
        if not takes(endpoint, exchange.kind):
            wrong = InvalidRequest(f"The body is {exchange.kind.decode('latin-1')[:100]!r}.", fix=_NOT_JSON)
            await self._refuse(exchange, endpoint, wrong, status=415)
            return
        if exchange.scope["query_string"] and not isinstance(endpoint, Predict):
            # Only that one has parameters, and reads them itself.
            exchange.query()
        await endpoint.answer(exchange)
        reception.finish(exchange, endpoint.route)

    async def _look(self, core: Core, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything that is not an endpoint: pages, health, and what BentoML has."""
        path = scope["path"]
        if path in _HEALTH:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(core, scope, receive, send)
        found = pages.find(core, path)
        route = found.route if found is not None else None
        try:
            if found is None:
                await self._know_nothing(exchange)
                return
            page, roles, _ = found
            exchange.read_headers()
            # Who watches over the service is told how it is, whatever they call their question.
            if roles:
                reception.identify_for(exchange, roles)
                exchange.check_headers()
            if page is None:
                await self._app(scope, receive, send)
                return
            if scope["method"] not in ("GET", "HEAD"):
                wrong = InvalidRequest(f"{scope['method'][:20]} does nothing here.", fix="Ask for it by GET.")
                await self._refuse(exchange, None, wrong, status=405, more=((b"allow", b"GET, HEAD"),), route=route)
                return
            rendered = await page(exchange)
            exchange.status = rendered.status
            await send_rendered(exchange, rendered)
            reception.finish(exchange, route)
        except Exception as error:
            await self._refuse(exchange, None, error, route=route)

    async def _know_nothing(self, exchange: Exchange) -> None:
        """Says that there is nothing, to who has a key.

        Raises:
            UnknownModel: The path is one of ours, of a model that there is not.
        """
        exchange.read_headers()
        reception.identify(exchange, None)
        exchange.check_headers()
        path = exchange.scope["path"]
        self._require_known(path)
        nothing = InvalidRequest(f"There is nothing at {path[:100]!r}.", fix="Look at / for what there is.")
        await self._refuse(exchange, None, nothing, status=404)

    def _require_known(self, path: str) -> None:
        """Says which models there are, to who asks for another.

        Raises:
            UnknownModel: The path is one of ours, of a model that there is not.
        """
        parts = path.strip("/").split("/")
        name = None
        if parts[0] == "admin" and len(parts) == 3 and parts[2] in ACTIONS:
            name = parts[1]
        elif parts[:2] == ["v2", "models"] and len(parts) >= 3:
            name = parts[2]
        elif "/".join(parts[1:]) in self._of_models:
            name = parts[0]
        if name is not None and name not in self._specs:
            raise UnknownModel(f"There is no model {name[:100]!r}.", fix=f"Use one of: {', '.join(self._specs)}.")

    async def _refuse(
        self,
        exchange: Exchange,
        endpoint: Endpoint | None,
        error: Exception,
        *,
        status: int | None = None,
        more: tuple[tuple[bytes, bytes], ...] = (),
        route: str | None = None,
    ) -> None:
        """Answers an error; of a page, with its route."""
        reply = reception.refuse(exchange, endpoint, error, status=status, more=more)
        await send_reply(exchange.send, reply.status, reply.body, headers=reply.headers)
        reception.finish(exchange, endpoint.route if endpoint is not None else route)


def _current_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("A request of ASGI is a task.")
    return task
