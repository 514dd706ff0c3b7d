"""The code server of ``pilotage up``: it alone loads the project, and Dagster's web server and daemon ask it.

Left to themselves each of them loads the project, the daemon anew every minute. *Reload definitions* in the UI has this
one load it again, for both.

    python -m pilotage.cli.code_server

runs Dagster's own, which stands before a process that has loaded the code. Should that one die, Dagster's goes on
without it; this program has it load the code again then, and runs that are under way go on. It does the same when that
process has grown large: Dagster opens its databases anew for each tick of a sensor, and each time Alembic keeps a
little for ever, a quarter of a gigabyte a day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from pilotage.cli.asking import address, graphql
from pilotage.errors import ConfigError
from pilotage.settings import PROJECT, Settings

LOCATION = "pilotage"
"""Name of the code location in the project's ``workspace.yaml``."""
MODULE = "definitions"
"""What it loads."""
LOAD_SECONDS = 180
"""Seconds that loading the project may take."""
RELOAD = """mutation($location: String!) { reloadRepositoryLocation(repositoryLocationName: $location) {
  __typename } }"""
"""What *Reload definitions* asks in the UI."""
_LONGEST = 80
"""Bytes of the path of a socket's folder: with its name, the kernel takes no more than 103 (macOS) or 107 (Linux)."""
_LOOK_SECONDS = 1.0
LARGEST_MB = 1024
"""Memory of the process that has loaded the code at which another one takes over; it begins with a third of this."""
STEADY_SECONDS = 3600
"""How long it is left alone in any case: a project that is so large from the beginning is not loaded for ever."""


def prepare(settings: Settings) -> None:
    """Chooses a socket, and tells Dagster's web server and daemon of it. In the home, which only its user may enter; if
    that has too long a name, in a folder that is made for this user alone.

    Raises:
        ConfigError: That folder is somebody else's.
    """
    # Of its own for each start: the server of one that was killed may still be ending, and takes its socket away then.
    name = f"code-{os.getpid()}.sock"
    folder = settings.dagster_home
    if len(os.fsencode(folder)) > _LONGEST:
        about = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"pilotage-{os.getuid()}-{about}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise ConfigError(f"{folder} is somebody else's.", fix="Choose a shorter path for the home, PILOTAGE_HOME.")
    for left in folder.glob("code-*.sock"):
        left.unlink(missing_ok=True)
    target = {"grpc_server": {"socket": str(folder / name), "location_name": LOCATION}}
    # JSON is YAML, too.
    _workspace(settings).write_text(json.dumps({"load_from": [target]}), encoding="utf-8")


def workspaces(settings: Settings) -> list[str]:
    """Options that tell Dagster's web server and daemon of the project's ``workspace.yaml``, and that its location is
    served here: what the last file says of a location holds."""
    return ["-w", str(PROJECT / "workspace.yaml"), "-w", str(_workspace(settings))]


def socket_of(settings: Settings) -> Path:
    """Where it listens since the last ``prepare``.

    Raises:
        OSError, ValueError, LookupError: There was none.
    """
    [location] = json.loads(_workspace(settings).read_text(encoding="utf-8"))["load_from"]
    return Path(location["grpc_server"]["socket"])


def listens(settings: Settings) -> str | None:
    """``None`` if it has loaded the code and takes questions, else what is wrong in a few words."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1)
        try:
            asking.connect(str(socket_of(settings)))
        except (OSError, ValueError, LookupError):
            return "loading the code"
    return None


def main() -> int:
    """Runs Dagster's code server for as long as it serves anything."""
    settings = Settings.load()
    dagster = [sys.executable, "-m", "dagster", "code-server", "start", "--socket", str(socket_of(settings))]
    dagster += ["--module-name", MODULE, "--working-directory", str(PROJECT), "--location-name", LOCATION]
    dagster += ["--use-python-environment-entry-point", "--inject-env-vars-from-instance", "--log-level", "warning"]
    told = threading.Event()
    signal.signal(signal.SIGCHLD, lambda *_: told.set())
    server = subprocess.Popen([*dagster, "--startup-timeout", str(LOAD_SECONDS)])
    ending = threading.Event()

    def end(asked: int, _: object) -> None:
        ending.set()
        server.send_signal(asked)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    served: psutil.Process | None = None
    loaded, since = code_files(), time.monotonic()
    while (code := server.poll()) is None:
        told.wait(_LOOK_SECONDS)
        told.clear()
        newest = _newest_child(server.pid)
        if ending.is_set():
            continue
        if newest is None:
            if served is not None and server.poll() is None:
                _load_again(settings, "The process that had loaded the code has died; another one loads it.")
        elif newest != served:
            served, loaded, since = newest, code_files(), time.monotonic()
        # Code that was changed since is loaded when somebody says so, and at no other time.
        elif time.monotonic() - since > STEADY_SECONDS and is_large(newest) and code_files() == loaded:
            since = time.monotonic()
            _load_again(settings, "The process that has loaded the code has grown large; another one takes over.")
    return code if code >= 0 else 128 - code


def is_large(process: psutil.Process) -> bool:
    """Whether another process should take over from one that has loaded the code."""
    try:
        return bool(process.memory_info().rss > LARGEST_MB * 2**20)
    except psutil.NoSuchProcess:
        return False


Files = frozenset[tuple[str, int]]
"""Files of Python, with the times of their last changes in nanoseconds."""


def code_files(project: Path = PROJECT) -> Files:
    """What the project's code is at this moment."""
    found = [project / "definitions.py"]
    for folder in ("assets", "jobs", "sensors", "resources", "platform"):
        found += (project / folder).rglob("*.py")
    with_times = set()
    for file in found:
        # An editor may be replacing it.
        with contextlib.suppress(FileNotFoundError):
            with_times.add((str(file), file.stat().st_mtime_ns))
    return frozenset(with_times)


def _load_again(settings: Settings, why: str) -> None:
    print(why, file=sys.stderr, flush=True)
    try:
        graphql(address(settings, settings.dagster_port), RELOAD, timeout=LOAD_SECONDS, location=LOCATION)
    except (OSError, ValueError) as error:
        print(f"Dagster's web server can't have it loaded: {error}", file=sys.stderr, flush=True)


def _workspace(settings: Settings) -> Path:
    return settings.dagster_home / "workspace.yaml"


def _newest_child(pid: int) -> psutil.Process | None:
    """The living child that was started last; the one before it may still wait for its runs."""
    living = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    living.append(child)
    # Known since it was found, so nothing fails here.
    return max(living, key=lambda child: child.create_time(), default=None)


if __name__ == "__main__":
    raise SystemExit(main())
