"""What serving may rely on in an online store, and what it says when it can't answer."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import StateUnavailable, StorageFull, UnpublishedData
from pilotage.features import online
from pilotage.features.definition import Definition
from pilotage.features.online import OnlineReport, build_online
from pilotage.features.store import OnlineStore
from pilotage.features.view import FeatureView
from pilotage.spec import Latest, ModelSpec
from tests.contract.online_shop import INFO, LAST, NOON, SHOP, SOLD, VIEW, publish, request, sales
from tests.unit.features.test_build_features import spec


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


def test_a_fact_that_will_be_known_later_takes_nothing_from_what_is_answered_now(lake: Lake, path: Path) -> None:
    publish(lake, (-3, "a", 1), (0, "a", 10), (2000, "a", 100))
    report = build_online(SHOP, lake=lake, path=path, run_id="run-1", reach=timedelta(hours=1), now=NOON)

    assert (report.meta.materialised_through, report.meta.newest) == (NOON, {"sales": NOON})
    with OnlineStore.open(path) as store:
        assert VIEW.online(request("a"), store).select("last_price", "sold_2h").row(0) == (10, 10)
        later = request("a", at=NOON + timedelta(hours=2000))
        assert VIEW.online(later, store).get_column("last_price").item() == 100


def test_a_history_that_tells_every_outcome_is_answered_as_of_its_newest_row(lake: Lake, path: Path) -> None:
    """All of it is past by the wall clock; what is asked about is the newest row to predict."""
    told = sales((-3, "a", 1), (0, "a", 10), (2000, "a", 100)).with_columns(
        filled_at=pl.lit(NOON).cast(pl.Datetime("us", "UTC"))
    )
    lake.replace_days("validated/sales", told, [date(2013, 6, 1)], note={})
    report = build_online(SHOP, lake=lake, path=path, run_id="run-1", reach=timedelta(hours=1))

    assert report.meta.materialised_through == NOON + timedelta(hours=2000)
    with OnlineStore.open(path) as store:
        assert VIEW.online(request("a"), store).select("last_price", "sold_2h").row(0) == (10, 10)


def test_the_wall_clock_says_what_is_not_known_yet(lake: Lake, path: Path) -> None:
    ahead = (datetime.now(UTC) - NOON) / timedelta(hours=1) + 24 * 365
    publish(lake, (0, "a", 10), (ahead, "a", 100))

    assert build_online(SHOP, lake=lake, path=path, run_id="run-1").meta.materialised_through == NOON


def test_a_row_whose_value_is_not_there_yet_is_no_newest_fact(lake: Lake, path: Path) -> None:
    windows = SHOP.model_copy(update={"asof": SHOP.asof[1:2], "features": ()})
    waiting = sales((2000, "a", 0)).with_columns(price=pl.lit(None, pl.Int64))
    rows = pl.concat([sales((0, "a", 10)), waiting])
    lake.replace_days("validated/sales", rows, [date(2013, 6, 1)], note={})

    report = build_online(windows, lake=lake, path=path, run_id="run-1")

    assert report.meta.materialised_through == NOON
    with OnlineStore.open(path) as store:
        assert FeatureView(windows).online(request("a"), store).get_column("sold_2h").item() == 10


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
