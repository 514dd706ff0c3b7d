"""Moving a segment into the lake against ``write_deltalake`` alone, on the same rows.

    python -m tests.bench.bench_move_log

Predictions of a model with 24 features, as the service logs them. The best of five counts; the mover reads, checks
and decodes every record, commits, waits for the disk and deletes the segment, which the bare write does not.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from pilotage.data.lake import Lake
from pilotage.monitoring.log_frames import frame_of
from pilotage.monitoring.predictions import move_log, read_log
from pilotage.runtime.answer import PredictionRecord
from pilotage.settings import Settings
from tests.unit.monitoring.logs import prediction, write_segment

ROWS = 20_000
ROUNDS = 5
FEATURES = [f"feature_number_{n}" for n in range(24)]


def records() -> list[PredictionRecord]:
    chance = random.Random(7)
    return [
        prediction(
            number,
            at=1_709_337_600_000_000 + number * 1000,
            features={name: chance.random() for name in FEATURES},
            request={f"field_{n}": f"value {number % 97}" for n in range(8)},
        )
        for number in range(ROWS)
    ]


def bare(made: list[PredictionRecord], home: Path) -> float:
    from deltalake import write_deltalake

    frame = frame_of(PredictionRecord, made)
    started = time.perf_counter()
    write_deltalake(str(home / "bare"), frame, partition_by=["day"])
    return time.perf_counter() - started


def moved(made: list[PredictionRecord], home: Path) -> tuple[float, float, int]:
    settings = Settings.load().model_copy(update={"home": home})
    path = write_segment(settings.prediction_log, made)
    size = path.stat().st_size
    lake = Lake(settings.lake)
    started = time.perf_counter()
    read_log(settings, "tiny", lake=lake, columns=["prediction_id", "version", "probability"])
    read = time.perf_counter() - started
    started = time.perf_counter()
    report = move_log(settings, lake, quiet_s=0)
    taken = time.perf_counter() - started
    if report.rows != {"predictions/tiny": ROWS}:
        raise RuntimeError(f"moved {report.rows}")
    return taken, read, size


def main() -> None:
    made = records()
    best = {"write_deltalake": float("inf"), "move_log": float("inf"), "read_log": float("inf")}
    size = 0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            best["write_deltalake"] = min(best["write_deltalake"], bare(made, home))
            taken, read, size = moved(made, home)
            best["move_log"], best["read_log"] = min(best["move_log"], taken), min(best["read_log"], read)
    print(f"{ROWS:,} predictions, {size / ROWS:.0f} bytes each in the log")
    for told, seconds in best.items():
        print(f"{told:16} {seconds:6.3f} s  {ROWS / seconds:10,.0f} rows/s")
    print(f"ratio move_log / write_deltalake {best['move_log'] / best['write_deltalake']:.2f}")


if __name__ == "__main__":
    main()
