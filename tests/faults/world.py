"""A home with released models, and the service that runs in it, so that a test can break both."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import polars as pl
import psutil

from pilotage.data.lake import Lake
from pilotage.features.online import build_online
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.settings import Settings
from pilotage.testing.bundles import START, make_bundle
from pilotage.testing.service import RunningService, release_bundle, running_service
from tests.faults.models import SPECS

SERVICE = "tests.faults.service:FaultedService"
STOCK_LEVEL = 17
PATIENCE_S = 120.0
"""Longest wait for something that must happen; on a busy machine a worker takes half a minute to start."""
T = TypeVar("T")
_MOMENT = datetime(2024, 1, 3, 10, tzinfo=UTC)


class World:
    """A home. Bundles of each model lie in ``<home>/made/<model>/<version>``."""

    def __init__(self, home: Path, *, ledger_url: str = "", workers: int = 2) -> None:
        self.settings = Settings(home=home, ledger_url=ledger_url, service_workers=workers)
        home.mkdir(parents=True, exist_ok=True)
        self.bundles: dict[tuple[str, int], Path] = {}
        for model in SPECS:
            self.release(model, 1)
        self.make_online()

    @property
    def home(self) -> Path:
        return self.settings.home

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.settings.lake)

    def make(self, model: str, version: int) -> str:
        """Trains a version that answers differently from the others, and gives its manifest's SHA-256."""
        folder = self.home / "made" / model / str(version)
        self.bundles[model, version] = folder
        return make_bundle(folder, spec=SPECS[model], seed=version)

    def release(self, model: str, version: int) -> None:
        """Makes a version, and promotes it."""
        sha256 = self.make(model, version)
        release_bundle(self.settings, model, self.bundles[model, version], sha256, version=version)

    def make_online(self, level: int = STOCK_LEVEL) -> None:
        """Builds the online store of the model that needs one."""
        known = datetime(2024, 1, 3, 8, tzinfo=START.tzinfo)
        frame = pl.DataFrame(
            {"shop": ["north"], "level": [level], "known_at": [known], "day": [date(2024, 1, 3)]},
            schema_overrides={"known_at": pl.Datetime("us", "UTC"), "level": pl.Int64},
        )
        self.lake.replace_days("validated/stock", frame, [date(2024, 1, 3)], note={})
        build_online(SPECS["tiny_state"], lake=self.lake, path=self.online, run_id="faults")

    @property
    def online(self) -> Path:
        """The online store's file."""
        return self.settings.online / "tiny_state.db"

    @contextmanager
    def serving(self, name: str = "service", *, service: str = SERVICE, ready: bool = True) -> Iterator[Serving]:
        """Starts the service; with ``ready`` waits until every worker has every model.

        Args:
            name: Of its log, ``<home>/../<name>.log``.
            service: ``MODULE:SERVICE``.
            ready: Whether to wait.
        """
        with running_service(self.settings, service=service, log=self.home.parent / f"{name}.log") as running:
            serving = Serving(running, workers=self.settings.service_workers)
            if ready:
                serving.until_complete()
            yield serving

    def logs(self) -> str:
        """What all services of this home wrote."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.home.parent.glob("*.log")))


class Serving:
    """A running service whose processes can be killed."""

    def __init__(self, running: RunningService, *, workers: int) -> None:
        self.running = running
        self.port = int(running.url.rsplit(":", 1)[1])
        self._workers = workers

    def get(self, path: str) -> Any:
        """The JSON of a page. Asked again if a worker died under it."""
        return patiently(lambda: self.running.get(path)).json()

    def post(self, path: str, content: dict[str, Any]) -> httpx.Response:
        """Sends JSON once."""
        return self.running.client.post(self.running.url + path, json=content)

    def workers(self) -> list[dict[str, Any]]:
        """The living workers, as each says about itself."""
        return [each for each in self.get("/workers")["workers"] if not is_gone(each["pid"])]

    def until_complete(self) -> list[dict[str, Any]]:
        """Waits until every worker is there and has every model."""
        return until(
            self.workers,
            lambda found: len(found) == self._workers and all(m["ready"] for each in found for m in each["models"]),
            what="all workers ready",
        )

    def until_sequence(self, model: str, sequence: int) -> None:
        """Waits until every worker says that it goes by a ledger event."""

        def at(found: list[dict[str, Any]]) -> bool:
            entries = [m for each in found for m in each["models"] if m["model"] == model]
            return len(entries) == self._workers and all(m.get("sequence", 0) >= sequence for m in entries)

        until(self.workers, at, what=f"all workers at event {sequence}")

    def kill_workers(self, pids: list[int]) -> None:
        """Ends workers as a crash would, and waits until they are gone."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(map(is_gone, pids)), lambda ended: ended, what="the workers are gone")

    def kill_everything(self) -> int:
        """Ends the service and its workers; how many of these."""
        arbiter = psutil.Process(self.running.process.pid)
        family = arbiter.children(recursive=True)
        workers = [each["pid"] for each in self.workers()]
        # The arbiter first: it would start new ones.
        self.running.process.kill()
        self.running.process.wait()
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=PATIENCE_S)
        return len(workers)


def order(number: int, tag: str = "A") -> dict[str, Any]:
    """The request of a number: nobody else's entity, and values that follow from it."""
    return {
        "order_id": f"{tag}-{number}",
        "amount": (number * 7919 % 100_000) / 100,
        "items": 1 + number % 99,
        "express": number % 2 == 0,
        "shop": "north" if number % 3 else "south",
        "courier": None if number % 5 == 0 else f"c{number % 4}",
        "ordered_at": (_MOMENT + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def expected(bundle: Bundle, numbers: list[int], *, state: bool = True) -> list[float]:
    """What a version says to the orders of these numbers, computed apart from the service."""
    rows = pl.DataFrame([order(number) for number in numbers], schema_overrides={"courier": pl.String})
    rows = rows.with_columns(pl.col("ordered_at").str.to_datetime(time_unit="us", time_zone="UTC"))
    if bundle.asof:
        level = pl.when(pl.lit(state) & (pl.col("shop") == "north")).then(STOCK_LEVEL)
        rows = rows.with_columns(level.cast(pl.Int64).alias("stock_level"))
    found: list[float] = bundle.score(rows.select(*bundle.view.request_types, *bundle.state_types())).tolist()
    return found


def opened(world: World) -> dict[tuple[str, int], Bundle]:
    """The bundles of a world."""
    return {key: read_bundle(folder) for key, folder in world.bundles.items()}


def until(look: Callable[[], T], accept: Callable[[T], bool], *, what: str) -> T:
    """Looks again and again, until what is there is accepted.

    Raises:
        TimeoutError: It never is.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = look()
        if accept(found):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: still {str(found)[:2000]}")
        time.sleep(0.05)


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Asks until there is an answer, however often the connection breaks."""

    def attempt() -> httpx.Response | None:
        try:
            return ask()
        except httpx.TransportError:
            return None

    answer = until(attempt, lambda found: found is not None, what="an answer")
    assert answer is not None
    return answer


def is_gone(pid: int) -> bool:
    """Whether a process has ended; its parent may not have noticed yet."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
