"""Which failed runs are told though their sensor could not, and what ends the alarm about a run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from pilotage.monitoring.alerts import AlertBook
from pilotage.monitoring.alerts.watches import carry_out
from pilotage.release.retraining import requests
from pilotage.run_tags import ATTEMPT, CAUSE, LANDING, MODEL, RANGE_FIRST, RANGE_LAST, REQUEST
from pilotage.settings import Settings
from sensors.failed_runs import FIRST_LOOK, FailedRunsWatch
from sensors.failures import failure, withdrawn

BROKEN: set[str] = set()
"""Assets that can't be made now."""
DAILY = dg.DailyPartitionsDefinition(start_date="2013-01-01", end_date="2013-03-01")


def made(*path: str, days: bool = True, after: tuple[dg.AssetKey, ...] = ()) -> dg.AssetsDefinition:
    key = dg.AssetKey(path)

    @dg.asset(
        key=key,
        partitions_def=DAILY if days else None,
        deps=after,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def it() -> None:
        if key.to_user_string() in BROKEN:
            raise ValueError("a column is missing")

    return it


FLIGHTS, WEATHER = dg.AssetKey(["raw", "flights"]), dg.AssetKey(["raw", "weather"])
FEATURES, ONLINE = dg.AssetKey(["flight_delay", "features"]), dg.AssetKey(["flight_delay", "online_state"])
ALL = (FLIGHTS, WEATHER, FEATURES, ONLINE)
DEFINITIONS = dg.Definitions(
    assets=[
        made("raw", "flights"),
        made("raw", "weather"),
        made("flight_delay", "features", after=(FLIGHTS,)),
        made("flight_delay", "online_state", days=False, after=(FEATURES,)),
    ]
)


class Desk:
    """An instance, a book of alarms, and the watch between its looks."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.instance = instance
        self.seen: datetime | None = None

    def land(self, *keys: dg.AssetKey, days: tuple[str, str], files: str, attempt: int = 1) -> dg.DagsterRun:
        tags = {CAUSE: "new_data", LANDING: files, ATTEMPT: str(attempt), RANGE_FIRST: days[0], RANGE_LAST: days[1]}
        return self.run(*keys, **tags)

    def run(self, *keys: dg.AssetKey, **tags: str) -> dg.DagsterRun:
        job = DEFINITIONS.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            instance=self.instance, asset_selection=list(keys), tags=tags, raise_on_error=False
        )
        run = self.instance.get_run_by_id(done.run_id)
        assert run is not None
        return run

    def told(self, run: dg.DagsterRun) -> None:
        """What the sensor `run_failures` does."""
        with self.book() as book:
            book.raise_(failure(run, "it broke", self.settings))

    def look(self, *, later: timedelta = timedelta(minutes=2)) -> None:
        now = datetime.now(UTC) + later
        with self.book() as book:
            watch = FailedRunsWatch(instance=self.instance, book=book, settings=self.settings, now=now, seen=self.seen)
            carry_out(book, [watch.watch()])
            self.seen = watch.seen

    def book(self) -> AlertBook:
        return AlertBook.of(self.settings)

    def clears(self) -> dict[str, int]:
        """Subject of each open alarm → how often it was found to be made good."""
        with self.book() as book:
            return {alarm.key.subject: alarm.clears for alarm in book.alarms()}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    BROKEN.clear()
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(tmp_path, instance)


def test_a_failure_that_could_not_be_written_down_is_told_later_and_once(desk: Desk) -> None:
    BROKEN.add("flight_delay/online_state")
    run = desk.run(ONLINE)
    desk.look(later=timedelta(seconds=30))
    assert desk.clears() == {}, "its own sensor may still tell of it"
    for _ in range(3):
        desk.look()
    with desk.book() as book:
        [alarm] = book.alarms()
        assert (alarm.key.subject, alarm.count, alarm.occurrences) == ("flight_delay/online_state", 1, (run.run_id,))
        assert "flight_delay__online_state: ValueError: a column is missing" in alarm.alert.summary
        assert [row["happened"] for row in book.history()] == ["opened"]


def test_a_failure_that_its_sensor_told_is_not_told_again(desk: Desk) -> None:
    BROKEN.add("flight_delay/online_state")
    desk.told(desk.run(ONLINE))
    with desk.book() as book:
        book.end(1, who="ada", why="not needed any more")
    desk.look()
    assert desk.clears() == {}


def test_a_crash_that_dagster_tries_again_and_one_of_long_ago_are_not_told(desk: Desk) -> None:
    BROKEN.add("flight_delay/online_state")
    desk.run(ONLINE, **{"dagster/will_retry": "true"})
    desk.look()
    assert desk.clears() == {}
    desk.run(ONLINE)
    desk.seen = None
    desk.look(later=FIRST_LOOK + timedelta(minutes=5))
    assert desk.clears() == {}


def test_a_training_whose_request_was_withdrawn_may_fail_without_an_alarm(desk: Desk) -> None:
    by = {"settings": desk.settings, "actor": "ada", "why": "wrong day"}
    wanted = [requests.request("flight_delay", "manual", {}, **by)]
    requests.withdraw("flight_delay", **by)
    wanted.append(requests.request("flight_delay", "manual", {}, **by))
    BROKEN.add("flight_delay/online_state")
    runs = [desk.run(ONLINE, **{MODEL: "flight_delay", REQUEST: str(each.number)}) for each in wanted if each]
    assert [withdrawn(run, desk.settings) for run in runs] == [True, False]
    desk.look()
    with desk.book() as book:
        [alarm] = book.alarms()
        assert alarm.occurrences == (runs[1].run_id,)


def test_a_training_that_failed_is_told_when_no_ledger_can_say_whether_it_was_withdrawn(desk: Desk) -> None:
    by = {"settings": desk.settings, "actor": "ada", "why": "wrong day"}
    wanted = requests.request("flight_delay", "manual", {}, **by)
    assert wanted is not None
    requests.withdraw("flight_delay", **by)
    BROKEN.add("flight_delay/online_state")
    run = desk.run(ONLINE, **{MODEL: "flight_delay", REQUEST: str(wanted.number)})
    for file in desk.settings.home.glob("ledger.db*"):
        file.unlink()
    assert not withdrawn(run, desk.settings)


def test_assets_that_failed_are_not_made_good_by_a_run_of_others(desk: Desk) -> None:
    BROKEN.add("flight_delay/online_state")
    desk.told(desk.run(ONLINE))
    desk.land(WEATHER, days=("2013-02-08", "2013-02-08"), files="w")
    desk.look()
    assert desk.clears() == {"flight_delay/online_state": 0}
    BROKEN.clear()
    desk.run(ONLINE)
    desk.look()
    assert desk.clears() == {"flight_delay/online_state": 1}


def test_a_landing_that_was_given_up_is_over_when_corrected_files_made_what_it_left_undone(desk: Desk) -> None:
    BROKEN.add("raw/flights")
    days = ("2013-02-08", "2013-02-10")
    for attempt in (1, 2, 3):
        desk.told(desk.land(*ALL, days=days, files="a", attempt=attempt))
    with desk.book() as book:
        [alarm] = book.alarms()
    assert (alarm.tier, alarm.key.subject) == ("critical", "flights, weather 2013-02-08 … 2013-02-10")
    assert alarm.alert.evidence["sources"] == ["flights", "weather"]
    BROKEN.clear()
    # One of its days is still missing; the weather was ingested then.
    desk.land(FLIGHTS, FEATURES, ONLINE, days=("2013-02-08", "2013-02-09"), files="b")
    desk.look()
    assert list(desk.clears().values()) == [0]
    desk.land(FLIGHTS, FEATURES, ONLINE, days=("2013-02-10", "2013-02-10"), files="c")
    desk.look()
    assert list(desk.clears().values()) == [1]


def test_what_has_no_days_is_made_good_by_a_run_of_any_days(desk: Desk) -> None:
    desk.land(*ALL, days=("2013-02-07", "2013-02-07"), files="a")
    BROKEN.add("flight_delay/online_state")
    desk.told(desk.land(*ALL, days=("2013-02-08", "2013-02-08"), files="b", attempt=3))
    BROKEN.clear()
    desk.land(*ALL, days=("2013-02-09", "2013-02-09"), files="c")
    desk.look()
    assert desk.clears() == {"flights, weather 2013-02-08": 1}


def test_a_success_before_the_failure_was_told_counts(desk: Desk) -> None:
    BROKEN.add("flight_delay/online_state")
    failed = desk.run(ONLINE)
    BROKEN.clear()
    desk.run(ONLINE)
    desk.told(failed)
    desk.look()
    assert desk.clears() == {"flight_delay/online_state": 1}
