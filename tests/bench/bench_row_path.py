"""One request inside the predictor, step by step, against the same by Polars: microseconds, and their ratio.

    python -m tests.bench.bench_row_path [HOME]

A real champion of ``flight_delay`` answers 1,000 real requests, one thread, nothing else of the service. The best
median of several rounds counts, and both paths take turns, so a busy machine changes the ratio little. A ``HOME`` that
was made before is used again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pilotage.features.memory import MemoryStore
from pilotage.features.store import OnlineStore
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.probe import admit
from pilotage.runtime.state import OnlineState
from tests.bench.serving.home import prepare

ROUNDS = 7


def main(home: Path) -> None:
    made = prepare(home)
    predictor = Predictor(admit(made.bundle), 1)
    predictor.warm()
    path = made.settings.online / "flight_delay.db"
    state, on_disk = OnlineState(path), OnlineState(path, largest_in_memory=0)
    row_path, contract, scorer = predictor.path, predictor.contract, predictor.bundle.scorer
    checked = [contract.row(request) for request in made.requests]
    stored = [row_path.stored(values) for values in checked]
    moments = [row_path.moment(row) for row in stored]
    store = state.snapshot.store
    asof = [row_path.asof(row, at, store) for row, at in zip(stored, moments, strict=True)]
    rows = [row + known for row, known in zip(stored, asof, strict=True)]
    features = [row_path.features(row) for row in rows]
    keys = [scorer.encode_row(values) for values in features]
    raw = [scorer._booster.predict_row(key) for key in keys]
    prepared = [predictor.prepare(request, state) for request in made.requests]
    few = made.requests[:100]

    steps: dict[str, tuple[Callable[..., Any], Sequence[tuple[Any, ...]]]] = {
        "contract": (contract.row, [(request,) for request in made.requests]),
        "times and moment": (lambda values: row_path.moment(row_path.stored(values)), [(v,) for v in checked]),
        "state": (row_path.asof, [(row, at, store) for row, at in zip(stored, moments, strict=True)]),
        "features": (row_path.features, [(row,) for row in rows]),
        "encode": (scorer.encode_row, [(values,) for values in features]),
        "predict": (scorer._booster.predict_row, [(key,) for key in keys]),
        "calibrate": (scorer.calibrator.apply_one, [(value,) for value in raw]),
        "prepare": (predictor.prepare, [(request, state) for request in made.requests]),
        "decide": (predictor.decide, [(each,) for each in prepared]),
        "prepare and decide": (predictor.score_one, [(request, state) for request in made.requests]),
        "the same, state asked of SQLite": (predictor.score_one, [(request, on_disk) for request in few]),
        "the same by Polars": (lambda request: predictor.predict([request], state), [(request,) for request in few]),
        "explain": (predictor.explain, [(predictor.decide(each),) for each in prepared[:20]]),
    }
    best = {name: float("inf") for name in steps}
    for _ in range(ROUNDS):
        for name, (call, arguments) in steps.items():
            best[name] = min(best[name], _median_us(call, arguments))
    for name, micros in best.items():
        print(f"{name:<34}{micros:>10.1f} µs")
    print(f"{'times as fast as by Polars':<34}{best['the same by Polars'] / best['prepare and decide']:>10.1f}")

    started = time.perf_counter()
    loaded = MemoryStore.load(path)
    print(
        f"{'store loaded':<34}{(time.perf_counter() - started) * 1000:>10.0f} ms,"
        f" {sum(loaded.meta.timelines.values()):,} rows, {path.stat().st_size / 1e6:.1f} MB on disk"
    )
    with OnlineStore.open(path) as asked:
        print(f"{'answers from':<34}{asked.meta.answers_from}")


def _median_us(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float:
    taken = []
    clock = time.perf_counter_ns
    for each in arguments:
        started = clock()
        call(*each)
        taken.append(clock() - started)
    return median(taken) / 1000


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
