"""Sends requests and outcomes to the running service: in order, a bounded number at once, again when it must.

What is sent again has the id that it had, so nothing is predicted, logged or counted twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from pilotage.errors import ConfigError, ServingError

RETRIES = 8
"""Attempts of one request; the pauses between them add up to half a minute."""
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 8.0
_LOOK_S = 0.2
"""Seconds between two looks, in a pause, whether to stop."""
_AGAIN = frozenset({429, 500, 502, 503, 504})
OUTCOMES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request with its answer."""

    key: str
    """What the caller knows it by."""
    answer: dict[str, Any]
    latency_ms: float
    attempts: int


class Sender:
    """A client of one model's routes."""

    def __init__(self, url: str, model: str, *, at_once: int, api_key: str | None = None) -> None:
        """Prepares to send.

        Args:
            url: Of the service.
            model: Whose routes.
            at_once: Requests that wait for their answer at most.
            api_key: Sent with each, if the service wants one.
        """
        self._url, self._model, self._at_once = url, model, at_once
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._random = random.Random(0)  # noqa: S311 - spreads pauses, protects nothing

    def predict(
        self,
        requests: Sequence[tuple[str, str, Mapping[str, Any]]],
        *,
        answered: Callable[[Sent], None],
        stop: Callable[[], bool] = lambda: False,
        pace: Callable[[int], float] = lambda _: 0.0,
    ) -> int:
        """Sends requests in their order.

        Args:
            requests: Key, request id and body of each.
            answered: Called with each answer as it comes.
            stop: Asked before each is sent; those under way are waited for.
            pace: Seconds to wait before the request of this position, for a replay that is to be watched.

        Returns:
            How many were sent.

        Raises:
            ServingError: One was refused, or got no answer after all its attempts.
        """
        return asyncio.run(self._predict(requests, answered, stop, pace))

    def tell(self, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Tells outcomes. To tell one again changes nothing.

        Raises:
            ServingError: They were not taken.
        """
        path = f"/{self._model}/outcomes"

        async def all_of_them() -> None:
            async with self._client() as client:
                for first in range(0, len(outcomes), OUTCOMES_AT_ONCE):
                    await self._post(client, path, {"outcomes": list(outcomes[first : first + OUTCOMES_AT_ONCE])}, {})

        asyncio.run(all_of_them())

    async def _predict(
        self,
        requests: Sequence[tuple[str, str, Mapping[str, Any]]],
        answered: Callable[[Sent], None],
        stop: Callable[[], bool],
        pace: Callable[[int], float],
    ) -> int:
        sent = 0
        slots = asyncio.Semaphore(self._at_once)
        path = f"/{self._model}/predict"

        async def one(key: str, request_id: str, body: Mapping[str, Any]) -> None:
            try:
                answer, latency_ms, attempts = await self._post(client, path, body, {"x-request-id": request_id})
                answered(Sent(key=key, answer=answer, latency_ms=latency_ms, attempts=attempts))
            finally:
                slots.release()

        async with self._client() as client, _Group() as group:
            for position, (key, request_id, body) in enumerate(requests):
                await _sleep(pace(position), lambda: stop() or group.failed)
                await slots.acquire()
                if stop() or group.failed:
                    break
                group.start(one(key, request_id, body))
                sent += 1
        return sent

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=self._at_once, max_keepalive_connections=self._at_once)
        return httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=35.0, limits=limits)

    async def _post(
        self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[dict[str, Any], float, int]:
        told = ""
        for attempt in range(1, RETRIES + 1):
            began = time.perf_counter()
            try:
                response = await client.post(path, json=body, headers=headers)
            except httpx.TransportError as error:
                told = f"{type(error).__name__}: {error}"
                pause = None
            else:
                if response.status_code < 300:
                    return response.json(), (time.perf_counter() - began) * 1000, attempt
                told = f"{response.status_code}: {response.text[:300]}"
                if response.status_code == 401:
                    raise ConfigError(
                        f"{self._url} wants an API key: {told}", fix="Give one with the roles predict and outcomes."
                    )
                if response.status_code not in _AGAIN:
                    raise ServingError(f"{path} refused a request: {told}", fix="See what it says.", path=path)
                pause = _asked_pause(response)
            if attempt < RETRIES:
                usual = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * (0.5 + self._random.random())
                await asyncio.sleep(usual if pause is None else max(pause, usual))
        raise ServingError(
            f"{self._url}{path} did not answer in {RETRIES} attempts; the last time: {told}",
            fix="See that the service runs (pilotage up), and start the replay again: it goes on where it was.",
            path=path,
        )


async def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    """Sleeps, but no longer than until it is told to stop: slowed down, a quiet hour of the night lasts minutes."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop():
        await asyncio.sleep(min(left, _LOOK_S))


class _Group:
    """Tasks that end together; the first that fails lets no other one start."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        return self._error is not None

    def start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error

    async def __aenter__(self) -> _Group:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._error is not None:
            raise self._error


def _asked_pause(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
