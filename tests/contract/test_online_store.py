"""What serving may rely on in an online store, and what it says when it can't answer."""

from __future__ import annotations

import math
import random
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.lake import Lake
from pilotage.errors import StateUnavailable, StorageFull, UnpublishedData
from pilotage.features import memory, online
from pilotage.features.definition import Definition
from pilotage.features.memory import MemoryStore
from pilotage.features.online import OnlineReport, build_online
from pilotage.features.store import OnlineStore
from pilotage.features.view import FeatureView
from pilotage.runtime.state import OnlineState
from pilotage.spec import Latest, ModelSpec, Window
from tests.unit.features.test_build_features import UTC_TIME, spec

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
SHOP = spec(
    name="shop",
    source="sales",
    asof=(
        Latest(name="last", source="sales", on={"farm": "farm"}, known_at="sold_at", columns={"price": pl.Int64}),
        Window(name="sold_2h", source="sales", on={"farm": "farm"}, known_at="sold_at", over=timedelta(hours=2),
               aggregate="sum", value=pl.col("price")),
        Latest(name="info", source="farms", on={"farm": "farm"}, columns={"cows": pl.Int64}),
    ),
    features=({"name": "price", "expr": pl.col("last_price"), "description": "Price"},),
)  # fmt: skip
VIEW = FeatureView(SHOP)
LAST, SOLD, INFO = (lookup.timeline.name for lookup in VIEW.lookups)


def sales(*facts: tuple[float, str, int]) -> pl.DataFrame:
    """Hours from noon at which it was known, farm, and price."""
    return pl.DataFrame(
        [(NOON + timedelta(hours=hour), farm, price, date(2013, 6, 1)) for hour, farm, price in facts],
        schema={"sold_at": UTC_TIME, "farm": pl.String, "price": pl.Int64, "day": pl.Date},
        orient="row",
    )


def publish(lake: Lake, *facts: tuple[float, str, int]) -> None:
    lake.replace_days("validated/sales", sales(*facts), [date(2013, 6, 1)], note={})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, (-3, "a", 1), (-1, "a", 10), (-0.5, "b", 5), (0, "a", 100))
    lake.replace("validated/farms", pl.DataFrame({"farm": ["a", "b"], "cows": [40, 3]}), note={})
    return lake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "online" / "shop.db"


@pytest.fixture
def store(lake: Lake, path: Path) -> Iterator[OnlineStore]:
    build_online(SHOP, lake=lake, path=path, run_id="run-1")
    with OnlineStore.open(path) as store:
        yield store


@pytest.fixture(params=["in memory", "asked of SQLite"])
def state(request: pytest.FixtureRequest, lake: Lake, path: Path) -> Iterator[OnlineState]:
    """What a serving process holds, either way."""
    build_online(SHOP, lake=lake, path=path, run_id="run-1")
    state = OnlineState(path, **({} if request.param == "in memory" else {"largest_in_memory": 0}))
    yield state
    state.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def request(*farms: str | None, at: datetime = NOON) -> pl.DataFrame:
    """Requests whose prediction moment, an hour before filling, is ``at``."""
    rows = [(number, farm, at + timedelta(hours=1)) for number, farm in enumerate(farms)]
    return pl.DataFrame(rows, schema=VIEW.request_types, orient="row")


def test_a_look_up_gives_the_newest_row_known_at_that_moment(store: OnlineStore) -> None:
    assert store.lookup(LAST, ("a",), NOON)[1:] == (100,)  # type: ignore[index]
    assert store.lookup(LAST, ("a",), NOON - timedelta(microseconds=1))[1:] == (10,)  # type: ignore[index]
    assert store.lookup(LAST, ("a",), NOON - timedelta(hours=4)) is None
    assert store.lookup(LAST, ("a",), NOON + timedelta(days=9))[1:] == (100,)  # type: ignore[index]


def test_a_look_up_says_when_its_row_became_known(store: OnlineStore) -> None:
    hit = store.lookup(LAST, ("b",), NOON)

    assert hit is not None
    assert datetime.fromtimestamp(hit[0] / 1e6, UTC) == NOON - timedelta(hours=0.5)


def test_an_unknown_key_has_no_state_and_no_events(store: OnlineStore) -> None:
    assert store.lookup(LAST, ("nobody",), NOON) is None
    state = VIEW.with_state(request("nobody", None), store).select(VIEW.state_types.keys())
    assert state.rows() == [(None, 0, None), (None, 0, None)]


def test_features_of_one_and_of_many_requests_come_from_the_state(store: OnlineStore) -> None:
    assert VIEW.online(request("a"), store).select("last_price", "sold_2h", "info_cows", "price").rows() == [
        (100, 110, 40, 100)
    ]
    many = VIEW.online(request("b", "a", "b"), store)
    assert many.get_column("sold_2h").to_list() == [5, 110, 5]
    assert many.get_column("batch").to_list() == [0, 1, 2]


def test_no_requests_get_an_empty_answer_with_every_column(store: OnlineStore) -> None:
    assert VIEW.online(request(), store).schema == VIEW.online(request("a"), store).schema
    assert VIEW.online(request(), store).is_empty()


def test_the_store_says_what_it_was_built_from(lake: Lake, path: Path, store: OnlineStore) -> None:
    meta = store.meta

    assert (meta.model, meta.run_id, meta.fingerprint) == ("shop", "run-1", VIEW.fingerprint)
    assert meta.materialised_through == NOON
    assert meta.answers_from == NOON - online.REACH
    assert meta.newest == {"sales": NOON}
    assert meta.versions == {"validated/farms": 0, "validated/sales": 0}
    assert meta.timelines == {LAST: 4, SOLD: 4, INFO: 2}


def test_the_report_counts_what_was_written(lake: Lake, path: Path) -> None:
    report = build_online(SHOP, lake=lake, path=path, run_id="run-1")

    assert isinstance(report, OnlineReport)
    assert (report.rows, report.bytes, report.path) == (10, path.stat().st_size, str(path))


def test_a_moment_before_the_reach_is_refused_rather_than_answered_with_less(lake: Lake, path: Path) -> None:
    build_online(SHOP, lake=lake, path=path, run_id="run-1", reach=timedelta(hours=2))
    with OnlineStore.open(path) as store:
        assert VIEW.online(request("a", at=NOON - timedelta(hours=2)), store).get_column("sold_2h").item() == 1
        with pytest.raises(
            StateUnavailable, match="reaches back to 2013-06-01 10:00 UTC; asked as of 2013-06-01 09:59"
        ):
            VIEW.online(request("a", at=NOON - timedelta(hours=2, minutes=1)), store)


def test_a_row_is_kept_as_long_as_a_moment_in_reach_can_ask_for_it(lake: Lake, path: Path) -> None:
    first = NOON - timedelta(hours=2)
    for next_known, kept, answer in ((-2 + 1 / 60, 3, 1), (-2, 2, 10)):
        publish(lake, (-3, "a", 1), (next_known, "a", 10), (0, "a", 100))
        report = build_online(SHOP, lake=lake, path=path, run_id="run-1", reach=timedelta(hours=2))

        assert report.meta.timelines[LAST] == kept
        with OnlineStore.open(path) as store:
            assert VIEW.online(request("a", at=first), store).get_column("last_price").item() == answer


def test_the_newest_row_of_a_key_is_kept_however_old_it_is(lake: Lake, path: Path) -> None:
    publish(lake, (-2000, "old", 7), (-1999, "old", 8), (0, "a", 1))
    report = build_online(SHOP, lake=lake, path=path, run_id="run-1", reach=timedelta(hours=1))

    with OnlineStore.open(path) as store:
        assert VIEW.online(request("old"), store).get_column("last_price").item() == 8
    assert report.meta.timelines[LAST] == 2


def test_a_missing_file_is_named_with_what_to_do(path: Path) -> None:
    with pytest.raises(StateUnavailable, match=r"no online store .*shop\.db: No such file") as refusal:
        OnlineStore.open(path)

    assert refusal.value.http_status == 503
    assert "Materialise" in refusal.value.fix


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a database, but long enough to look like one" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + b"\xff" * 4000 + data[4100:],
        lambda data: data[:-4096] + b"\x00" * 4096,
    ],
    ids=["empty", "text", "cut", "header page overwritten", "last page zeroed"],
)
def test_a_damaged_file_is_refused_when_it_is_opened(store: OnlineStore, path: Path, damage: Any) -> None:
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(StateUnavailable, match=r"shop\.db can't be read"):
        OnlineStore.open(path)


def test_a_database_of_something_else_is_no_online_store(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE meta (value TEXT)")
    connection.close()

    with pytest.raises(StateUnavailable, match="application_id is 0"):
        OnlineStore.open(path)


def test_a_timeline_that_the_store_was_not_built_for_is_named(store: OnlineStore) -> None:
    other = FeatureView(
        Definition(
            request=VIEW.request_types,
            predicts_at=VIEW.definition.predicts_at,
            asof=(Latest(name="x", source="sales", on={"farm": "farm"}, columns={"price": pl.Int64}),),
            features={},
        )
    )

    with pytest.raises(StateUnavailable, match="has no timeline sales_"):
        other.online(request("a"), store)


def test_a_store_can_also_serve_a_version_older_than_the_spec(lake: Lake, path: Path) -> None:
    changed = SHOP.model_copy(update={"asof": SHOP.asof[1:], "features": ()})
    build_online(changed, lake=lake, path=path, run_id="run-2", also=[VIEW])

    with OnlineStore.open(path) as store:
        assert VIEW.online(request("a"), store).get_column("last_price").item() == 100
        assert FeatureView(changed).online(request("a"), store).get_column("sold_2h").item() == 110


def test_a_reader_sees_a_replacement_at_its_next_look_up(store: OnlineStore, lake: Lake, path: Path) -> None:
    assert store.refresh() is False
    publish(lake, (0, "a", 7))
    build_online(SHOP, lake=lake, path=path, run_id="run-2")

    assert VIEW.online(request("a"), store).get_column("last_price").item() == 7
    assert store.meta.run_id == "run-2"
    assert store.refresh() is False


def test_a_reader_that_finds_a_damaged_replacement_says_so_and_recovers(
    store: OnlineStore, lake: Lake, path: Path
) -> None:
    path.with_name("aside").write_bytes(b"half a file")
    path.with_name("aside").replace(path)
    with pytest.raises(StateUnavailable):
        VIEW.online(request("a"), store)

    build_online(SHOP, lake=lake, path=path, run_id="run-2")
    assert VIEW.online(request("a"), store).get_column("last_price").item() == 100


def test_readers_of_a_store_that_is_replaced_see_one_state_or_the_other(lake: Lake, path: Path) -> None:
    # Both timelines say the same number in each generation: an answer from two files would show.
    publish(lake, (0, "a", 0))
    build_online(SHOP, lake=lake, path=path, run_id="run-0")
    seen: list[tuple[int, int]] = []
    problems: list[BaseException] = []
    started, done = threading.Barrier(4), threading.Event()

    def ask(store: OnlineStore) -> None:
        started.wait()
        try:
            while not done.is_set():
                seen.append(VIEW.online(request("a"), store).select("last_price", "sold_2h").row(0))
        except BaseException as problem:
            problems.append(problem)

    with OnlineStore.open(path) as store:
        readers = [threading.Thread(target=ask, args=(store,)) for _ in range(3)]
        for reader in readers:
            reader.start()
        started.wait()
        for generation in range(1, 9):
            publish(lake, (0, "a", generation))
            build_online(SHOP, lake=lake, path=path, run_id=f"run-{generation}")
        done.set()
        for reader in readers:
            reader.join()
        seen.append(VIEW.online(request("a"), store).select("last_price", "sold_2h").row(0))

    assert problems == []
    assert all(last == sold for last, sold in seen)
    assert seen[-1] == (8, 8)


def test_two_builders_at_once_leave_one_whole_store(lake: Lake, path: Path) -> None:
    builders = [
        threading.Thread(target=build_online, args=(SHOP,), kwargs={"lake": lake, "path": path, "run_id": f"run-{n}"})
        for n in range(4)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()

    with OnlineStore.open(path) as store:
        assert VIEW.online(request("a"), store).get_column("sold_2h").item() == 110
    assert sorted(file.name for file in path.parent.iterdir()) == ["shop.db", "shop.db.lock"]


def test_a_builder_that_was_killed_leaves_the_earlier_store_and_no_trouble(
    store: OnlineStore, lake: Lake, path: Path
) -> None:
    path.with_name(".shop.db.building").write_bytes(b"half a fi")
    assert VIEW.online(request("a"), store).get_column("last_price").item() == 100

    build_online(SHOP, lake=lake, path=path, run_id="run-2")
    assert store.meta.run_id == "run-2"
    assert not path.with_name(".shop.db.building").exists()


def test_a_full_disk_leaves_the_earlier_store(lake: Lake, small_disk: Path) -> None:
    path = small_disk / "shop.db"
    build_online(SHOP, lake=lake, path=path, run_id="run-1")
    publish(lake, *((-hour / 60, f"farm {hour}", hour) for hour in range(20_000)))

    with pytest.raises(StorageFull, match=r"No room is left to write .*shop\.db; the earlier store stays"):
        build_online(SHOP, lake=lake, path=path, run_id="run-2")

    with OnlineStore.open(path) as store:
        assert store.meta.run_id == "run-1"
        assert VIEW.online(request("a"), store).get_column("last_price").item() == 100
    assert sorted(file.name for file in path.parent.iterdir()) == ["shop.db", "shop.db.lock"]


def test_a_source_that_was_never_published_is_named(tmp_path: Path, path: Path) -> None:
    lake = Lake(str(tmp_path / "empty"))

    with pytest.raises(UnpublishedData, match="validated/sales"):
        build_online(SHOP, lake=lake, path=path, run_id="run-1")
    assert not path.exists()


def test_sources_without_a_single_fact_make_an_empty_store(lake: Lake, path: Path) -> None:
    publish(lake)
    build_online(SHOP, lake=lake, path=path, run_id="run-1")

    with OnlineStore.open(path) as store:
        assert store.meta.materialised_through is None
        assert VIEW.online(request("a"), store).select("last_price", "sold_2h", "info_cows").row(0) == (None, 0, 40)


def test_a_model_without_as_of_features_needs_no_store(lake: Lake, path: Path) -> None:
    plain: ModelSpec = SHOP.model_copy(
        update={"asof": (), "features": spec(features=({"name": "farm", "expr": pl.col("farm"), "description": "F"},),
                                             asof=()).features}
    )  # fmt: skip
    assert FeatureView(plain).online(request("a"), None).get_column("farm").item() == "a"

    report = build_online(plain, lake=lake, path=path, run_id="run-1")
    assert (report.rows, report.meta.materialised_through) == (0, None)
    with OnlineStore.open(path) as store:
        assert FeatureView(plain).online(request("a"), store).get_column("farm").item() == "a"


# What a serving process holds of it.


def last_price(state: OnlineState) -> object:
    return VIEW.online(request("a"), state.snapshot.store).get_column("last_price").item()


def test_a_state_says_what_it_is_of_and_has_one_name_in_every_process(state: OnlineState, path: Path) -> None:
    record = state.record()
    assert (record.model, record.versions) == ("shop", {"validated/farms": 0, "validated/sales": 0})
    assert record.through == 1_370_088_000_000_000
    assert record.state == state.state_id == OnlineState(path).state_id
    assert state.through == NOON
    assert state.versions == record.versions


def test_a_replaced_file_is_taken_up_when_told_to_and_not_before(state: OnlineState, lake: Lake, path: Path) -> None:
    before = state.state_id
    assert last_price(state) == 100
    publish(lake, (0, "a", 7))
    build_online(SHOP, lake=lake, path=path, run_id="run-2")

    assert (last_price(state), state.state_id) == (100, before)
    assert state.refresh() is True
    assert last_price(state) == 7
    assert state.state_id != before
    assert state.refresh() is False


def test_a_request_that_holds_a_snapshot_keeps_it_through_a_replacement(
    state: OnlineState, lake: Lake, path: Path
) -> None:
    snapshot = state.snapshot
    publish(lake, (0, "a", 7))
    build_online(SHOP, lake=lake, path=path, run_id="run-2")
    state.refresh()

    assert VIEW.online(request("a"), snapshot.store).get_column("last_price").item() == 100
    assert snapshot.id == snapshot.store.meta.id


@pytest.mark.parametrize("trouble", ["gone", "damaged"])
def test_a_file_that_goes_bad_leaves_the_state_that_was_loaded_and_is_told(
    state: OnlineState, lake: Lake, path: Path, trouble: str
) -> None:
    assert last_price(state) == 100
    path.rename(path.with_name("moved"))
    if trouble == "damaged":
        path.write_bytes(b"half a file")

    for _ in range(2):
        assert state.refresh() is False
        assert state.problem is not None
        assert "goes on answering" in state.problem
        assert last_price(state) == 100

    build_online(SHOP, lake=lake, path=path, run_id="run-2")
    assert state.refresh() is True
    assert state.problem is None


@pytest.mark.parametrize("content", [None, b"", b"half a file" * 500])
def test_a_state_that_never_was_loaded_is_unavailable(path: Path, content: bytes | None) -> None:
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    state = OnlineState(path)
    for _ in range(2):
        with pytest.raises(StateUnavailable, match=r"shop\.db"):
            state.refresh()
        with pytest.raises(StateUnavailable, match=r"shop\.db"):
            _ = state.through


def test_a_damaged_file_is_never_loaded_in_part(store: OnlineStore, path: Path) -> None:
    right = path.read_bytes()
    wanted = VIEW.online(request("a", "b"), store).rows()
    chance = random.Random(20240101)
    refused = 0
    for _ in range(60):
        wrong = bytearray(right)
        wrong[chance.randrange(len(wrong))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(wrong))
        try:
            loaded = MemoryStore.load(path)
        except StateUnavailable:
            refused += 1
            continue
        # What a flipped bit left readable is what SQLite reads, too.
        with OnlineStore.open(path) as asked:
            assert VIEW.online(request("a", "b"), loaded).rows() == VIEW.online(request("a", "b"), asked).rows()
    assert refused
    path.write_bytes(right)
    assert VIEW.online(request("a", "b"), MemoryStore.load(path)).rows() == wanted


def test_memory_refuses_what_the_file_refuses_in_the_same_words(lake: Lake, path: Path) -> None:
    build_online(SHOP, lake=lake, path=path, run_id="run-1", reach=timedelta(hours=2))
    said = []
    with OnlineStore.open(path) as store:
        for state in (store, MemoryStore.load(path)):
            for ask in (
                lambda state=state: VIEW.online(request("a", at=NOON - timedelta(hours=3)), state),
                lambda state=state: state.lookups([("nothing", ("a",), 0)], earliest=2**60),
            ):
                with pytest.raises(StateUnavailable) as refusal:
                    ask()
                said.append(str(refusal.value))
    assert said[:2] == said[2:]


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), 0, 1, 1.0, -0.0, 0.1, math.inf, "", "a", "1"]),
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(st.sampled_from(["a", "b"]), VALUES, VALUES), max_size=40), portion=st.integers(1, 7))
def test_any_payload_that_sqlite_keeps_is_kept_in_memory(rows: list[tuple[str, Any, Any]], portion: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_PORTION", portion)
        connection.execute("CREATE TABLE t (k0, known_at, p0, p1, PRIMARY KEY (k0, known_at)) WITHOUT ROWID")
        stored = [(key, number, one, other) for number, (key, one, other) in enumerate(rows)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", stored)
        loaded = memory._load(connection, "t", 1, 2)
    for key, at, one, other in stored:
        assert repr(loaded.hit((key,), at)) == repr((at, one, other))
    assert loaded.hit(("c",), 5) is None
    assert loaded.hit(("a",), -1) is None
