"""From a finished install: an empty home to "serving", and a second start, in wall and processor seconds.

    python -m tests.bench.bench_up

Promised on two idle cores: under 240 s and under 30 s. Processor seconds over cores is what a busy machine can't hide.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMISED = {"an empty home": 240.0, "a second start": 30.0}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, "PILOTAGE_HOME": str(Path(folder) / "home"), **_ports()}
        for name, promised in PROMISED.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.monotonic()
            command = [sys.executable, "-m", "pilotage.cli.main", "up", "--exit-when-ready"]
            done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
            told = json.loads(done.stdout)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            serving, wall = told["serving_after"], time.monotonic() - began
            print(f"{name}: serving after {serving:.0f} s, {serving / promised:.2f} of what is promised")
            print(f"  {wall:.0f} s with the stop; {processor:.0f} processor seconds")
            for step in told["steps"]:
                print(f"  {step['name']:<24} {step['seconds']:6.1f} s")


def _ports() -> dict[str, str]:
    sockets = [socket.socket() for _ in range(4)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return {
        f"PILOTAGE_{name}_PORT": port
        for name, port in zip(("DAGSTER", "MLFLOW", "SERVICE", "REPORTS"), ports, strict=True)
    }


if __name__ == "__main__":
    main()
