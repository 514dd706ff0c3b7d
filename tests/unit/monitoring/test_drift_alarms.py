"""What drift finds in the book of alarms: when an alarm opens, what it is about, when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.monitoring import DriftWindow, monitoring_assets
from pilotage.errors import ConfigError, DataError
from pilotage.monitoring.alerts import Alarm, AlertBook
from pilotage.monitoring.drift import watch
from resources.platform_home import PlatformHome
from tests.unit.monitoring.drift_house import REFERENCE, WINDOW, House, day_of, dearer


def looked_at(house: House, last: int | None = None) -> dict[str, Any]:
    """The asset, without its page: what its checks say of the alarm."""
    (asset,) = monitoring_assets(house.spec)
    config: dict[str, Any] = {"report": False} | ({} if last is None else {"last": day_of(last).isoformat()})
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset],
            instance=instance,
            resources={"platform": PlatformHome(home=str(house.settings.home))},
            run_config={"ops": {asset.op.name: {"config": config}}},
        )
    told = {each.check_name: each.metadata.get("alarm_since") for each in result.get_asset_check_evaluations()}
    return {name: value and value.value for name, value in told.items()}


def known_alarms(house: House) -> dict[str, Alarm]:
    with AlertBook.of(house.settings) as book:
        return {alarm.key.kind: alarm for alarm in book.alarms(open_only=False)}


def test_a_night_before_the_first_release_judges_nothing_and_fails_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, released=False)
    assert looked_at(house) == dict.fromkeys(
        ("stable_inputs", "stable_predictions_and_labels", "expected_performance", "no_incident")
    )
    assert known_alarms(house) == {}


@pytest.mark.parametrize("day", ["yesterday", "2013-13-01"])
def test_a_last_day_that_is_none_is_named(day: str) -> None:
    with pytest.raises(ConfigError, match=f"last is '{day}', which is no day"):
        DriftWindow(last=day).day()


def test_a_window_that_has_no_rows_is_not_passed_off_as_another_one(house: House) -> None:
    house.watch(REFERENCE - 1)
    with pytest.raises(DataError, match="no rows up to 2023-12-31; its features begin 2024-01-01"):
        house.watch(-1)
    said: list[str] = []
    late = day_of(REFERENCE + 300)
    watch(house.spec, settings=house.settings, lake=house.lake, last=late, progress=said.append)
    [told] = [each for each in said if "has no rows" in each]
    assert told.startswith(f"{late} has no rows: this is the window that ends with ")


def test_an_alarm_is_in_the_book_from_the_window_that_opens_it_to_the_one_that_closes_it(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 4), dearer)
    house.publish(range(REFERENCE + 4, REFERENCE + 12))
    since = day_of(REFERENCE + 1).isoformat()
    house.watch(REFERENCE - 1)
    assert set(looked_at(house, REFERENCE + 1).values()) == {since}
    alarm = known_alarms(house)["drift"]
    assert (alarm.key.model, alarm.tier, alarm.open, alarm.count) == ("tiny", "warning", True, 1)
    assert "amount" in alarm.alert.summary
    assert (alarm.alert.evidence["since"], alarm.alert.evidence["champion"]) == (since, 1)
    assert "/runs/" in alarm.alert.run_url

    looked_at(house, REFERENCE - 1)  # An older window, looked at again, changes nothing.
    assert known_alarms(house)["drift"] == alarm

    # A run that was killed after it decided, and before it told: the next one tells.
    closed = next(last for last in range(REFERENCE + 2, REFERENCE + 12) if house.watch(last).verdict.cleared)
    assert set(looked_at(house, closed).values()) == {None}
    alarm = known_alarms(house)["drift"]
    assert (alarm.open, alarm.episode) == (False, 1)


def without_amount(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(amount=pl.lit(None, pl.Float64))


def test_an_incident_is_one_alarm_of_its_own_until_the_window_has_left_it(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 8))
    house.publish(range(REFERENCE, REFERENCE + 2), without_amount)
    looked_at(house, REFERENCE)
    looked_at(house, REFERENCE + 1)
    looked_at(house, REFERENCE + WINDOW)  # Its first day has left.
    [alarm] = known_alarms(house).values()
    assert (alarm.key.kind, alarm.open, alarm.count) == ("incident", True, 1)
    assert alarm.key.subject == str(day_of(REFERENCE))
    assert alarm.alert.summary.startswith(f"{house.spec.title}: {day_of(REFERENCE)} is unlike all of the weeks before.")
    looked_at(house, REFERENCE + 1 + WINDOW)
    [alarm] = known_alarms(house).values()
    assert not alarm.open


def test_a_second_incident_in_the_window_of_the_first_is_told_too_and_each_ends_by_itself(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 8))
    for number in (REFERENCE, REFERENCE + 2):
        house.publish(range(number, number + 1), without_amount)
    first, second = (str(day_of(number)) for number in (REFERENCE, REFERENCE + 2))
    seen = []
    for last in (REFERENCE, REFERENCE + 2, REFERENCE + WINDOW, REFERENCE + 2 + WINDOW):
        looked_at(house, last)
        with AlertBook.of(house.settings) as book:
            seen.append({alarm.key.subject for alarm in book.alarms()})
    assert seen == [{first}, {first, second}, {second}, set()]
