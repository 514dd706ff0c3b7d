"""``pilotage up``: everything on one machine, watched and stopped in order."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

import psutil

from pilotage.cli import code_server, home, servers
from pilotage.cli.asking import answers
from pilotage.cli.board import Board, PlainBoard, make_board
from pilotage.cli.bootstrap import Bootstrap
from pilotage.cli.console import out, say
from pilotage.cli.ports import require_free
from pilotage.cli.supervisor import Lasting, Supervised, Supervisor
from pilotage.settings import Settings

TICK_SECONDS = 0.2
CHAMPIONS_SECONDS = 5.0
"""Seconds between two looks at what is served."""
ENDING_SECONDS = 20.0
"""Seconds that programs of an earlier start, which was killed, may still need to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags of the command."""

    sample: bool = True
    exit_when_ready: bool = False
    plain: bool = False


class Orders:
    """Counts orders to stop: Ctrl-C, SIGTERM, the terminal going away."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        # Our own handlers also undo the SIGINT that a shell ignores for jobs in its background.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def up(settings: Settings, options: Options) -> int:
    """Runs until it is told to stop.

    Returns:
        Exit code: 0 after a clean stop (or when it already runs), 1 when something had failed.
    """
    orders = Orders()
    orders.install()
    home.prepare(settings)
    lock = home.HomeLock(settings)
    if (running := lock.take()) is not None:
        _already(settings, running, options)
        return 0
    try:
        if lock.unclean:
            servers.end_leftovers(settings)
        code_server.prepare(settings)
        # Programs of a start that was killed end by themselves, within seconds.
        require_free(settings, patience=ENDING_SECONDS if lock.unclean else 0, given_up=lambda: orders.count > 0)
        return 0 if orders.count else _Up(settings, options, orders, lock).run()
    finally:
        lock.release()


def _already(settings: Settings, running: home.Instance, options: Options) -> None:
    if options.exit_when_ready:
        print(json.dumps({"already_running": True, "pid": running.pid, "addresses": running.addresses}))
        return
    where = f"{settings.home} (process {running.pid})." if running.pid else f"{settings.home}."
    out().print(f"Pilotage already runs on {where}", markup=False)
    for name, url in running.addresses.items():
        out().print(f"  {name:<20} {url}", highlight=False)
    out().print("Stop it with Ctrl-C where it runs" + (f", or: kill {running.pid}" if running.pid else ""))


class _Up:
    """One run of the command, from the lock to the last process."""

    def __init__(self, settings: Settings, options: Options, orders: Orders, lock: home.HomeLock) -> None:
        self._settings = settings
        self._options = options
        self._orders = orders
        self._lock = lock
        self._began = time.monotonic()
        self._board: Board = (
            PlainBoard(sys.stderr) if options.exit_when_ready else make_board(out(), plain=options.plain)
        )
        self._supervisor = Supervisor()
        add = self._supervisor.add
        self._code = add(servers.code(settings))
        self._dagster = add(servers.dagster(settings))
        self._mlflow = add(servers.mlflow(settings))
        self._reports = add(servers.reports(settings))
        self._service = add(servers.service(settings, self._led))
        self._daemon = add(servers.daemon(settings))
        self._alerts = add(servers.watch(settings))
        self._board.servers = self._supervisor.programs
        self._bootstrap = Bootstrap(settings, self._board, before_runs=self._runs_may_begin)
        self._trouble = ""
        self._ready = False
        self._serving_after: float | None = None
        self._swept = False
        self._next_look = 0.0

    def run(self) -> int:
        self._lock.describe(addresses=self._addresses())
        with self._board.shown():
            self._supervisor.watch()
            main = threading.Thread(target=self._guarded, name="bootstrap", daemon=True)
            main.start()
            try:
                self._watch(main)
            finally:
                failures = self._failures()
                self._board.headlined("Stopping")
                self._stop(main)
        if self._options.exit_when_ready:
            print(json.dumps(self._summary(failures)))
        for failure in failures:
            say(failure, err=True)
        return 1 if failures else 0

    def _failures(self) -> list[str]:
        found = [*self._bootstrap.outcome.failures, *([self._trouble] if self._trouble else [])]
        return found + [f"{s.program.name}: {s.detail}" for s in self._lost()]

    def _guarded(self) -> None:
        try:
            self._start()
        except Exception as error:  # The boundary of the thread: shown, and the exit code.
            self._trouble = f"{type(error).__name__}: {error}"
            self._board.headlined(f"Failed: {self._trouble}")

    def _start(self) -> None:
        """The order of things: what others wait for first, what competes with the first lineage last."""
        start = self._supervisor.start
        fresh = not servers.has_store(self._settings)
        if fresh:
            self._board.headlined("Setting up")
        start(self._reports)
        # Before the code server and the web server, which open its databases at the same moment.
        if not self._bootstrap.make_dagster_store():
            return
        start(self._code)
        start(self._dagster)
        if fresh and not self._bootstrap.furnish(sample=self._options.sample):
            return
        start(self._mlflow)
        # On a new home there is nothing to serve yet, and the first lineage needs the cores.
        if not fresh or not self._options.sample:
            start(self._service)
        if self._options.sample:
            self._board.headlined("Making the first champions" if fresh else "Looking after the champions")
            self._bootstrap.run()
        if self._service.state == "waiting":
            start(self._service)
        # Its sensor would otherwise ingest the same days beside us.
        if self._runs_may_begin():
            start(self._daemon)
            start(self._alerts)

    def _runs_may_begin(self) -> bool:
        """Waits until the web server answers. The first time, it also ends the runs that an earlier instance left."""
        while not self._orders.count:
            if answers(f"{self._dagster.program.url}/server_info") is None:
                if not self._swept:
                    servers.end_lost_runs(self._settings)
                    self._swept = True
                return True
            time.sleep(TICK_SECONDS)
        return False

    def _watch(self, main: threading.Thread) -> None:
        while not self._orders.count:
            self._supervisor.tick()
            self._show_champions()
            self._board.refresh()
            if not main.is_alive() and not self._ready:
                if self._is_ready():
                    self._announce()
                elif self._options.exit_when_ready and self._hopeless():
                    return
            if self._ready and self._options.exit_when_ready:
                return
            time.sleep(TICK_SECONDS)

    def _show_champions(self) -> None:
        """What the service serves is what counts: somebody may promote while we run."""
        if self._ready and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + CHAMPIONS_SECONDS
            known = {str(champion["model"]): champion for champion in self._board.champions}
            for model in servers.served(self._settings):
                name, version = str(model["model"]), model.get("version")
                if version is not None and known.get(name, {}).get("version") != version:
                    known[name] = {"model": name, "version": version, "detail": f"since {model.get('promoted_at')}"}
            self._board.champions = list(known.values())

    def _is_ready(self) -> bool:
        """Serving: every server is well, and the service has every champion that there is."""
        if self._bootstrap.outcome.failures or self._trouble:
            return False
        return all(supervised.state == "healthy" for supervised in self._supervisor.programs)

    def _hopeless(self) -> bool:
        return bool(self._lost() or self._bootstrap.outcome.failures or self._trouble)

    def _lost(self) -> list[Supervised]:
        """Servers that waiting does not bring up."""
        return [s for s in self._supervisor.programs if s.state == "failed" or isinstance(s.detail, Lasting)]

    def _announce(self) -> None:
        self._ready = True
        self._lock.describe(addresses=self._addresses(), ready=True)
        self._serving_after = round(time.monotonic() - self._began, 1)
        self._board.headlined(
            f"Serving at {self._service.program.url} after {self._serving_after:.0f} s. Ctrl-C stops everything."
        )

    def _stop(self, main: threading.Thread) -> None:
        """Within a bounded time: the bootstrap's steps and the servers end side by side."""
        before = self._orders.count

        def harsh() -> bool:
            return self._orders.count > max(before, 1)

        self._bootstrap.stop()
        killed = self._supervisor.stop(harsh=harsh)
        deadline = time.monotonic() + (1 if harsh() else 10)
        while main.is_alive() and time.monotonic() < deadline:
            main.join(0.1)
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=3)
        if killed:
            self._board.note(f"Did not end in time and was killed: {', '.join(killed)}")
        self._board.headlined("Stopped")

    def _led(self) -> list[str]:
        """Models that have a champion, as far as we know."""
        return [str(champion["model"]) for champion in self._bootstrap.outcome.champions]

    def _addresses(self) -> dict[str, str]:
        return {s.program.name: s.program.url for s in self._supervisor.programs if s.program.url}

    def _summary(self, failures: list[str]) -> dict[str, Any]:
        return {
            "ready": self._ready,
            "serving_after": self._serving_after,
            "home": str(self._settings.home),
            "addresses": self._addresses(),
            "champions": self._bootstrap.outcome.champions,
            "steps": self._bootstrap.outcome.steps,
            "failures": failures,
        }
