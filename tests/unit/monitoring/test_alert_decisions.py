"""What the ledger decided, told as alerts: each once, with the run that took it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.monitoring.alerts import AlertBook
from pilotage.monitoring.alerts.watches import DecisionsWatch, carry_out
from pilotage.release.events import Draft
from pilotage.settings import Settings
from pilotage.testing.ledger import InMemoryLedger


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load().model_copy(update={"home": tmp_path})


def ledger(*drafts: tuple[str, dict[str, Any]]) -> InMemoryLedger:
    book = InMemoryLedger()
    for kind, fields in drafts:
        version = fields.pop("version", None)
        payload = fields.pop("payload", {})
        actor = fields.pop("actor", "rollout")
        book.append(
            Draft(model="tiny", kind=kind, version=version, actor=actor, cause="because", payload=payload)  # type: ignore[arg-type]
        )
    return book


def test_decisions_are_told_once_each_and_a_guardrail_is_told_from_a_person() -> None:
    evidence = {"guardrails": [{"metric": "cost", "breached": True, "message": "cost is 3% worse"}]}
    book = ledger(
        ("registered", {"version": 1}),
        ("promoted", {"version": 1}),
        ("verdict", {"version": 1}),
        ("rolled_back", {"version": 2, "payload": {"evidence": evidence}}),
        ("rolled_back", {"version": 3, "actor": "ada"}),
        ("killed", {"actor": "ada"}),
        ("refused", {"payload": {"reasons": ["auc is too low"]}}),
        ("person_called", {"payload": {"about": "as_promised", "evidence": {"tried": 2}}}),
        ("retrain_gave_up", {}),
        ("verdict", {"version": 3, "payload": {"decision": "request_approval"}}),
        ("verdict", {"version": 3, "payload": {"decision": "needs_a_person"}}),
    )
    now = datetime.now(UTC)
    watch = DecisionsWatch(ledger=book, now=now, seen=None)
    told = [(alert.kind, alert.tier) for alert in watch.look().alerts]
    assert told == [
        ("retrained", "information"),
        ("promoted", "information"),
        ("guardrail_hit", "critical"),
        ("rolled_back", "information"),
        ("killed", "critical"),
        ("refused", "information"),
        ("needs_a_person", "critical"),
        ("needs_a_person", "critical"),
        ("waits_for_approval", "information"),
        ("needs_a_person", "critical"),
    ]
    assert watch.look().alerts == ()
    assert DecisionsWatch(ledger=book, now=now + timedelta(days=2), seen=None).look().alerts == ()


def test_a_decision_links_to_the_run_that_took_it() -> None:
    tests = {"tests": [], "run": "run-a"}
    book = ledger(
        ("registered", {"version": 1, "payload": {"run_url": "http://ui/runs/by-itself"}}),
        ("rolled_back", {"version": 1, "payload": {"evidence": tests}}),
        ("person_called", {"payload": {"about": "drift", "evidence": {"run": "run-b"}}}),
        ("retrain_gave_up", {"payload": {"request": 1, "tried": [{"run": "run-c"}, {"run": "run-d"}]}}),
        ("killed", {"actor": "ada"}),
    )
    watch = DecisionsWatch(ledger=book, now=datetime.now(UTC), seen=None, ui="http://ui")
    assert [alert.run_url.removeprefix("http://ui/runs/") for alert in watch.look().alerts] == [
        "by-itself", "run-a", "run-b", "run-d", "",
    ]  # fmt: skip


@pytest.mark.parametrize("action", ["adopted", "reverted"])
def test_an_alias_that_was_changed_by_hand_is_told_of_with_what_became_of_it(action: str) -> None:
    book = ledger(("alias_edited", {"version": 1, "payload": {"alias": "champion", "action": action}}))
    [alert] = DecisionsWatch(ledger=book, now=datetime.now(UTC), seen=None).look().alerts
    assert alert.summary == f"The alias champion of tiny was changed by hand in MLflow; it was {action}."


def test_a_cursor_that_was_lost_tells_nobody_again(settings: Settings) -> None:
    book = ledger(("promoted", {"version": 1}), ("killed", {"actor": "ada"}))
    with AlertBook.of(settings) as alarms:
        for _ in range(3):
            carry_out(alarms, [DecisionsWatch(ledger=book, now=datetime.now(UTC), seen=None).watch()])
        assert [row["happened"] for row in alarms.history()] == ["opened", "opened"]


def test_a_ledger_that_was_restored_from_a_backup_and_gives_its_numbers_again_is_told_of(settings: Settings) -> None:
    before = ledger(("registered", {"version": 1}), ("promoted", {"version": 1}), ("killed", {"actor": "ada"}))
    restored = ledger(("registered", {"version": 1}), ("promoted", {"version": 1}))
    now, seen = datetime.now(UTC), None
    with AlertBook.of(settings) as book:
        for book_of_events in (before, restored):
            watch = DecisionsWatch(ledger=book_of_events, now=now, seen=seen)
            carry_out(book, [watch.watch()])
            seen = watch.seen
        assert seen == 2
        restored.append(Draft(model="tiny", kind="killed", actor="bob", cause="it is wrong again", payload={}))
        carry_out(book, [DecisionsWatch(ledger=restored, now=now, seen=seen).watch()])
        [alarm] = [each for each in book.alarms() if each.key.kind == "killed"]
    assert alarm.count == 2, "event 3 of the ledger that is gone, and event 3 of this one"
    assert "bob: it is wrong again" in alarm.alert.summary
