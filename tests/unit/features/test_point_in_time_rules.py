"""The rules that must hold for all facts: nothing from the future, batch equals online, order never matters."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilotage.data.lake import Lake
from pilotage.features import spans
from pilotage.features.columnar import ColumnLookups
from pilotage.features.columns import Column
from pilotage.features.compiled import CompiledRow
from pilotage.features.compiled.row import frame_of
from pilotage.features.memory import MemoryStore
from pilotage.features.online import build_online
from pilotage.features.state import RowLookups
from pilotage.features.store import OnlineStore
from pilotage.spec import Latest, ModelSpec, Window
from tests.unit.features.worlds import (
    DEFINITION,
    VIEW,
    FrameLake,
    World,
    aggregate,
    known,
    moment,
    reading,
    window,
    worlds,
)

# A store is a file on disk: the rules that build one get fewer examples.
thorough = settings(deadline=None, max_examples=100)
with_stores = settings(deadline=None, max_examples=40)


def same_bits(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Equal values, types and order; floats to the last bit."""
    assert one.schema == other.schema
    for name, dtype in one.schema.items():
        values = [frame.get_column(name).to_list() for frame in (one, other)]
        if dtype == pl.Float64():
            values = [[None if value is None else value.hex() for value in column] for column in values]
        assert values[0] == values[1], name


def online(world: World, requests: pl.DataFrame, reach: timedelta = timedelta(days=1)) -> pl.DataFrame:
    """The answers of a real store, built from the world's facts."""
    spec = cast(ModelSpec, Spec(name="world"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "world.db"
        build_online(spec, lake=cast(Lake, FrameLake(world.frames)), path=path, run_id="r", reach=reach)
        loaded = MemoryStore.load(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spans, "_MANY", 1)
            indexed = MemoryStore.load(path)
        with OnlineStore.open(path) as store:
            answers = VIEW.online(requests, store)
            same_bits(VIEW.online(requests, loaded), answers)
            for state in (loaded, indexed, store):
                one_row_at_a_time(requests, state, answers)
            in_a_batch(requests, loaded, answers)
            return answers


LOOKUPS = RowLookups(VIEW.lookups, VIEW.request_types)
BATCHES = ColumnLookups(VIEW.lookups, VIEW.request_types)
FEATURES = CompiledRow(VIEW.rows.expressions, {**VIEW.request_types, **VIEW.state_types})
MOMENT_OF = CompiledRow({"at": DEFINITION.predicts_at}, VIEW.request_types)  # type: ignore[dict-item]
# A feature may have the name, and then the value, of a column.
TYPES = {**VIEW.state_types, **{f"feature_{name}": dtype for name, dtype in VIEW.schema.items()}}


def wanted_of(answers: pl.DataFrame) -> pl.DataFrame:
    """As-of columns and features."""
    return answers.select(*VIEW.state_types, *(pl.col(name).alias(f"feature_{name}") for name in VIEW.schema))


def one_row_at_a_time(requests: pl.DataFrame, state: MemoryStore | OnlineStore, answers: pl.DataFrame) -> None:
    """The path of one request gives what frames give: as-of columns and features, to the last bit."""
    rows = []
    for request in requests.select(pl.all().to_physical()).rows():
        known = LOOKUPS.answer(request, MOMENT_OF(request)[0], state)
        rows.append([*known, *FEATURES([*request, *known])])
    same_bits(frame_of(rows, TYPES), wanted_of(answers))


def in_a_batch(requests: pl.DataFrame, state: MemoryStore, answers: pl.DataFrame) -> None:
    """The path of a batch gives the same: as-of columns and features, to the last bit."""
    asked = [Column(column.to_list()) for column in requests.select(pl.all().to_physical())]
    [moments] = MOMENT_OF.many(asked)
    known = BATCHES.answer(asked, np.array(moments.values, dtype=np.int64), state)
    assert known is not None
    columns = [*known, *FEATURES.many([*asked, *known])]
    rows = list(zip(*(column.values for column in columns), strict=True))
    same_bits(frame_of(rows, TYPES), wanted_of(answers))
    for column, wanted in zip(columns, wanted_of(answers), strict=True):
        if wanted.dtype != pl.String():
            assert np.array_equal(column.numbers, wanted.to_physical().cast(pl.Float64).to_numpy(), equal_nan=True)


class Spec(SimpleNamespace):
    """As much of a spec as the view takes."""

    source, event_time = "requests", None
    predicts_at = DEFINITION.predicts_at
    asof = DEFINITION.asof
    features = tuple(SimpleNamespace(name=name, expr=expr) for name, expr in DEFINITION.features.items())

    def request_types(self) -> dict[str, pl.DataType]:
        return dict(DEFINITION.request)


@with_stores
@given(world=worlds, later=st.lists(reading, max_size=10), data=st.data())
def test_facts_that_become_known_later_change_nothing(world: World, later: list[dict[str, Any]], data: Any) -> None:
    asked = data.draw(st.sampled_from(world.requests))
    before = World(world.readings, world.places, [asked])
    already = [row for row in world.readings if row["known_at"] is not None and row["known_at"] <= asked["at"]]
    new = [row for row in later if row["known_at"] is None or row["known_at"] > asked["at"]]
    after = World(new + already, world.places, [asked])

    same_bits(after.offline(), before.offline())
    same_bits(online(after, after.population), before.offline())


def of(*values: int) -> World:
    """Values of one sensor, a minute apart, asked for right after the last."""
    facts = [
        {
            "sensor": "a",
            "lane": 0,
            "known_at": moment(minute),
            "value": value,
            "good": True,
            "level": 0.1,
            "seen_on": None,
        }
        for minute, value in enumerate(values)
    ]
    return World(facts, [], [{"sensor": "a", "lane": 0, "at": moment(len(values))}])


# Their mean depends on whether the sum is rounded to a float before it is divided.
HUGE = of(104086507124545699, 90737118276406299, 66286475639637526)


@with_stores
@given(world=worlds)
@example(world=HUGE)
def test_batch_and_online_answers_are_the_same_bits(world: World) -> None:
    same_bits(online(world, world.population), world.offline())


@with_stores
@given(world=worlds)
def test_one_row_at_a_time_gives_what_all_rows_at_once_give(world: World) -> None:
    alone = [World(world.readings, world.places, [asked]) for asked in world.requests]

    same_bits(pl.concat(each.offline() for each in alone), world.offline())
    same_bits(pl.concat(online(world, each.population) for each in alone), world.offline())


@thorough
@given(world=worlds, random=st.randoms(use_true_random=False))
def test_the_order_in_which_facts_are_read_does_not_matter(world: World, random: Any) -> None:
    readings, places = list(world.readings), list(world.places)
    random.shuffle(readings)
    random.shuffle(places)

    same_bits(World(readings, places, world.requests).offline(), world.offline())


@thorough
@given(world=worlds, order=st.randoms(use_true_random=False))
def test_the_order_of_the_population_does_not_matter(world: World, order: Any) -> None:
    rows = list(range(len(world.requests)))
    order.shuffle(rows)
    shuffled = World(world.readings, world.places, [world.requests[row] for row in rows])

    same_bits(shuffled.offline(), world.offline()[rows])


@thorough
@given(world=worlds)
def test_windows_are_what_their_definition_counts(world: World) -> None:
    features = world.offline()
    for declared in DEFINITION.asof:
        if isinstance(declared, Window):
            expected = [aggregate(window(world, asked, declared), declared.aggregate) for asked in world.requests]
            assert features.get_column(declared.name).to_list() == expected, declared.name


@thorough
@given(world=worlds)
def test_latest_is_the_newest_known_row_that_is_not_too_old(world: World) -> None:
    features = world.offline()
    for declared in DEFINITION.asof:
        if not isinstance(declared, Latest) or declared.known_at is None:
            continue
        for asked, got in zip(world.requests, features.get_column(f"{declared.name}_value"), strict=True):
            facts = known(world.readings, {c: asked[r] for r, c in declared.on.items()}, asked["at"])
            newest = max((row["known_at"] for row in facts), default=None)
            if newest is None or (declared.max_age is not None and asked["at"] - newest > declared.max_age):
                assert got is None
            else:
                assert got in [row["value"] for row in facts if row["known_at"] == newest]


@thorough
@given(world=worlds, cut=st.integers(0, 15))
def test_parts_computed_apart_are_what_the_whole_gives(world: World, cut: int) -> None:
    early = [asked for asked in world.requests if asked["at"] < moment(cut)]
    late = [asked for asked in world.requests if asked["at"] >= moment(cut)]
    parts = [World(world.readings, world.places, part).offline() for part in (early, late)]

    same_bits(pl.concat(parts), World(world.readings, world.places, early + late).offline())


@with_stores
@given(world=worlds, reach=st.integers(0, 20))
def test_a_store_with_a_short_reach_gives_the_same_answers_within_it(world: World, reach: int) -> None:
    newest = max((row["known_at"] for row in world.readings if row["known_at"] is not None), default=moment(0))
    within = [asked for asked in world.requests if asked["at"] >= newest - timedelta(minutes=reach)]
    if within:
        asked = World(world.readings, world.places, within)
        same_bits(online(world, asked.population, timedelta(minutes=reach)), asked.offline())
