"""Whether the ports of the settings are free, and who has them if not."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable

import psutil

from pilotage.errors import ConfigError
from pilotage.settings import PREFIX, Settings

NAMES = {
    "dagster_port": "Dagster",
    "mlflow_port": "MLflow",
    "service_port": "the prediction service",
    "reports_port": "the reports",
}
"""Setting → what listens there."""


def require_free(settings: Settings, *, patience: float = 0.0, given_up: Callable[[], bool] = lambda: False) -> None:
    """Makes sure that every server will get its port.

    Args:
        settings: Host and ports.
        patience: Seconds to wait for ports to become free, for programs of an earlier start that are still ending.
        given_up: Asked while it waits: whether nobody wants the ports any more. It then returns at once.

    Raises:
        ConfigError: A port is taken or may not be used, or two servers have the same one. Names them all.
    """
    ports = {name: int(getattr(settings, name)) for name in NAMES}
    for name, port in ports.items():
        twins = [other for other in ports if ports[other] == port and other != name]
        if twins:
            raise ConfigError(
                f"{NAMES[name].capitalize()} and {NAMES[twins[0]]} can't both have port {port}.",
                fix=f"Set {_variable(name)} or {_variable(twins[0])} to another one.",
                port=port,
            )
    deadline = time.monotonic() + patience
    while taken := {name: trouble for name, port in ports.items() if (trouble := _trouble(settings.host, port))}:
        if given_up():
            return
        if time.monotonic() >= deadline:
            raise _taken(settings, ports, taken)
        time.sleep(0.2)


def _taken(settings: Settings, ports: dict[str, int], taken: dict[str, str]) -> ConfigError:
    told = " ".join(f"Port {ports[name]}, for {NAMES[name]}, {trouble}." for name, trouble in taken.items())
    used = set(ports.values())
    change = []
    for name in taken:
        port = _free_port(settings.host, ports[name], used)
        used.add(port)
        change.append(f"{_variable(name)}={port}")
    return ConfigError(
        told,
        fix=f"Stop what has it, or choose another port: {' '.join(change)} pilotage up.",
        ports={name: ports[name] for name in taken},
    )


def _variable(setting: str) -> str:
    return f"{PREFIX}{setting.upper()}"


def _trouble(host: str, port: int) -> str:
    """Why a server could not listen there; empty if it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a connection that is only fading out does not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            return "needs privileges that you don't have"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is taken by {_holder(port)}"
            return f"can't be used on {host}: {error.strerror}"
    return ""


def _holder(port: int) -> str:
    """The process that listens on a port, as far as we are allowed to see it."""
    with contextlib.suppress(psutil.Error, PermissionError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"


def _free_port(host: str, above: int, used: set[int]) -> int:
    """The next port that is free now, as a proposal."""
    candidates = (port for port in range(above + 1, min(above + 200, 65536)) if port not in used)
    return next((port for port in candidates if not _trouble(host, port)), above + 1)
