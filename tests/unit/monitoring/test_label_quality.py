"""What is wrong with labels is a defect with its evidence; what is only weather, or a season, is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.sample import delivered
from pilotage.features.state import microseconds
from pilotage.monitoring.answers import read_answers
from pilotage.monitoring.label_defects import LabelDefect
from pilotage.monitoring.label_quality import label_quality, label_report, labels_since, read_label_report
from pilotage.monitoring.label_rates import FEWEST_REFERENCE, LIMITS, daily_rates, judge_rates
from pilotage.monitoring.labels import collect
from pilotage.monitoring.plots import draw_labels
from pilotage.release.ledger import SqlLedger
from pilotage.spec import Outcomes
from tests.unit.monitoring.logs import outcome
from tests.unit.monitoring.used_world import TOOK, Used, used_spec
from tests.unit.release.lives import draft, registered


@cache
def flights() -> pl.DataFrame:
    """Labels of 2013 by day, as ``daily_rates`` gives them."""
    source = delivered("flights")
    lines = [source.header, *(line for day in source.days.values() for line in day)]
    delays = pl.read_csv("\n".join(lines).encode(), columns=["year", "month", "day", "arr_delay"], null_values=["NA"])
    return daily_rates(delays.select(day=pl.date("year", "month", "day"), label=pl.col("arr_delay") > 15))


def with_days(days: pl.DataFrame, since: date, positives: pl.Expr) -> pl.DataFrame:
    changed = pl.when(pl.col("day") >= since).then(positives.cast(pl.Int64)).otherwise("positives")
    return days.with_columns(positives=changed)


def test_no_day_of_the_real_year_is_a_defect_not_the_storms_and_not_december() -> None:
    judged = judge_rates(flights(), newest=366)
    assert {found.days for found in judged} == set(LIMITS)
    assert len({found.last for found in judged}) == 365 - FEWEST_REFERENCE
    assert [found for found in judged if not found.normal_enough] == []
    december = [found for found in judged if found.last.month == 12 and found.days == 7]
    assert max(found.rate for found in december) > 0.4


@pytest.mark.parametrize("rate", [0.97, 0.0])
def test_a_rate_that_jumps_is_a_defect_on_its_first_day_whichever_day_of_the_year(rate: float) -> None:
    days = flights()
    for place in range(FEWEST_REFERENCE + 40, 365, 9):
        day = days["day"][place]
        broken = with_days(days.head(place + 1), day, pl.col("labels") * rate)
        wrong = [found for found in judge_rates(broken, newest=1) if not found.normal_enough]
        assert (day, 1) in {(found.last, found.days) for found in wrong}


def test_a_defect_that_goes_on_does_not_become_what_is_normal() -> None:
    days = with_days(flights().head(150), date(2013, 4, 1), pl.col("labels") * 0.97)
    judged = [found for found in judge_rates(days, newest=60) if found.days == 1 and found.last >= date(2013, 4, 1)]
    assert len(judged) == 60
    assert not any(found.normal_enough for found in judged)
    assert all(found.normal < 0.4 for found in judged)


def test_once_it_is_mended_single_days_are_normal_at_once() -> None:
    sound = flights().head(150)
    days = with_days(sound, date(2013, 4, 1), pl.col("labels") * 0.97)
    mended = days.with_columns(
        positives=pl.when(pl.col("day") > date(2013, 4, 3)).then(sound["positives"]).otherwise("positives")
    )
    judged = {(f.last, f.days): f.normal_enough for f in judge_rates(mended, newest=150)}
    assert [judged[date(2013, 4, day), 1] for day in (1, 2, 3, 4, 5)] == [False, False, False, True, True]
    assert judged[date(2013, 4, 20), 7]


def test_a_rate_that_is_true_becomes_normal_once_the_champion_has_learned_it() -> None:
    days = with_days(flights().head(150), date(2013, 4, 1), pl.col("labels") * 0.97)
    for accepted in (date(2013, 4, 5), date(2013, 4, 30)):
        judged = judge_rates(days, newest=60, accepted=accepted)
        assert min(found.last for found in judged) == accepted + timedelta(days=1)
        assert all(found.normal_enough for found in judged)
    # When all that it is judged by is of the new level, what was normal before is a jump.
    back = with_days(days, date(2013, 5, 30), pl.col("labels") * 0.2)
    wrong = [f for f in judge_rates(back, newest=60, accepted=date(2013, 5, 29)) if not f.normal_enough]
    assert [(found.last, found.days) for found in wrong] == [(date(2013, 5, 30), 1)]


def test_with_too_few_days_nothing_is_said() -> None:
    assert judge_rates(flights().head(FEWEST_REFERENCE)) == []
    assert judge_rates(flights().head(0)) == []


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(40, 2000))
def test_days_that_differ_by_chance_alone_are_normal(rate: float, size: int) -> None:
    days = pl.DataFrame(
        {"day": [date(2024, 1, 1) + timedelta(days=n) for n in range(80)], "labels": [size] * 80}
    ).with_columns(positives=(pl.col("labels") * rate).round().cast(pl.Int64))
    assert all(found.normal_enough for found in judge_rates(days, newest=80))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    world = Used(tmp_path_factory.mktemp("home"), days=40, a_day=60)
    world.serve()
    world.tell()
    collect(world.spec, settings=world.settings, lake=world.lake, now=world.now)
    return world


def answers(used: Used) -> pl.DataFrame:
    return read_answers(
        used.spec, settings=used.settings, lake=used.lake, first=used.day(0), last=used.day(39), known_by=used.now
    )


def kinds(defects: list[LabelDefect]) -> dict[str, bool]:
    return {defect.kind: defect.blocks for defect in defects}


def test_sound_labels_have_no_defect_and_their_coverage_and_lag_are_told(used: Used) -> None:
    report = read_label_report(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    assert report.defects == []
    assert report.lag_h == pytest.approx({"median": 5, "p90": 5, "p99": 5})
    told = {at.hours: at.labelled for at in report.coverage}
    assert (told[3], told[6]) == (0.0, 1.0)
    assert report.reasons == {"cancelled": report.predictions - report.labelled}
    assert [f.last for f in report.rates if f.days == 1] == [used.day(n) for n in range(33, 40)]
    assert draw_labels(used.spec, report).startswith(b"\x89PNG")


def test_a_day_under_way_is_not_judged_by_its_first_half(used: Used) -> None:
    noon = used.now - timedelta(hours=18)
    early = read_answers(
        used.spec, settings=used.settings, lake=used.lake, first=used.day(0), last=used.day(39), known_by=noon
    ).filter(pl.col("moment") <= noon)
    report = label_report(used.spec, early, now=noon)
    assert used.day(39) not in {found.last for found in report.rates}
    assert used.day(38) in {found.last for found in report.rates}


def test_a_landed_day_with_a_rate_of_97_percent_blocks_retraining_though_nobody_asked_about_it(tmp_path: Path) -> None:
    used = Used(tmp_path, days=40, a_day=40)
    broken = used.orders.with_columns(
        is_late=pl.col("is_late") | ((pl.col("day") == used.day(39)) & (pl.int_range(pl.len()) % 33 > 0)),
        cancelled=pl.lit(False),
    ).with_columns(pl.col("is_late").fill_null(value=False))
    used.tell(broken)
    [defect] = label_quality(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    assert (defect.kind, defect.blocks, defect.last) == ("label_rate", True, used.day(39))
    assert defect.measured > 0.9 > defect.limit
    assert "labels are true" in defect.what
    assert defect.evidence["windows"]


def test_days_are_those_of_the_models_time_zone(tmp_path: Path) -> None:
    used = Used(tmp_path, days=30, a_day=40, spec=used_spec(time_zone="America/New_York"))
    used.serve()
    used.tell()
    collect(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    report = read_label_report(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    assert report.first == used.day(3)
    assert report.last == used.day(29)
    assert report.rates
    assert report.defects == []


def test_what_the_champion_learned_from_is_normal_by_the_ledger(tmp_path: Path) -> None:
    used = Used(tmp_path, days=40, a_day=40)
    newest = pl.col("day") >= used.day(34)
    used.tell(used.orders.with_columns(is_late=pl.when(newest).then(~pl.col("cancelled")).otherwise("is_late")))
    where = {"settings": used.settings, "lake": used.lake, "now": used.now}
    assert kinds(label_quality(used.spec, **where)) == {"label_rate": True}
    ledger = SqlLedger.of(used.settings)
    made = registered("tiny", 1)
    facts = {**made.payload["facts"], "last": str(used.day(37))}
    ledger.append(replace(made, payload={**made.payload, "facts": facts}))
    ledger.append(draft("promoted", 1, model="tiny"))
    ledger.close()
    assert label_quality(used.spec, **where) == []


def test_labels_that_say_the_opposite_of_what_the_model_ranks_are_inverted(used: Used) -> None:
    swapped = answers(used).with_columns(label=~pl.col("label"))
    assert kinds(label_report(used.spec, swapped, now=used.now).defects)["inverted_labels"]


def test_labels_that_stay_away_are_late_and_block(used: Used) -> None:
    lost = answers(used).with_columns(
        label=pl.when(pl.col("day") < used.day(33)).then("label"), no_label_reason=pl.lit(None, dtype=pl.String())
    )
    [defect] = [d for d in label_report(used.spec, lost, now=used.now).defects if d.kind == "late_labels"]
    assert defect.blocks
    assert defect.measured < defect.limit == used.spec.outcomes.coverage


def test_predictions_that_will_have_no_label_are_not_late_and_many_of_them_are_told_without_blocking(
    used: Used,
) -> None:
    storm = pl.col("day").is_in([used.day(35), used.day(36)]) & (pl.int_range(pl.len()) % 2 == 0)
    frame = answers(used).with_columns(
        label=pl.when(~storm).then("label"),
        label_known_at=pl.when(~storm).then("label_known_at"),
        no_label_reason=pl.when(storm).then(pl.lit("cancelled")).otherwise("no_label_reason"),
    )
    report = label_report(used.spec, frame, now=used.now)
    assert kinds(report.defects) == {"unlabelled": False}
    assert (report.defects[0].first, report.defects[0].last) == (used.day(35), used.day(36))


def test_tellers_who_disagree_often_are_a_defect_and_seldom_are_not(tmp_path: Path) -> None:
    used = Used(tmp_path, days=5, a_day=40)
    used.serve()
    used.tell()
    collect(used.spec, settings=used.settings, lake=used.lake, now=used.now)

    def contradict(first: int, count: int) -> list[LabelDefect]:
        orders = used.orders.filter(~pl.col("cancelled")).slice(first, count).iter_rows(named=True)
        used.log(
            [
                outcome(
                    first + number,
                    prediction_id=f"p-{order['order_id']}",
                    label=not order["is_late"],
                    known_at=microseconds(order["ordered_at"] + 2 * TOOK),
                )
                for number, order in enumerate(orders)
            ]
        )
        return label_quality(used.spec, settings=used.settings, lake=used.lake, now=used.now + timedelta(days=1))

    assert kinds(contradict(0, 1)) == {}
    found = contradict(1, 9)
    assert kinds(found) == {"disagreement": True}
    assert len(found[0].evidence["examples"]) == 10


def test_a_model_without_answers_has_a_report_too(tmp_path: Path) -> None:
    used = Used(tmp_path, days=1, a_day=1)
    report = read_label_report(used.spec, settings=used.settings, lake=used.lake)
    assert (report.predictions, report.coverage, report.lag_h, report.defects) == (0, [], {}, [])
    assert draw_labels(used.spec, report).startswith(b"\x89PNG")


def test_new_labels_are_those_after_the_last_day_of_training_or_without_a_time_beyond_its_rows(tmp_path: Path) -> None:
    used = Used(tmp_path, days=5, a_day=20)
    assert labels_since(used.spec, used.lake, last=used.day(2), rows=60) is None
    rows = used.orders.select("order_id", "day", event_time="ordered_at", label="is_late", label_known_at="ordered_at")
    used.lake.replace_days("features/tiny", rows, sorted(set(rows["day"])), note={})
    assert labels_since(used.spec, used.lake, last=used.day(2), rows=1) == rows.tail(40)["label"].count() < 40
    assert labels_since(used.spec, used.lake, last=used.day(4), rows=1) == 0
    assert labels_since(used.spec, used.lake, last=None, rows=70) == rows["label"].count() - 70
    assert labels_since(used.spec, used.lake, last=None, rows=1000) == 0


def test_a_label_that_is_to_become_known_is_no_new_one(tmp_path: Path) -> None:
    used = Used(tmp_path, days=5, a_day=20)
    to_come = pl.when(pl.col("is_late")).then(pl.lit(datetime(2999, 1, 1, tzinfo=UTC))).otherwise("ordered_at")
    rows = used.orders.select("order_id", "day", event_time="ordered_at", label="is_late", label_known_at=to_come)
    used.lake.replace_days("features/tiny", rows, sorted(set(rows["day"])), note={})
    known = rows.tail(40).filter(~pl.col("label")).height
    assert labels_since(used.spec, used.lake, last=used.day(2), rows=1) == known


def test_labels_that_may_take_weeks_are_late_once_these_are_over(tmp_path: Path) -> None:
    weeks = Outcomes(within=timedelta(days=45), patience=timedelta(days=60))
    used = Used(tmp_path, days=80, a_day=20, spec=used_spec(outcomes=weeks), took=timedelta(days=40))
    used.serve()
    where = {"settings": used.settings, "lake": used.lake, "now": used.now}
    assert kinds(label_quality(used.spec, **where)) == {"late_labels": True}
    used.tell()
    collect(used.spec, **where)
    assert label_quality(used.spec, **where) == []
