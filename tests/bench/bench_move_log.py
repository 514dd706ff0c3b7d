"""Moving a million logged predictions into the lake against ``write_deltalake`` alone, on the same rows.

    python -m tests.bench.bench_move_log [ROWS]

Predictions of a model with 24 features and 8 request fields, as the service logs them, in segments of 50,000; the bare
write appends a frame a segment. The mover reads, checks and decodes every record, commits, waits for the disk and
deletes the segments, which the bare write does not. On a shared machine, compare seconds of CPU (of all threads).
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pilotage.data.lake import Lake
from pilotage.monitoring.log_frames import frame_of
from pilotage.monitoring.predictions import move_log, read_log
from pilotage.runtime.answer import PredictionRecord
from pilotage.settings import Settings
from tests.unit.monitoring.logs import prediction, write_segment

ROWS, PIECE = 1_000_000, 50_000
FEATURES = [f"feature_number_{n}" for n in range(24)]
Spent = tuple[float, float]
"""Seconds on the wall, and of CPU."""


def records(first: int, count: int) -> list[PredictionRecord]:
    chance = random.Random(first)
    return [
        prediction(
            number,
            at=1_709_337_600_000_000 + number * 1000,
            features={name: chance.random() for name in FEATURES},
            request={f"field_{n}": f"value {number % 97}" for n in range(8)},
        )
        for number in range(first, first + count)
    ]


def spent(work: Callable[[], object]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(rows: int) -> None:
    from deltalake import write_deltalake

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = Settings.load().model_copy(update={"home": home})
        lake = Lake(settings.lake)
        bare, size = (0.0, 0.0), 0
        for number, first in enumerate(range(0, rows, PIECE), start=1):
            made = records(first, min(PIECE, rows - first))
            size += write_segment(settings.prediction_log, made, number=number).stat().st_size
            frame = frame_of(PredictionRecord, made)
            wall, cpu = spent(
                lambda frame=frame: write_deltalake(str(home / "bare"), frame, partition_by=["day"], mode="append")
            )
            bare = bare[0] + wall, bare[1] + cpu
        told: dict[str, Spent] = {"write_deltalake": bare}
        if rows <= PIECE:  # It is what one look at an unmoved segment costs.
            columns = ["prediction_id", "version", "probability"]
            told["read_log"] = spent(lambda: read_log(settings, "tiny", lake=lake, columns=columns))
        told["move_log"] = spent(lambda: move_log(settings, lake, quiet_s=0))
        if lake.scan("predictions/tiny").select("prediction_id").collect().n_unique() != rows:
            raise RuntimeError("Not every prediction was moved, or not once.")
    print(f"{rows:,} predictions, {size / rows:.0f} bytes each in the log")
    for name, (wall, cpu) in told.items():
        print(
            f"{name:16} {wall:7.2f} s {rows / wall:9,.0f} rows/s  {cpu:7.2f} s of CPU {cpu / rows * 1e6:6.1f} µs a row"
        )
    ratios = [mine / theirs for mine, theirs in zip(told["move_log"], bare, strict=True)]
    print(f"move_log takes {ratios[0]:.1f} times as long as write_deltalake, {ratios[1]:.1f} times its CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
