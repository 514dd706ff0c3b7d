"""A real PostgreSQL server from the system's packages, on loopback, for as long as the tests run."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a fresh server, without a database."""
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

    def call(program: str, *arguments: str) -> None:
        # The server inherits the log, not our pipe, which would stay open as long as it runs.
        with (folder / "calls.log").open("ab") as log:
            done = subprocess.run(
                [str(binaries / program), *arguments], cwd=folder, user=user, stdout=log, stderr=log, check=False
            )
        assert done.returncode == 0, (folder / "calls.log").read_text()

    data = str(folder / "data")
    try:
        call("initdb", "-D", data, "-U", "ledger", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories= -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-t", "60", "-l", str(folder / "server.log"), "-o", options, "start")
        try:
            yield f"ledger@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_numbers = count(1)


@pytest.fixture
def postgres_database(postgres_server: str) -> Callable[[], str]:
    """Makes an empty database, and gives its address."""
    import psycopg2

    def make() -> str:
        name = f"ledger_{next(_numbers)}"
        connection = psycopg2.connect(f"postgresql://{postgres_server}/postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+psycopg2://{postgres_server}/{name}"

    return make
