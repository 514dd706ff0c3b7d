"""What drift is held to: silence where nothing happens, an alarm where something does, and a storm that is a storm."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from pilotage.monitoring.drift import DriftState, DriftVerdict
from tests.unit.monitoring.drift_world import (
    FIRST,
    Change,
    World,
    again,
    missing,
    month,
    scaled,
    shifted,
    swapped,
    unchanged,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def alarms(verdicts: list[DriftVerdict]) -> int:
    return sum(verdict.new for verdict in verdicts)


def test_years_in_which_nothing_changes_raise_at_most_one_alarm_each_and_keep_the_declared_rate(world: World) -> None:
    """One month, drawn again in blocks of days, as 365 windows of a week. 0.2 alarms a year are declared, so more than
    three in four years would be a chance of one in a hundred."""
    raised = []
    for seed in range(4):
        verdicts = [verdict for verdict, _ in world.judge(world.drawn(world.stationary(371, seed=seed)))]
        assert len(verdicts) == 365
        raised.append(alarms(verdicts))
    assert max(raised) <= 1
    assert sum(raised) <= 3


def test_temperature_that_wanders_as_it_always_did_is_no_drift_though_its_psi_is_over_a_quarter(world: World) -> None:
    stream = world.drawn(world.stationary(60, seed=1))
    verdicts = [verdict for verdict, _ in world.judge(stream)]
    psi = [
        measured.value
        for verdict in verdicts
        for each in verdict.columns
        if each.column == "temp" and (measured := each.measures["psi"]).value is not None
    ]
    assert max(psi) > 0.25
    assert alarms(verdicts) == 0


def after(world: World, change: Change, *, days: int = 21, seed: int = 5) -> list[DriftVerdict]:
    """Verdicts of the days after a change, which follows a quiet month."""
    random = np.random.default_rng(seed)
    quiet = [world.past[place] for place in world.stationary(28, seed=seed)]
    changed = [change(world.past[place], random) for place in world.stationary(days, seed=seed + 1)]
    stream = world.count([*quiet, *changed], date(2025, 1, 1))
    return [verdict for verdict, _ in world.judge(stream)][-days:]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (again(shifted("temp", 40.0)), "temp"),
        (again(scaled("distance", 2.0)), "distance"),
        (again(missing("delay", 0.4)), "delay"),
        (again(missing("visib", 1.0)), "visib"),
        (again(swapped("carrier", 0.5)), "carrier"),
    ],
    ids=["shift", "scale", "missing", "all missing", "category swap"],
)
def test_a_change_of_the_inputs_is_found_by_name_within_its_window(world: World, change: Change, column: str) -> None:
    verdicts = after(world, change)
    found = [place for place, verdict in enumerate(verdicts) if column in verdict.drifted]
    assert found, f"{column} was never found"
    assert found[0] <= world.window
    assert any(verdict.alarm for verdict in verdicts)


def test_a_flipped_label_and_a_changed_concept_show_in_the_labels_and_nowhere_else(world: World) -> None:
    """The inputs are what they were: no measure of them can know."""
    for change in (again(unchanged, turned=0.3), again(unchanged, truth=0.0)):
        verdicts = after(world, change)
        raised = {name for verdict in verdicts for name in verdict.drifted}
        assert raised
        assert raised <= {"label", "label_given_prediction"}
        told = next(verdict for verdict in verdicts if verdict.alarm)
        assert "The truth itself moved, which no estimate from the inputs shows" in told.why
        assert told.expected_loss is not None
        assert not told.expected_loss.suffers


def test_worse_inputs_are_said_to_cost_performance_and_better_ones_not(world: World) -> None:
    worse = after(world, again(lambda frame, _: frame.with_columns(pl.col("delay") * 4)))
    better = after(world, again(lambda frame, _: frame.with_columns(pl.col("delay") / 4)))
    told = [verdict.why for verdict in worse if verdict.alarm]
    assert any("Performance is expected to suffer" in why for why in told)
    assert better[-1].alarm
    assert "Performance is not expected to suffer" in better[-1].why


def storm(frame: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """Half the flights are cancelled, and have no label."""
    cancelled = pl.Series(random.random(frame.height) < 0.5)
    return frame.with_columns(pl.when(~cancelled).then(pl.col("label")).alias("label"))


def test_two_days_of_storm_are_an_incident_and_no_drift_and_are_not_learned(world: World) -> None:
    random = np.random.default_rng(3)
    days = [world.past[place] for place in world.stationary(60, seed=2)]
    for place in (40, 41):
        days[place] = storm(days[place], random)
    stream = world.count(days, date(2025, 1, 1))
    stormy = (stream.days[40], stream.days[41])
    states: list[tuple[DriftVerdict, DriftState]] = list(world.judge(stream))
    verdicts = {verdict.last: verdict for verdict, _ in states}

    assert verdicts[stormy[0]].incident == stormy[:1]
    assert verdicts[stormy[1]].incident == stormy
    assert f"{stormy[0]} is an incident (label: 47%" in verdicts[stormy[0]].why
    assert verdicts[stormy[1] + timedelta(days=7)].incident == ()
    assert alarms(list(verdicts.values())) == 0
    assert states[-1][1].incidents == stormy, "later learning has to know"

    as_past = tuple(FIRST + (day - stream.days[0]) for day in stormy)
    again_learned = World(past=days, left_out=as_past, days=60)
    naive = World(past=days, days=60)
    assert again_learned.thresholds.learned.days == 58
    second = [storm(day, random) if place >= 30 else day for place, day in enumerate(days[:33])]
    told = [verdict for verdict, _ in again_learned.judge(again_learned.count(second, date(2026, 1, 1)))]
    assert any(verdict.incident for verdict in told), "the next storm is an incident too"
    limit = {
        name: made.thresholds.columns["label"].seasons[0]["nulls"].location
        for name, made in (("left out", again_learned), ("learned", naive))
    }
    assert limit["left out"] < limit["learned"] / 3


def test_a_storm_that_does_not_end_is_a_change(world: World) -> None:
    random = np.random.default_rng(3)
    days = [world.past[place] for place in world.stationary(60, seed=2)]
    days[40:] = [storm(day, random) for day in days[40:]]
    verdicts = [verdict for verdict, _ in world.judge(world.count(days, date(2025, 1, 1)))]
    last = verdicts[-1]
    assert last.incident == ()
    assert last.alarm
    assert "label" in last.drifted
    assert alarms(verdicts) == 1


def test_a_value_that_flaps_around_its_threshold_is_one_alarm(world: World) -> None:
    """The shift is about what an ordinary year reaches: the weather takes it over the threshold, and back."""
    random = np.random.default_rng(4)
    change = again(shifted("temp", 24.0))
    places = world.stationary(130, seed=3)
    days = [
        change(world.past[place], random) if number >= 40 else world.past[place] for number, place in enumerate(places)
    ]
    verdicts = [verdict for verdict, _ in world.judge(world.count(days, date(2025, 1, 1)))]
    flaps = sum("temp" in a.drifted and "temp" not in b.drifted for a, b in pairwise(verdicts))
    assert flaps >= 3, "it has to flap for this to show anything"
    assert alarms(verdicts) == 1


def test_an_alarm_ends_when_all_is_as_it_was(world: World) -> None:
    random = np.random.default_rng(4)
    change = again(shifted("temp", 40.0))
    places = world.stationary(90, seed=3)
    days = [
        change(world.past[place], random) if 40 <= number < 55 else world.past[place]
        for number, place in enumerate(places)
    ]
    verdicts = [verdict for verdict, _ in world.judge(world.count(days, date(2025, 1, 1)))]
    assert alarms(verdicts) == 1
    assert sum(verdict.cleared for verdict in verdicts) == 1
    assert not verdicts[-1].alarm


def test_a_world_with_less_memory_and_other_seeds_is_quiet_too() -> None:
    for seed in (21,):
        other = World(seed=seed, past=month(31, rows=250, seed=seed, lasts=0.3))
        verdicts = [verdict for verdict, _ in other.judge(other.drawn(other.stationary(371, seed=seed)))]
        assert alarms(verdicts) <= 1
