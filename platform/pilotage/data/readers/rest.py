"""REST endpoints: pages of JSON records, each page tried again with back-off. All pages or none."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pilotage.data import cells
from pilotage.data.readers import Offer, Parcel, Rows
from pilotage.data.schema_changes import compare_names, refuse
from pilotage.data.source import RestEndpoint, SourceSpec
from pilotage.errors import SourceUnavailable, UnreadableFile

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

PAGES = 10_000
"""Pages of one day from which on an endpoint is taken to go in circles."""

_LONGEST_WAIT = 60.0
"""Seconds; a ``Retry-After`` beyond it is not waited for."""


class RestReader:
    """A paged endpoint.

    Args:
        sleep: Waits between attempts; a test passes one that does not.
        backoff: Seconds before the second attempt; it doubles with each, with jitter.
    """

    def __init__(
        self,
        spec: SourceSpec,
        read: RestEndpoint,
        *,
        sleep: Callable[[float], None] = time.sleep,
        backoff: float = 0.5,
    ) -> None:
        self._spec = spec
        self._read = read
        self._sleep = sleep
        self._backoff = backoff

    def offers(self, days: Sequence[date] | None, *, position: int | None = None) -> list[Offer]:  # noqa: ARG002
        daily = self._spec.daily
        if daily is None:
            return [Offer(name=_shown(self._read.url), day=None)]
        if days is None:
            last = daily.last or datetime.now(UTC).date() - timedelta(days=1)
            days = [daily.first + timedelta(days=offset) for offset in range((last - daily.first).days + 1)]
        return [Offer(name=_shown(self._url(day)), day=day) for day in days]

    def fetch(self, offer: Offer, *, position: int | None = None) -> Parcel:  # noqa: ARG002
        records = self._records(self._url(offer.day))
        digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
        return Parcel(sha256=digest, rows=lambda: self._rows(records, offer.name))

    def _url(self, day: date | None) -> str:
        return self._read.url if day is None else self._read.url.replace("{day}", day.isoformat())

    def _records(self, url: str) -> list[dict[str, Any]]:
        import httpx

        records: list[dict[str, Any]] = []
        address, seen = httpx.URL(url), set[str]()
        timeout, hooks = self._read.timeout.total_seconds(), {"request": [_only_to(address)]}
        with httpx.Client(timeout=timeout, follow_redirects=True, event_hooks=hooks) as client:
            while True:
                number = len(seen) + 1
                seen.add(str(address))
                page = self._page(client, address, number)
                records += self._of_page(page, address, number)
                following = page.get(self._read.next_page) if self._read.next_page else None
                if not following:
                    return records
                address = address.join(str(following))
                if address.host != httpx.URL(url).host:
                    raise SourceUnavailable(
                        f"{_shown(url)}, page {number} points to another host, {address.host}.",
                        fix="Ask the endpoint's owner; what is read must come from the declared host.",
                    )
                if str(address) in seen or len(seen) >= PAGES:
                    raise SourceUnavailable(
                        f"{_shown(url)} goes in circles: page {number} points to {_shown(str(address))} again.",
                        fix=f"Correct read.next_page of the source {self._spec.name}, or the endpoint.",
                    )

    def _page(self, client: httpx.Client, address: httpx.URL, number: int) -> dict[str, Any]:
        import httpx
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        def once() -> httpx.Response:
            answer = client.get(address)
            if answer.status_code == 429 or answer.status_code >= 500:
                raise _Again(f"it answered {answer.status_code}", _retry_after(answer))
            return answer

        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _Again)),
            stop=stop_after_attempt(self._read.attempts),
            wait=self._wait,
            reraise=True,
            sleep=self._sleep,
        )
        shown = f"{_shown(str(address))}, page {number}"
        try:
            answer = retrying(once)
        except (httpx.TransportError, _Again) as error:
            cause = str(error) or type(error).__name__
            raise SourceUnavailable(
                f"{shown} can't be read: {cause}, {self._read.attempts} times.",
                fix="Run it again when the endpoint is up; nothing of it was written.",
            ) from None
        except httpx.HTTPError as error:
            raise SourceUnavailable(f"{shown} can't be read: {error}.", fix="Correct read.url of the source.") from None
        if answer.is_error:
            raise SourceUnavailable(
                f"{shown} answered {answer.status_code}.", fix="Correct read.url of the source, or its access rights."
            )
        try:
            page = answer.json()
        except ValueError:
            page = None
        if not isinstance(page, dict):
            raise SourceUnavailable(
                f"{shown} is no JSON object.", fix="Look at what the endpoint answers; nothing of it was written."
            )
        return page

    def _of_page(self, page: dict[str, Any], address: httpx.URL, number: int) -> list[dict[str, Any]]:
        found = page.get(self._read.records)
        if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
            raise SourceUnavailable(
                f"{_shown(str(address))}, page {number} has no list of records in {self._read.records!r}; "
                f"it has {', '.join(page) or 'nothing'}.",
                fix=f"Correct read.records of the source {self._spec.name}.",
            )
        return found

    def _wait(self, state: RetryCallState) -> float:
        from tenacity import wait_exponential, wait_random

        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _Again) and error.after is not None:
            return min(error.after, _LONGEST_WAIT)
        return float((wait_exponential(multiplier=self._backoff, max=20) + wait_random(0, self._backoff))(state))

    def _rows(self, records: list[dict[str, Any]], name: str) -> Rows:
        if not records:
            raise UnreadableFile(f"{name} is empty: no records.", fix="Ask for it again when it has data.", file=name)
        names = list(dict.fromkeys(key for record in records for key in record))
        changes = compare_names(self._spec.columns, names, optional=self._spec.optional)
        refuse(changes, name)
        frame, retyped = cells.from_records(records, self._spec.columns)
        refuse([*retyped, *changes], name)
        return Rows(frame=frame, extra=tuple(changes))


class _Again(Exception):
    """An answer that may be better the next time."""

    def __init__(self, reason: str, after: float | None) -> None:
        self.after = after
        super().__init__(reason)


def _only_to(declared: httpx.URL) -> Callable[[httpx.Request], None]:
    """What looks at each request before it is sent, those that a redirect asks for among them."""

    def look(request: httpx.Request) -> None:
        if request.url.host != declared.host:
            raise SourceUnavailable(
                f"{_shown(str(declared))} sends us on to another host, {request.url.host}.",
                fix="Declare that address, if it is right; what is read must come from the declared host.",
            )

    return look


def _retry_after(answer: httpx.Response) -> float | None:
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _shown(url: str) -> str:
    """A URL without user, password and query, where keys stand."""
    import httpx

    return str(httpx.URL(url).copy_with(username=None, password=None, query=None, fragment=None))
