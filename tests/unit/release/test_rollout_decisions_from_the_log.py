"""Evidence as it is read from the ledger and from a prediction log on disk."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from pilotage.data.lake import Lake
from pilotage.errors import ReleaseError
from pilotage.features.state import microseconds
from pilotage.policy import Guardrail, GuardrailMetric
from pilotage.release.abtest import report
from pilotage.release.rollout import assess, gather
from pilotage.release.state import fold
from pilotage.settings import Settings
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.monitoring.logs import outcome, prediction, shadow, write_segment
from tests.unit.release.evidences import START
from tests.unit.release.test_rollout_decisions import SHADOWED, book, share, spec

NOW = START + timedelta(hours=1)


def ledger_of(*kinds: tuple[str, int | None, dict[str, Any]]) -> InMemoryLedger:
    ledger = InMemoryLedger()
    ledger._events = book(*kinds)
    return ledger


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def lake(settings: Settings) -> Lake:
    return Lake(settings.lake)


def at(moment: datetime, number: int) -> int:
    return microseconds(moment + timedelta(seconds=number))


def test_a_canary_is_judged_by_what_is_on_disk(settings: Settings) -> None:
    ledger = ledger_of(SHADOWED, share(0, 0.25))
    state = fold(ledger.events())["tiny"]
    records: list[Any] = []
    for number in range(600):
        mine = number % 4 == 0
        version = 2 if mine and number % 8 else 1  # Every second turn of the canary fails.
        routed = {"version": version, "routed_version": 2 if mine else 1, "drawn_by": 5}
        records.append(prediction(number, at=at(START, number), **routed))
        records.append(outcome(number, received_at=at(START, 700 + number)))
    write_segment(settings.prediction_log, records)
    evidence = gather(spec(), state, settings, lake(settings), ledger=ledger)
    assert [(stage.kind, stage.sequence) for stage in evidence.stages] == [("shadow", 4), ("canary", 5)]
    assert (evidence.version, evidence.champion, evidence.planned) == (2, 1, 3)
    assert evidence.answers.height == 75
    assert evidence.answers["label"].to_list() == [True] * 75
    decision = assess(spec(), state, evidence, NOW)
    assert decision.kind == "roll_back"
    assert decision.why.startswith("Errors: 0.5000 against the champion's 0.0000 (150 and 450 observations)")


WORSE: dict[GuardrailMetric, dict[str, Any]] = {
    "errors": {"version": 1},
    "slow_answers": {"latency_us": 60_000},
    "abstentions": {"referred": True, "decision": None},
    "fallbacks": {"version": 1},
    "probability": {"probability": 0.95},
    "certainty": {"probability": 0.5},
    "cost": {"decision": False},
    "log_loss": {"probability": 0.001},
    "brier": {"probability": 0.001},
}
"""What a canary does that each guardrail is there for."""


@pytest.mark.parametrize("metric", get_args(GuardrailMetric))
def test_each_guardrail_by_itself_takes_a_canary_back(settings: Settings, metric: GuardrailMetric) -> None:
    ledger = ledger_of(share(0, 0.25))
    records: list[Any] = []
    for number in range(600):
        mine = number % 4 == 0
        routed = {"version": 2, "routed_version": 2} | WORSE[metric] if mine else {"decision": True}
        records.append(prediction(number, at=at(START, number), drawn_by=4, **routed))
        records.append(outcome(number, received_at=at(START, 700 + number)))
    write_segment(settings.prediction_log, records)
    state = fold(ledger.events())["tiny"]
    guarded = spec(guardrails=(Guardrail(metric=metric, tolerance=0.01),))
    evidence = gather(guarded, state, settings, lake(settings), ledger=ledger)
    assert assess(guarded, state, evidence, NOW).kind == "roll_back"
    none = spec(guardrails=tuple(Guardrail(metric=other, tolerance=0.9) for other in WORSE if other != metric))
    assert assess(none, state, evidence, NOW).kind != "roll_back"


def test_a_shadow_is_judged_by_what_is_on_disk(settings: Settings) -> None:
    ledger = ledger_of(SHADOWED)
    state = fold(ledger.events())["tiny"]
    before = [prediction(number, at=at(START - timedelta(days=2), number)) for number in range(1000, 1010)]
    now = [prediction(number, at=at(START, number)) for number in range(60)]
    write_segment(settings.prediction_log, [*before, *now, *(shadow(number, probability=0.25) for number in range(60))])
    evidence = gather(spec(), state, settings, lake(settings), ledger=ledger)
    assert evidence.predictions.height == 60
    assert evidence.answers.height == 60
    assert assess(spec(), state, evidence, NOW).kind == "advance"


def test_without_a_rollout_there_is_no_evidence(settings: Settings) -> None:
    ledger = ledger_of()
    with pytest.raises(ReleaseError, match="No rollout of tiny is under way"):
        gather(spec(), fold(ledger.events())["tiny"], settings, lake(settings), ledger=ledger)


def test_an_ab_test_is_reported_from_what_is_on_disk(settings: Settings) -> None:
    ledger = ledger_of(("ab_started", 2, {"share": 0.5, "salt": "s"}))
    records: list[Any] = []
    for number in range(2000):
        version = 1 + number % 2
        routed = {"version": version, "routed_version": version, "drawn_by": 4, "decision": version == 2}
        records += [prediction(number, at=at(START, number), **routed), outcome(number, label=True)]
    write_segment(settings.prediction_log, records)
    told = report(spec(), settings, lake(settings), ledger=ledger)
    assert (told.verdict, told.entities, told.champion_entities) == ("better", 1000, 1000)
    assert (told.mean, told.champion_mean) == (pytest.approx(1), pytest.approx(5))
    with pytest.raises(ReleaseError, match="no A/B test"):
        report(spec(), settings, lake(settings), ledger=ledger_of())
