"""Drift: speed, memory, blind spots, quiet years and injected changes, beside Evidently on the same rows.

``python -m tests.bench drift`` runs everything; ``python -m tests.bench.bench_drift`` takes parts (``speed``,
``blind``, ``quiet``, ``changes``) and ``--fast``, which makes them small. Times are of counting and measuring a window
against a reference whose bins are fixed (fixing them is told apart); Evidently's are of its default preset, in its own
process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.monitoring.drift import count, fit_bins, measures
from tests.unit.monitoring.drift_world import (
    Change,
    World,
    again,
    missing,
    scaled,
    shifted,
    swapped,
    unchanged,
)

COLUMNS, TEXTS = 20, 4
MILLION = 1_000_000
DAYS_AFTER = 14


def rows(count_: int, seed: int, path: Path) -> None:
    """Columns of many shapes, written in pieces so that no size needs the memory of the next."""
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    writer: Any = None
    for begin in range(0, count_, MILLION):
        part = min(MILLION, count_ - begin)
        made = {
            f"n{place}": [random.normal, random.exponential][place % 2](size=part).round(4 if place % 3 else 1)
            for place in range(COLUMNS - TEXTS)
        }
        made |= {f"t{place}": random.choice([f"L{k}" for k in range(10 * (place + 1))], part) for place in range(TEXTS)}
        table = pl.DataFrame(made).to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=250_000)
    writer.close()


def ours(reference: Path, current: Path) -> None:
    before, now = pl.scan_parquet(reference), pl.scan_parquet(current)
    started = time.perf_counter()
    bins = fit_bins(before, dict.fromkeys(before.collect_schema().names(), "input"))
    first = count(before, bins)
    fitting = time.perf_counter() - started
    started, cpu = time.perf_counter(), time.process_time()
    found = count(now, bins)
    values = {each.name: measures(each, first[each.name], found[each.name]) for each in bins}
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert len(values) == COLUMNS
    print(f"{seconds:.3f} {cpu:.3f} {fitting:.3f} {peak():.0f}")


def evidently(reference: Path, current: Path) -> None:
    before, now = pl.read_parquet(reference).to_pandas(), pl.read_parquet(current).to_pandas()
    import evidently.presets  # noqa: F401

    started, cpu = time.perf_counter(), time.process_time()
    evidently_drift(before, now)
    print(f"{time.perf_counter() - started:.3f} {time.process_time() - cpu:.3f} 0 {peak():.0f}")


def evidently_drift(before: Any, now: Any) -> dict[str, float]:
    """``count`` and ``share`` of drifted columns by Evidently's defaults."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    texts = [name for name in before.columns if before[name].dtype == object]
    numbers = [name for name in before.columns if name not in texts]
    definition = DataDefinition(numerical_columns=numbers or None, categorical_columns=texts or None)
    told = Report([DataDriftPreset()]).run(
        Dataset.from_pandas(now, definition), Dataset.from_pandas(before, definition)
    )
    found: dict[str, float] = next(each["value"] for each in told.dict()["metrics"] if "column" not in each["config"])
    return found


def as_pandas(frames: list[pl.DataFrame]) -> Any:
    """Flags as text: Evidently subtracts them, which numpy refuses."""
    return pl.concat(frames).with_columns(pl.col(pl.Boolean).cast(pl.String)).to_pandas()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(what: str, *paths: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.bench.bench_drift", "--measure", what, *map(str, paths)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(value) for value in done.stdout.split()]


def speed(fast: bool) -> None:
    sizes = [MILLION // 10, MILLION // 4, MILLION] if fast else [MILLION, 3 * MILLION, 10 * MILLION]
    print(f"{COLUMNS} columns, {TEXTS} of them text. A window against a reference of as many rows.")
    heads = {"rows": 12, "seconds": 8, "cpu": 7, "ns/value": 9, "fit+ref": 8, "peak MB": 8, "per row, to first": 18}
    print(" ".join(f"{head:>{width}}" for head, width in heads.items()))
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            files = [Path(folder) / f"{name}-{size}.parquet" for name in ("reference", "current")]
            for seed, path in enumerate(files):
                rows(size, seed, path)
            seconds, cpu, fitting, memory = min(measured("ours", *files) for _ in range(3))
            first = first or seconds / size
            print(
                f"{size:>12,} {seconds:>8.2f} {cpu:>7.2f} {seconds / size / COLUMNS * 1e9:>9.1f} {fitting:>8.2f} "
                f"{memory:>8.0f} {seconds / size / first:>17.2f}x"
            )
            if size == (MILLION // 10 if fast else MILLION):
                theirs, their_cpu, _, their_memory = measured("evidently", *files)
                print(
                    f"{'Evidently':>12} {theirs:>8.2f} {their_cpu:>7.2f} {theirs / size / COLUMNS * 1e9:>9.1f} {'':>8} "
                    f"{their_memory:>8.0f}   {theirs / seconds:.0f} times our seconds, {their_cpu / cpu:.0f} of our cpu"
                )


def blind(_: bool) -> None:
    """The cases in which the popular way sees nothing, or raises."""
    random = np.random.default_rng(0)
    before = random.normal(size=10_000)
    moved = random.normal(1, 1, 10_000)
    cases: dict[str, np.ndarray] = {
        "shift of 1 σ": moved,
        "shift of 1 σ and one value of 1e6": np.append(moved[1:], 1e6),
        "no shift and one value of 1e6": np.append(random.normal(size=9_999), 1e6),
        "70 % null": np.where(random.random(10_000) < 0.7, np.nan, random.normal(size=10_000)),
        "all null": np.full(10_000, np.nan),
    }
    bins = fit_bins(pl.DataFrame({"x": before}).lazy(), {"x": "input"})
    reference = count(pl.DataFrame({"x": before}), bins)["x"]
    print(f"{'':36} {'PSI':>7} {'Wasserstein':>12} {'null':>6}   Evidently PSI, its Wasserstein")
    for name, values in cases.items():
        found = measures(bins[0], reference, count(pl.DataFrame({"x": values}), bins)["x"])
        theirs = ", ".join(_theirs(before, values, method) for method in ("psi", "wasserstein"))
        psi, moved_by, nulls = (float(found[measure]) for measure in ("psi", "wasserstein", "nulls"))
        print(f"{name:36} {psi:>7.3f} {moved_by:>12.3f} {nulls:>6.2f}   {theirs}")


def _theirs(before: np.ndarray, now: np.ndarray, method: str) -> str:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(numerical_columns=["x"])
    frames = [Dataset.from_pandas(pd.DataFrame({"x": values}), definition) for values in (now, before)]
    try:
        told = Report([ValueDrift(column="x", method=method)]).run(*frames).dict()
    except Exception as error:  # What it raises is what is shown here.
        return f"raises {type(error).__name__}"
    return f"{float(told['metrics'][0]['value']):.3f}"


def quiet(fast: bool) -> None:
    """Years in which nothing changes: one month, drawn again in blocks of days."""
    years = 3 if fast else 20
    world = World(years=200)
    alarms, windows, popular = [], 0, 0
    for seed in range(years):
        verdicts = [verdict for verdict, _ in world.judge(world.drawn(world.stationary(371, seed=seed)))]
        alarms.append(sum(verdict.new for verdict in verdicts))
        windows += len(verdicts)
        popular += sum(
            any(
                (value := each.measures.get("psi")) is not None and (value.value or 0) > 0.2 for each in verdict.columns
            )
            for verdict in verdicts
        )
    print(f"{years} years of 365 windows: {sum(alarms)} false alarms, {max(alarms)} at most in one year,")
    print(f"  {sum(alarms) / years:.2f} a year where {world.false_alarms_a_year} are declared.")
    print(f"  A PSI over 0.2 in any column, the popular rule: {popular / windows:.0%} of the windows.")
    before = as_pandas(world.past)
    drifted = dataset = weeks = 0
    for start in range(0, 371 - 7, 7 if not fast else 70):
        week = [world.past[place] for place in world.stationary(371, seed=0)[start : start + 7]]
        found = evidently_drift(before, as_pandas(week))
        weeks += 1
        drifted += found["count"] > 0
        dataset += found["share"] >= 0.5
    print(f"  Evidently's defaults, {weeks} weeks: a drifted column in {drifted}, dataset drift in {dataset}.")


def grows() -> dict[str, list[tuple[str, Change]]]:
    """Kind of change → sizes, growing."""
    return {
        "shift of temp": [(f"{by:g} °F", again(shifted("temp", by))) for by in (5.0, 15.0, 30.0, 60.0)],
        "scale of distance": [(f"x {by:g}", again(scaled("distance", by))) for by in (1.1, 1.3, 2.0)],
        "missing delay": [(f"{share:.0%}", again(missing("delay", share))) for share in (0.02, 0.1, 0.4, 1.0)],
        "category swap": [(f"{share:.0%} of UA", again(swapped("carrier", share))) for share in (0.1, 0.3, 0.8)],
        "label flip": [(f"{share:.0%}", again(unchanged, turned=share)) for share in (0.03, 0.1, 0.3)],
        "concept change": [(f"{left:.0%} of it left", again(unchanged, truth=left)) for left in (0.7, 0.4, 0.0)],
    }


def changes(fast: bool) -> None:
    """How often a change is found within two weeks, and after how many days; the last two only labels can show."""
    worlds = 2 if fast else 10
    kept = [World(seed=seed, years=100) for seed in range(worlds)]
    print("Found: a column drifted within 14 days; delay: days until it did. Evidently: of the first whole week, any")
    print("column, and half of them (its dataset drift).")
    print(f"{'change':20} {'size':14} {'found':>6} {'alarm':>6} {'delay':>6} {'any':>6} {'half':>6}")
    cases = [("nothing", "", unchanged)]
    cases += [
        (kind, size, change) for kind, sizes in grows().items() for size, change in (sizes[-1:] if fast else sizes)
    ]
    for kind, size, change in cases:
        told = [_after(world, change, seed) for seed, world in enumerate(kept)]
        delays = sorted(delay for delay, *_ in told if delay is not None)
        delay = f"{delays[len(delays) // 2]} d" if delays else "–"
        found = len(delays) / worlds
        alarm, any_, half = (sum(each[place] is True for each in told) / worlds for place in (1, 2, 3))
        raises = " (raises)" if any(each[2] is None for each in told) else ""
        print(
            f"{kind:20} {size:14} {found:>6.0%} {alarm:>6.0%} {delay:>6} {any_:>6.0%} {half:>6.0%}{raises}", flush=True
        )


def _after(world: World, change: Change, seed: int) -> tuple[int | None, bool, bool | None, bool | None]:
    """Days until a column drifted, whether it was an alarm, and what Evidently says of the first whole week."""
    random = np.random.default_rng(seed)
    before = [world.past[place] for place in world.stationary(28, seed=100 + seed)]
    after = [change(world.past[place], random) for place in world.stationary(DAYS_AFTER, seed=200 + seed)]
    stream = world.count([*before, *after], date(2025, 1, 1))
    verdicts = [verdict for verdict, _ in world.judge(stream)][-DAYS_AFTER:]
    delay = next((place + 1 for place, verdict in enumerate(verdicts) if verdict.drifted), None)
    alarm = any(verdict.alarm for verdict in verdicts)
    try:
        found = evidently_drift(as_pandas(world.past), as_pandas(after[:7]))
    except Exception:  # Such as of a column that has no value left.
        return delay, alarm, None, None
    return delay, alarm, found["count"] > 0, found["share"] >= 0.5


PARTS: dict[str, Callable[[bool], None]] = {"speed": speed, "blind": blind, "quiet": quiet, "changes": changes}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--measure"]:
        {"ours": ours, "evidently": evidently}[arguments[1]](*map(Path, arguments[2:]))
        return
    fast = "--fast" in arguments
    for name in [name for name in arguments if name in PARTS] or PARTS:
        print(f"-- {name}", flush=True)
        PARTS[name](fast)


if __name__ == "__main__":
    main(sys.argv[1:])
