"""Starts the prediction service: ``python -m serving [--host H] [--port P]``. Becomes ``bentoml serve``."""

import argparse
import os
import socket
import sys

from pilotage.errors import PilotageError
from pilotage.settings import Settings

GRACE_S = 5
"""Seconds that requests in flight get at the end; BentoML itself would wait for ever."""


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
    parser.add_argument("--service", default="serving.service:PredictionService", help="MODULE:SERVICE")
    arguments = parser.parse_args()
    host = "127.0.0.1" if arguments.host == "localhost" else arguments.host
    if not _free(host, arguments.port):
        print(
            f"Port {arguments.port} of {host} is taken. Fix: stop what listens there, or give --port.", file=sys.stderr
        )
        return 2
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
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and nothing of it comes from outside
    return 0


def _free(host: str, port: int) -> bool:
    """Whether a server may listen there; BentoML would only say it in a traceback."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
