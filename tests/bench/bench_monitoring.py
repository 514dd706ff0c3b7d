"""A day of ``flight_delay`` looked at as Dagster assets: where the time goes, importing or working.

    python -m tests.bench monitoring

Real flights of ten weeks, answered by a rule of thumb about origin and hour (some 900 a day), are in the log and in the
lake, and all but the last day have been looked at. A fresh process then does what the nightly job does: loads the
definitions, collects the last day's outcomes, judges labels, measures performance and KPI, and draws the pictures.
Target: most of the time is not spent importing. The second figure is the same with nine weeks more in the log, which a
day's look must not read. There is no champion here, so drift has nothing to compare: ``bench_drift`` measures it, and
``bench_monitoring look``, in the home of an instance, shows all of it. Seconds are of CPU, all threads: on a shared
machine the wall tells of the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

ROUNDS = 3
LAST = date(2013, 4, 30)
LOOKED_BACK, LONGER = 42, 105


def prepare(home: Path, days: int) -> None:
    """Days of flights, validated, answered and moved into the lake, and a first look at all but the last."""
    import dagster as dg
    import numpy as np
    import polars as pl

    from assets.models import load_models
    from assets.sources import load_sources
    from definitions import defs
    from pilotage.data import sample
    from pilotage.data.ingest import ingest
    from pilotage.data.lake import Lake
    from pilotage.data.validate import validate
    from pilotage.features.state import microseconds
    from pilotage.monitoring.predictions import move_log
    from pilotage.settings import Settings
    from tests.unit.monitoring.logs import prediction, write_segment

    settings = Settings.load().model_copy(update={"home": home})
    lake, source, spec = Lake(settings.lake), load_sources()["flights"], load_models()["flight_delay"]
    wanted = [LAST - timedelta(days=back) for back in range(days - 1, -1, -1)]
    sample.publish_flights(settings.landing, first=wanted[0], last=LAST)
    random = np.random.default_rng(0)

    def arrive(part: list[date]) -> None:
        ingest(source, lake=lake, settings=settings, days=part, run_id="bench")
        validate(source, lake=lake, reports=settings.reports, days=part, run_id="bench")

    def answer(part: list[date], number: int) -> None:
        rows = lake.scan("validated/flights").filter(pl.col("day").is_in(part)).sort("sched_dep_at").collect()
        records = []
        for place, row in enumerate(rows.iter_rows(named=True)):
            hour = row["sched_dep_at"].hour
            probability = float(np.clip(0.1 + 0.012 * ((hour - 9) % 24) + random.normal(0, 0.05), 0.02, 0.9))
            moment = microseconds(row["sched_dep_at"] - timedelta(hours=2))
            records.append(
                prediction(
                    place, model=spec.name, prediction_id=f"p{number}-{place}", moment=moment, at=moment + 1000,
                    entity={"flight_id": row["flight_id"]}, probability=probability,
                    decision=probability >= spec.kpi.cost.threshold, features={"hour": hour},
                    request={"flight_id": row["flight_id"], "origin": row["origin"], "carrier": row["carrier"]},
                )
            )  # fmt: skip
        write_segment(settings.prediction_log, records, number=number)
        move_log(settings, lake, models={spec.name: spec}, quiet_s=0)

    arrive(wanted[:-1])
    for number, day in enumerate(wanted[:-1], start=1):
        answer([day], number)
    with dg.DagsterInstance.get() as instance:
        done = defs.resolve_job_def(f"monitor_{spec.name}").execute_in_process(instance=instance)
        assert done.success
    arrive(wanted[-1:])
    answer(wanted[-1:], days)


def look() -> None:
    """One night's job in a process of its own; prints what it spent on what."""
    import time

    started = time.process_time()
    spent = {"importing": 0.0}
    depth = 0
    importer = __builtins__.__import__ if not isinstance(__builtins__, dict) else __builtins__["__import__"]

    def timed(*args: object, **kwargs: object) -> object:
        # Only the outermost import counts: it holds the others.
        nonlocal depth
        began = time.process_time()
        depth += 1
        try:
            return importer(*args, **kwargs)
        finally:
            depth -= 1
            if depth == 0:
                spent["importing"] += time.process_time() - began

    import builtins

    builtins.__import__ = timed  # type: ignore[assignment]
    import dagster as dg

    from definitions import defs

    job = defs.resolve_job_def("monitor_flight_delay")
    loaded = time.process_time()
    before_steps = spent["importing"]
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance)
    total = time.process_time() - started
    steps = {e.step_key: e.step_success_data.duration_ms / 1000 for e in result.all_events if e.is_step_success}
    imported = spent["importing"]
    print(f"total {total:.3f}")
    print(f"import to load {before_steps:.3f}")
    print(f"import in steps {imported - before_steps:.3f}")
    print(f"load, without imports {loaded - started - before_steps:.3f}")
    print(f"work {total - (loaded - started) - (imported - before_steps):.3f}")
    for name, seconds in steps.items():
        print(f"  {name}, wall {seconds:.3f}")


def call(*arguments: str, environment: dict[str, str]) -> str:
    """What a process of its own printed."""
    command = [sys.executable, "-m", "tests.bench.bench_monitoring", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    for days in (LOOKED_BACK, LONGER):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            (home / "dagster").mkdir(parents=True)
            # Quiet, and as `pilotage up` has it: SQLite in the home.
            (home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
            environment = os.environ | {"PILOTAGE_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
            call("prepare", str(home), str(days), environment=environment)
            told = [call("look", environment=environment) for _ in range(ROUNDS)]
            best = min(told, key=lambda text: float(text.split()[1]))
            numbers = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in best.splitlines()}
            importing = numbers["import to load"] + numbers["import in steps"]
            print(f"{days} days in the log, one of them new; the least of {ROUNDS}, CPU seconds:")
            print(best.rstrip())
            print(f"importing is {importing / numbers['total']:.0%} of the whole\n", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["look"]:
        look()
    else:
        main()
