"""The limit on retrainings counts days of the data where a request names them: a replay's nights last a minute."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pilotage.policy import Retraining
from pilotage.release.retraining.due import due
from pilotage.release.retraining.records import Ask, Attempt, Request, RetrainingState

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NIGHT = datetime(2013, 3, 4, 8, tzinfo=UTC)
LIMITS = Retraining(at_most=2, per=timedelta(days=1))


def asked(number: int, as_of: datetime | None) -> Request:
    evidence: dict[str, Any] = {} if as_of is None else {"as_of": as_of.isoformat()}
    ask = Ask(cause="nightly", why="", actor="replay", at=NOW, sequence=number, evidence=evidence)
    return Request(number=number, asks=(ask,), opened=NOW)


def done(number: int, as_of: datetime | None) -> Request:
    """Carried out a minute ago."""
    began = NOW - timedelta(minutes=1)
    attempt = Attempt(number=1, run="r", began=began, fence=number, lease_until=NOW, ended=began)
    request = asked(number, as_of)
    return Request(number=number, asks=request.asks, opened=began, attempts=(attempt,), outcome="refused", ended=began)


def state(*closed: Request, now: datetime | None = NIGHT) -> RetrainingState:
    return RetrainingState(open=asked(99, now), closed=closed)


def test_replayed_nights_of_one_minute_are_nights_of_their_own() -> None:
    before = [done(number, NIGHT - timedelta(days=number)) for number in (3, 2, 1)]
    assert due(LIMITS, state(*before), NOW).do == "begin"


def test_one_replayed_night_has_as_many_retrainings_as_a_real_one() -> None:
    before = [done(number, NIGHT - timedelta(hours=number)) for number in (2, 1)]
    found = due(LIMITS, state(*before), NOW)
    assert found.do == "wait"
    assert "2013-03-04" in found.why


@pytest.mark.parametrize("count", [1, 2, 3])
def test_requests_of_today_are_counted_by_the_clock_on_the_wall(count: int) -> None:
    before = [done(number, None) for number in range(count)]
    assert due(LIMITS, state(*before, now=None), NOW).do == ("begin" if count < 2 else "wait")


def test_what_was_asked_today_does_not_hold_up_a_replay() -> None:
    assert due(LIMITS, state(done(1, None), done(2, None)), NOW).do == "begin"
