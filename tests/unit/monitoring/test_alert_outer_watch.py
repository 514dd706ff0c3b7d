"""The outer watch: who tells people when the platform itself is silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts.notices import Message
from pilotage.monitoring.alerts.outside import OVERDUE, SILENT, keep_watch, look_from_outside, watching
from pilotage.monitoring.alerts.receivers import Receiver, Send
from tests.full_disk import no_room
from tests.unit.monitoring.alarms import Desk, critical


def beat(desk: Desk) -> None:
    desk.settings.heartbeat.write_text(json.dumps({"at": desk.now.isoformat()}))


def outside(desk: Desk) -> str | None:
    return look_from_outside(desk.settings, clock=lambda: desk.now, tell=desk.tell)


def test_the_outer_watch_tells_people_that_the_platform_no_longer_watches_itself(desk: Desk) -> None:
    assert outside(desk) is None
    beat(desk)
    desk.wait(seconds=SILENT.total_seconds())
    assert outside(desk) is None
    desk.wait(minutes=1)
    assert "has not watched itself for 6 minutes" in str(outside(desk))
    assert desk.titles("oncall") == ["[CRITICAL] daemon silent: heartbeat"]
    for _ in range(15):
        desk.wait(minutes=1)
        beat(desk)
        assert outside(desk) is None
    assert desk.book.alarms() == []


def test_the_outer_watch_delivers_what_the_platform_is_late_to_tell(desk: Desk) -> None:
    desk.book.raise_(critical())
    beat(desk)
    outside(desk)
    assert desk.got == []
    desk.wait(seconds=OVERDUE.total_seconds() + 1)
    beat(desk)
    outside(desk)
    assert desk.titles("oncall") == ["[CRITICAL] service on fallback (tiny)"]


class Night:
    """A watch that is at work, minute by minute, until there is nothing more to see."""

    def __init__(self, desk: Desk, *, tell: Send | None = None) -> None:
        self.desk = desk
        self.tell = tell or desk.tell
        self.said: list[str] = []

    def watch(self, minutes: list[Callable[[], None]]) -> None:
        left = iter(minutes)

        def wait(seconds: float) -> None:
            self.desk.wait(seconds=seconds, look=False)
            if (happens := next(left, None)) is None:
                raise KeyboardInterrupt
            happens()

        with pytest.raises(KeyboardInterrupt):
            keep_watch(self.desk.settings, clock=lambda: self.desk.now, wait=wait, tell=self.tell, say=self.say)

    def say(self, words: str) -> None:
        self.said.append(words)


def damage(desk: Desk) -> None:
    desk.book.close()
    book(desk).write_bytes(b"no database" * 1000)


def mend(desk: Desk) -> None:
    book(desk).unlink()


def book(desk: Desk) -> Path:
    return desk.home / "alerts.db"


def nothing() -> None:
    """A minute in which nothing happens."""


def test_the_watch_counts_silence_from_its_own_start_and_then_tells_it_of_a_daemon_that_never_came(desk: Desk) -> None:
    beat(desk)
    desk.wait(minutes=600)
    night = Night(desk)
    night.watch([nothing] * 5)
    assert (night.said, desk.got) == ([], [])
    night.watch([nothing] * 6)
    assert "has not watched itself for 6 minutes" in night.said[0]
    assert desk.titles("oncall") == ["[CRITICAL] daemon silent: heartbeat"]


def test_the_watch_takes_a_night_of_the_suspended_machine_for_no_silence(desk: Desk) -> None:
    night = Night(desk)
    night.watch([lambda: beat(desk), lambda: desk.wait(minutes=600), nothing, lambda: beat(desk)])
    assert (night.said, desk.got) == ([], [])


def test_the_watch_goes_on_after_a_look_that_failed_and_is_not_well_while_it_does(desk: Desk) -> None:
    assert watching(desk.settings, clock=lambda: desk.now) == "has not looked yet"
    night = Night(desk)
    night.watch([nothing])
    assert watching(desk.settings, clock=lambda: desk.now) is None
    damage(desk)
    night.watch([nothing] * 4)
    assert "looked last 6 minutes ago" in str(watching(desk.settings, clock=lambda: desk.now))
    assert "alerts.db can't be used" in night.said[0]
    mend(desk)
    night.watch([nothing])
    assert watching(desk.settings, clock=lambda: desk.now) is None


def test_people_are_told_past_a_book_of_alarms_that_cannot_be_used_and_that_it_can_again(desk: Desk) -> None:
    desk.book.raise_(critical())
    damage(desk)
    desk.away.add("chat")
    came: list[tuple[int, str, str]] = []
    began = desk.now

    def tell(receiver: Receiver, message: Message) -> str | None:
        if receiver.name == "chat" and desk.now - began < timedelta(minutes=3):
            return "it is away"
        came.append((round((desk.now - began) / timedelta(minutes=1)), receiver.name, message.title))
        assert message.tier == "information" or "alerts.db can't be used" in message.body
        return None

    Night(desk, tell=tell).watch([nothing] * 93 + [lambda: beat(desk), lambda: mend(desk), nothing])
    told, over = "[CRITICAL] watch failed: alarms can't be kept", "[OVER] watch failed: alarms can't be kept"
    # The one who gets what nobody acknowledges comes after half an hour; everybody is told anew after an hour.
    assert came == [
        (2, "oncall", told),
        (3, "chat", told),
        (32, "boss", told),
        (62, "oncall", told),
        (63, "chat", told),
        (92, "boss", told),
        (95, "oncall", over),
        (95, "chat", over),
        (95, "boss", over),
    ]


def test_a_book_of_alarms_that_fails_for_a_moment_calls_nobody(desk: Desk) -> None:
    Night(desk).watch([lambda: damage(desk), nothing, lambda: mend(desk), nothing])
    assert desk.got == []


def test_the_watch_outlives_a_book_of_alarms_that_it_cannot_make(desk: Desk) -> None:
    night = Night(desk)
    with no_room():
        night.watch([nothing] * 7)
    assert any("alerts.db can't be used" in words for words in night.said)


def test_a_heartbeat_that_a_power_failure_tore_counts_as_none(desk: Desk) -> None:
    desk.settings.heartbeat.write_text("")
    night = Night(desk)
    night.watch([nothing] * 6)
    assert "heartbeat.json can't be read" in night.said[0]
    assert desk.titles("oncall") == ["[CRITICAL] daemon silent: heartbeat"]


def test_a_heartbeat_that_cannot_be_read_is_no_heartbeat_that_is_fine(desk: Desk) -> None:
    desk.settings.heartbeat.write_text("{}")
    with pytest.raises(ConfigError, match=r"heartbeat\.json can't be read"):
        outside(desk)


def test_the_watch_outlives_a_disk_that_takes_no_word_of_it(desk: Desk) -> None:
    beat(desk)
    staged = desk.settings.heartbeat.with_name("watch.new")
    staged.mkdir()
    night = Night(desk)
    night.watch([nothing, staged.rmdir, nothing])
    assert "watch.new" in night.said[0]
    assert watching(desk.settings, clock=lambda: desk.now) is None
