"""Registry, ledger and online store go away: the service goes on, or says what it can't do, and recovers by itself."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilotage.errors import KillNotRecorded
from pilotage.release import commands
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings
from tests.faults.checker import check
from tests.faults.crowd import Crowd
from tests.faults.world import Serving, World, until
from tests.postgres import PostgresServer

MODELS = ("tiny", "tiny_high", "tiny_state")


def kill(settings: Settings, model: str) -> int:
    """Kills a model as the command does; gives the event's sequence number."""
    return commands.kill(model, settings=settings, actor="ada", why="a test").sequence


def resume(settings: Settings, model: str) -> int:
    """Lets it answer again."""
    return commands.resume(model, settings=settings, actor="ada", why="it is over").sequence


def recorded_kills(settings: Settings) -> list[str]:
    """The models that the ledger says were killed."""
    ledger = SqlLedger.of(settings)
    try:
        return [event.model for event in ledger.events() if event.kind == "killed"]
    finally:
        ledger.close()


@contextmanager
def away(*paths: Path) -> Iterator[None]:
    """Files and folders are somewhere else for a while."""
    for path in paths:
        path.rename(path.with_name(f"{path.name}.away"))
    try:
        yield
    finally:
        for path in paths:
            path.with_name(f"{path.name}.away").rename(path)


def sqlite_files(settings: Settings) -> list[Path]:
    """The ledger's file, and what SQLite keeps beside it."""
    return [path for path in settings.home.glob("ledger.db*") if path.suffix != ".lock"]


def told_by_all(serving: Serving, model: str, field: str, accept: Callable[[object], bool]) -> None:
    """Waits until every worker says something of a model."""
    until(
        serving.workers,
        lambda found: (
            len(found) == 2 and all(accept(m[field]) for w in found for m in w["models"] if m["model"] == model)
        ),
        what=f"{field} of {model}",
    )


def outage(
    world: World,
    draw: random.Random,
    tell: Callable[[str], None],
    outage_s: float,
    stop: Callable[[], None],
    start: Callable[[], None],
) -> None:
    """The ledger is down, and the registry with it: under load, over a restart, and with a kill in force."""
    with world.serving("before") as serving, Crowd(serving.port, draw, models=MODELS) as crowd:
        serving.until_sequence("tiny_high", kill(world.settings, "tiny_high"))
        crowd.until_more(100)
        stop()
        with away(world.home / "made"):
            crowd.until_more(100, answered_by="model")
            crowd.until_more(20, model="tiny_high", answered_by="rule")
            told_by_all(serving, "tiny", "plans_from", lambda told: told == "last known copy")
            crowd.keep_on(outage_s, answered_by="model")
            tell(f"down for {outage_s:g} s and more, and answers go on; {len(crowd.seen)} requests")
            with pytest.raises(KillNotRecorded):
                kill(world.settings, "tiny_state")
            told_by_all(serving, "tiny_state", "killed", lambda told: told == "a test")
            crowd.until_more(20, model="tiny_state", answered_by="rule")
            tell(f"killed on this host without a ledger; {len(crowd.seen)} requests")
            serving.kill_everything()
            with world.serving("meanwhile") as restarted:
                crowd.port = restarted.port
                crowd.until_more(100, answered_by="model")
                for model in ("tiny_high", "tiny_state"):
                    crowd.until_more(20, model=model, answered_by="rule")
                told_by_all(restarted, "tiny", "plans_from", lambda told: told == "last known copy")
                tell(f"restarted without a ledger; {len(crowd.seen)} requests")
                start()
                told_by_all(restarted, "tiny", "plans_from", lambda told: told == "ledger")
                until(lambda: recorded_kills(world.settings), lambda found: "tiny_state" in found, what="the kill")
                # What is decided now arrives.
                restarted.until_sequence("tiny", kill(world.settings, "tiny"))
                crowd.until_more(20, model="tiny", answered_by="rule")
                restarted.until_sequence("tiny", resume(world.settings, "tiny"))
                for model in ("tiny_high", "tiny_state"):
                    restarted.until_sequence(model, resume(world.settings, model))
                for model in MODELS:
                    crowd.until_more(20, model=model, answered_by="model")
                crowd.stop()
    checked = check(world, crowd.seen)
    tell(str(checked))
    assert (checked.unlogged, checked.refused) == (0, {})


@pytest.mark.timeout(900)
def test_answers_go_on_without_the_ledgers_file_and_a_kill_stays_in_force(
    world: World, draw: random.Random, tell: Callable[[str], None], outage_s: float
) -> None:
    moved: list[Path] = []

    def stop() -> None:
        for path in sqlite_files(world.settings):
            moved.append(path)
            path.rename(path.with_name(f"away-{path.name}"))

    def start() -> None:
        for path in moved:
            # A service that opened the ledger meanwhile may have left files of its own.
            path.with_name(f"away-{path.name}").replace(path)

    outage(world, draw, tell, outage_s, stop, start)


@pytest.mark.timeout(900)
def test_answers_go_on_with_a_damaged_ledger(
    world: World, draw: random.Random, tell: Callable[[str], None], outage_s: float
) -> None:
    saved = world.home.parent / "saved"
    saved.mkdir()

    def stop() -> None:
        for path in sqlite_files(world.settings):
            shutil.copy(path, saved / path.name)
            path.unlink()
        world.home.joinpath("ledger.db").write_bytes(draw.randbytes(8192))

    def start() -> None:
        for path in saved.iterdir():
            aside = world.home / f".{path.name}.new"
            shutil.copy(path, aside)
            aside.replace(world.home / path.name)

    outage(world, draw, tell, outage_s, stop, start)


@pytest.mark.timeout(900)
def test_answers_go_on_without_postgresql(
    tmp_path: Path, postgres: PostgresServer, draw: random.Random, tell: Callable[[str], None], outage_s: float
) -> None:
    world = World(tmp_path / "home", ledger_url=postgres.database())
    outage(world, draw, tell, outage_s, postgres.stop, postgres.start)


@pytest.mark.timeout(900)
def test_answers_go_on_with_a_postgresql_that_hangs_while_its_host_acknowledges(
    tmp_path: Path, postgres: PostgresServer, draw: random.Random, tell: Callable[[str], None], outage_s: float
) -> None:
    world = World(tmp_path / "home", ledger_url=postgres.database())
    try:
        outage(world, draw, tell, outage_s, postgres.freeze, postgres.thaw)
    finally:
        postgres.thaw()


@pytest.mark.timeout(900)
def test_a_ledger_restored_from_a_backup_is_followed_by_running_workers(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    ledger, backup = world.home / "ledger.db", world.home.parent / "backup.db"
    _backup(ledger, backup)
    with world.serving() as serving, Crowd(serving.port, draw) as crowd:
        # Decided after the backup, so that the restored ledger is behind.
        for _ in range(2):
            serving.until_sequence("tiny", kill(world.settings, "tiny"))
            serving.until_sequence("tiny", resume(world.settings, "tiny"))
        crowd.until_more(20, answered_by="model")
        for path in sqlite_files(world.settings):
            if path != ledger:
                path.unlink()
        backup.replace(ledger)
        world.settings.ledger_head.unlink()
        kill(world.settings, "tiny")
        told_by_all(serving, "tiny", "killed", lambda why: why == "a test")
        crowd.until_more(20, model="tiny", answered_by="rule")
        crowd.stop()
    tell(str(check(world, crowd.seen)))


@pytest.mark.timeout(900)
def test_without_the_online_store_answers_go_on_from_memory_and_after_a_restart_by_rule(
    world: World, draw: random.Random, tell: Callable[[str], None], outage_s: float
) -> None:
    with world.serving("before") as serving, Crowd(serving.port, draw, models=("tiny_state",)) as crowd:
        crowd.until_more(50, answered_by="model")
        saved = world.online.read_bytes()
        world.online.unlink()
        crowd.until_more(200, answered_by="model")
        damaged = bytearray(saved)
        for _ in range(50):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        aside = world.online.with_suffix(".new")
        aside.write_bytes(damaged)
        aside.replace(world.online)
        crowd.until_more(200, answered_by="model")
        crowd.keep_on(outage_s, answered_by="model")
        tell("removed, then damaged: what was loaded goes on answering")
        world.online.unlink()
        serving.kill_everything()
        with world.serving("meanwhile", ready=False) as restarted:
            crowd.port = restarted.port
            crowd.until_more(50, answered_by="rule")
            assert restarted.running.get("/readyz").status_code == 503
            tell("restarted without one: answered by rule")
            world.make_online()
            restarted.until_complete()
            crowd.until_more(50, answered_by="model")
            crowd.stop()
    tell(str(check(world, crowd.seen)))


@pytest.mark.timeout(900)
def test_nothing_of_mlflow_is_needed_to_answer_to_restart_and_to_decide(
    world: World, draw: random.Random, tell: Callable[[str], None], outage_s: float
) -> None:
    """MLflow's database is no database any more, and its artifacts are gone but for what is to be released."""
    (world.home / "mlflow.db").write_bytes(b"this is no database" * 100)
    with world.serving("before") as serving, Crowd(serving.port, draw) as crowd:
        world.release("tiny", 2)
        told_by_all(serving, "tiny", "version", lambda version: version == 2)
        with away(world.home / "made"):
            crowd.until_more(50, answered_by="model", version=2)
            crowd.keep_on(outage_s, answered_by="model", version=2)
            serving.kill_everything()
            with world.serving("meanwhile") as restarted:
                crowd.port = restarted.port
                crowd.until_more(50, answered_by="model", version=2)
                crowd.stop()
    tell(str(check(world, crowd.seen)))


def _backup(source: Path, target: Path) -> None:
    import sqlite3

    with sqlite3.connect(source) as there, sqlite3.connect(target) as copy:
        there.backup(copy)
    there.close()
    copy.close()
