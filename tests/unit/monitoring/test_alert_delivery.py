"""Who is told what, when, how often, and what happens when a receiver, the file of receivers or the process is gone."""

from __future__ import annotations

import io
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from pilotage.errors import ConfigError, LedgerUnavailable
from pilotage.monitoring.alerts import Alert, AlertBook
from pilotage.monitoring.alerts.alert import KINDS
from pilotage.monitoring.alerts.notices import GIVE_UP_AFTER, Message
from pilotage.monitoring.alerts.receivers import Receiver, log_file, read_receivers, send
from pilotage.settings import PROJECT, Settings
from tests.unit.monitoring.alarms import Desk, critical, warning


def test_a_critical_alarm_is_told_at_once_to_those_of_its_tier_with_all_that_is_needed(desk: Desk) -> None:
    alert = Alert.of(
        "service_on_fallback",
        "40% of the answers of tiny are not its model's own.",
        model="tiny",
        evidence={"share": 0.4},
        run_url="http://127.0.0.1:3000/runs/ab",
    )
    alarm = desk.book.raise_(alert)
    desk.deliver()
    assert [name for name, _ in desk.got] == ["oncall", "chat"]
    message = desk.got[0][1]
    assert message.title == "[CRITICAL] service on fallback (tiny)"
    for part in (alert.summary, "share: 0.4", alert.runbook, alert.run_url, f"pilotage alerts ack {alarm.number}"):
        assert part in message.body


def test_everything_that_is_told_is_in_the_log_even_without_receivers(tmp_path: Path) -> None:
    desk = Desk(tmp_path, receivers="")
    desk.book.raise_(critical())
    desk.deliver()
    [line] = [json.loads(line) for line in log_file(desk.settings).read_text().splitlines()]
    assert (line["tier"], line["alarms"][0]["kind"]) == ("critical", "service_on_fallback")
    assert desk.book.waiting() == []


def test_warnings_of_one_kind_wait_for_each_other_and_come_as_one_message(desk: Desk) -> None:
    for subject in ("flights", "weather", "planes"):
        desk.book.raise_(warning(subject))
    desk.deliver()
    assert desk.got == []
    desk.wait(minutes=1)
    desk.deliver()
    [(name, message)] = desk.got
    assert (name, message.title) == ("chat", "[WARNING] 3 × freshness")
    assert [alarm["subject"] for alarm in message.data] == ["flights", "weather", "planes"]


def test_more_warnings_of_a_kind_wait_until_the_last_message_is_some_minutes_old(desk: Desk) -> None:
    desk.book.raise_(warning("flights"))
    desk.wait(minutes=1)
    desk.deliver()
    for subject in ("weather", "planes"):
        desk.book.raise_(warning(subject))
        desk.wait(minutes=2)
        desk.deliver()
    assert len(desk.got) == 1
    desk.wait(minutes=10)
    desk.deliver()
    assert desk.titles("chat")[1:] == ["[WARNING] 2 × freshness"]


def test_raising_it_again_tells_nobody_again_and_its_end_is_told_once(desk: Desk) -> None:
    desk.book.raise_(critical())
    desk.deliver()
    for _ in range(5):
        desk.book.raise_(critical())
        desk.wait(minutes=1)
        desk.deliver()
    for _ in range(20):
        desk.book.clear("service_on_fallback", "tiny")
        desk.wait(minutes=1)
        desk.deliver()
    assert desk.titles("oncall") == ["[CRITICAL] service on fallback (tiny)", "[OVER] service on fallback (tiny)"]


def test_a_receiver_that_is_away_is_tried_later_each_time_and_the_others_are_told_once(desk: Desk) -> None:
    desk.away.add("oncall")
    desk.book.raise_(critical())
    tries = []
    for minute in range(60):
        done = desk.deliver()
        tries += [minute] if any(failed.startswith("oncall") for failed in done.failures) else []
        desk.wait(minutes=1, look=False)
    assert tries == [0, 1, 2, 4, 8, 16, 32]
    assert desk.titles("oncall") == []
    assert desk.titles("chat").count("[CRITICAL] service on fallback (tiny)") == 1
    desk.away.clear()
    desk.wait(hours=1, look=False)
    desk.deliver()
    assert desk.titles("oncall") == ["[CRITICAL] service on fallback (tiny)"]


def test_a_receiver_that_is_away_is_an_alarm_which_the_others_are_told(desk: Desk) -> None:
    desk.away.add("oncall")
    desk.book.raise_(critical())
    desk.deliver()
    desk.wait(minutes=1)
    desk.deliver()
    assert "[WARNING] delivery: oncall" in desk.titles("chat")
    desk.away.clear()
    for _ in range(3):
        desk.wait(minutes=15)
        desk.deliver()
    assert not [alarm for alarm in desk.book.alarms() if alarm.key.kind == "delivery"]


def test_a_critical_notice_is_never_given_up_and_another_one_is_and_both_are_on_record(desk: Desk) -> None:
    desk.away |= {"oncall", "chat"}
    desk.book.raise_(critical())
    desk.book.raise_(warning())
    for _ in range(int(GIVE_UP_AFTER / timedelta(hours=1)) + 2):
        desk.wait(hours=1, look=False)
        desk.deliver()
    waiting = {(notice.kind, notice.what) for notice in desk.book.waiting()}
    assert ("service_on_fallback", "opened") in waiting
    assert ("freshness", "opened") not in waiting
    history = [(row["kind"], row["happened"]) for row in desk.book.history()]
    assert ("freshness", "given_up") in history
    assert ("service_on_fallback", "failed") in history
    assert ("service_on_fallback", "given_up") not in history


def test_a_file_of_receivers_that_cannot_be_read_loses_nothing_and_is_an_alarm(desk: Desk) -> None:
    path = desk.settings.alerts_file
    assert path is not None
    there = path.read_text()
    path.write_text("oncall critical\n")
    desk.book.raise_(critical())
    done = desk.deliver()
    assert done.failures and "three NAME WHAT ADDRESS" in done.failures[0]
    assert log_file(desk.settings).read_text().count("\n") == 1
    path.write_text(there)
    desk.wait(minutes=1)
    desk.deliver()
    assert desk.titles("oncall") == ["[CRITICAL] service on fallback (tiny)"]
    assert log_file(desk.settings).read_text().count("service on fallback") == 1


def test_a_process_that_dies_between_two_receivers_leaves_the_second_to_the_next(desk: Desk) -> None:
    class Died(BaseException):
        pass

    def dies(receiver: Receiver, message: Message) -> str | None:
        if receiver.name == "chat":
            raise Died
        return desk.tell(receiver, message)

    from pilotage.monitoring.alerts import deliver

    desk.book.raise_(critical())
    with pytest.raises(Died):
        deliver(desk.book, desk.settings, tell=dies)
    desk.deliver()
    assert [name for name, _ in desk.got] == ["oncall", "chat"]


def test_while_one_process_tells_people_another_one_does_not(desk: Desk) -> None:
    desk.book.raise_(critical())
    assert desk.book.claim(timedelta(minutes=10)) is not None
    assert desk.deliver().busy
    assert desk.got == []
    # It was killed: after its time another one goes on.
    desk.wait(minutes=11)
    assert not desk.deliver().busy
    assert desk.titles("oncall") != []


def test_what_nobody_acknowledges_is_told_to_the_next_receivers_too(desk: Desk) -> None:
    desk.book.raise_(critical())
    desk.deliver()
    desk.wait(minutes=29)
    desk.deliver()
    assert desk.titles("boss") == []
    desk.wait(minutes=1)
    desk.deliver()
    again = "[STILL CRITICAL, NOBODY HAS ACKNOWLEDGED] service on fallback (tiny)"
    assert desk.titles("boss") == [again]
    assert desk.titles("oncall")[-1] == again


def test_a_warning_that_waits_goes_to_those_of_critical_ones_and_then_on(desk: Desk) -> None:
    desk.book.raise_(warning())
    desk.wait(hours=24)
    desk.deliver()
    assert len(desk.titles("oncall")) == 1 and desk.titles("boss") == []
    desk.wait(hours=24)
    desk.deliver()
    assert len(desk.titles("boss")) == 1


def test_the_time_after_which_it_escalates_is_a_setting(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.book = AlertBook.of(desk.settings.model_copy(update={"alerts_escalate_minutes": 5}), clock=lambda: desk.now)
    desk.book.raise_(critical())
    desk.wait(minutes=5)
    assert desk.book.alarms()[0].level == 1


def test_a_silence_keeps_a_warning_that_came_and_went_from_everybody(desk: Desk) -> None:
    desk.book.silence(until=desk.now + timedelta(hours=4), who="ada", why="they move house", subject="flights")
    desk.book.raise_(warning())
    for _ in range(5):
        desk.wait(minutes=10)
        desk.deliver()
        desk.book.clear("freshness", subject="flights")
    desk.wait(hours=5)
    desk.deliver()
    assert desk.book.alarms() == [] and desk.got == [] and desk.book.waiting() == []
    assert {"silenced", "opened", "cleared", "dropped"} <= {row["happened"] for row in desk.book.history()}


def test_a_critical_alarm_that_came_and_went_while_it_was_silenced_is_told_afterwards(desk: Desk) -> None:
    desk.book.silence(until=desk.now + timedelta(hours=4), who="ada", why="we know", kind="service_*")
    desk.book.raise_(critical())
    for _ in range(5):
        desk.wait(minutes=10)
        desk.deliver()
        desk.book.clear("service_on_fallback", "tiny")
    assert desk.got == []
    desk.wait(hours=4)
    desk.deliver()
    opened = next(message for name, message in desk.got if name == "oncall")
    assert opened.title.startswith("[CRITICAL]") and "It is over by now" in opened.body


def test_ending_a_silence_tells_what_is_still_open(desk: Desk) -> None:
    made = desk.book.silence(until=desk.now + timedelta(hours=4), who="ada", why="we know", model="tiny")
    desk.book.raise_(critical())
    desk.deliver()
    assert desk.got == []
    desk.book.unsilence(made.number, who="ada", why="it is no longer so")
    desk.deliver()
    assert desk.titles("oncall") != []
    assert desk.book.silences() == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "*"}, "silence everything"),
        ({"kind": "drift", "lasts": timedelta(days=31)}, "longer than 30 days"),
        ({"kind": "drift", "lasts": timedelta(0)}, "over already"),
        ({"kind": "drift", "why": " "}, "needs a name and a reason"),
    ],
)
def test_a_silence_names_something_ends_and_says_why(desk: Desk, fields: dict[str, Any], said: str) -> None:
    until = desk.now + fields.pop("lasts", timedelta(hours=1))
    with pytest.raises(ConfigError, match=said):
        desk.book.silence(until=until, who="ada", **{"why": "we know", **fields})


def test_who_acknowledges_what_is_looked_after_or_over_is_told_so(desk: Desk) -> None:
    alarm = desk.book.raise_(critical())
    desk.book.acknowledge(alarm.number, who="ada", why="on it")
    with pytest.raises(ConfigError, match="acknowledged already, by ada: on it"):
        desk.book.acknowledge(alarm.number, who="bo", why="me too")
    desk.book.end(alarm.number, who="ada", why="model removed")
    with pytest.raises(ConfigError, match="over: closed by ada: model removed"):
        desk.book.acknowledge(alarm.number, who="bo", why="me too")
    with pytest.raises(ConfigError, match="There is no alarm 99"):
        desk.book.acknowledge(99, who="bo", why="me too")


def test_looking_at_a_home_without_alarms_makes_no_file(tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"home": tmp_path / "new"})
    with AlertBook.of(settings) as book:
        assert book.alarms() == [] and book.clear("drift", "tiny") is None and book.look() == [] and book.newest() == 0
    assert not (tmp_path / "new").exists()


def test_numbers_of_numpy_and_times_are_kept_as_evidence_and_none_that_json_lacks(desk: Desk) -> None:
    import numpy as np

    evidence = {
        "share": np.float64(0.25),
        "count": np.int64(3),
        "worst": float("nan"),
        "since": desk.now,
        "all": (1, 2),
    }
    alarm = desk.book.raise_(Alert.of("drift", "tiny has drifted.", model="tiny", evidence=evidence))
    [kept] = desk.book.alarms()
    assert kept == alarm
    assert kept.alert.evidence == {
        "share": 0.25,
        "count": 3,
        "worst": "nan",
        "since": desk.now.isoformat(),
        "all": [1, 2],
    }


def test_a_database_that_is_none_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "alerts.db").write_text("no database " * 100)
    settings = Settings.load().model_copy(update={"home": tmp_path})
    with AlertBook.of(settings) as book, pytest.raises(LedgerUnavailable, match=r"alerts\.db can't be used"):
        book.raise_(critical())


def test_an_address_with_a_password_is_not_repeated(tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"alerts_url": "nosense:s3cret"})
    with pytest.raises(ConfigError) as error:
        AlertBook.of(settings)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("oncall critical", "2 words"),
        ("oncall loud json://h/s3cret", "'loud' is neither a tier"),
        ("Log! critical json://h/s3cret", "no name of a receiver"),
        ("log critical json://h/s3cret", "no name of a receiver"),
        ("oncall critical s3cret", "third word is no address"),
        ("oncall json://h/s3cret critical://x", "second word is an address"),
        ("a all json://h/s3cret\na all json://h/s3cret", "two receivers a"),
    ],
)
def test_a_line_that_is_no_receiver_is_named_without_its_secret(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "receivers"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=said) as error:
        read_receivers(path)
    assert "s3cret" not in str(error.value)


def test_a_file_of_receivers_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "receivers"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="everybody on this machine may write it"):
        read_receivers(path)


def test_an_address_is_not_in_the_words_for_a_receiver() -> None:
    receiver = Receiver(name="chat", tiers=frozenset({"critical"}), address="slack://s3cret")
    assert "s3cret" not in repr(receiver) + str(receiver)


def test_every_kind_has_a_page_that_says_what_to_do() -> None:
    for kind, rule in KINDS.items():
        page, _, anchor = Alert.of(kind, "x").runbook.partition("#")
        assert (PROJECT / page).exists(), kind
        if anchor:
            assert f"\n## {anchor}\n" in (PROJECT / page).read_text(), kind
        assert page == rule.runbook


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("pagerduty://IntegrationKey@ApiKeyInPlaceOfAHost/src/comp", "Pager Duty notification to ****"),
        ("json://someone:sesame-open@127.0.0.1:9999/hook", "JSON notification to 127.0.0.1"),
    ],
)
def test_what_a_receiver_failed_with_names_no_key_even_where_others_have_a_host(
    monkeypatch: pytest.MonkeyPatch, address: str, told: str
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route")

    # What reaches a log of ours; pytest's own hears loggers, too, that pass nothing on.
    log = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(log)])
    monkeypatch.setattr(requests, "post", unreachable)
    receiver = Receiver(name="pager", tiers=frozenset(), address=address)
    why = send(receiver, Message(tier="critical", title="t", body="b", data=()))
    assert why is not None
    assert told in why
    assert "KeyInPlace" not in why + log.getvalue()
