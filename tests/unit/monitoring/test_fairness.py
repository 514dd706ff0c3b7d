"""Rates by group, as fairlearn has them; groups come from the lake, small ones are not compared, chance is not bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pilotage.monitoring.answers import read_answers
from pilotage.monitoring.fairness import fairness, with_groups
from pilotage.monitoring.labels import collect
from pilotage.monitoring.predictions import read_log
from pilotage.spec import Fairness, ModelSpec
from pilotage.training.records import FairnessReport
from tests.unit.monitoring.used_world import Used, used_spec

SPEC = used_spec(protected=("old",), fairness=Fairness(max_difference=0.1, min_group=20))


def grouped(*, gap: float, rows: int = 1200, seed: int = 3, few: int = 10) -> pl.DataFrame:
    """Answers of two groups that are selected at rates ``gap`` apart, and a few of a third."""
    random = np.random.default_rng(seed)
    group = np.where(np.arange(rows) < few, "2", np.where(random.random(rows) < 0.4, "1", "0"))
    label = random.random(rows) < 0.5
    acted = random.random(rows) < np.where(group == "1", 0.4 + gap, 0.4)
    return pl.DataFrame(
        {
            "group_old": group,
            "label": label,
            "decision": acted,
            "probability": np.where(acted, 0.9, 0.1),
            "referred": False,
            "day": np.arange(rows) % 30,
            "stage": "champion",
        }
    ).with_columns(
        pl.col("day").cast(pl.Date),
        at=pl.col("day").cast(pl.Date).cast(pl.Datetime("us", "UTC")),
        moment=pl.lit(None, dtype=pl.Datetime("us", "UTC")),
    )


def difference(report: FairnessReport, rate: str) -> Any:
    return next(gap for gap in report.differences if gap.rate == rate)


def test_rates_and_differences_are_fairlearns() -> None:
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    frame = grouped(gap=0.2, few=0)
    report = fairness(frame, SPEC)
    metrics = {
        "selection_rate": selection_rate,
        "true_positive_rate": true_positive_rate,
        "false_positive_rate": false_positive_rate,
    }
    theirs = MetricFrame(
        metrics=metrics,
        y_true=frame["label"].cast(pl.Int64).to_numpy(),
        y_pred=frame["decision"].cast(pl.Int64).to_numpy(),
        sensitive_features=frame["group_old"].to_numpy(),
    )
    for rate in metrics:
        mine = {each.group: each.value.value for each in report.rates if each.rate == rate and each.value}
        assert mine == pytest.approx(theirs.by_group[rate].to_dict())
        assert difference(report, rate).value.value == pytest.approx(theirs.difference()[rate])


def test_a_difference_beyond_the_limit_that_chance_does_not_explain_is_unfair() -> None:
    report = fairness(grouped(gap=0.25), SPEC)
    gap = difference(report, "selection_rate")
    assert gap in report.unfair
    assert (gap.highest, gap.lowest) == ("1", "0")
    assert 0.1 < gap.value.low < gap.value.value < gap.value.high


def test_groups_that_are_treated_alike_are_hardly_ever_called_unfair() -> None:
    assert sum(bool(fairness(grouped(gap=0.0, seed=seed), SPEC).unfair) for seed in range(25)) == 0


def test_a_group_that_is_too_small_is_counted_and_not_compared() -> None:
    report = fairness(grouped(gap=0.0, few=10), SPEC)
    small = [each for each in report.rates if each.group == "2"]
    assert {each.value for each in small} == {None}
    assert {each.rows for each in small if each.rate == "selection_rate"} == {10}
    assert all("2" not in (gap.highest, gap.lowest) for gap in report.differences)


def test_what_is_referred_counts_by_its_probability_and_its_share_is_told() -> None:
    frame = grouped(gap=0.0).with_columns(
        referred=pl.col("group_old") == "1", decision=pl.when(pl.col("group_old") != "1").then("decision")
    )
    report = fairness(frame, SPEC)
    assert difference(report, "referral_rate").value.value == 1.0
    assert (
        difference(report, "selection_rate").value
        == difference(fairness(grouped(gap=0.0), SPEC), "selection_rate").value
    )


def test_groups_come_from_the_lake_by_entity_and_are_in_no_log(tmp_path: Path) -> None:
    spec: ModelSpec = SPEC
    used = Used(tmp_path, days=4, a_day=40, spec=spec)
    used.orders = used.orders.with_columns(old=pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.int_range(pl.len()) % 2))
    used.serve()
    used.tell(used.orders.head(150))
    collect(spec, settings=used.settings, lake=used.lake, now=used.now)
    where = {"settings": used.settings, "lake": used.lake}
    answers = read_answers(spec, **where, first=used.day(0), last=used.day(3), known_by=used.now)
    told = with_groups(answers, spec, **where)
    named = used.orders.head(150).select(pl.concat_str(pl.lit("p-"), "order_id"), pl.col("old").cast(pl.String))
    known = dict(named.rows())
    assert dict(told.select("prediction_id", "group_old").rows()) == {i: known.get(i) for i in told["prediction_id"]}
    report = fairness(told, spec)
    assert report.without_group == told["group_old"].null_count()
    assert report.labelled == told["label"].count()
    assert not any("old" in column for column in read_log(used.settings, "tiny", lake=used.lake).columns)


def test_without_a_table_nobody_has_a_group_and_nothing_is_compared(tmp_path: Path) -> None:
    used = Used(tmp_path, days=1, a_day=30, spec=SPEC)
    used.serve()
    where = {"settings": used.settings, "lake": used.lake}
    answers = read_answers(SPEC, **where, first=used.day(0), last=used.day(0))
    report = fairness(with_groups(answers, SPEC, **where), SPEC)
    assert (report.answers, report.without_group, report.differences, report.rates) == (30, 30, [], [])
