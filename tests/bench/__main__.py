"""Runs the benchmarks, each in a process of its own: ``python -m tests.bench [NAME …]``."""

import subprocess
import sys
from pathlib import Path


def main(wanted: list[str]) -> int:
    there = [path.stem.removeprefix("bench_") for path in sorted(Path(__file__).parent.glob("bench_*.py"))]
    if unknown := sorted(set(wanted) - set(there)):
        print(f"There is no benchmark {unknown[0]}. There are: {', '.join(there)}.", file=sys.stderr)
        return 2
    failed = []
    for name in wanted or there:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.bench_{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
