"""``pilotage audit log`` and ``pilotage audit at``: what they say, and what they refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import cli, run
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings
from tests.unit.cli import ledgers

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    return Settings.load()


def audit(*words: str) -> int:
    return run(lambda: cli.main(["audit", *words], standalone_mode=False))


def told(captured: Captured) -> Any:
    return json.loads(captured.readouterr().out)


def times(settings: Settings) -> list[datetime]:
    ledger = SqlLedger(settings.ledger)
    try:
        return [event.at for event in ledger.events()]
    finally:
        ledger.close()


def decided(settings: Settings, kind: Any, version: int | None = None, **payload: Any) -> None:
    ledgers.append(settings, Draft(model="m", kind=kind, version=version, actor="bob", cause="wanted", payload=payload))


def fill(settings: Settings) -> list[datetime]:
    """Version 1 is approved and promoted, version 2 takes its place and the model is killed; when each event was."""
    ledgers.registered(settings, "m", 1)
    decided(settings, "approved", 1)
    ledgers.promoted(settings, "m", 1)
    ledgers.registered(settings, "m", 2)
    decided(settings, "shadowed", 2)
    ledgers.promoted(settings, "m", 2)
    decided(settings, "killed")
    ledgers.registered(settings, "other", 1)
    return times(settings)


def test_at_a_moment_it_says_who_was_in_production_until_when_and_who_approved(
    settings: Settings, capsys: Captured
) -> None:
    at = fill(settings)
    assert audit("at", at[4].isoformat()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"m at {at[4]:%Y-%m-%d %H:%M:%S} UTC"
    said = dict(line.strip().split(maxsplit=1) for line in lines[1:])
    assert lines[1].split(maxsplit=2) == ["in", "production", "version 1"]
    assert said["since"] == f"{at[2]:%Y-%m-%d %H:%M:%S} UTC, by ada: better (event 3)"
    assert said["until"] == f"{at[5]:%Y-%m-%d %H:%M:%S} UTC, then version 2 (event 6)"
    assert said["approved"] == f"{at[1]:%Y-%m-%d %H:%M:%S} UTC by bob: wanted (event 2)"
    assert said["trained"].endswith("on 10 rows from 2013-01-01 to 2013-02-28")
    assert said["shadow"] == f"version 2, since {at[4]:%Y-%m-%d %H:%M:%S} UTC"

    assert audit("at", at[4].isoformat(), "--json") == 0
    [model] = told(capsys)["models"]
    assert (model["champion"]["version"], model["champion"]["until"]) == (1, at[5].isoformat())
    assert [each["actor"] for each in model["champion"]["approvals"]] == ["bob"]
    assert (model["killed"], model["shadows"][0]["version"]) == (None, 2)


def test_a_day_stands_for_its_end_and_today_for_now(settings: Settings, capsys: Captured) -> None:
    at = fill(settings)
    assert audit("at", f"{datetime.now(UTC):%Y-%m-%d}", "m") == 0
    said = capsys.readouterr().out
    assert "version 2" in said
    assert "until          it still is" in said
    assert f"KILLED         since {at[6]:%Y-%m-%d %H:%M:%S} UTC by bob: wanted" in said
    assert audit("at", f"{at[0] - timedelta(days=1):%Y-%m-%d}") == 0
    assert capsys.readouterr().out.startswith("Nothing had been decided at")


def test_before_a_promotion_nothing_was_in_production(settings: Settings, capsys: Captured) -> None:
    at = fill(settings)
    assert audit("at", at[0].isoformat()) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  in production  nothing"]


def test_the_log_has_every_decision_or_those_asked_for(settings: Settings, capsys: Captured) -> None:
    at = fill(settings)
    assert audit("log") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[2] == f"    3  {at[2]:%Y-%m-%d %H:%M:%S} UTC  m 1  promoted by ada: better"
    assert lines[6] == f"    7  {at[6]:%Y-%m-%d %H:%M:%S} UTC  m  killed by bob: wanted"
    for options, numbers in (
        (["m", "--version", "2"], [4, 5, 6]),
        (["--from", at[6].isoformat()], [7, 8]),
        (["other", "--to", f"{at[7]:%Y-%m-%d}"], [8]),
        (["--to", f"{at[0] - timedelta(days=1):%Y-%m-%d}"], []),
    ):
        assert audit("log", *options, "--json") == 0
        assert [each["sequence"] for each in told(capsys)] == numbers
    assert audit("log", "--version", "9") == 0
    assert capsys.readouterr().out == "Nothing was decided.\n"


def test_the_log_says_to_which_version_with_which_share_and_for_which_reasons(
    settings: Settings, capsys: Captured
) -> None:
    fill(settings)
    decided(settings, "resumed")
    decided(settings, "rolled_back", 2, to=1)
    ledgers.registered(settings, "m", 3)
    decided(settings, "canaried", 3, share=0.05, salt="s", step=0, segment=None)
    ledgers.refused(settings, "m", "Log loss is worse.", "It is slow.")
    assert audit("log", "m") == 0
    lines = [line.split("UTC  ")[1] for line in capsys.readouterr().out.splitlines()[-4:]]
    assert lines == [
        "m 2  rolled back to 1 by bob: wanted",
        "m 3  registered by dagster: bootstrap",
        "m 3  canaried at 5% by bob: wanted",
        "m  refused by dagster: manual: Log loss is worse. It is slow.",
    ]


def test_the_log_as_json_has_what_a_decision_went_by(settings: Settings, capsys: Captured) -> None:
    [at, *_] = fill(settings)
    assert audit("log", "--version", "1", "--json") == 0
    first = told(capsys)[0]
    assert (first["at"], first["payload"]["bundle_sha256"]) == (at.isoformat(), "m1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["at", "yesterday"], "'yesterday' is no moment: use 2026-05-03"),
        (["at", "0001-01-01T00:00:00+14:00"], "is no moment"),
        (["at", "2999-01-01"], "2999-01-01 23:59:59 UTC is still to come."),
        (["log", "nix"], "The ledger knows nothing of a model 'nix'."),
        (["at", "2999-01-01T00:00:00"], "is still to come."),
    ],
)
def test_what_can_not_be_answered_is_refused(
    settings: Settings, capsys: Captured, words: list[str], message: str
) -> None:
    fill(settings)
    assert audit(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["audit", "log"], ["audit", "at", "2026-01-01"], ["status"], ["card", "m"]])
def test_a_ledger_that_is_lost_is_no_ledger_in_which_nothing_was_decided(
    asked: list[str], settings: Settings, capsys: Captured
) -> None:
    fill(settings)
    for file in settings.home.glob("ledger.db*"):
        file.unlink()
    assert run(lambda: cli.main(asked, standalone_mode=False)) == 1
    captured = capsys.readouterr()
    assert "is empty or not there, and event 8 is noted in" in captured.err
    assert not captured.out


def test_days_in_the_wrong_order_are_no_days_without_decisions(settings: Settings, capsys: Captured) -> None:
    fill(settings)
    assert audit("log", "--from", "2026-02-01", "--to", "2026-01-01") == 2
    captured = capsys.readouterr()
    assert "--from 2026-02-01 00:00:00 UTC is after --to 2026-01-01 23:59:59 UTC" in captured.err
    assert not captured.out


def test_words_are_shown_as_they_are_on_record(settings: Settings, capsys: Captured) -> None:
    why = "see [ticket 12], [/tmp/x] and 12:fire:30"
    ledgers.append(settings, Draft(model="m", kind="killed", actor="[ada]", cause=why, payload={}))
    assert audit("log") == 0
    assert capsys.readouterr().out.rstrip().endswith(f"killed by [ada]: {why}")


def test_an_event_is_one_line_whatever_its_words_are(settings: Settings, capsys: Captured) -> None:
    forged = "tired\n    2  2026-01-01 00:00:00 UTC  m 9  promoted by ceo: fine\x1b[2K\u202e"
    ledgers.append(settings, Draft(model="m", kind="killed", actor="ada", cause=forged, payload={}))
    for asked in (["audit", "log"], ["audit", "at", f"{datetime.now(UTC):%Y-%m-%d}"], ["status", "m"]):
        assert run(lambda asked=asked: cli.main(asked, standalone_mode=False)) == 0  # type: ignore[misc]
        printed = capsys.readouterr().out
        assert "tired\\n" in printed
        assert not [line for line in printed.splitlines() if line.startswith("    2")]
        assert not set(printed) & {"\x1b", "\u202e"}


def test_a_share_is_not_rounded_to_all_of_the_traffic(settings: Settings, capsys: Captured) -> None:
    ledgers.registered(settings, "m", 1)
    ledgers.promoted(settings, "m", 1)
    ledgers.registered(settings, "m", 2)
    decided(settings, "shadowed", 2)
    decided(settings, "canaried", 2, share=0.999, salt="s")
    assert audit("log") == 0
    assert "m 2  canaried at 99.9% by bob" in capsys.readouterr().out
    assert audit("at", f"{datetime.now(UTC):%Y-%m-%d}") == 0
    assert "version 2, 99.9% of the entities" in capsys.readouterr().out


def test_people_who_were_erased_since_are_told(settings: Settings, capsys: Captured) -> None:
    at = fill(settings)
    decided(settings, "erasure_begun")
    decided(settings, "erased")
    assert audit("at", at[4].isoformat(), "m") == 0
    assert "erased since   people whose rows it may have learned from (event 10)" in capsys.readouterr().out
    assert audit("at", at[4].isoformat(), "m", "--json") == 0
    assert told(capsys)["models"][0]["erasures"] == [10]
