"""Metrics by day, version, stage and slice; whole days are drawn; only what is new is measured."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.performance import estimated_check, promised_check
from pilotage.monitoring.answers import read_answers
from pilotage.monitoring.labels import collect
from pilotage.monitoring.measured import PerformanceReport, read_performance, settled_days, update_performance
from pilotage.monitoring.performance import performance
from pilotage.monitoring.side_by_side import side_by_side
from pilotage.release.ledger import SqlLedger
from pilotage.spec import Outcomes
from pilotage.training.metrics import METRICS, all_metrics
from tests.unit.monitoring.used_world import Used, used_spec
from tests.unit.release.lives import draft, registered

DAYS = 10


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    world = Used(tmp_path_factory.mktemp("home"), days=DAYS, a_day=60)
    first, last = world.orders.head(300), world.orders.tail(300)
    world.serve(first, shadow_too=True)
    world.serve(last.head(200), version=2)
    world.serve(last.tail(100).head(60), answered_by="rule", version=None, stage=None, probability=0.3)
    world.serve(last.tail(40), referred=True, decision=None, version=2)
    world.tell()
    collect(world.spec, settings=world.settings, lake=world.lake, now=world.now)
    return world


@pytest.fixture(scope="module")
def answers(used: Used) -> pl.DataFrame:
    return read_answers(
        used.spec, settings=used.settings, lake=used.lake, first=used.day(0), last=used.day(DAYS - 1), known_by=used.now
    )


def test_every_answer_is_there_once_by_who_gave_it_and_shadows_beside(answers: pl.DataFrame) -> None:
    counted = dict(answers.group_by("stage").len().iter_rows())
    assert counted == {"champion": 540, "shadow": 300, "rule": 60}
    shadows = answers.filter(pl.col("stage") == "shadow")
    assert shadows["probability"].unique().to_list() == [0.3]
    assert (
        shadows["label"].null_count()
        == answers.filter(
            pl.col("stage") == "champion", pl.col("prediction_id").is_in(shadows["prediction_id"].implode())
        )["label"].null_count()
    )
    assert answers.filter(pl.col("no_label_reason") == "cancelled")["label"].null_count() > 0


def test_each_number_is_that_of_the_evaluation_on_the_same_rows(used: Used, answers: pl.DataFrame) -> None:
    found = performance(answers, used.spec)
    one = next(p for p in found if p.day == used.day(0) and p.stage == "champion" and p.slice_column is None)
    rows = answers.filter(pl.col("day") == used.day(0), pl.col("stage") == "champion", pl.col("label").is_not_null())
    expected = all_metrics(rows["label"].to_numpy(), rows["probability"].to_numpy(), used.spec.kpi.cost)
    assert {name: value.value for name, value in one.metrics.items()} == pytest.approx(expected)
    assert (one.answers, one.labelled, one.positives) == (60, rows.height, rows["label"].sum())


def test_windows_draw_whole_days_and_single_days_hours(used: Used, answers: pl.DataFrame) -> None:
    found = performance(answers, used.spec)
    assert {(p.days, p.unit) for p in found if p.stage == "champion" and p.version == 2 and p.slice_column is None} == {
        (1, "hour"),
        (7, "day"),
        (28, "day"),
    }
    assert all(value.low <= value.value <= value.high for p in found for value in p.metrics.values())


def test_days_that_share_their_shocks_make_the_interval_wider_than_rows_would(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    rows = 28 * 100
    shock = np.repeat(random.normal(0, 1.5, 28), 100)
    frame = pl.DataFrame(
        {
            "day": np.repeat(np.arange(28), 100),
            "label": random.random(rows) < 1 / (1 + np.exp(1 - shock)),
            "probability": np.full(rows, 0.3),
        }
    ).with_columns(pl.col("day").cast(pl.Date), moment=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
    frame = frame.with_columns(
        at=pl.col("day").cast(pl.Datetime("us", "UTC")),
        stage=pl.lit("champion"), version=pl.lit(1), contested=pl.lit(False), referred=pl.lit(False),
        no_label_reason=pl.lit(None, dtype=pl.String()), request_shop=pl.lit("north"),
    )  # fmt: skip
    spec = Used(tmp_path, days=1, a_day=1).spec
    by_day = performance(frame, spec, days=[frame["day"][-1]], windows=[28])[-1].metrics["brier"]
    alone = float(((frame["probability"] - frame["label"].cast(pl.Float64)) ** 2).std()) / rows**0.5  # type: ignore[arg-type]
    assert (by_day.high - by_day.low) > 3 * (2 * 1.96 * alone)


def test_slices_are_told_and_no_answer_is_left_out(used: Used, answers: pl.DataFrame) -> None:
    found = performance(answers, used.spec, windows=[28])
    whole = [p for p in found if p.days == 28 and p.stage == "champion" and p.slice_column is None]
    parts = [p for p in found if p.days == 28 and p.stage == "champion" and p.slice_column == "shop"]
    assert {p.slice_value for p in parts} >= {"north", "south"}
    assert sum(p.answers for p in parts) == sum(p.answers for p in whole)
    assert sum(p.labelled for p in parts) == sum(p.labelled for p in whole)


def test_abstentions_and_the_rule_are_told_apart(used: Used, answers: pl.DataFrame) -> None:
    found = [p for p in performance(answers, used.spec, windows=[28]) if p.days == 28 and p.slice_column is None]
    by = {(p.stage, p.version): p for p in found}
    assert by["champion", 2].abstentions == pytest.approx(40 / 240)
    assert by["rule", None].answers == 60


def test_an_estimate_stands_beside_each_day_also_of_what_has_no_label_yet(used: Used, answers: pl.DataFrame) -> None:
    unlabelled = answers.with_columns(label=pl.lit(None, dtype=pl.Boolean()))
    found = [p for p in performance(unlabelled, used.spec) if p.days == 1 and p.slice_column is None]
    assert all(p.metrics == {} and p.estimated is not None and p.estimated.answers == p.answers for p in found)


def test_a_shadow_is_compared_with_the_champion_on_the_same_requests(used: Used, answers: pl.DataFrame) -> None:
    # The shadow came a day after the champion.
    late = (pl.col("stage") != "shadow") | (pl.col("day") > used.day(0))
    told = answers.filter(pl.col("version").is_null() | (pl.col("day") < used.day(5)), late)
    [one] = [b for b in side_by_side(told, used.spec) if b.stage == "shadow"]
    rows = told.filter(pl.col("day") < used.day(5), pl.col("label").is_not_null())
    mine = rows.filter(pl.col("stage") == "shadow")
    assert (one.version, one.champion, one.rows, one.same_requests) == (2, 1, mine.height, True)
    assert one.champion_rows == mine.height < rows.filter(pl.col("stage") == "champion").height
    gap = one.metrics["brier"].value - one.champion_metrics["brier"]
    assert one.difference["brier"].value == pytest.approx(gap)
    assert one.difference["brier"].low > 0  # It always says 0.3; the champion knows.


def test_a_canary_is_compared_on_what_was_drawn_by_lot(used: Used, answers: pl.DataFrame) -> None:
    rows = answers.filter(pl.col("stage") == "champion").with_row_index("n")
    canary = pl.col("n") % 4 == 0
    drawn = rows.with_columns(
        stage=pl.when(canary).then(pl.lit("canary")).otherwise("stage"),
        version=pl.when(canary).then(7).otherwise(1),
        drawn_by=pl.when(pl.col("n") % 2 == 0).then(12),
    )
    [one] = side_by_side(drawn, used.spec)
    kept = drawn.filter(pl.col("stage") == "champion", pl.col("drawn_by") == 12, pl.col("label").is_not_null())
    assert (one.stage, one.version, one.same_requests, one.champion_rows) == ("canary", 7, False, kept.height)
    gap = one.difference["log_loss"]
    assert gap.low < 0 < gap.high  # The same model under two names.
    assert gap.value == pytest.approx(one.metrics["log_loss"].value - one.champion_metrics["log_loss"])


def test_a_second_look_measures_only_days_of_which_more_is_known(tmp_path: Path) -> None:
    used = Used(tmp_path, days=5, a_day=30)
    where = {"settings": used.settings, "lake": used.lake, "now": used.now}
    used.serve()
    used.tell(used.orders.filter(pl.col("day") < used.day(3)))
    collect(used.spec, **where)
    assert update_performance(used.spec, run_id="r1", **where).measured == [used.day(n) for n in range(5)]
    assert update_performance(used.spec, run_id="r2", **where).measured == [used.day(4)]
    before = read_performance(used.lake, "tiny", last=used.day(2))
    used.tell()
    collect(used.spec, **where)
    report = update_performance(used.spec, run_id="r3", **where)
    assert report.measured == [used.day(3), used.day(4)]
    assert read_performance(used.lake, "tiny", last=used.day(2)).equals(before)
    table = read_performance(used.lake, "tiny")
    assert table.filter(pl.col("days") == 1, pl.col("metric") == "brier", pl.col("slice_column").is_null()).height == 5
    assert set(table.filter(pl.col("days") > 1)["day"]) == {used.day(4)}
    assert report.window(7) is not None
    assert {e.metric: e.days for e in report.estimates} == dict.fromkeys(set(METRICS) - {"calibration_error"}, 5)


def test_a_day_is_measured_again_when_labels_swap_though_their_counts_stay(tmp_path: Path) -> None:
    used = Used(tmp_path, days=3, a_day=30)
    where = {"settings": used.settings, "lake": used.lake, "now": used.now}
    used.serve()
    used.tell()
    collect(used.spec, **where)
    update_performance(used.spec, run_id="r1", **where)
    before = read_performance(used.lake, "tiny").filter(pl.col("days") == 1, pl.col("metric") == "brier")
    first = used.orders.filter(pl.col("day") == used.day(0), ~pl.col("cancelled"))
    late, on_time = first.filter("is_late")["order_id"][0], first.filter(~pl.col("is_late"))["order_id"][0]
    swapped = pl.col("order_id").is_in([late, on_time])
    used.tell(used.orders.with_columns(is_late=pl.when(swapped).then(~pl.col("is_late")).otherwise("is_late")))
    collect(used.spec, **where)
    assert update_performance(used.spec, run_id="r2", **where).measured == [used.day(0), used.day(2)]
    after = read_performance(used.lake, "tiny").filter(pl.col("days") == 1, pl.col("metric") == "brier")
    assert before["labelled"].to_list() == after["labelled"].to_list()
    assert before["value"].to_list() != after["value"].to_list()


def test_estimates_are_held_against_settled_days_alone(tmp_path: Path) -> None:
    used = Used(tmp_path, days=3, a_day=30)
    used.serve()
    used.tell()
    where = {"settings": used.settings, "lake": used.lake}
    collect(used.spec, **where, now=used.now)
    early = used.now - timedelta(days=1)
    update_performance(used.spec, run_id="r", **where, now=early)
    table = read_performance(used.lake, "tiny")
    assert set(settled_days(table, used.spec)["day"]) == {used.day(0), used.day(1)}
    assert update_performance(used.spec, run_id="r", **where, now=used.now).estimates[0].days == 3


def replaced(home: Path) -> Used:
    """Version 1 said the opposite of the truth for fifteen days; version 2 answered the last eight."""
    used = Used(home, days=23, a_day=60)
    used.serve(used.orders.head(15 * 60).with_columns(probability=1 - pl.col("probability")))
    used.serve(used.orders.tail(8 * 60), version=2)
    used.tell()
    collect(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    return used


def checked(used: Used) -> tuple[PerformanceReport, list[tuple[bool, object, object]]]:
    """The report, and of both checks: whether it passed, whether it judged, and which version."""
    where = {"settings": used.settings, "lake": used.lake, "now": used.now}
    report = update_performance(used.spec, run_id="r", **where)  # type: ignore[arg-type]
    checks = (promised_check(used.spec, report), estimated_check(report))
    told = [{key: getattr(value, "value", value) for key, value in each.metadata.items()} for each in checks]
    return report, [(each.passed, more["judged"], more["version"]) for each, more in zip(checks, told, strict=True)]


def test_what_the_champion_before_it_answered_is_not_held_against_the_new_one(tmp_path: Path) -> None:
    used = replaced(tmp_path)
    report, checks = checked(used)
    window = report.window(28)
    assert window is not None
    assert (window.version, window.answers, report.champion) == (2, 8 * 60, 2)
    assert {each.days for each in report.estimates} == {8}
    assert checks == [(True, True, 2), (True, True, 2)]


def test_a_champion_by_the_ledger_that_answered_nothing_yet_is_not_judged_by_others(tmp_path: Path) -> None:
    used = replaced(tmp_path)
    ledger = SqlLedger(used.settings.ledger)
    ledger.append(registered("tiny", 3))
    ledger.append(draft("promoted", 3, model="tiny"))
    ledger.close()
    report, checks = checked(used)
    assert (report.champion, report.window(28), report.estimates) == (3, None, [])
    assert checks == [(True, False, 3), (True, False, 3)]


def test_nothing_answered_is_nothing_measured(tmp_path: Path) -> None:
    used = Used(tmp_path, days=1, a_day=1)
    report = update_performance(used.spec, settings=used.settings, lake=used.lake, run_id="r")
    assert (report.measured, report.found, report.table.height) == ([], [], 0)
    assert not used.lake.exists("performance/tiny")


MONTHS = Outcomes(within=timedelta(days=45), patience=timedelta(days=60))


def test_a_model_whose_labels_take_weeks_is_measured_by_windows_whose_labels_are_there(tmp_path: Path) -> None:
    used = Used(tmp_path, days=80, a_day=20, spec=used_spec(outcomes=MONTHS), took=timedelta(days=40))
    used.serve()
    used.tell()
    where = {"settings": used.settings, "lake": used.lake}

    def night(number: int) -> PerformanceReport:
        now = used.now - timedelta(days=80 - number, hours=7)
        collect(used.spec, **where, now=now)
        return update_performance(used.spec, **where, run_id="r", now=now)

    # What was asked longest ago was looked up in time.
    collect(used.spec, **where, now=used.now - timedelta(days=20))
    night(79)
    report = night(80)
    window = report.window(28)
    assert window is not None
    assert (window.day, window.answers) == (used.day(79 - 45), 28 * 20)
    assert window.labelled > 0.9 * window.answers
    assert all(each.days >= 28 for each in report.estimates)
    for check in (promised_check(used.spec, report), estimated_check(report)):
        assert getattr(check.metadata["judged"], "value", check.metadata["judged"])
    # Every day once, and the windows of both nights.
    kept = read_performance(used.lake, "tiny").filter(
        pl.col("metric") == "brier", pl.col("slice_column").is_null(), pl.col("stage") == "champion"
    )
    single = kept.filter(pl.col("days") == 1)["day"].to_list()
    assert single == [used.day(number) for number in range(6, 80)]
    assert kept.filter(pl.col("days") == 28)["day"].to_list() == [used.day(33), used.day(34)]
