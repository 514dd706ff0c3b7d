"""A replayed night asks for retrainings as schedules and alarms would, and sees each request to its end.

Dagster is played by ``Works``, whose runs do at once to the ledger what the platform's do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.policy import Retraining
from pilotage.release.ledger import SqlLedger
from pilotage.release.retraining import attempts
from pilotage.release.retraining.book import state_of
from pilotage.release.retraining.reconcile import put_right
from pilotage.release.retraining.requests import request
from pilotage.release.stages import ModelState
from pilotage.replay.dagster_link import Dagster, Run, Wanted
from pilotage.replay.nights import night
from pilotage.replay.retrainings import Retrainings
from pilotage.replay.runs import Runs
from pilotage.run_tags import ATTEMPT, NIGHT, REQUEST
from pilotage.settings import Settings
from tests.unit.replay import parcels_year as year

DAY = date(2024, 4, 1)
SPEC = year.spec(
    retraining=Retraining(schedule="0 4 * * *", at_most=1, attempts=2, retry_after=timedelta(0), better_by=0)
)
ALARM = {"alarm": "drift of version 1", "since": "2024-03-30"}


class Works(Dagster):
    """Runs that are over as soon as they are launched."""

    def __init__(self, settings: Settings, *, crashes: int = 0) -> None:
        super().__init__("http://127.0.0.1:1")
        self.settings, self.crashes = settings, crashes
        self.wanted: list[Wanted] = []
        self.launched: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self._runs: list[Run] = []

    def look(self, sensor: str) -> list[Wanted]:
        assert sensor == f"retraining_alarms_{SPEC.name}"
        return self.wanted

    def launch(
        self,
        job: str,
        *,
        tags: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ) -> str:
        name = f"run-{len(self._runs)}"
        self.launched.append((job, dict(tags), dict(config or {})))
        status = {f"retrain_{SPEC.name}": self._asks, f"train_{SPEC.name}": self._trains}.get(job, self._reconciles)(
            name, tags, config or {}
        )
        self._runs.append(Run(id=name, job=job, status=status, tags=dict(tags), created=1.0, started=2.0, over=4.0))
        return name

    def runs(self, *, limit: int = 50, **filter_by: Any) -> list[Run]:
        wanted = dict(filter_by.get("tags", {})).items()
        found = [run for run in reversed(self._runs) if wanted <= run.tags.items()]
        ids = filter_by.get("runIds")
        return [run for run in found if ids is None or run.id in ids][:limit]

    def fail(self, run: str) -> None:
        self._runs = [replace(each, status="FAILURE") if each.id == run else each for each in self._runs]

    def _asks(self, _name: str, _tags: Mapping[str, str], config: Mapping[str, Any]) -> str:
        values = config["ops"]["ask"]["config"]
        by = {"settings": self.settings, "actor": "monitoring", "why": "it drifts", "once": values["once"]}
        request(SPEC.name, "drift", values["evidence"], **by)
        return "SUCCESS"

    def _trains(self, name: str, tags: Mapping[str, str], _config: Mapping[str, Any]) -> str:
        book = SqlLedger.of(self.settings)
        _, held = attempts.begin(SPEC.name, int(tags[REQUEST]), run=name, policy=SPEC.retraining, book=book)
        if self.crashes:
            self.crashes -= 1
            book.close()
            return "FAILURE"
        attempts.finish(SPEC.name, held.fence, "unchanged", why="nothing is new", book=book)
        book.close()
        return "SUCCESS"

    def _reconciles(self, _name: str, _tags: Mapping[str, str], _config: Mapping[str, Any]) -> str:
        from datetime import UTC, datetime

        book = SqlLedger.of(self.settings)
        put_right(
            SPEC.name,
            SPEC.retraining,
            book=book,
            stand_of=lambda run: "failed" if self.runs(runIds=[run])[0].status == "FAILURE" else "finished",
            launched=lambda _request, _number: [],
            now=datetime.now(UTC),
        )
        book.close()
        return "SUCCESS"


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    made = Works(Settings(home=tmp_path))
    yield made
    made.close()


def state_in(works: Works) -> ModelState:
    book = SqlLedger.of(works.settings)
    found = state_of(SPEC.name, book)
    book.close()
    return found


def night_of(works: Works, day: date = DAY, *, scheduled: bool = False, said: Callable[[str], None] = print) -> Any:
    runs = Runs(dagster=works)
    made = Retrainings(settings=works.settings, spec=SPEC, runs=runs, state=lambda: state_in(works))
    return made.done_in(day, scheduled=scheduled, said=said, stop=lambda: False)


def alarmed(works: Works, once: str = "alarm 1") -> None:
    wish = {"config": {"evidence": ALARM, "once": once, "why": "it drifts"}}
    works.wanted = [Wanted(job=f"retrain_{SPEC.name}", config={"ops": {"ask": wish}}, tags={"why": "drift"})]


def test_a_night_without_schedule_or_alarm_trains_nothing(works: Works) -> None:
    assert night_of(works) == []
    assert works.launched == []


def test_a_night_of_the_schedule_is_one_request_that_names_its_night(works: Works) -> None:
    [done] = night_of(works, scheduled=True)
    assert (done["outcome"], done["causes"]) == ("unchanged", ["nightly"])
    [closed] = state_in(works).retraining.closed
    assert closed.as_of == night(SPEC, DAY)


def test_nights_of_a_replay_are_not_limited_by_the_clock_on_the_wall(works: Works) -> None:
    outcomes = [night_of(works, DAY + timedelta(days=n), scheduled=True)[0]["outcome"] for n in range(3)]
    assert outcomes == ["unchanged"] * 3


def test_an_alarm_is_heard_in_its_night_and_its_request_names_the_night(works: Works) -> None:
    alarmed(works)
    [done] = night_of(works)
    assert done["causes"] == ["drift"]
    asked, tags, _ = works.launched[0]
    assert (asked, tags[NIGHT], tags["why"]) == (f"retrain_{SPEC.name}", str(DAY), "drift")
    [closed] = state_in(works).retraining.closed
    assert closed.as_of == night(SPEC, DAY)
    assert closed.asks[0].evidence["since"] == "2024-03-30"


def test_a_request_that_the_sensor_made_itself_gets_its_night_too(works: Works) -> None:
    # Two of them began today, as many as may: by the clock on the wall it would wait until tomorrow.
    for number in range(2):
        request(SPEC.name, "drift", ALARM, settings=works.settings, actor="sensor", why="so", once=str(number))
        assert night_of(works, DAY + timedelta(days=number))[0]["outcome"] == "unchanged"


def test_an_attempt_that_crashes_is_reconciled_and_tried_again(works: Works) -> None:
    works.crashes = 1
    [done] = night_of(works, scheduled=True)
    assert done["outcome"] == "unchanged"
    jobs = [(job, tags.get(ATTEMPT)) for job, tags, _ in works.launched]
    assert jobs == [(f"train_{SPEC.name}", "1"), ("reconcile_retraining", None), (f"train_{SPEC.name}", "2")]


def test_a_request_whose_attempts_are_used_up_is_given_up_and_ends_the_night(works: Works) -> None:
    works.crashes = 2
    [done] = night_of(works, scheduled=True)
    assert done["outcome"] == "gave_up"


def test_what_runs_took_is_kept_with_their_start_apart_from_their_work(works: Works) -> None:
    runs = Runs(dagster=works)
    alarmed(works)
    made = Retrainings(settings=works.settings, spec=SPEC, runs=runs, state=lambda: state_in(works))
    made.done_in(DAY, scheduled=False, said=print, stop=lambda: False)
    [asked, *_] = runs.taken()
    assert (asked["job"], asked["start_s"], asked["work_s"]) == (f"retrain_{SPEC.name}", 1.0, 2.0)
    assert runs.taken() == []


def test_a_run_of_a_night_that_was_launched_before_is_found_again_unless_it_failed(works: Works) -> None:
    runs, tags = Runs(dagster=works), {NIGHT: str(DAY)}
    first = runs.once("monitor", tags)
    assert runs.once("monitor", tags) == first
    assert runs.once("monitor", {NIGHT: str(DAY + timedelta(days=1))}) != first
    works.fail(first)
    assert runs.once("monitor", tags) != first


def test_a_replay_that_is_stopped_leaves_the_run_to_itself(works: Works) -> None:
    class Endless(Works):
        def runs(self, *, limit: int = 50, **filter_by: Any) -> list[Run]:
            return [replace(run, status="STARTED") for run in super().runs(limit=limit, **filter_by)]

    endless = Endless(works.settings)
    alarmed(endless)
    looks = iter([False, True, True, True])
    made = Retrainings(settings=works.settings, spec=SPEC, runs=Runs(dagster=endless), state=lambda: state_in(endless))
    assert made.done_in(DAY, scheduled=True, said=print, stop=lambda: next(looks)) is None
    endless.close()
