"""A real PostgreSQL server from the system's packages, on loopback, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import pytest

_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A running one, which may be stopped and started again."""

    binaries: Path
    folder: Path
    user: str | None
    """Whom it runs as; ``None`` for the caller."""
    port: int

    @property
    def address(self) -> str:
        """Role, host and port."""
        return f"ledger@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        self._control("-w", "-t", "60", "-l", str(self.folder / "server.log"), "-o", options, "start")

    def stop(self) -> None:
        """Stops it at once, as a crash would."""
        self._control("-w", "-m", "immediate", "stop")

    def freeze(self) -> None:
        """Stops its processes where they are; the kernel goes on acknowledging what they are sent."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        """Lets them go on."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [main, *main.children(recursive=True)]

    def database(self) -> str:
        """Makes an empty database, and gives its address."""
        import psycopg2

        name = f"ledger_{next(_numbers)}"
        connection = psycopg2.connect(f"postgresql://{self.address}/postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+psycopg2://{self.address}/{name}"

    def call(self, program: str, *arguments: str) -> None:
        """Runs one of its programs."""
        # The server inherits the log, not our pipe, which would stay open as long as it runs.
        with (self.folder / "calls.log").open("ab") as log:
            done = subprocess.run(
                [str(self.binaries / program), *arguments],
                cwd=self.folder,
                user=self.user,
                stdout=log,
                stderr=log,
                check=False,
            )
        assert done.returncode == 0, (self.folder / "calls.log").read_text()

    def _control(self, *arguments: str) -> None:
        self.call("pg_ctl", "-D", str(self.folder / "data"), *arguments)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A fresh server, without a database; the test is skipped where there is none."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (on Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason='the extra "postgres" is not installed')
    user = _user()
    if user is None and os.geteuid() == 0:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
    folder = Path(tempfile.mkdtemp(prefix="pilotage-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PostgresServer(binaries=binaries, folder=folder, user=user, port=port)
    try:
        data = str(folder / "data")
        server.call("initdb", "-D", data, "-U", "ledger", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    """Newest installed server: Debian keeps it off the PATH, by major version."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _user() -> str | None:
    """Whom the server runs as: it refuses root. ``None`` means the caller."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)
