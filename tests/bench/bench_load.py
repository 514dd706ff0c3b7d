"""Loading the code location against a bare ``import dagster``; and what the steps load that others need.

    python -m tests.bench.bench_load

Each in processes of its own, alternating; the best of five counts. Target: at most 1.5 times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5


def seconds(code: str) -> float:
    started = time.perf_counter()
    # As installed: modules are compiled once, not at every start.
    compiled = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=compiled, check=True)
    return time.perf_counter() - started


def main() -> None:
    best = {"import dagster": float("inf"), "import definitions": float("inf"), "pass": float("inf")}
    for _ in range(ROUNDS):
        best = {code: min(least, seconds(code)) for code, least in best.items()}
    for told, taken in best.items():
        print(f"{told:20} {taken:5.2f} s")
    print(f"ratio {best['import definitions'] / best['import dagster']:.2f}")


if __name__ == "__main__":
    main()
