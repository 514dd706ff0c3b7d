"""A person is erased: from every byte of a home and its lake, in a folder and in an object store, and stays so."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock, Timeout

from pilotage.data import erasing
from pilotage.data.lake import Lake
from pilotage.errors import ConfigError, NotErased, PilotageError, RowsErased
from pilotage.features.build import made_by
from pilotage.governance import erasure as room
from pilotage.release.audit import audit
from pilotage.release.ledger import SqlLedger
from pilotage.release.state import fold
from pilotage.runtime.idempotency import Idempotency
from tests.object_store import ObjectStore
from tests.unit.cli.ledgers import append
from tests.unit.governance.erasure_world import DAYS, NAME, NUMBERS, WHY, World
from tests.unit.monitoring.logs import prediction, shadow, write_segment
from tests.unit.release.lives import registered


@pytest.fixture(params=["folder", "object store"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """One in which nothing happened yet."""
    if request.param == "folder":
        return World(tmp_path / "home")
    store: ObjectStore = request.getfixturevalue("object_store")
    return World(tmp_path / "home", lake_uri=f"{store.bucket()}/lake")


@pytest.fixture
def local(tmp_path: Path) -> World:
    return World(tmp_path / "home")


def found(world: World, **key: str) -> dict[str, int]:
    return {each.place: each.rows for each in world.erasure(**key).look().found}


EVERYWHERE = {
    "the service's answers to requests with an id": 1,
    "training sets of tiny (candidates/)": 2,
    "raw/orders": 3,
    "validated/orders": 2,
    "quarantine/orders": 1,
    "raw/wallets": 1,
    "validated/wallets": 1,
    "features/tiny": 2,
    "shadows/tiny": 2,
    "outcomes/tiny": 3,
    "predictions/tiny": 2,
    "online state of tiny": 1,
}


def test_no_byte_of_them_is_left_but_what_landed_and_nights_do_not_bring_them_back(world: World) -> None:
    world.live()
    assert {name.partition("/")[0] for name in world.telling()} >= {
        "lake",
        "candidates",
        "landing",
        "online",
        "service",
    }
    assert found(world) == EVERYWHERE
    told = world.telling()
    world.erasure().look()
    assert world.telling() == told, "to look must change nothing"

    _, event = world.erasure().carry_out(**WHY)

    assert event is not None
    assert world.telling() == landed()
    assert world.erasure().look().nothing
    assert world.lake.scan("validated/orders").collect().height == 9
    assert world.lake.scan("predictions/tiny").collect()["prediction_id"].to_list() == ["p00002"]
    assert world.remembered() == ["another's"]

    world.night()
    assert world.telling() == landed()
    world.land(amounts=(1.25, 2.25, 3.25))  # A correction: other bytes, and he is in it again.
    world.night()
    assert world.erasure().look().nothing
    assert world.lake.scan("features/tiny").collect().height == 9


def test_what_is_left_to_people_is_said_and_then_nothing_is_left_at_all(local: World) -> None:
    local.live()
    files = ", ".join(f"orders/orders_{day}.csv" for day in DAYS)
    told = (
        f"They are in what landed: {files} (landing/).",
        "They were quarantined, so that Dagster's record of these runs may show them: night.",
        "They are in what landed: wallets/wallets.csv (landing/).",
    )
    done, _ = local.erasure().carry_out(**WHY)
    assert done.elsewhere == told
    assert list(done.written) == local.telling() == landed()
    assert local.erasure().look().written == done.written
    local.land(without=True)
    local.night()
    assert local.erasure().look().written == ()
    assert local.telling() == []


def landed() -> list[str]:
    return [*(f"landing/orders/orders_{day}.csv" for day in DAYS), "landing/wallets/wallets.csv"]


def test_the_ledger_says_who_why_and_how_much_and_neither_name_nor_order(local: World) -> None:
    local.live()
    local.erasure().carry_out(**WHY)
    ledger = SqlLedger.of(local.settings)
    events = ledger.events()
    ledger.close()
    person = local.erasure().person.pseudonym
    begun, erased = events[-2:]
    assert [(each.kind, each.actor, each.cause, each.version) for each in (begun, erased)] == [
        ("erasure_begun", "dpo", "request 2026-17", None),
        ("erased", "dpo", "request 2026-17", None),
    ]
    assert erased.payload["person"] == begun.payload["person"] == person
    assert (erased.payload["begun"], erased.payload["keys"], erased.payload["kept"]) == (
        begun.sequence,
        ["courier"],
        [],
    )
    assert erased.payload["found"]["raw/orders"] == {"rows": 3, "old_files": 1}
    assert not re.search(NAME, repr(events))
    assert audit(local.settings, known=[]).faults == ()
    assert fold(events) == fold(events[:-2])


def test_again_there_is_nothing_to_do_and_nothing_is_recorded(local: World) -> None:
    local.live()
    local.erasure().carry_out(**WHY)
    again, event = local.erasure().carry_out(**WHY)
    assert (again.nothing, event) == (True, None)
    assert [each.kind for each in again.earlier] == ["erasure_begun", "erased"]


class Killed(Exception):
    """The process ended here."""


@pytest.mark.parametrize("number", [1, 2, 4, 8, 15, 25])
def test_an_erasure_that_was_killed_goes_on_and_ends_with_nothing_left(
    local: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    local.live()
    steps = 0

    def step(_: str) -> None:
        nonlocal steps
        steps += 1
        if steps == number:
            raise Killed

    with monkeypatch.context() as patched:
        real = erasing.erase
        patched.setattr(erasing, "erase", lambda *args, note: real(*args, note=note, step=step))
        with pytest.raises(Killed):
            local.erasure().carry_out(**WHY)
    assert local.erasure().look().unfinished is not None
    _, event = local.erasure().carry_out(**WHY)
    assert event is not None
    assert event.payload["found"]["raw/orders"] == {"rows": 3, "old_files": 1}, "what was there at first"
    assert all(name.startswith("landing/") for name in local.telling())


def test_one_killed_after_the_last_row_still_gets_its_record(local: World, monkeypatch: pytest.MonkeyPatch) -> None:
    local.live()
    with monkeypatch.context() as patched:
        real = room.Erasure._record

        def record(self: room.Erasure, kind: str, *rest: object) -> object:
            if kind == "erased":
                raise Killed
            return real(self, kind, *rest)  # type: ignore[arg-type]

        patched.setattr(room.Erasure, "_record", record)
        with pytest.raises(Killed):
            local.erasure().carry_out(**WHY)
    assert local.erasure().look().nothing
    _, event = local.erasure().carry_out(**WHY)
    assert event is not None and event.kind == "erased"


def test_what_is_still_in_the_services_log_is_waited_for_and_nothing_is_touched(local: World) -> None:
    local.live()
    told = local.telling()
    path = write_segment(local.settings.prediction_log, local.records(), number=2, sealed=False)
    with pytest.raises(NotErased, match=rf"{path.name} \(7\).*move_prediction_log"):
        local.erasure().carry_out(**WHY)
    assert [name for name in local.telling() if not name.startswith("prediction-log/")] == told
    assert local.erasure().look().earlier == ()


@pytest.mark.parametrize("moved", ["before the log was looked at", "after it"])
def test_what_is_moved_while_it_is_looked_for_is_found(
    local: World, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    write_segment(local.settings.prediction_log, local.records())
    look = room.unmoved

    def moving(*about: Any) -> dict[str, int]:
        seen = look(*about) if moved == "after it" else {}
        local.move()
        return seen or look(*about)

    monkeypatch.setattr(room, "unmoved", moving)
    assert found(local)["predictions/tiny"] == 2


def test_what_would_be_moved_while_it_runs_waits_and_is_erased_with_its_shadow(
    local: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.live()
    asked = [
        prediction(90, entity={"order_id": NUMBERS[2]}, request={"order_id": NUMBERS[2], "amount": 1.5}),
        shadow(90),
    ]
    erase = room.Table.erase

    def moving(self: room.Table, note: dict[str, str]) -> None:
        """When shadows are erased, and predictions are not yet, he asks again, and a mover comes."""
        erase(self, note)
        if self.name == "quarantine/tiny_outcomes":
            write_segment(local.settings.prediction_log, asked, number=90)
            with suppress(Timeout):
                FileLock(local.settings.prediction_log / "mover.lock").acquire(timeout=0).lock.release()
                local.move()

    with monkeypatch.context() as patched:
        patched.setattr(room.Table, "erase", moving)
        with pytest.raises(NotErased, match=r"still in the service's log.*move_prediction_log"):
            local.erasure(order_id=NUMBERS[2]).carry_out(**WHY)
    local.move()
    local.erasure(order_id=NUMBERS[2]).carry_out(**WHY)
    for table in ("predictions/tiny", "shadows/tiny"):
        assert "p00090" not in local.lake.scan(table).collect()["prediction_id"]


def test_answers_go_while_the_service_has_its_table_open(local: World) -> None:
    local.live()
    service = Idempotency.of(local.settings, report=lambda _: None)
    service.begin("key-1", "somebody's", b"sha", model="tiny")
    local.remember("his again", b'{"prediction_id":"p00001","entity":{"order_id":"' + NUMBERS[1].encode() + b'"}}')
    assert "service/requests.db-wal" in local.telling()
    local.erasure().carry_out(**WHY)
    assert local.telling() == landed()
    service.close()


def test_an_order_is_erased_alone_and_in_shadow_and_outcome_too(local: World) -> None:
    local.live()
    assert found(local, order_id=NUMBERS[0]) == {
        "the service's answers to requests with an id": 1,
        "training sets of tiny (candidates/)": 1,
        "raw/orders": 1,
        "validated/orders": 1,
        "features/tiny": 1,
        "shadows/tiny": 1,
        "outcomes/tiny": 1,
        "predictions/tiny": 1,
    }
    local.erasure(order_id=NUMBERS[0]).carry_out(**WHY)
    assert local.erasure(order_id=NUMBERS[0]).look().nothing
    assert local.lake.scan("predictions/tiny").collect()["prediction_id"].sort().to_list() == ["p00001", "p00002"]


def test_an_older_version_says_that_rows_were_erased(local: World) -> None:
    local.live()
    version = local.lake.version("features/tiny")
    local.erasure().carry_out(**WHY)
    with pytest.raises(RowsErased, match=f"Version {version} of features/tiny can't be read any more"):
        local.lake.scan("features/tiny", version=version)


def test_what_features_were_made_by_is_known_after_an_erasure_too(local: World) -> None:
    local.live()
    before = made_by(local.lake, "tiny")
    assert len(before) == 2
    local.erasure().carry_out(**WHY)
    assert made_by(local.lake, "tiny") == before


def test_who_would_be_named_in_the_ledger_for_ever_is_not(local: World) -> None:
    local.live()
    with pytest.raises(ConfigError, match="names their courier"):
        local.erasure().carry_out(actor="dpo", why=f"{NAME} asked for it")


def test_an_ingest_without_the_key_of_then_stops_instead_of_bringing_them_back(local: World) -> None:
    local.live()
    local.erasure().carry_out(**WHY)
    local.settings.pseudonym_key.write_text("another key, which nobody was listed by")
    local.land(amounts=(1.25, 2.25, 3.25))
    with pytest.raises(ConfigError, match="listed by another key of pseudonyms"):
        local.night()


def test_who_comes_back_while_it_runs_is_told_and_nothing_is_said_to_be_done(
    local: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.live()
    rows = local.lake.scan("validated/orders").collect()
    real = room.OnlineStore.erase

    def erase(self: room.OnlineStore, note: dict[str, str]) -> None:
        real(self, note)
        Lake(local.settings.lake).replace_days("validated/orders", rows, DAYS, note={})  # A run that had read him.

    with monkeypatch.context() as patched:
        patched.setattr(room.OnlineStore, "erase", erase)
        with pytest.raises(PilotageError, match=r"validated/orders \(2 rows"):
            local.erasure().carry_out(**WHY)
    assert local.erasure().look().unfinished is not None
    local.erasure().carry_out(**WHY)
    assert local.erasure().look().nothing


def test_a_bundle_that_is_not_here_is_said_and_one_with_rows_of_theirs_is_kept_and_said(local: World) -> None:
    local.land()
    local.night()
    append(local.settings, registered("tiny", 2, bundle=str(local.settings.home / "elsewhere")))
    bundle = local.settings.bundles / "tiny" / "3"
    bundle.mkdir(parents=True)
    pl.DataFrame({"order_id": [NUMBERS[0]], "courier": [NAME]}).write_parquet(bundle / "golden.parquet")
    append(local.settings, registered("tiny", 3, bundle=str(local.settings.home / "elsewhere, too")))
    seen, _ = local.erasure().carry_out(**WHY)
    assert seen.elsewhere[-1] == "These versions of tiny have no bundle here that could be looked into: 2."
    kept = room.Kept(model="tiny", version=3, stage="candidate", rows=1)
    assert seen.kept == (kept,)
    assert "bundles/tiny/3/golden.parquet" in seen.written
    pl.DataFrame({"order_id": ["A-1"]}).write_parquet(bundle / "golden.parquet")
    assert local.erasure().look().kept == (kept,), "what was known when their rows were there"
    (bundle / "golden.parquet").unlink()
    assert local.erasure().look().kept == ()


def test_tables_that_no_file_declares_any_more_are_named(local: World) -> None:
    local.land()
    local.night()
    rows = local.lake.scan("features/tiny").collect()
    local.lake.replace("features/an_old_model", rows, note={})
    assert local.erasure().look().elsewhere[-1].endswith("nobody looked into them: features/an_old_model.")
