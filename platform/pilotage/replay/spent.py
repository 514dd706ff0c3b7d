"""Where the time of a replay went: by step of a day, and by Dagster run, its start apart from its work. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from statistics import median
from typing import Any

from pilotage.replay.progress import STEPS

STEP_WORDS: Mapping[str, str] = {
    "landed": "land, and wait until it is taken up",
    "answered": "send requests",
    "told": "tell outcomes",
    "reacted": "the night's work",
}
Facts = Iterable[tuple[date, str, datetime, Mapping[str, Any]]]


def by_step(facts: Facts) -> list[dict[str, str]]:
    """One row a step: seconds of a day in the median and at most, and its share of the whole."""
    seconds: dict[str, list[float]] = {}
    for _, step, _, told in facts:
        if "seconds" in told:
            seconds.setdefault(step, []).append(float(told["seconds"]))
    whole = sum(sum(each) for each in seconds.values())
    return [
        {
            "step": STEP_WORDS[step],
            "days": f"{len(seconds[step]):,}",
            "median s": f"{median(seconds[step]):.1f}",
            "longest s": f"{max(seconds[step]):.1f}",
            "share": f"{sum(seconds[step]) / whole:.0%}" if whole else "",
        }
        for step in STEPS
        if step in seconds
    ]


def by_run(facts: Facts) -> list[dict[str, str]]:
    """One row a Dagster job, the most time first: how many runs, and what of a run is waiting and start, and work."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for _, _, _, told in facts:
        for run in told.get("runs", []):
            runs.setdefault("take up new data" if run["job"].startswith("__") else run["job"], []).append(run)
    rows = [
        {
            "job": job,
            "runs": f"{len(found):,}",
            "failed": f"{sum(run['status'] != 'SUCCESS' for run in found):,}",
            "start, median s": f"{median(run['start_s'] or 0.0 for run in found):.1f}",
            "work, median s": f"{median(run['work_s'] or 0.0 for run in found):.1f}",
            "all s": f"{sum((run['start_s'] or 0.0) + (run['work_s'] or 0.0) for run in found):,.0f}",
        }
        for job, found in runs.items()
    ]
    return sorted(rows, key=lambda row: -float(row["all s"].replace(",", "")))


def in_a_line(facts: Facts) -> str:
    """What a day took in the median, in words; empty if no day is over."""
    rows = by_step(facts)
    if not rows:
        return ""
    parts = ", ".join(f"{row['step']} {row['median s']} s ({row['share']})" for row in rows)
    return f"A day in the median: {parts}."
