"""Dagster's web server answers its own pages and programs that are no browsers, and no page of elsewhere."""

from __future__ import annotations

import asyncio
import runpy
from typing import Any

import pytest
import uvicorn

from pilotage.cli import webserver
from pilotage.cli.webserver import OwnPages

LOCAL = {"host": "127.0.0.1:3000"}


def asked(
    headers: dict[str, str], *, method: str = "POST", path: str = "/graphql", query: str = "", url: str = ""
) -> list[dict[str, Any]]:
    """What is sent when a server with a guard in front is asked."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http" if method != "WEBSOCKET" else "websocket",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    if method != "WEBSOCKET":
        scope["method"] = method
    asyncio.run(OwnPages(app, host="127.0.0.1", url=url)(scope, None, send))  # type: ignore[arg-type]
    return sent


def status(*arguments: Any, **options: Any) -> int:
    return int(asked(*arguments, **options)[0]["status"])


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "LocalHost:8080", "[::1]:3000", "192.168.1.7"])
def test_who_asks_this_machine_by_its_own_name_or_an_address_is_answered(host: str) -> None:
    assert status({"host": host}) == 200
    assert status({"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "localhost.a.example", "", "[", "127.0.0.1.a"])
def test_a_name_that_was_made_to_resolve_to_this_machine_is_refused(host: str) -> None:
    assert status({"host": host}) == 403
    assert asked({"host": host}, method="WEBSOCKET") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:3001", "http://localhost:3000"])
def test_a_page_of_another_origin_can_change_nothing_and_open_no_socket(origin: str) -> None:
    assert status({**LOCAL, "origin": origin}) == 403
    assert asked({**LOCAL, "origin": origin}, method="WEBSOCKET") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_elsewhere_can_link_here_but_not_fetch_in_the_background(site: str) -> None:
    background = {**LOCAL, "sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    assert status(background, method="GET", path="/logs/1") == 403
    assert status({**background, "sec-fetch-mode": "navigate"}, method="GET", path="/runs/1") == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_query_is_never_carried_out_by_get(method: str) -> None:
    assert status(LOCAL, method=method, query="query=mutation{wipeAssets}") == 403
    assert status(LOCAL, method=method) == 200
    assert status(LOCAL, method=method, path="/runs", query="q=status") == 200


def test_the_address_that_people_use_is_a_name_of_ours() -> None:
    url = "https://Pilotage.example:3000/"
    assert status({"host": "pilotage.example:3000", "origin": "https://pilotage.example:3000"}, url=url) == 200
    # A proxy in front may ask us by another name.
    assert status({**LOCAL, "origin": "https://pilotage.example:3000"}, url=url) == 200
    assert status({"host": "evil.example:3000"}, url=url) == 403


def test_no_page_of_elsewhere_may_frame_it() -> None:
    assert asked(LOCAL)[0]["headers"] == [(b"x-frame-options", b"SAMEORIGIN")]


def test_what_dagster_hands_to_uvicorn_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append((app, options)))
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: uvicorn.run("Dagster's", port=3000))  # type: ignore[arg-type]
    webserver.main()
    [(app, options)] = served
    assert isinstance(app, OwnPages)
    assert options == {"port": 3000}
