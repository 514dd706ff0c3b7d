"""What becomes of an alarm, whatever is raised, cleared, acknowledged and silenced, and in which order."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts import KINDS, TIERS, Alert
from pilotage.monitoring.alerts import alarm as steps
from pilotage.monitoring.alerts.alarm import Alarm
from tests.unit.monitoring.alarms import START, Desk, critical, warning
from tests.unit.monitoring.standings import fold

MEMORY = Path("/dev/shm")
RULE = KINDS["service_on_fallback"]


def opened(alert: Alert | None = None) -> Alarm:
    return steps.raised(None, alert or critical(), at=START, number=1).alarm


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 590)), max_size=60))
def test_a_value_that_flaps_faster_than_it_counts_as_clear_is_one_alarm(seen: list[tuple[bool, int]]) -> None:
    alarm, at, told = opened(), START, 0
    for found, seconds in seen:
        at += timedelta(seconds=seconds)
        # Whatever else is seen, it is found once in each stretch.
        step = steps.raised(alarm, critical(), at=at) if found else steps.checked_clear(alarm, at=at)
        told += step.tell is not None
        alarm = steps.raised(step.alarm, critical(), at=at).alarm
    assert (alarm.status, alarm.episode, told) == ("open", 1, 0)


@given(st.integers(1, 10), st.integers(1, 3600))
def test_it_is_over_only_after_enough_checks_and_enough_time(checks: int, seconds: int) -> None:
    alarm = opened()
    for number in range(1, checks + 1):
        alarm = steps.checked_clear(alarm, at=START + timedelta(seconds=number * seconds)).alarm
    lasted = timedelta(seconds=(checks - 1) * seconds)
    assert (alarm.status == "ended") == (checks >= RULE.clear_checks and lasted >= RULE.clear_for)


def test_time_alone_ends_what_enough_checks_found_clear() -> None:
    alarm = opened()
    for second in range(RULE.clear_checks):
        alarm = steps.checked_clear(alarm, at=START + timedelta(seconds=second)).alarm
    assert alarm.open
    step = steps.passed(alarm, at=START + RULE.clear_for)
    assert (step.happened, step.tell, step.alarm.status) == ("cleared", "cleared", "ended")


def test_what_was_over_opens_again_as_another_episode_with_the_same_number() -> None:
    ended = steps.closed(opened(), who="ada", why="moved", at=START).alarm
    step = steps.raised(ended, critical(), at=START + timedelta(hours=1))
    assert (step.tell, step.alarm.number, step.alarm.episode, step.alarm.count) == ("opened", 1, 2, 1)


def test_a_warning_that_becomes_critical_is_told_again_and_needs_somebody_again() -> None:
    taken = steps.acknowledged(opened(warning()), who="ada", why="I look", at=START).alarm
    step = steps.raised(taken, warning(tier="critical"), at=START)
    assert (step.tell, step.alarm.tier, step.alarm.acknowledged) == ("worsened", "critical", None)


def test_it_keeps_the_worst_tier_while_it_is_open() -> None:
    alarm = steps.raised(opened(), critical(tier="warning", summary="A few only."), at=START).alarm
    assert (alarm.tier, alarm.alert.summary) == ("critical", "A few only.")


def test_it_escalates_at_growing_intervals_until_somebody_acknowledges() -> None:
    alarm, at, escalated = opened(), START, []
    for _ in range(24 * 60):
        at += timedelta(minutes=1)
        step = steps.passed(alarm, at=at)
        alarm = step.alarm
        if step.tell == "escalated":
            escalated.append(int((at - START) / timedelta(minutes=1)))
    assert escalated == [30, 90, 210, 450, 930]
    taken = steps.acknowledged(alarm, who="ada", why="on it", at=at).alarm
    assert steps.passed(taken, at=at + timedelta(days=9)).tell is None


def test_the_time_of_a_silence_does_not_count_towards_an_escalation() -> None:
    alarm = opened()
    for minute in range(60):
        alarm = steps.passed(alarm, at=START + timedelta(minutes=minute), silenced=True).alarm
    assert steps.passed(alarm, at=START + timedelta(minutes=88)).tell is None
    assert steps.passed(alarm, at=START + timedelta(minutes=89)).tell == "escalated"


def test_information_is_told_and_over_at_once_and_the_same_thing_is_told_once() -> None:
    news = Alert.of("promoted", "tiny version 3 is in production.", model="tiny", subject="event 7")
    alarm = opened(news)
    assert alarm.status == "ended"
    assert steps.raised(alarm, news, at=START).tell is None


def test_what_happened_once_is_over_when_somebody_takes_note_of_it() -> None:
    hit = Alert.of("guardrail_hit", "tiny version 3 was rolled back.", model="tiny", subject="event 7")
    alarm = opened(hit)
    assert steps.checked_clear(alarm, at=START).alarm == alarm
    noted = steps.acknowledged(alarm, who="ada", why="seen", at=START).alarm
    assert noted.status == "ended"
    assert steps.raised(noted, hit, at=START).alarm == noted


def test_an_occurrence_that_is_told_again_changes_nothing() -> None:
    failed = Alert.of("run_failed", "Run a failed.", subject="train_tiny", occurrence="a")
    alarm = steps.raised(
        opened(failed), Alert.of("run_failed", "Run b.", subject="train_tiny", occurrence="b"), at=START
    )
    assert steps.raised(alarm.alarm, failed, at=START).alarm == alarm.alarm
    assert alarm.alarm.count == 2


ACTS = st.sampled_from(["raise", "clear", "ack", "close", "pass"])


@given(st.lists(st.tuples(ACTS, st.sampled_from(TIERS), st.integers(0, 4000), st.booleans()), max_size=60))
def test_no_order_of_events_leads_to_a_state_that_makes_no_sense(acts: list[tuple[str, Any, int, bool]]) -> None:
    alarm: Alarm | None = None
    at = START
    for act, tier, seconds, silenced in acts:
        at += timedelta(seconds=seconds)
        before = alarm
        step = None
        try:
            if act == "raise":
                step = steps.raised(alarm, critical(tier=tier), at=at, number=1)
            elif alarm is not None and act == "clear":
                step = steps.checked_clear(alarm, at=at)
            elif alarm is not None and act == "ack":
                step = steps.acknowledged(alarm, who="ada", why="on it", at=at)
            elif alarm is not None and act == "close":
                step = steps.closed(alarm, who="ada", why="gone", at=at)
            elif alarm is not None:
                step = steps.passed(alarm, at=at, silenced=silenced)
        except ConfigError:
            assert act in ("ack", "close") and before is not None and (not before.open or before.acknowledged)
        if step is None:
            continue
        alarm = step.alarm
        assert alarm.count >= 1 and alarm.episode >= (before.episode if before else 1)
        assert alarm.open == (alarm.ended_at is None)
        assert (alarm.clears == 0) == (alarm.clear_since is None)
        # Nobody is told of what did not change, and whatever opens, worsens or ends is told.
        changed = before is None or (before.open, before.tier, before.episode) != (
            alarm.open,
            alarm.tier,
            alarm.episode,
        )
        if changed and alarm.alert.rule.ends == "clears":
            assert step.tell is not None
        if step.tell is not None:
            assert changed or step.tell == "escalated"


class Life(RuleBasedStateMachine):
    """An installation where everything happens: alarms come and go, people act, receivers are away, hours pass."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where that can be had: a disk that is waited for at each step proves nothing here.
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None)
        self.desk = Desk(Path(self._folder.name))

    def teardown(self) -> None:
        try:
            self._gets_well()
        finally:
            self.desk.book.close()
            self._folder.cleanup()

    def _gets_well(self) -> None:
        # The world gets well: everybody can be reached, silences end, and hours pass.
        self.desk.away.clear()
        self.desk.wait(days=3)
        for _ in range(4):
            self.desk.deliver()
            self.desk.wait(hours=2)
        opened = [
            row["subject"]
            for row in self.desk.book.history()
            if row["happened"] == "opened" and row["kind"] == "service_on_fallback"
        ]
        for name in ("oncall", "chat"):
            got = [
                alarm["subject"]
                for receiver, message in self.desk.got
                if receiver == name and message.title.startswith("[CRITICAL]")
                for alarm in message.data
            ]
            # Nothing critical is lost, and nobody is told twice.
            assert sorted(got) == sorted(opened)
        waiting = [(notice.kind, notice.what) for notice in self.desk.book.waiting()]
        assert ("service_on_fallback", "opened") not in waiting

    @rule(subject=st.sampled_from("abc"))
    def find(self, subject: str) -> None:
        self.desk.book.raise_(critical(subject=subject))

    @rule(subject=st.sampled_from("abc"))
    def find_nothing(self, subject: str) -> None:
        self.desk.book.clear("service_on_fallback", "tiny", subject)

    @rule(minutes=st.sampled_from([0.5, 3, 20, 200]))
    def wait(self, minutes: float) -> None:
        self.desk.wait(minutes=minutes)

    @rule()
    def deliver(self) -> None:
        self.desk.deliver()

    @rule(name=st.sampled_from(["oncall", "chat", "boss"]))
    def go_away(self, name: str) -> None:
        self.desk.away.add(name)

    @rule()
    def come_back(self) -> None:
        self.desk.away.clear()

    @precondition(lambda self: self.desk.book.alarms())
    @rule(data=st.data())
    def take_on(self, data: st.DataObject) -> None:
        alarm = data.draw(st.sampled_from(self.desk.book.alarms()))
        if alarm.acknowledged is None:
            self.desk.book.acknowledge(alarm.number, who="ada", why="on it")

    @rule(subject=st.sampled_from("abc"), hours=st.integers(1, 10))
    def silence(self, subject: str, hours: int) -> None:
        until = self.desk.now + timedelta(hours=hours)
        self.desk.book.silence(until=until, who="ada", why="we know", subject=subject)

    @invariant()
    def the_history_alone_tells_where_every_alarm_stands(self) -> None:
        told = fold(self.desk.book.history())
        for alarm in self.desk.book.alarms(open_only=False):
            standing = told[alarm.number]
            assert standing.status == alarm.status
            assert (standing.episode, standing.tier, standing.level) == (alarm.episode, alarm.tier, alarm.level)
            assert standing.acknowledged_by == (alarm.acknowledged.who if alarm.acknowledged else None)


Life.TestCase.settings = settings(
    max_examples=40, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow], deadline=None
)
test_whatever_happens_nothing_critical_is_lost_and_nobody_is_told_twice = Life.TestCase
