"""What is tried again when, for how long, and what ends once nobody waits for it any more."""

from __future__ import annotations

from datetime import timedelta

from pilotage.monitoring.alerts import AlertBook, Delivered, deliver
from pilotage.monitoring.alerts.delivery import AT_MOST
from pilotage.monitoring.alerts.notices import GIVE_UP_AFTER, Message
from pilotage.monitoring.alerts.receivers import Receiver
from tests.unit.monitoring.alarms import RECEIVERS, Desk, critical, warning


def write(desk: Desk, receivers: str) -> None:
    assert desk.settings.alerts_file is not None
    desk.settings.alerts_file.write_text(receivers)


def deliveries(desk: Desk, minutes: int) -> list[int]:
    """Minutes of those to come at which something was due, and a delivery was tried."""
    tried = []
    for minute in range(minutes):
        if desk.book.due().groups:
            desk.deliver()
            tried.append(minute)
        desk.wait(minutes=1, look=False)
    return tried


def test_a_file_of_receivers_that_cannot_be_read_is_read_again_later_each_time(desk: Desk) -> None:
    write(desk, "oncall critical\n")
    desk.book.raise_(critical())
    # The alarm about the file is told to the log after a minute, and waits for the others from then on.
    assert len(deliveries(desk, 60)) <= 30
    assert desk.got == []
    write(desk, RECEIVERS)
    deliveries(desk, 6)
    assert desk.titles("oncall") == ["[CRITICAL] service on fallback (tiny)"]
    assert desk.book.waiting() == []


def test_a_receiver_that_is_away_after_the_file_was_mended_is_tried_as_any_other(desk: Desk) -> None:
    write(desk, "oncall critical\n")
    desk.book.raise_(critical())
    desk.deliver()
    write(desk, RECEIVERS)
    desk.away.add("oncall")
    desk.wait(minutes=1)
    tries = [minute for minute in deliveries(desk, 60) if minute > 1]
    assert len(tries) < 10


def test_the_end_of_what_was_told_is_told_though_it_came_under_a_silence(desk: Desk) -> None:
    desk.book.raise_(warning())
    desk.wait(minutes=1)
    desk.deliver()
    desk.book.silence(until=desk.now + timedelta(hours=2), who="ada", why="they move house", kind="freshness")
    for _ in range(5):
        desk.wait(minutes=5)
        desk.book.clear("freshness", subject="flights")
    desk.deliver()
    assert desk.book.alarms() == []
    assert desk.titles("chat") == ["[WARNING] freshness: flights"]
    desk.wait(hours=2)
    desk.deliver()
    assert desk.titles("chat") == ["[WARNING] freshness: flights", "[OVER] freshness: flights"]


def test_the_alarm_about_a_receiver_ends_once_it_is_taken_out_of_the_file(desk: Desk) -> None:
    desk.away.add("oncall")
    desk.book.raise_(critical())
    desk.deliver()
    assert "oncall" in {alarm.key.subject for alarm in desk.book.alarms()}
    write(desk, RECEIVERS.replace("oncall ", "# oncall "))
    deliveries(desk, 20)
    desk.wait(minutes=15)
    assert [alarm.key.kind for alarm in desk.book.alarms()] == ["service_on_fallback"]


def test_three_days_of_trying_count_from_the_first_try_and_not_from_the_silence_before_it(desk: Desk) -> None:
    desk.book.silence(until=desk.now + timedelta(days=7), who="ada", why="they move house", kind="freshness")
    desk.book.raise_(warning())
    desk.wait(days=7, minutes=1, look=False)
    desk.away.add("chat")
    desk.deliver()
    desk.away.clear()
    desk.wait(minutes=1, look=False)
    desk.deliver()
    assert "[WARNING] freshness: flights" in desk.titles("chat")
    assert "given_up" not in {row["happened"] for row in desk.book.history()}


def test_what_was_tried_for_three_days_is_given_up_by_an_unreadable_file_too(desk: Desk) -> None:
    write(desk, "chat warning\n")
    desk.book.raise_(warning())
    for _ in range(int(GIVE_UP_AFTER / timedelta(hours=1)) + 3):
        desk.wait(hours=1, look=False)
        desk.deliver()
    gone = [row for row in desk.book.history() if row["happened"] == "given_up" and row["kind"] == "freshness"]
    assert [row["detail"]["why"] for row in gone] == ["unknown receivers could not be told"]


def another(desk: Desk) -> Delivered:
    """Another process comes to tell people: the watch from outside, say."""
    with AlertBook.of(desk.settings, clock=lambda: desk.now) as book:
        return deliver(book, desk.settings, tell=desk.tell)


def test_nobody_is_told_twice_by_a_second_process_while_a_long_delivery_goes_on(desk: Desk) -> None:
    others: list[bool] = []

    def slow(receiver: Receiver, message: Message) -> str | None:
        desk.wait(minutes=9, look=False)
        others.append(another(desk).busy)
        return desk.tell(receiver, message)

    for model in ("one", "two"):
        desk.book.raise_(critical(model=model))
    assert not deliver(desk.book, desk.settings, tell=slow).busy
    assert others == [True] * 4
    assert len(desk.got) == 4
    assert not another(desk).busy, "it let go at the end"


def test_a_process_that_was_taken_for_dead_leaves_the_rest_to_who_took_over(desk: Desk) -> None:
    stopped = []

    def stops(receiver: Receiver, message: Message) -> str | None:
        desk.tell(receiver, message)
        if not stopped:
            stopped.append(receiver.name)
            desk.wait(minutes=1 + AT_MOST.total_seconds() / 60, look=False)
            with AlertBook.of(desk.settings, clock=lambda: desk.now) as book:
                assert book.claim(AT_MOST) is not None
        return None

    for model in ("one", "two"):
        desk.book.raise_(critical(model=model))
    assert deliver(desk.book, desk.settings, tell=stops).busy
    assert [name for name, _ in desk.got] == ["oncall"]
    assert another(desk).busy, "the claim of who took over stays"


def test_a_clock_that_is_set_back_keeps_nobody_from_being_told(desk: Desk) -> None:
    desk.book.raise_(critical())
    desk.deliver()
    for _ in range(5):
        desk.book.clear("service_on_fallback", "tiny")
        desk.wait(minutes=5)
    desk.deliver()
    desk.got.clear()
    desk.book.raise_(critical())
    assert desk.book.claim(AT_MOST) is not None, "who dies with it leaves it there"
    desk.wait(hours=-3, look=False)
    desk.deliver()
    assert desk.titles("oncall") == ["[CRITICAL] service on fallback (tiny)"]
