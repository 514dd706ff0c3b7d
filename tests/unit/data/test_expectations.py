"""Batches judged by Great Expectations, and the pages it makes."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pilotage.data.bands import Measured, learn
from pilotage.data.expectations import _exception, judge
from pilotage.data.profile import measure
from pilotage.data.source import Expectation
from pilotage.errors import DeclarationError, ExpectationFailed
from tests.unit.data.readings import COUNT, FIRST, MEAN, reference, source


def test_great_expectations_and_the_bands_agree_on_every_batch() -> None:
    random = np.random.default_rng(7)
    spec = source(expectations=(MEAN, COUNT.model_copy(update={"high": 11.0})))
    batches = [
        Measured(
            day=FIRST + timedelta(days=number),
            values={"mean_low": float(random.standard_cauchy()), "readings": float(random.integers(0, 14))},
        )
        for number in range(200)
    ]
    bands = learn(spec.expectations, batches)

    results = judge(spec, batches, bands)

    expected = [
        (batch.day, name, own[name].holds(batch.values[name]))
        for batch, own in zip(batches, bands, strict=True)
        for name in ("mean_low", "readings")
    ]
    assert [(result.batch, result.name, result.met) for result in results] == expected
    assert {result.met for result in results} == {True, False}


def test_a_result_says_value_band_and_reason() -> None:
    batches = [Measured(day=FIRST, values={"readings": 1.0, "mean_low": 4.0})]

    missed, met = judge(source(), batches, learn(source().expectations, batches))

    assert (missed.name, missed.met, missed.value, missed.low, missed.high) == ("readings", False, 1.0, 2.0, None)
    assert missed.message == "readings of 2024-03-01 is 1, below 2 (as declared). Two sensors report at least."
    assert (met.met, met.message) == (True, "mean_low of 2024-03-01 is 4.")


def test_a_number_that_no_row_has_a_value_for_is_not_met() -> None:
    rows = pl.DataFrame({"low": [None, None, 1.0]}, schema={"low": pl.Float64})
    batch = pl.Series([FIRST, FIRST, FIRST + timedelta(days=1)])

    spec = source()
    batches = measure(spec, rows, batch, [FIRST, FIRST + timedelta(days=1)])
    results = judge(spec, batches, learn(spec.expectations, batches))

    assert [result.message for result in results if result.name == "mean_low"] == [
        "mean_low of 2024-03-01 can't be measured: there is no value in any row. It moves slowly.",
        "mean_low of 2024-03-02 is 1.",
    ]


@pytest.mark.parametrize("sql", ["sum(low) / sum(high)", "(1 + sum(low)) / sum(high)"])
@pytest.mark.parametrize("bounds", [{"low": 0.0}, {"high": 5.0}, {"low": 0.0, "high": 1.0}])
def test_a_number_that_is_none_of_one_day_is_not_met_and_the_other_days_are_judged(
    sql: str, bounds: dict[str, float]
) -> None:
    ratio = Expectation(name="ratio", sql=sql, severity="block", why="Both rise alike.", **bounds)
    rows = pl.DataFrame({"low": [0.0, 1.0], "high": [0.0, 4.0]})
    asked = [FIRST, FIRST + timedelta(days=1)]

    batches = measure(source(expectations=(ratio,)), rows, pl.Series(asked), asked)
    odd, plain = judge(source(expectations=(ratio,)), batches, learn([ratio], batches))

    assert (odd.met, odd.value, plain.met) == (False, None, True)
    assert "its SQL gives NaN or infinity" in odd.message


def test_of_a_batch_without_rows_only_what_can_be_counted_is_asked() -> None:
    spec = source()
    rows = pl.DataFrame(schema={"low": pl.Float64})

    batches = measure(spec, rows, pl.Series([], dtype=pl.Date), [FIRST])
    results = judge(spec, batches, learn(spec.expectations, batches))

    assert [(result.name, result.value, result.met) for result in results] == [("readings", 0.0, False)]


def test_a_whole_table_is_one_batch() -> None:
    spec = reference()
    rows = pl.DataFrame({"low": [1.0, 2.0, 3.0]})

    batches = measure(spec, rows, pl.Series([None] * 3, dtype=pl.Date), [None])
    (result,) = judge(spec, batches, learn(spec.expectations, batches))

    assert (result.batch, result.value, result.met) == (None, 3.0, True)
    assert result.message == "readings of the whole table is 3."


def test_times_are_utc_timestamps_in_sql() -> None:
    hour = Expectation(name="hour", sql="max(hour(taken))", high=23, severity="warn", why="")
    at = pl.Series([1_700_000_000_000_000]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone("America/New_York")
    rows = pl.DataFrame({"taken": at.dt.convert_time_zone("UTC")})

    (batch,) = measure(source(expectations=(hour,)), rows, pl.Series([FIRST]), [FIRST])

    assert batch.values == {"hour": 22.0}


@pytest.mark.parametrize("sql", ["avg(nowhere)", "avg(", "'text'", "low"])
def test_sql_that_cannot_be_evaluated_is_an_error_that_names_its_expectation(sql: str) -> None:
    broken = Expectation(name="broken", sql=sql, low=0, severity="warn", why="")
    rows = pl.DataFrame({"low": [1.0]})

    with pytest.raises(ExpectationFailed, match=r"Expectation broken of readings can't be evaluated") as caught:
        measure(source(expectations=(COUNT, broken)), rows, pl.Series([FIRST]), [FIRST])

    assert caught.value.details["expectation"] == "broken"
    assert "assets/sources/readings.py" in caught.value.fix


def test_an_expectation_that_raises_inside_great_expectations_is_told_from_one_that_is_not_met() -> None:
    """The two shapes that version 1.24 reports: of the expectation itself, and of each metric it needs."""
    assert _exception({"raised_exception": False, "exception_message": None, "exception_traceback": None}) is None
    assert _exception({"raised_exception": True, "exception_message": "boom"}) == "boom"
    assert _exception({"a metric": {"raised_exception": True, "exception_message": "no column"}}) == "no column"


def test_great_expectations_reports_a_missing_column_without_raising() -> None:
    """Why ``exception_info`` is read at all. If this fails, the library raises now, and the reading can go."""
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    data = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    batch = data.get_batch(batch_parameters={"dataframe": pd.DataFrame({"x": [1.0]})})

    result = batch.validate(gxe.ExpectColumnValuesToNotBeNull(column="nowhere"))

    assert result.success is False
    assert 'column "nowhere"' in str(_exception(result.exception_info))


def test_an_expectation_says_something_that_can_fail() -> None:
    with pytest.raises(DeclarationError, match="no bound is given"):
        Expectation(name="x", sql="count(*)", severity="warn", why="")
    with pytest.raises(DeclarationError, match="the name readings of an expectation is taken"):
        source(expectations=(COUNT, COUNT))
    with pytest.raises(DeclarationError, match="learns from earlier days, and the source has none"):
        reference(expectations=(MEAN,))


def test_the_data_docs_name_the_batch_and_refer_to_no_other_machine(tmp_path: Path) -> None:
    from pilotage.data.datadocs import readable

    batches = [Measured(day=FIRST, values={"readings": 1.0, "mean_low": 4.0})]
    judge(source(), batches, learn(source().expectations, batches), docs=tmp_path / "docs", run_id="r1")

    (page,) = (tmp_path / "docs" / "validations").rglob("*.html")
    raw = page.read_text(encoding="utf-8")
    text = readable(raw)
    loads = r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?:https?:)?//'
    assert len(re.findall(loads, raw)) > 10
    assert not re.findall(loads, text)
    assert "url(http" not in text
    assert "<script" not in text
    assert "2024-03-01" in text
    assert "r1" in page.as_posix()
