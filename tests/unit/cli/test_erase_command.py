"""``pilotage erase``: counts by default, erases with --yes, and says what it did and what it left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotage.cli import declared
from pilotage.cli.main import cli, run
from tests.unit.governance.erasure_world import NAME, NUMBERS, World
from tests.unit.monitoring.logs import write_segment

Command = Callable[..., tuple[int, str]]
WHY = ("--why", "request 2026-17", "--actor", "dpo")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    home = tmp_path / "home"
    monkeypatch.setenv("PILOTAGE_HOME", str(home))
    world = World(home)
    monkeypatch.setattr(declared, "models", lambda: {"tiny": world.spec})
    monkeypatch.setattr(declared, "model", lambda _: world.spec)
    monkeypatch.setattr(declared, "sources", lambda: world.sources)
    return world


@pytest.fixture
def pilotage(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str) -> tuple[int, str]:
        code = run(lambda: cli.main(list(arguments), standalone_mode=False))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def test_it_counts_then_erases_then_finds_nothing(world: World, pilotage: Command) -> None:
    world.live()
    told = world.telling()
    code, said = pilotage("erase", "tiny", f"courier={NAME}", *WHY)
    assert code == 0
    assert said.splitlines()[0].startswith("tiny knows them by courier; the ledger calls them pseudonym:")
    lines = {" ".join(line.split()) for line in said.splitlines()}
    assert {
        "the service's answers to requests with an id 1 row",
        "raw/orders 3 rows, and 1 file of older versions",
        "quarantine/orders 1 row, and 1 file of older versions",
        "predictions/tiny 2 rows",
        "outcomes/tiny 3 rows",
        "Kept: what models learned before. A version that is trained after the erasure knows nothing of them.",
        "Nothing was changed. To erase it: the same with --yes. It can't be undone.",
    } <= lines
    assert world.telling() == told

    code, said = pilotage("erase", "tiny", f"courier={NAME}", "--yes", *WHY)
    assert code == 0
    assert "Erased, looked at again, and recorded as event 3. Nothing is left but what is said here." in said

    code, said = pilotage("erase", "tiny", f"courier={NAME}", *WHY)
    assert code == 0
    assert "An erasure was finished on" in said
    assert "by dpo (event 3): request 2026-17" in said
    assert "It was said then: They are in what landed: orders/orders_2024-01-01.csv" in said
    assert "Nothing is left that could be erased." in said
    assert "By hand: a value of theirs is written in landing/orders/" in said


def test_of_nobody_there_is_nothing(world: World, pilotage: Command) -> None:
    world.land()
    world.night()
    for more in ((), ("--yes",)):
        code, said = pilotage("erase", "tiny", "order_id=ORD-00000", *more, *WHY)
        assert code == 0
        assert "There is nothing of them." in said
        assert "recorded" not in said


def test_as_json_for_programs(world: World, pilotage: Command) -> None:
    world.live()
    code, said = pilotage("erase", "tiny", f"order_id={NUMBERS[2]}", "--yes", "--json", *WHY)
    found = json.loads(said)
    assert code == 0
    assert {each["place"]: each["rows"] for each in found["found"]} == {"raw/orders": 1, "quarantine/orders": 1}
    assert found["erased"] == 3
    assert NAME not in said


def test_what_a_job_must_move_first_is_said(world: World, pilotage: Command) -> None:
    world.live()
    write_segment(world.settings.prediction_log, world.records(), number=2)
    code, said = pilotage("erase", "tiny", f"courier={NAME}", *WHY)
    assert code == 0
    assert "7 records, which move_prediction_log must move before anything can be erased" in said
    code, said = pilotage("erase", "tiny", f"courier={NAME}", "--yes", *WHY)
    assert code == 1
    assert "launch the Dagster job move_prediction_log" in said


def test_the_record_keeps_it_in_view(world: World, pilotage: Command) -> None:
    world.live()
    pilotage("erase", "tiny", f"courier={NAME}", "--yes", *WHY)
    code, said = pilotage("audit", "log", "tiny")
    assert code == 0
    assert [" ".join(line.split()[5:]) for line in said.splitlines()[-2:]] == [
        "erasure begun by dpo: request 2026-17",
        "erased by dpo: request 2026-17",
    ]
    with pytest.raises(SystemExit) as left:
        pilotage("audit", "verify")
    assert left.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("courier",), "A key is given as KEY=VALUE"),
        (("courier=",), "A key is given as KEY=VALUE"),
        (("courier=a", "courier=b"), "A key is given as KEY=VALUE, once"),
        (("amount=1",), "'amount' identifies nobody to tiny"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    world: World, pilotage: Command, arguments: tuple[str, ...], says: str
) -> None:
    code, said = pilotage("erase", "tiny", *arguments, *WHY)
    assert code == 2
    assert says in said
