"""A server under measurement: a process tree on one core, with its CPU time and its memory."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

SERVER_CORE, CLIENT_CORE = 0, 1


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running one."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds of the whole tree so far."""
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._tree()))

    def core_s(self) -> float:
        """CPU seconds of the server's core so far, whoever had them: also the kernel's threads, which sync for us."""
        spent = psutil.cpu_times(percpu=True)[SERVER_CORE]
        return spent.user + spent.nice + spent.system + spent.irq + spent.softirq

    def largest_mb(self) -> float:
        """Resident memory of its largest process: the worker."""
        return max(each.memory_info().rss for each in self._tree()) / 2**20

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def started(
    command: Sequence[str],
    *,
    port: int,
    ready: str,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    cores: Sequence[int] = (SERVER_CORE,),
) -> Iterator[Server]:
    """Starts a server on its core, waits until it answers, and ends it with all its processes.

    Raises:
        RuntimeError: It ended, or did not answer within two minutes.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(port=port, process=psutil.Process(process.pid))
    # Before it has children; they take it over.
    server.process.cpu_affinity(list(cores))
    try:
        _wait(server, process, ready, log)
        yield server
    finally:
        family = server.process.children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for each in family:
            if each.is_running():
                each.kill()


def _wait(server: Server, process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    with httpx.Client(timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get(f"http://127.0.0.1:{server.port}{ready}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise RuntimeError(f"The server on port {server.port} did not start:\n{log.read_text()[-2000:]}")
