"""Where the time of a replay went."""

from datetime import UTC, date, datetime
from typing import Any

from pilotage.replay.spent import by_run, by_step, in_a_line

AT = datetime(2026, 1, 1, tzinfo=UTC)


def run(job: str, start: float, work: float | None, status: str = "SUCCESS") -> dict[str, Any]:
    return {"run": "r", "job": job, "status": status, "start_s": start, "work_s": work}


FACTS = [
    (date(2013, 3, 1), "landed", AT, {"seconds": 30.0, "runs": [run("__ASSET_JOB", 5, 20)]}),
    (date(2013, 3, 1), "reacted", AT, {"seconds": 60.0, "runs": [run("monitor", 5, 40), run("watch", 5, 2)]}),
    (date(2013, 3, 2), "landed", AT, {"seconds": 10.0, "runs": [run("__ASSET_JOB", 5, 2)]}),
    (date(2013, 3, 2), "reacted", AT, {"seconds": 100.0, "runs": [run("monitor", 7, 42, "FAILURE")]}),
]


def test_steps_are_told_in_their_order_with_their_share_of_the_whole() -> None:
    landed, reacted = by_step(FACTS)
    assert landed == {
        "step": "land, and wait until it is taken up", "days": "2", "median s": "20.0", "longest s": "30.0",
        "share": "20%",
    }  # fmt: skip
    assert (reacted["median s"], reacted["share"]) == ("80.0", "80%")


def test_runs_are_told_by_what_they_took_the_most_first() -> None:
    rows = by_run(FACTS)
    assert [row["job"] for row in rows] == ["monitor", "take up new data", "watch"]
    assert rows[0] == {
        "job": "monitor", "runs": "2", "failed": "1", "start, median s": "6.0", "work, median s": "41.0", "all s": "94",
    }  # fmt: skip


def test_a_replay_of_no_day_says_nothing_and_one_of_an_older_version_does_not_fail() -> None:
    assert in_a_line([]) == ""
    assert in_a_line([(date(2013, 3, 1), "landed", AT, {"files": 2}), (date(2013, 3, 1), "moved", AT, {})]) == ""
    assert in_a_line(FACTS).startswith("A day in the median: land, and wait until it is taken up 20.0 s (20%)")
