"""What a serving process holds of an online store: in memory, or asked of SQLite."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.lake import Lake
from pilotage.errors import StateUnavailable
from pilotage.features import memory
from pilotage.features.memory import MemoryStore
from pilotage.features.online import build_online
from pilotage.features.store import OnlineStore
from pilotage.runtime.state import OnlineState
from tests.contract.online_shop import NOON, SHOP, VIEW, publish, request


@pytest.fixture(params=["in memory", "asked of SQLite"])
def state(request: pytest.FixtureRequest, lake: Lake, path: Path) -> Iterator[OnlineState]:
    """What a serving process holds, either way."""
    build_online(SHOP, lake=lake, path=path, run_id="run-1")
    state = OnlineState(path, **({} if request.param == "in memory" else {"largest_in_memory": 0}))
    yield state
    state.close()


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
