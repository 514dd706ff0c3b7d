"""Asks servers of this machine over HTTP, patient for seconds, and says in a few words what is wrong with one."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from pilotage.settings import Settings

TIMEOUT_SECONDS = 3.0


def address(settings: Settings, port: int) -> str:
    """Where a server is reached from this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def answers(url: str) -> str | None:
    """``None`` if a GET succeeds, else what is wrong in a few words."""
    try:
        get(url)
    except urllib.error.HTTPError as error:
        return reason(error)
    except (OSError, ValueError) as error:
        return unreachable(error)
    return None


def get(url: str, body: bytes | None = None, *, timeout: float = TIMEOUT_SECONDS) -> Any:
    """What a server answers: JSON, or text.

    Raises:
        OSError: It can't be reached, or its answer is cut off or no HTTP.
        ValueError: It says that it is JSON, and is not.
    """
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    # No proxy of the environment has a say in what is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            text = response.read()
            kind = response.headers.get("Content-Type") or ""
    except http.client.HTTPException as error:
        raise OSError(f"it is cut off, or no HTTP: {error!r}") from error
    return json.loads(text) if "json" in kind else text.decode(errors="replace")


def graphql(url: str, query: str, *, timeout: float = TIMEOUT_SECONDS, **variables: Any) -> dict[str, Any]:
    """One query to the Dagster web server. ``timeout`` in seconds.

    Raises:
        OSError: It can't be reached.
        ValueError: It answers something else than data.
    """
    body = json.dumps({"query": query, "variables": variables}).encode()
    answer = get(f"{url}/graphql", body, timeout=timeout)
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
        raise ValueError(f"Dagster answered {answer!r}")
    data: dict[str, Any] = answer["data"]
    return data


def reason(error: urllib.error.HTTPError) -> str:
    """What a server that answers with an error says about it."""
    try:
        told = json.loads(error.read(2_000))
    except (OSError, ValueError, http.client.HTTPException):
        told = None
    text = ""
    if isinstance(told, dict):
        text = str(told.get("message") or told.get("error") or told.get("detail") or "")
    return text[:120] or f"answers {error.code}"


def unreachable(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return "no answer yet" if isinstance(reason, ConnectionRefusedError) else f"no answer: {reason}"
