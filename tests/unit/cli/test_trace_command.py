"""``pilotage trace``: what it shows of a prediction, to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotage.cli.main import cli, run
from tests.unit.monitoring.logs import outcome, prediction, shadow, write_segment
from tests.unit.monitoring.test_trace import SHA256, released


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    return tmp_path


def traced(*arguments: str) -> int:
    try:
        return run(lambda: cli.main(["trace", *arguments], standalone_mode=False)) or 0
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def test_a_person_reads_who_answered_why_and_from_what_it_learned(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = released(home)
    scored = world.serve(range(4))[2]
    write_segment(world.settings.prediction_log, [shadow(2), outcome(2, label=False)], number=2)
    assert traced("p00002") == 0
    words = " ".join(capsys.readouterr().out.split())
    for told in (
        "by version 1, champion of tiny, to the API key key-1",
        "order_id A-",
        "validated/stock 0",
        "in shadow version 2: 0.5",
        "outcome no, known 2024-03-02",
        "the same probability",
        "on 60 rows from 2024-01-01 to 2024-01-02",
        "event 1",
        "registered by test: test",
        "raw/orders 0: 2 files, 3 rows, 2024-01-01 to 2024-01-02",
    ):
        assert told in words
    reasons = world.predictor.explain(scored).reasons
    assert reasons
    assert all(f"reason {reason}" in words for reason in reasons)
    assert SHA256 not in words
    assert traced("p00002", "--files") == 0
    assert SHA256 in " ".join(capsys.readouterr().out.split())


def test_a_program_reads_all_of_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = released(home)
    [scored] = world.serve(range(3, 4))
    assert traced("p00003", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prediction"]["probability"] == scored.probability
    assert len(told["explanation"]["contributions"]) == len(world.spec.features)
    assert [file["sha256"] for file in told["origins"][0]["files"]] == [SHA256] * 2
    assert told["version"]["decisions"][0]["kind"] == "registered"


def test_an_answer_by_a_rule_has_no_version_to_show(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = released(home, with_state=False)
    ruled = prediction(
        3, version=None, stage=None, answered_by="nothing", probability=None, decision=None, reasons=("it was killed",)
    )
    write_segment(world.settings.prediction_log, [ruled])
    assert traced("p00003") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "by no version (nothing) of tiny" in words
    assert "probability none, decision: none" in words
    assert "it was killed" in words
    assert "Learned from" not in words


def test_an_id_that_is_none_is_an_error_with_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released(home)
    assert traced("[bold]none") == 1
    said = capsys.readouterr().err
    assert "no prediction '[bold]none'" in said
    assert "Fix: Use the prediction_id" in said
