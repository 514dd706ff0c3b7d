"""Dagster's web server, for nobody but who sits at this machine: a page of elsewhere in the same browser gets nothing.

Dagster's own has no login, and carries out mutations for whoever reaches it, by GET too, without a look at ``Host`` or
``Origin``. Any page that somebody visits can send such a request to loopback. In ``Host``, ``Origin`` and
``Sec-Fetch-Site`` a browser says for which page it asks, and no page can forge these.

python -m pilotage.cli.webserver [arguments of dagster-webserver]
"""

from __future__ import annotations

import runpy
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from pilotage.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_FIX = "Use http://localhost and the port, or set PILOTAGE_DAGSTER_URL to the address that people use."


class OwnPages:
    """An ASGI application that only its own pages, and programs that are no browsers, may ask.

    Args:
        app: What it guards.
        host: Name or address that the server listens on.
        url: Where people reach it, if not there.
    """

    def __init__(self, app: App, *, host: str, url: str) -> None:
        self._app = app
        told = urlsplit(url.lower())
        self._names = {"localhost", host.lower(), told.hostname}
        self._proxied = told.netloc or None
        """What a page says it is of, if a proxy in front names us otherwise than people do."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(scope)) is not None:
            await _refuse(scope["type"], refusal, send)
            return

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Nor may it be shown within a page of elsewhere, and clicked there.
                message["headers"] = [*message.get("headers", ()), (b"x-frame-options", b"SAMEORIGIN")]
            await send(message)

        await self._app(scope, receive, unframed)

    def _refusal(self, scope: Message) -> str | None:
        """Why a request is refused; ``None`` if it is not."""
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            return f"{host[:100]!r} is no name of this machine. {_FIX}"
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] not in (host, self._proxied):
            return f"The page {origin[:100]!r} is from elsewhere. {_FIX}"
        fetched = headers.get(b"sec-fetch-mode", "navigate") != "navigate"
        if fetched and headers.get(b"sec-fetch-site") in ("cross-site", "same-site"):
            return "The page is from elsewhere."
        if scope.get("method", "POST") != "POST" and "/graphql" in scope["path"] and scope["query_string"]:
            return "Queries are sent by POST."
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether it is an address, or a name of ours: only a name can be made to resolve to this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


async def _refuse(kind: str, why: str, send: Send) -> None:
    if kind == "websocket":
        # Before it is accepted: the client gets 403.
        await send({"type": "websocket.close", "code": 1008})
        return
    body = f"Refused: {why}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Runs Dagster's web server, which hands its application to uvicorn, with a guard in front of it."""
    settings = Settings.load()
    run: Callable[..., None] = uvicorn.run

    def guarded(app: App, **options: Any) -> None:
        run(OwnPages(app, host=settings.host, url=settings.dagster_url), **options)

    uvicorn.run = guarded  # type: ignore[assignment]
    runpy.run_module("dagster_webserver", run_name="__main__")


if __name__ == "__main__":
    main()
