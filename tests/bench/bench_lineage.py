"""The whole lineage of ``flight_delay`` for the year, raw files → registered version, against a bare script.

    python -m tests.bench.bench_lineage

Both start from the same landed files, each in a process of its own. The platform's side is what Dagster does when an
operator materializes it: reference tables, days, features, online state, training set, model, evaluation with its
pictures, registration in MLflow; with its real instance, in one process. The bare side ends in a registered model too.
Target: at most 1.5 times the wall time and 1.5 times the peak memory of ``bare_script.py``. The split says where the
platform's time goes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROUNDS = 2
FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)


def land(home: Path) -> None:
    from pilotage.data import sample
    from pilotage.settings import Settings

    settings = Settings.load().model_copy(update={"home": home})
    sample.publish_flights(settings.landing, first=FIRST, last=LAST)
    sample.publish_weather(settings.landing, first=FIRST, last=LAST)
    sample.publish_reference(settings.landing)
    sample.publish_loans(settings.loans)


def platform() -> None:
    started = time.perf_counter()
    import dagster as dg

    from definitions import defs
    from pilotage.run_tags import RANGE_FIRST, RANGE_LAST

    tables = [dg.AssetKey([layer, name]) for layer in ("raw", "validated") for name in ("planes", "airports")]
    steps = ("training_set", "trained_model", "evaluation", "registered_version")
    loaded = time.perf_counter()
    print(f"load {loaded - started:.1f}")
    everything = defs.resolve_implicit_global_asset_job_def()
    days = {RANGE_FIRST: str(FIRST), RANGE_LAST: str(LAST)}
    with dg.DagsterInstance.get() as instance:
        for name, job, keys, tags in (
            ("tables", everything, [*tables, *(dg.AssetKey(["quarantine", k.path[1]]) for k in tables[2:])], {}),
            ("days", defs.resolve_job_def("data_flight_delay"), None, days),
            ("train", everything, [dg.AssetKey(["flight_delay", step]) for step in steps], {}),
        ):
            began = time.perf_counter()
            result = job.execute_in_process(instance=instance, tags=tags, asset_selection=keys)
            print(f"{name} {time.perf_counter() - began:.1f}")
            for event in result.all_events:
                if event.is_step_success:
                    print(f"  {event.step_key} {event.step_success_data.duration_ms / 1000:.1f}")


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, float, str]:
    """Wall seconds, CPU seconds, peak MB and output of a process."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        told = out.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, told


def main() -> None:
    from pilotage.cli.home import prepare, variables
    from pilotage.settings import Settings

    best: dict[str, tuple[float, float, float, str]] = {}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            settings = Settings.load().model_copy(update={"home": home})
            prepare(settings)
            land(home)
            me = [sys.executable, "-m", "tests.bench.bench_lineage", "platform"]
            bare = [sys.executable, "-m", "tests.bench.bare_script", str(settings.landing), str(Path(folder) / "bare")]
            for name, command in (("bare", bare), ("platform", me)):
                got = measured(command, variables(settings))
                best[name] = min(best.get(name, got), got)
    for name, (wall, cpu, peak, _) in best.items():
        print(f"{name:9} {wall:6.1f} s wall {cpu:6.1f} s CPU {peak:7.0f} MB peak")
    ratios = [ours / theirs for ours, theirs in zip(best["platform"][:3], best["bare"][:3], strict=True)]
    print("ratio     {:6.2f}        {:6.2f}       {:7.2f}".format(*ratios))
    print(best["platform"][3])


if __name__ == "__main__":
    if sys.argv[1:] == ["platform"]:
        platform()
    else:
        main()
