"""What the platform sees of itself, and what it leaves alone because it can't tell."""

from __future__ import annotations

import json
import os
import time
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from assets.sources.flights import SOURCE as FLIGHTS
from assets.sources.weather import SOURCE as WEATHER
from pilotage.data.lake import Lake
from pilotage.errors import ConfigError, LedgerUnavailable
from pilotage.features.state import microseconds
from pilotage.monitoring.alerts import AlertBook
from pilotage.monitoring.alerts.alert import Key
from pilotage.monitoring.alerts.watches import (
    AnswersWatch,
    FreshnessWatch,
    Look,
    Watch,
    carry_out,
    machine,
)
from pilotage.runtime.access.keyfile import create_key, revoke_key
from pilotage.runtime.answer import BatchRecord, BatchRow
from pilotage.settings import Settings
from tests.unit.cli.ledgers import promoted, registered
from tests.unit.monitoring.alarms import warning
from tests.unit.monitoring.logs import prediction, write_segment

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
Usage = namedtuple("Usage", "total free")
GIB = 2**30


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load().model_copy(update={"home": tmp_path})


@pytest.mark.parametrize(
    ("total", "free", "tier"),
    [
        (100, 60, None),
        (100, 8, "warning"),
        (100, 4, "critical"),
        (10, 1.9, "critical"),
        (10, 4, "warning"),
        (10_000, 400, None),
        (10_000, 45, "warning"),
    ],
)
def test_a_disk_is_full_by_bytes_or_by_share_and_a_large_one_by_bytes(
    settings: Settings, total: float, free: float, tier: str | None
) -> None:
    look = machine.disk(settings, usage=lambda _: Usage(int(total * GIB), int(free * GIB)))
    assert [alert.tier for alert in look.alerts] == ([tier] if tier else [])


def test_a_key_is_told_two_weeks_before_its_end_and_for_a_month_after_it_unless_it_is_revoked(
    settings: Settings,
) -> None:
    made: dict[str, Any] = {"roles": ("predict",), "limit": None, "now": NOW}
    create_key(settings.api_keys, "long", lasts=timedelta(days=90), **made)
    create_key(settings.api_keys, "ever", **made)
    soon, _ = create_key(settings.api_keys, "soon", lasts=timedelta(days=13), **made)
    gone, _ = create_key(settings.api_keys, "gone", lasts=timedelta(days=5), **made)
    revoke_key(settings.api_keys, gone.id, why="replaced")
    assert [alert.subject for alert in machine.api_keys(settings, now=NOW).alerts] == [soon.id]
    later = machine.api_keys(settings, now=NOW + timedelta(days=20)).alerts
    assert "has expired" in later[0].summary
    assert machine.api_keys(settings, now=NOW + timedelta(days=60)).alerts == ()


def test_a_key_file_that_cannot_be_read_is_critical(settings: Settings) -> None:
    settings.api_keys.write_text("{")
    [alert] = machine.api_keys(settings, now=NOW).alerts
    assert (alert.tier, alert.subject) == ("critical", "file")


def certificate(path: Path, *ends: datetime) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = b""
    for end in ends:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(NOW - timedelta(days=300)).not_valid_after(end)
        made += builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path.write_bytes(made)
    return path


def test_the_first_certificate_of_a_chain_to_end_counts(settings: Settings, tmp_path: Path) -> None:
    assert machine.certificate(settings, now=NOW).alerts == ()
    path = certificate(tmp_path / "chain.pem", NOW + timedelta(days=90), NOW + timedelta(days=10))
    named = settings.model_copy(update={"certificate_file": path})
    [alert] = machine.certificate(named, now=NOW).alerts
    assert (alert.tier, "expires in 10 days") == ("warning", "expires in 10 days") and "10 days" in alert.summary
    [alert] = machine.certificate(named, now=NOW + timedelta(days=9)).alerts
    assert alert.tier == "critical"


def test_a_certificate_that_is_none_or_gone_is_named(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    named = settings.model_copy(update={"certificate_file": path})
    with pytest.raises(ConfigError, match=r"none\.pem can't be read: No such file"):
        machine.certificate(named, now=NOW)
    path.write_text("hello")
    with pytest.raises(ConfigError, match="it holds none"):
        machine.certificate(named, now=NOW)


def test_a_prediction_log_that_nobody_moves_gets_worse_with_its_age(settings: Settings) -> None:
    path = write_segment(settings.prediction_log, [prediction(1)])
    began = datetime(2024, 3, 2, 0, 0, tzinfo=UTC)
    os.utime(path, (began.timestamp(), began.timestamp()))
    tiers = [
        [alert.tier for alert in machine.log_lag(settings, now=began + timedelta(minutes=minutes)).alerts]
        for minutes in (10, 45, 400)
    ]
    assert tiers == [[], ["warning"], ["critical"]]


def days(lake: Lake, source: str, *there: date) -> None:
    frame = pl.DataFrame({"day": list(there), "value": 1})
    lake.replace_days(f"validated/{source}", frame, list(there), note={})


def fresh(settings: Settings, *, memory: dict[str, tuple[str, str]] | None = None, now: datetime = NOW, **changes: Any):
    flights = FLIGHTS.model_copy(update=changes)
    return FreshnessWatch(
        sources={"flights": flights, "weather": WEATHER}, lake=Lake(settings.lake), now=now, memory=memory or {}
    )


def test_a_source_is_behind_when_the_others_on_its_calendar_are_ahead_whatever_the_wall_clock_says(
    settings: Settings,
) -> None:
    lake = Lake(settings.lake)
    days(lake, "flights", date(2013, 1, 1), date(2013, 1, 2))
    days(lake, "weather", date(2013, 1, 1), date(2013, 1, 3))
    assert fresh(settings).look().alerts == ()
    days(lake, "weather", date(2013, 1, 9))
    [alert] = fresh(settings).look().alerts
    assert (alert.kind, alert.subject, alert.evidence["days_behind"]) == ("freshness", "flights", 7)


def test_a_corrected_old_day_makes_nothing_fresh(settings: Settings) -> None:
    lake = Lake(settings.lake)
    days(lake, "flights", date(2013, 1, 1), date(2013, 1, 2))
    days(lake, "weather", date(2013, 1, 9))
    days(lake, "flights", date(2013, 1, 1))
    assert [alert.subject for alert in fresh(settings).look().alerts] == ["flights"]


def test_a_live_source_that_brings_no_new_day_for_too_long_has_stopped(settings: Settings) -> None:
    lake = Lake(settings.lake)
    days(lake, "flights", date(2013, 1, 1), date(2013, 1, 2))
    every = timedelta(hours=26)
    first = fresh(settings, expected_every=every)
    assert first.look().alerts == ()
    days(lake, "flights", date(2013, 1, 1))
    later = fresh(settings, memory=first.memory, now=NOW + timedelta(hours=27), expected_every=every)
    [alert] = later.look().alerts
    assert (alert.kind, alert.tier, alert.subject) == ("data_stopped", "critical", "flights")
    days(lake, "flights", date(2013, 1, 3))
    after = fresh(settings, memory=later.memory, now=NOW + timedelta(hours=28), expected_every=every)
    assert after.look().alerts == ()
    assert after.memory["flights"] == ("2013-01-03", (NOW + timedelta(hours=28)).isoformat())


def test_a_live_source_that_never_brought_anything_has_stopped_once_its_time_is_over(settings: Settings) -> None:
    every = timedelta(hours=26)
    first = fresh(settings, expected_every=every)
    assert first.look().alerts == ()
    later = fresh(settings, memory=first.memory, now=NOW + timedelta(hours=27), expected_every=every)
    [alert] = later.look().alerts
    assert (alert.kind, alert.tier, alert.subject) == ("data_stopped", "critical", "flights")
    assert alert.summary == "Nothing has ever come from flights, looked for these 27.0 hours."
    days(Lake(settings.lake), "flights", date(2013, 1, 1))
    after = fresh(settings, memory=later.memory, now=NOW + timedelta(hours=28), expected_every=every)
    assert after.look().alerts == ()


def served(settings: Settings, *answered_by: str, slow: int = 0) -> AnswersWatch:
    """Answers of the last minute, as the service has just logged them."""
    now = datetime.now(UTC)
    records = [
        prediction(
            number,
            at=microseconds(now - timedelta(seconds=1)),
            answered_by=how,
            latency_us=90_000 if number < slow else 200,
        )
        for number, how in enumerate(answered_by)
    ]
    write_segment(settings.prediction_log, records, sealed=False)
    return AnswersWatch(settings=settings, models={"tiny": None}, now=now)  # type: ignore[dict-item]


def test_a_fallback_that_answers_much_is_critical_and_a_little_of_it_is_not(settings: Settings) -> None:
    registered(settings, "tiny")
    promoted(settings, "tiny")
    assert served(settings, *["model"] * 96, *["rule"] * 4).answers().alerts == ()
    [alert] = served(settings, *["model"] * 50, *["rule"] * 40, *["nothing"] * 10).answers().alerts
    assert (alert.kind, alert.tier, alert.model) == ("service_on_fallback", "critical", "tiny")
    assert alert.evidence["answered_by"] == {"model": 50, "rule": 40, "nothing": 10}


def test_a_model_without_a_champion_or_that_was_killed_answers_by_its_fallback_as_it_should(settings: Settings) -> None:
    assert served(settings, *["rule"] * 100).answers().alerts == ()


def test_the_answers_of_a_batch_count_each(settings: Settings) -> None:
    watch = served(settings, *["model"] * 100)
    batch = BatchRecord(
        request_id="r",
        model="tiny",
        at=microseconds(watch.now - timedelta(seconds=1)),
        version=1,
        stage="previous_champion",
        answered_by="previous_champion",
        latency_us=90_000,
        caller="",
        state=None,
        entity_names=(),
        request_names=(),
        feature_names=(),
        rows=[BatchRow(str(place), None, 0.5, True, False, (), [], []) for place in range(25)],
    )
    write_segment(settings.prediction_log, [batch], number=2, sealed=False)
    kinds = {alert.kind: alert.evidence for alert in watch.answers().alerts}
    assert kinds["latency"]["slow_share"] == 0.2
    assert watch._read({})["tiny"].by == {"model": 100, "previous_champion": 25}


def test_slow_answers_are_a_warning(settings: Settings) -> None:
    [alert] = served(settings, *["model"] * 100, slow=10).answers().alerts
    assert (alert.kind, alert.evidence["slow_share"]) == ("latency", 0.1)


def test_where_nobody_asks_nothing_is_known_and_what_is_open_stays(settings: Settings) -> None:
    look = served(settings).answers()
    assert look.unknown == {Key("latency", "tiny", ""), Key("service_on_fallback", "tiny", "")}


def heartbeat(settings: Settings, *, age: float, **model: Any) -> None:
    folder = settings.heartbeats
    folder.mkdir(parents=True, exist_ok=True)
    told = {"worker": "w1", "pid": 1, "at": time.time() - age, "models": [model] if model else []}
    (folder / "w1.json").write_text(json.dumps(told))


def test_workers_that_fell_silent_without_a_word_are_a_service_that_is_down(settings: Settings) -> None:
    watch = AnswersWatch(settings=settings, models={}, now=NOW)
    assert watch.workers().alerts == ()
    heartbeat(settings, age=1)
    assert watch.workers().alerts == ()
    heartbeat(settings, age=100)
    [alert] = watch.workers().alerts
    assert (alert.kind, alert.tier) == ("service_down", "critical")


def test_a_service_that_has_been_down_for_long_is_no_news_and_not_up_again_either(settings: Settings) -> None:
    watch = AnswersWatch(settings=settings, models={}, now=NOW)
    heartbeat(settings, age=timedelta(days=1.1).total_seconds())
    look = watch.workers()
    assert (look.alerts, look.unknown) == ((), {Key("service_down", "", "")})
    heartbeat(settings, age=1)
    assert watch.workers().unknown == frozenset()


def test_a_champion_that_a_worker_cannot_use_is_told_before_anybody_asks(settings: Settings) -> None:
    registered(settings, "tiny")
    promoted(settings, "tiny")
    heartbeat(settings, age=1, model="tiny", ready=False, problem="its bundle is corrupt")
    [alert] = served(settings).answers().alerts
    assert alert.summary == "The service can't use the champion of tiny: its bundle is corrupt"


def test_a_champion_that_can_be_used_again_needs_a_workers_word_where_nobody_asks_and_answers_where_they_told(
    settings: Settings,
) -> None:
    registered(settings, "tiny")
    promoted(settings, "tiny")

    def clears(*answered_by: str, **model: Any) -> int:
        heartbeat(settings, age=1, model="tiny", **model)
        watch = replace(served(settings, *answered_by), opened=book.alarms)
        carry_out(book, [each for each in watch.watches() if each.name == "answers"])
        return book.alarms()[0].clears

    with AlertBook.of(settings) as book:
        assert clears(ready=False, problem="its bundle is corrupt") == 0
        assert clears(ready=False, problem=None) == 0, "it loads"
        assert clears(ready=True, problem=None) == 1
        assert clears(*["rule"] * 100, ready=True, problem=None) == 0
        assert clears(ready=True, problem=None) == 0, "answers said so, and there are none"


def test_a_watch_clears_only_its_own_kinds_and_not_what_it_cannot_tell(settings: Settings) -> None:
    with AlertBook.of(settings) as book:
        for subject in ("a", "b", "c"):
            book.raise_(warning(subject))
        look = Look(alerts=(warning("a"),), unknown=frozenset({Key("freshness", "", "b")}), words="")
        carry_out(book, [Watch(name="w", kinds=frozenset({"freshness"}), look=lambda: look)])
        carry_out(book, [Watch(name="other", kinds=frozenset({"drift"}), look=lambda: Look(words=""))])
        assert {alarm.key.subject: (alarm.count, alarm.clears) for alarm in book.alarms()} == {
            "a": (2, 0),
            "b": (1, 0),
            "c": (1, 1),
        }


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("The file is gone.", fix="Put it back."),
        KeyError("The file is gone."),
        pl.exceptions.ComputeError("The file is gone."),
        sa.exc.OperationalError("The file is gone.", None, Exception("locked")),
    ],
)
def test_a_watch_that_fails_is_an_alarm_and_keeps_no_other_from_looking(settings: Settings, error: Exception) -> None:
    def fails() -> Look:
        raise error

    with AlertBook.of(settings) as book:
        found = Watch(name="good", kinds=frozenset({"freshness"}), look=lambda: Look(alerts=(warning(),), words="seen"))
        told = carry_out(book, [Watch(name="bad", kinds=frozenset({"drift"}), look=fails), found])
        assert told["good"] == "seen" and "The file is gone" in told["bad"]
        assert {alarm.key.kind for alarm in book.alarms()} == {"watch_failed", "freshness"}


def test_a_book_that_cannot_be_written_ends_the_look(settings: Settings) -> None:
    (settings.home / "alerts.db").write_text("no database " * 100)
    found = Watch(name="good", kinds=frozenset({"freshness"}), look=lambda: Look(alerts=(warning(),), words="seen"))
    with AlertBook.of(settings) as book, pytest.raises(LedgerUnavailable):
        carry_out(book, [found])
