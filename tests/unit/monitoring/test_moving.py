"""Sealed segments become rows of the lake exactly once, whatever is killed when."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import LakeError, StorageFull
from pilotage.monitoring.moving import BATCH_BYTES, MoveReport, log_lag, move_log
from pilotage.settings import Settings
from pilotage.testing.bundles import tiny_spec
from tests.unit.monitoring.logs import outcome, prediction, shadow, state, write_segment


class Killed(Exception):
    """Stands for SIGKILL: whatever comes next does not happen."""


class Desk:
    def __init__(self, home: Path) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.lake = Lake(self.settings.lake)
        self.folder = self.settings.prediction_log

    def move(self, *, step: Callable[[str], None] = lambda _: None, batch_bytes: int = BATCH_BYTES) -> MoveReport:
        models = {"tiny": tiny_spec()}
        return move_log(self.settings, self.lake, models=models, quiet_s=0, step=step, batch_bytes=batch_bytes)

    def rows(self, table: str) -> pl.DataFrame:
        return self.lake.scan(table).collect()

    def counts(self) -> dict[str, int]:
        return {table: self.rows(table).height for table in self.lake.tables()}

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.suffix not in (".json", ".lock"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def fill(desk: Desk) -> dict[str, int]:
    """Two segments with records of every kind, and one of another model. Returns the rows that they are."""
    write_segment(desk.folder, [state(), prediction(1), shadow(1), prediction(2), outcome(1)], number=1)
    write_segment(desk.folder, [state(), prediction(3), outcome(2), prediction(4, model="other")], number=2)
    return {
        "outcomes/tiny": 2,
        "predictions/other": 1,
        "predictions/tiny": 3,
        "shadows/tiny": 1,
        "states/tiny": 1,
    }


def test_a_move_leaves_every_record_in_its_table_and_no_segment(desk: Desk) -> None:
    expected = fill(desk)
    report = desk.move()
    assert report.rows == expected == desk.counts()
    assert (report.segments, report.waiting, report.problems) == (2, 0, ())
    assert report.oldest == datetime(2024, 3, 1, 23, 59, 40, tzinfo=UTC)
    assert desk.left() == []
    rows = desk.rows("predictions/tiny").sort("prediction_id")
    assert rows["prediction_id"].to_list() == ["p00001", "p00002", "p00003"]
    assert rows.schema["request_ordered_at"] == pl.Datetime("us", "UTC")
    assert sorted(desk.lake.days("predictions/tiny")) == sorted(set(rows["day"]))


def test_nothing_to_move_is_no_error_and_writes_nothing(desk: Desk) -> None:
    assert desk.move().segments == 0
    desk.folder.mkdir(parents=True)
    assert desk.move().rows == {}
    assert desk.lake.tables() == []


def test_the_segment_of_a_living_worker_stays_and_one_of_a_dead_worker_is_moved(desk: Desk) -> None:
    import fcntl

    alive = write_segment(desk.folder, [prediction(1)], worker="alive", sealed=False)
    write_segment(desk.folder, [prediction(2)], worker="dead", sealed=False)
    with alive.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        report = desk.move()
    assert report.adopted == 1
    assert desk.rows("predictions/tiny")["prediction_id"].to_list() == ["p00002"]
    assert desk.left() == [alive.name]


def test_a_mover_killed_after_any_step_loses_nothing_and_writes_nothing_twice(tmp_path: Path) -> None:
    steps: list[str] = []
    quiet = Desk(tmp_path / "counted")
    fill(quiet)
    quiet.move(step=steps.append)
    assert {"planned", "states of tiny", "predictions of tiny", "synced", "removed", "done"} <= set(steps)
    for stop in range(len(steps)):
        desk = Desk(tmp_path / str(stop))
        expected = fill(desk)
        taken = 0

        def kill(_: str, stop: int = stop) -> None:
            nonlocal taken
            taken += 1
            if taken == stop + 1:
                raise Killed

        with pytest.raises(Killed):
            desk.move(step=kill)
        # What comes in meanwhile must neither be mixed up with the move that was interrupted nor wait for it.
        write_segment(desk.folder, [prediction(9)], number=9)
        desk.move()
        assert desk.counts() == {**expected, "predictions/tiny": 4}, steps[stop]
        assert desk.rows("predictions/tiny")["prediction_id"].n_unique() == 4
        assert desk.left() == []


def test_a_mover_killed_again_and_again_gets_through_in_the_end(desk: Desk) -> None:
    for number in range(1, 7):
        write_segment(desk.folder, [prediction(number)], number=number)
    killed = 0
    for attempt in range(1, 100):
        taken = 0

        def kill(_: str, attempt: int = attempt) -> None:
            nonlocal taken
            taken += 1
            if taken == 1 + attempt % 5:
                raise Killed

        try:
            desk.move(step=kill, batch_bytes=1)
            break
        except Killed:
            killed += 1
    assert killed > 5
    assert desk.rows("predictions/tiny")["prediction_id"].sort().to_list() == [f"p{n:05d}" for n in range(1, 7)]


def test_many_segments_go_in_commits_of_bounded_size(desk: Desk) -> None:
    for number in range(1, 6):
        path = write_segment(desk.folder, [prediction(number)], number=number)
    desk.move(batch_bytes=2 * path.stat().st_size)
    assert desk.lake.version("predictions/tiny") == 2
    assert desk.rows("predictions/tiny").height == 5


def test_a_table_remembers_one_transaction_a_folder_and_not_one_a_segment(desk: Desk) -> None:
    for number in range(1, 4):
        write_segment(desk.folder, [prediction(number)], number=number)
        desk.move()
    log = Path(desk.settings.lake) / "predictions" / "tiny" / "_delta_log"
    apps = {
        line.split('"appId":"')[1].split('"')[0]
        for path in log.glob("*.json")
        for line in path.read_text().splitlines()
        if '"txn"' in line
    }
    assert len(apps) == 1
    assert desk.rows("predictions/tiny").height == 3


def test_a_version_with_other_features_adds_its_columns_and_a_feature_of_another_type_gets_one_of_its_own(
    desk: Desk,
) -> None:
    write_segment(desk.folder, [prediction(1, features={"amount": 1.5, "seats": 4})], number=1)
    desk.move()
    write_segment(desk.folder, [prediction(2, version=2, features={"seats": "four", "legroom": 0.5})], number=2)
    desk.move()
    rows = desk.rows("predictions/tiny").sort("prediction_id")
    assert rows["feature_amount"].to_list() == [1.5, None]
    assert rows["feature_seats"].to_list() == [4, None]
    assert rows["feature_seats__string"].to_list() == [None, "four"]
    assert rows["feature_legroom"].to_list() == [None, 0.5]


def test_a_log_that_was_restored_from_a_backup_does_not_reuse_numbers_that_the_tables_have(desk: Desk) -> None:
    write_segment(desk.folder, [prediction(1)], number=1)
    desk.move()
    backup = (desk.folder / "mover.json").read_bytes()
    for number in (2, 3):
        write_segment(desk.folder, [prediction(number)], number=number)
        desk.move()
    (desk.folder / "mover.json").write_bytes(backup)
    write_segment(desk.folder, [prediction(4)], number=4)
    desk.move()
    assert desk.rows("predictions/tiny")["prediction_id"].sort().to_list() == [f"p0000{n}" for n in (1, 2, 3, 4)]


def test_two_folders_of_two_hosts_share_the_tables(tmp_path: Path) -> None:
    hosts = [Desk(tmp_path / name) for name in ("one", "two")]
    for number, host in enumerate(hosts):
        host.lake = Lake(str(tmp_path / "lake"))
        write_segment(host.folder, [state(), prediction(number)], worker=f"w{number}")
        host.move()
    assert hosts[0].rows("predictions/tiny").height == 2
    assert hosts[0].rows("states/tiny").height == 1


def test_a_full_disk_is_an_error_with_a_name_and_the_next_move_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(desk)

    def full(*args: object, **kwargs: object) -> None:
        raise StorageFull("No room is left.", fix="Free space.")

    with monkeypatch.context() as patched, pytest.raises(StorageFull):
        patched.setattr(Lake, "append", full)
        desk.move()
    assert len(desk.left()) == 2
    desk.move()
    assert desk.counts() == expected


def test_a_damaged_segment_gives_what_can_be_read_and_stays_as_evidence(desk: Desk) -> None:
    path = write_segment(desk.folder, [prediction(1), prediction(2), prediction(3)])
    data = path.read_bytes()
    middle = data.index(b"p00002")
    path.write_bytes(data[:middle] + b"X" + data[middle + 1 :])
    report = desk.move()
    assert "are no record" in report.problems[0]
    assert report.rows == {"predictions/tiny": 2}
    assert desk.left() == [path.with_suffix(".damaged").name]
    assert desk.move().segments == 0


def test_a_segment_of_a_newer_format_stays_and_the_others_are_moved(desk: Desk) -> None:
    newer = write_segment(desk.folder, [prediction(1)], number=1)
    from pilotage.runtime.log.framing import frame

    newer.write_bytes(frame([[b'{"kind":"segment","format":9,"worker":"w","at":0}'], [b'{"kind":"prophecy"}']]))
    write_segment(desk.folder, [prediction(2)], number=2)
    report = desk.move()
    assert report.waiting == 1
    assert "format 9" in report.problems[0]
    assert desk.left() == [newer.name]
    assert desk.rows("predictions/tiny").height == 1


def test_a_segment_that_becomes_readable_between_two_attempts_at_a_move_is_not_taken_for_moved(desk: Desk) -> None:
    late = write_segment(desk.folder, [prediction(1)], number=1)
    good = late.read_bytes()
    write_segment(desk.folder, [prediction(2)], number=2)
    from pilotage.runtime.log.framing import frame

    late.write_bytes(frame([[b'{"kind":"segment","format":9,"worker":"w","at":0}']]))

    def kill(step: str) -> None:
        if step == "predictions of tiny":
            raise Killed

    with pytest.raises(Killed):
        desk.move(step=kill)
    late.write_bytes(good)  # As after an update of the platform.
    desk.move()
    assert desk.rows("predictions/tiny")["prediction_id"].sort().to_list() == ["p00001", "p00002"]
    assert desk.left() == []


def test_a_move_whose_segment_can_no_longer_be_read_is_not_called_finished(desk: Desk) -> None:
    path = write_segment(desk.folder, [prediction(1)], number=1)

    def kill(step: str) -> None:
        if step == "planned":
            raise Killed

    with pytest.raises(Killed):
        desk.move(step=kill)
    good = path.read_bytes()
    from pilotage.runtime.log.framing import frame

    path.write_bytes(frame([[b'{"kind":"segment","format":9,"worker":"w","at":0}']]))
    with pytest.raises(LakeError, match="interrupted can't be finished"):
        desk.move()
    path.write_bytes(good)
    assert desk.move().rows == {"predictions/tiny": 1}


def test_a_plan_that_cannot_be_read_stops_the_mover_before_it_does_anything(desk: Desk) -> None:
    write_segment(desk.folder, [prediction(1)])
    (desk.folder / "mover.json").write_text("{")
    with pytest.raises(LakeError, match=r"mover\.json"):
        desk.move()
    assert desk.lake.tables() == []


def test_the_lag_is_the_age_of_the_oldest_segment_that_is_not_in_the_lake(desk: Desk) -> None:
    assert log_lag(desk.settings) == 0
    path = write_segment(desk.folder, [prediction(1)], number=1)
    assert path.name.startswith("w1-20240302T000000")
    assert log_lag(desk.settings, now=datetime(2024, 3, 2, 0, 5, tzinfo=UTC)) == 300


def _mover(home: str, gate: str, kill_at: int) -> None:
    """Child: waits for the gate, moves, and dies without a word after so many steps."""
    taken = 0

    def step(_: str) -> None:
        nonlocal taken
        taken += 1
        if taken == kill_at:
            os._exit(9)

    while not Path(gate).exists():
        os.sched_yield()
    Desk(Path(home)).move(step=step, batch_bytes=1)


def test_movers_at_the_same_time_some_of_them_killed_write_each_record_once(desk: Desk) -> None:
    for number in range(1, 13):
        write_segment(desk.folder, [prediction(number), shadow(number), state()], number=number)
    gate = desk.settings.home / "gate"
    spawn = multiprocessing.get_context("spawn")
    movers = [spawn.Process(target=_mover, args=(str(desk.settings.home), str(gate), kill)) for kill in (7, 23, 0)]
    for mover in movers:
        mover.start()
    gate.touch()
    for mover in movers:
        mover.join()
    assert {mover.exitcode for mover in movers} <= {0, 9}
    desk.move()
    assert desk.rows("predictions/tiny")["prediction_id"].sort().to_list() == [f"p{n:05d}" for n in range(1, 13)]
    assert desk.rows("shadows/tiny").height == 12
    assert desk.rows("states/tiny").height == 1
    assert desk.left() == []
