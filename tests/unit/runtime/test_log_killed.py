"""A real worker process, killed without warning under load, again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from pilotage.runtime.log import adopt_orphans, payloads, segments

ROUNDS = 8
WORKER = """
import asyncio, os, sys
from pathlib import Path
from pilotage.runtime.log import PredictionLog

async def caller(log, life, name):
    number = 0
    while True:
        ids = [f"{life}/{name}/{number}/{part}" for part in range(1 + number % 3)]
        await log.submit(*(b'{"id":"%b","text":"%b"}' % (each.encode(), b"x" * (number % 700)) for each in ids))
        os.write(1, "".join(f"{each}\\n" for each in ids).encode())
        number += 1

async def main(folder, life):
    log = PredictionLog(folder, worker="w", report=print, segment_bytes=200_000)
    log.start(asyncio.get_running_loop())
    await asyncio.gather(*(caller(log, life, name) for name in range(16)))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_no_acknowledged_record_is_missing_after_the_worker_was_killed(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    outcomes: list[str] = []
    for life in range(ROUNDS):
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(life)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            # Each life is killed at another number of acknowledged records, wherever it then is.
            acknowledged += [worker.stdout.readline().strip() for _ in range(300 + 237 * life)]
            worker.kill()
            acknowledged += [line.strip() for line in worker.stdout if line.endswith("\n")]
        told: list[str] = []
        outcomes += [each.outcome for each in adopt_orphans(tmp_path, report=told.append)]
        assert not [line for line in told if "DAMAGED" in line]
    found = [msgspec.json.decode(payload)["id"] for segment in segments(tmp_path) for payload in payloads(segment.path)]
    assert len(outcomes) == ROUNDS
    assert not segments(tmp_path, state="open")
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    for life in range(ROUNDS):
        for name in range(16):
            mine = [tuple(map(int, each.split("/")[2:])) for each in found if each.startswith(f"{life}/{name}/")]
            # In order, without a gap, and each submission with all of its parts.
            assert mine == [(number, part) for number in range(mine[-1][0] + 1) for part in range(1 + number % 3)]
