"""The KPI by the SQL of the spec: over labelled answers and nothing else, beside its baseline and target."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.kpi import target_check
from assets.models import load_models
from pilotage.errors import ConfigError
from pilotage.monitoring.answers import read_answers
from pilotage.monitoring.kpi import KpiValue, kpi_values, view
from pilotage.monitoring.labels import collect
from pilotage.spec import CostMatrix, Kpi
from tests.unit.monitoring.used_world import Used, used_spec

COST = CostMatrix(true_positive=1, false_positive=2, true_negative=0, false_negative=5)


def kpi(**changes: object) -> Kpi:
    return Kpi(**({"name": "Cost", "unit": "EUR", "cost": COST} | changes))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    world = Used(tmp_path_factory.mktemp("home"), days=6, a_day=40)
    world.serve(shadow_too=True)
    world.tell()
    collect(world.spec, settings=world.settings, lake=world.lake, now=world.now)
    return world


@pytest.fixture(scope="module")
def answers(used: Used) -> pl.DataFrame:
    where = {"settings": used.settings, "lake": used.lake, "everything": True}
    return read_answers(used.spec, **where, first=used.day(0), last=used.day(5), known_by=used.now)


def by_hand(used: Used, answers: pl.DataFrame) -> pl.DataFrame:
    told = answers.filter(pl.col("stage") == "champion", pl.col("label").is_not_null())
    acted = told["probability"].to_numpy() >= COST.threshold
    label = told["label"].to_numpy()
    cost = np.where(acted, np.where(label, 1, 2), np.where(label, 5, 0))
    return told.with_columns(cost=pl.Series(cost))


def test_without_sql_it_is_the_mean_cost_of_the_answers_that_were_given(used: Used, answers: pl.DataFrame) -> None:
    values = kpi_values(answers, used.spec)
    costs = by_hand(used, answers)
    assert [v.day for v in values] == [*(used.day(n) for n in range(6)), used.day(5)]
    assert values[-1].value == pytest.approx(costs["cost"].mean())
    assert values[0].value == pytest.approx(costs.filter(pl.col("day") == used.day(0))["cost"].mean())
    assert values[-1].answers == costs.height
    assert (values[-1].days, values[0].days) == (28, 1)


def test_baseline_and_target_are_numbers_or_statements_over_the_same_rows(answers: pl.DataFrame) -> None:
    never_act = "SELECT avg(CASE WHEN label THEN 5 ELSE 0 END) AS value FROM labelled"
    spec = used_spec(kpi=kpi(sql="SELECT avg(cost) AS value FROM labelled", baseline=never_act, target=0.1))
    window = kpi_values(answers, spec)[-1]
    assert window.baseline == pytest.approx(5 * view(answers, spec)["label"].mean())
    assert window.value is not None
    assert window.baseline is not None
    assert window.gain(spec.kpi) == pytest.approx(window.baseline - window.value)
    assert window.target == 0.1
    assert window.misses_target(spec.kpi)
    more = kpi(target=0.1, higher_is_better=True)
    assert not window.misses_target(more)
    assert window.gain(more) == pytest.approx(window.value - window.baseline)


def test_statements_can_read_the_request(answers: pl.DataFrame) -> None:
    spec = used_spec(kpi=kpi(sql="SELECT count(*) AS value FROM labelled WHERE request_shop = 'north'"))
    assert kpi_values(answers, spec)[-1].value == view(answers, spec).filter(request_shop="north").height


def test_the_interval_of_a_mean_is_about_that_of_its_days(used: Used, answers: pl.DataFrame) -> None:
    window = kpi_values(answers, used.spec)[-1]
    daily = by_hand(used, answers).group_by("day").agg(pl.col("cost").mean())["cost"]
    error = float(daily.std()) / 6**0.5  # type: ignore[arg-type]
    assert window.low is not None
    assert window.high is not None
    assert (window.high - window.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT avg(costs) AS value FROM labelled", r"kpi\.sql can't be answered"),
        ("SELECT avg(cost) FROM labelled", "gives 1 rows with the columns"),
        ("SELECT cost AS value FROM labelled", r"gives \d+ rows"),
        ("SELECT 'dear' AS value", "gives 'dear'"),
        ("DROP VIEW labelled", "one SELECT at a time"),
        ("SELECT 1 AS value; SELECT 2 AS value", "one SELECT at a time"),
        ("SELECT count(*) AS value FROM read_csv('/etc/passwd')", "can't be answered"),
    ],
)
def test_a_statement_that_gives_no_number_or_reaches_out_is_refused(
    answers: pl.DataFrame, sql: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kpi_values(answers, used_spec(kpi=kpi(sql=sql)))


def test_no_labelled_answer_gives_no_number(answers: pl.DataFrame, tmp_path: Path) -> None:
    nobody = answers.with_columns(label=pl.lit(None, dtype=pl.Boolean()))
    window = kpi_values(nobody, used_spec(kpi=kpi(target=1)))[-1]
    assert (window.value, window.low, window.answers) == (None, None, 0)
    assert not window.misses_target(kpi(target=1))
    assert kpi_values(answers.clear(), used_spec()) == []


@pytest.mark.parametrize("name", sorted(load_models()))
def test_the_kpi_of_each_shipped_model_can_be_answered(answers: pl.DataFrame, name: str) -> None:
    shipped = load_models()[name].kpi
    window = kpi_values(answers, used_spec(kpi=shipped))[-1]
    assert None not in (window.value, window.baseline, window.target)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_target_is_missed_only_by_more_than_the_scatter_of_days(higher_is_better: bool) -> None:
    kpi = used_spec().kpi.model_copy(update={"higher_is_better": higher_is_better})
    better = 1 if higher_is_better else -1

    def missed(target: float | None, *, known: bool = True) -> bool | None:
        low, high = (9.0, 11.0) if known else (None, None)
        value = KpiValue(
            day=date(2024, 1, 1), days=28, answers=1, value=10.0, low=low, high=high, baseline=None, target=target
        )
        return value.misses_target(kpi)

    assert [missed(10 + better * beyond) for beyond in (-0.5, 0.5, 1.5)] == [False, False, True]
    assert missed(10 + better * 0.5, known=False) is None, "of one or two days nothing is known of their scatter"
    assert missed(None) is None


def test_the_first_outcomes_of_a_model_are_no_missed_target_and_change_no_alarm(
    used: Used, answers: pl.DataFrame
) -> None:
    spec = used_spec(kpi=kpi(target=0))
    first = [used.day(0), used.day(1)]
    early = target_check(spec, kpi_values(answers.filter(pl.col("day").is_in(first)), spec))
    assert (early.passed, early.metadata["judged"].value) == (True, False)
    assert "too few days to judge by" in str(early.description)
    later = target_check(spec, kpi_values(answers, spec))
    assert (later.passed, later.metadata["judged"].value) == (False, True)
