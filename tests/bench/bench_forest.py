"""Rows of a batch through a model's trees: the forest of ``runtime/forest.py`` against LightGBM, same bits.

    python -m tests.bench.bench_forest [HOME]

A real champion of ``flight_delay`` scores real rows, as the service does (``score_rows``: rows of bytes in, calibrated
probabilities out) and as a bulk run does (a matrix). Processor time of one thread, the best of several rounds in which
both take turns. Rows come one after another and are never the same twice in a round: LightGBM's branches are learned
by the processor when a small batch is asked again and again. A ``HOME`` that was made before is used again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from pilotage.runtime.booster import Booster
from pilotage.runtime.bundle import read_bundle
from pilotage.runtime.forest import Forest, forest_of
from pilotage.runtime.scorer import Scorer
from pilotage.runtime.trees import read_trees
from tests.bench.serving.home import prepare

ROUNDS = 7
BATCHES = (2, 4, 6, 8, 16, 32, 100, 400, 10_000)


def main(home: Path) -> None:
    made = prepare(home)
    scorer = read_bundle(made.bundle).scorer
    text = (made.bundle / "model.txt").read_text()
    plain = Scorer(text, scorer.calibrator, scorer.categories, scorer.columns)
    plain.forest, plain._enough = None, sys.maxsize
    booster = Booster(text)
    forest, fewest = forest_of(text, booster)
    matrix = scorer.encode(pl.DataFrame(made.features, infer_schema_length=None))
    rows = [row.tobytes() for row in matrix]
    assert scorer.score_rows(rows) == plain.score_rows(rows)

    print(f"{forest.trees} trees, {forest.bytes / 1e6:.1f} MB of tables, used from {fewest} rows")
    print(f"{'CPU µs a row':>14}{'score_rows':>24}{'':>10}{'matrix':>24}")
    print(f"{'rows':>14}{'LightGBM':>12}{'forest':>12}{'times':>10}{'LightGBM':>12}{'forest':>12}{'times':>10}")
    for batch in BATCHES:
        starts = range(0, len(rows) - batch + 1, batch)
        lists = [rows[start : start + batch] for start in starts]
        parts = [matrix[start : start + batch] for start in starts]
        ways: list[tuple[Callable[[object], object], list[object]]] = [
            (plain.score_rows, lists),  # type: ignore[list-item]
            (scorer.score_rows, lists),  # type: ignore[list-item]
            (booster.predict, parts),  # type: ignore[list-item]
            (forest.predict, parts),  # type: ignore[list-item]
        ]
        best = [float("inf")] * len(ways)
        for _ in range(ROUNDS):
            for number, (call, arguments) in enumerate(ways):
                best[number] = min(best[number], _seconds(call, arguments) / (len(arguments) * batch) * 1e6)
        theirs, ours, their_matrix, our_matrix = best
        print(
            f"{batch:>14,}{theirs:>12.2f}{ours:>12.2f}{theirs / ours:>10.1f}"
            f"{their_matrix:>12.2f}{our_matrix:>12.2f}{their_matrix / our_matrix:>10.1f}"
        )

    trees = read_trees(text)
    for what, call in {
        "LightGBM reads its text": lambda: Booster(text),
        "its trees are read": lambda: read_trees(text),
        "tables are made": lambda: Forest(trees),
        "all of a forest, compared with LightGBM": lambda: forest_of(text, booster),
    }.items():
        print(f"{what:<42}{min(_seconds(lambda _, call=call: call(), [None]) for _ in range(ROUNDS)) * 1e3:>6.1f} ms")


def _seconds(call: Callable[[object], object], arguments: list[object]) -> float:
    started = time.thread_time()
    for each in arguments:
        call(each)
    return time.thread_time() - started


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
