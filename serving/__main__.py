"""Starts the prediction service: ``python -m serving [--host H] [--port P] [--workers N]`` becomes BentoML's server."""

import argparse
import os
import socket
import sys

from pilotage.errors import ConfigError, PilotageError
from pilotage.runtime.access.admission import is_loopback
from pilotage.runtime.access.keyfile import read_keys
from pilotage.settings import Settings

GRACE_S = 5
"""Seconds that requests in flight get at the end; BentoML itself would wait for ever."""
MOST_WORKERS = 64


def main() -> int:
    """Replaces this process by BentoML's, so that a signal to it reaches the arbiter."""
    try:
        settings = Settings.load()
    except PilotageError as error:
        print(error, file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--host", default=settings.host, help="IP address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=settings.service_port, help="port (default: %(default)s)")
    parser.add_argument(
        "--workers",
        type=_workers,
        default=settings.service_workers,
        help="processes that answer (default: %(default)s)",
    )
    parser.add_argument("--service", default="serving.service:PredictionService", help="MODULE:SERVICE")
    arguments = parser.parse_args()
    host = "127.0.0.1" if arguments.host == "localhost" else arguments.host
    try:
        told = require_keys(settings, host)
    except PilotageError as error:
        print(error, file=sys.stderr)
        return 2
    if not _free(host, arguments.port):
        print(
            f"Port {arguments.port} of {host} is taken. Fix: stop what listens there, or give --port.", file=sys.stderr
        )
        return 2
    print(told)
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        arguments.service,
        "--host",
        host,
        "--port",
        str(arguments.port),
        "--timeout-graceful-shutdown",
        str(GRACE_S),
        "--timeout-keep-alive",
        "60",
    ]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    # BentoML makes folders there at every start; by default in the user's home.
    os.environ.setdefault("BENTOML_HOME", str(settings.home / "bentoml"))
    # The decorator has the number for one worker; its command line has no option that counts for a service like ours.
    os.environ["BENTOML_CONFIG_OPTIONS"] = _with_workers(
        os.environ.get("BENTOML_CONFIG_OPTIONS", ""), arguments.service.rsplit(":", 1)[-1], arguments.workers
    )
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and nothing of it comes from outside
    return 0


def require_keys(settings: Settings, host: str) -> str:
    """What is to be said about keys at the start.

    Raises:
        ConfigError: Nobody may listen there without one, or the file of keys is damaged.
    """
    if keys := read_keys(settings.api_keys):
        return f"API keys are needed: {settings.api_keys} has {len(keys)}."
    if not is_loopback(host):
        raise ConfigError(
            f"The service does not listen on {host}, where others reach it, while there is no API key.",
            fix="pilotage keys create NAME --role predict, or listen on 127.0.0.1.",
        )
    return (
        f"No API key is needed on {host} until the first one is made: pilotage keys create NAME --role predict. Until"
        " then everything on this machine may ask for everything."
    )


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MOST_WORKERS}")
    return int(text)


def _with_workers(options: str, service: str, workers: int) -> str:
    return f"{options} services.{service}.workers={workers}".strip()


def _free(host: str, port: int) -> bool:
    """Whether a server may listen there; BentoML would only say it in a traceback."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
