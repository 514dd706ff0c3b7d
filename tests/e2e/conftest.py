"""A home of its own on ports of its own, and real `pilotage` processes on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

PILOTAGE = [sys.executable, "-m", "pilotage.cli.main"]


@dataclass(slots=True)
class Started:
    """A `pilotage up` that runs, with all that it prints."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    _reader: threading.Thread | None = None

    def listen(self) -> Started:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        with self.process.stdout or nullcontext(()) as out:
            for line in out:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait(self, seconds: float) -> int:
        """Waits for its end and its last words."""
        code = self.process.wait(seconds)
        if self._reader is not None:
            self._reader.join(seconds)
        return code

    def until(self, words: str, *, seconds: float) -> str:
        """Waits for a line with these words."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (found := [line for line in self.lines if words in line]):
                if self.process.poll() is not None or not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"never said {words!r}:\n" + "\n".join(self.lines))
        return found[0]

    def said(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@dataclass(frozen=True, slots=True)
class House:
    """One home: starts commands on it, asks its servers, and knows its processes."""

    home: Path
    ports: dict[str, int]

    @property
    def variables(self) -> dict[str, str]:
        ports = {f"PILOTAGE_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        return {**os.environ, **ports, "PILOTAGE_HOME": str(self.home)}

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [*PILOTAGE, *arguments],
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start(self, *arguments: str) -> Started:
        """Starts `pilotage up` and hears what it says."""
        process = subprocess.Popen(
            [*PILOTAGE, "up", "--plain", *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Started(process).listen()

    def get(self, server: str, path: str, body: Any = None) -> Any:
        """Asks a server of this home; JSON in, JSON out."""
        url = f"http://127.0.0.1:{self.ports[server]}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.strip()[:1] in ("{", "[") else text

    def processes(self) -> list[psutil.Process]:
        """Every process that works on this home."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PILOTAGE_HOME") == str(self.home) and process.pid != os.getpid():
                    found.append(process)
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def until_empty(self, *, seconds: float) -> None:
        """Waits until no process works on this home."""
        deadline = time.monotonic() + seconds
        while left := self.processes():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {[process.cmdline() for process in left]}")
            psutil.wait_procs(left, timeout=0.2)


def stop(started: Started, number: signal.Signals = signal.SIGTERM, *, seconds: float = 60) -> int:
    """Sends a signal and waits for the end."""
    started.process.send_signal(number)
    return started.wait(seconds)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    made = House(
        tmp_path_factory.mktemp("up") / "home",
        dict(zip(("dagster", "mlflow", "service", "reports"), ports, strict=True)),
    )
    yield made
    for process in made.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
