"""The command line answers at once, and turns deliberate errors into a message and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pilotage.cli.main import cli, run
from pilotage.errors import ConfigError, DataError
from pilotage.release.events import Draft
from pilotage.settings import Settings
from tests.unit.cli import ledgers

HEAVY = ("polars", "pydantic", "psutil", "rich", "mlflow", "deltalake", "duckdb", "sqlalchemy", "pandas", "dagster")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pilotage.cli.main import cli, run; sys.argv = ['pilotage', '--help']\n"
        f"run(lambda: cli.main(standalone_mode=False)); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_says_what_it_does() -> None:
    top = CliRunner().invoke(cli, ["--help"]).output
    for name, command in cli.commands.items():
        if not command.hidden:
            assert f"  {name} " in top
            assert command.help
            assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0
    assert "..." not in top.split("Commands:")[1]


def test_an_error_is_a_message_and_a_fix_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise DataError("Flights of 3 January are missing.", fix="Land them.")

    assert run(command) == 1
    captured = capsys.readouterr()
    assert captured.err == "Error: Flights of 3 January are missing.\nFix: Land them.\n"
    assert captured.out == ""


def test_a_wrong_setting_or_command_line_has_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        raise ConfigError("PILOTAGE_X is wrong.", fix="Unset it.")

    def unknown() -> None:
        raise click.UsageError("No such command.")

    assert run(wrong) == 2
    assert run(unknown) == 2


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    assert run(command) == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_an_error_that_nobody_meant_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_an_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PILOTAGE_DAGSTR_PORT", "3")
    assert run(lambda: cli.main(["status"], standalone_mode=False)) == 2
    assert "No setting is called PILOTAGE_DAGSTR_PORT" in capsys.readouterr().err


def test_status_of_an_empty_home_says_that_nothing_is_in_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    for name in ("DAGSTER", "MLFLOW", "SERVICE", "REPORTS"):
        monkeypatch.setenv(f"PILOTAGE_{name}_PORT", "1")
    assert run(lambda: cli.main(["status", "--json"], standalone_mode=False)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["up"] is None
    assert [(model["model"], model["champion"]) for model in told["models"]] == [
        ("flight_delay", None),
        ("loan_approval", None),
    ]
    assert {server["healthy"] for server in told["servers"]} == {False}
    assert not (tmp_path / "home").exists()
    assert run(lambda: cli.main(["status", "flight_delay"], standalone_mode=False)) == 0
    assert "pilotage train flight_delay" in capsys.readouterr().out


def test_status_of_a_model_that_nobody_declared_names_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    assert run(lambda: cli.main(["status", "weather"], standalone_mode=False)) == 2
    assert "flight_delay, loan_approval" in capsys.readouterr().err


def test_every_shipped_declaration_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    from pilotage.cli.check import check

    assert check() == 0
    assert "✓ assets/models/flight_delay.py" in capsys.readouterr().out


def pilotage(home: Path, *words: str | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, as a shell starts it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOTAGE_")}
    return subprocess.run(
        [sys.executable, "-m", "pilotage.cli.main", *words],
        env={**kept, "PILOTAGE_HOME": str(home), **variables},
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_a_home_that_can_not_be_written_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = pilotage(tmp_path / "file", "land", "flights", "--from", "2013-01-01", "--to", "2013-01-01")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"Error: {tmp_path / 'file' / 'landing' / 'flights'}: Not a directory.",
        "Fix: See that this user may use it, and that its disk has room.",
    ]


@pytest.mark.parametrize("words", [["trace", b"a\xffb"], ["sql", b"select 'a\xffb'"]])
def test_an_argument_that_is_no_utf_8_is_asked_wrongly(words: list[str | bytes], tmp_path: Path) -> None:
    done = pilotage(tmp_path, *words)
    assert done.returncode == 2
    assert b"is no UTF-8." in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_terminal_without_the_characters_gets_them_spelled_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ledgers.append(settings, Draft(model="m", kind="killed", actor="ada", cause="größer", payload={}))
    done = pilotage(tmp_path, "audit", "log", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().rstrip().endswith("killed by ada: gr\\xf6\\xdfer")
    assert pilotage(tmp_path, "audit", "verify", PYTHONIOENCODING="latin-1").returncode == 0
    [told] = json.loads(pilotage(tmp_path, "audit", "log", "--json", PYTHONIOENCODING="ascii").stdout)
    assert told["why"] == "größer"


@pytest.mark.parametrize(
    "option", [["--speed", "0"], ["--speed", "nan"], ["--at-once", "0"], ["--name", "../../year"], ["--name", ""]]
)
def test_a_replay_that_could_not_go_on_is_not_begun(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    asked = ["replay", "flight_delay", "--from", "2013-03-01", "--to", "2013-03-02", *option]
    assert run(lambda: cli.main(asked, standalone_mode=False)) == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "last", "missing"), [("2012-12-31", "2013-03-02", 2012), ("2013-12-31", "2014-01-01", 2014)]
)
def test_a_replay_of_days_that_there_are_none_of_is_not_begun(
    first: str,
    last: str,
    missing: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    asked = ["replay", "flight_delay", "--from", first, "--to", last]
    assert run(lambda: cli.main(asked, standalone_mode=False)) == 2
    assert f"The sample data has no flights of {missing}-" in capsys.readouterr().err
    assert not (tmp_path / "replay").exists()
