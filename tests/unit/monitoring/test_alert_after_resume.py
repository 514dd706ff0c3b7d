"""A kill and its resume are a person's: what the fallback answered in between is nobody's alarm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pilotage.features.state import microseconds
from pilotage.monitoring.alerts.watches import AnswersWatch
from pilotage.release.events import Draft
from pilotage.settings import Settings
from tests.unit.cli.ledgers import append, promoted, registered
from tests.unit.monitoring.logs import prediction, write_segment


def alarms(settings: Settings, now: datetime) -> list[int]:
    """Of how many answers each alarm speaks."""
    watch = AnswersWatch(settings=settings, models={"tiny": None}, now=now)  # type: ignore[dict-item]
    return [alert.evidence["answers"] for alert in watch.answers().alerts]


def test_what_a_killed_model_answered_is_no_news_after_its_resume_and_what_it_answers_then_is(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registered(settings, "tiny")
    promoted(settings, "tiny")
    for kind in ("killed", "resumed"):
        append(settings, Draft(model="tiny", kind=kind, actor="ada", cause="the feed", payload={}))
    now = datetime.now(UTC)
    killed = [prediction(n, at=microseconds(now - timedelta(seconds=1)), answered_by="rule") for n in range(100)]
    write_segment(settings.prediction_log, killed, sealed=False)
    assert alarms(settings, now) == []

    later = now + timedelta(seconds=30)
    since = [prediction(n, at=microseconds(later), answered_by="rule") for n in range(100, 125)]
    write_segment(settings.prediction_log, since, number=2, sealed=False)
    assert alarms(settings, later) == [25]
