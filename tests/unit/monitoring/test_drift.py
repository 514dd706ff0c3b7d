"""The report of a model's drift, on the features of the models that ship."""

import re

import numpy as np
import polars as pl
import pytest

from assets.models.flight_delay import MODEL as FLIGHTS
from assets.models.loan_approval import MODEL as LOANS
from pilotage.errors import DataError
from pilotage.monitoring.drift import DriftReport, drift_report


def sample(rows: int, *, seed: int) -> pl.DataFrame:
    """Feature rows of flight_delay: categorical, integer and float columns, weather missing in a tenth."""
    random = np.random.default_rng(seed)
    columns: dict[str, pl.Series] = {}
    for feature in FLIGHTS.features:
        if feature.name in ("carrier", "origin", "dest"):
            columns[feature.name] = pl.Series(random.choice(["EWR", "JFK", "LGA"], rows))
        else:
            columns[feature.name] = pl.Series(random.normal(50, 10, rows))
    return pl.DataFrame(columns).with_columns(
        visib=pl.when(pl.int_range(pl.len()) % 10 > 0).then(pl.col("visib")),
        month=pl.lit(6, dtype=pl.Int64),
    )


def numbers_only(current: pl.DataFrame, reference: pl.DataFrame, tmp_path) -> DriftReport:
    return drift_report(FLIGHTS, current=current, reference=reference, reports=tmp_path, html=False)


def test_the_same_distribution_has_not_drifted(tmp_path):
    report = numbers_only(sample(500, seed=1), sample(2000, seed=2), tmp_path)
    assert report.drifted == []
    assert {one.feature for one in report.features} == {feature.name for feature in FLIGHTS.features}
    assert (report.rows, report.reference_rows, report.html) == (500, 2000, None)


def test_the_feature_that_moved_most_comes_first_with_its_null_rates(tmp_path):
    current = sample(1000, seed=1).with_columns(
        temp=pl.col("temp") + 30, visib=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("visib"))
    )
    report = numbers_only(current, sample(1000, seed=2), tmp_path)
    assert report.drifted == ["temp", "visib"]
    temp, visib = report.features[:2]
    assert temp.psi > visib.psi > report.alert_psi == FLIGHTS.drift.alert_psi
    assert (temp.null_rate, temp.reference_null_rate) == (0, 0)
    assert (visib.null_rate, visib.reference_null_rate) == (0.6, 0.1)
    assert visib.null_rate_difference == pytest.approx(0.5)


def test_few_rows_are_not_called_drift(tmp_path):
    """Twenty rows of the same distribution reach 0.25 by chance; that is below their noise."""
    report = numbers_only(sample(20, seed=3), sample(2000, seed=2), tmp_path)
    assert max(one.psi for one in report.features) > report.alert_psi
    assert report.drifted == []


def test_a_model_that_declares_no_drift_is_measured_with_the_customary_limit(tmp_path):
    rows = pl.DataFrame({feature.name: [1.0, 2.0, 3.0] for feature in LOANS.features})
    assert drift_report(LOANS, current=rows, reference=rows, reports=tmp_path, html=False).alert_psi == 0.25


def test_a_missing_feature_is_named(tmp_path):
    with pytest.raises(DataError, match="flight_delay: the current sample has no column temp"):
        numbers_only(sample(10, seed=1).drop("temp"), sample(10, seed=2), tmp_path)


def test_a_sample_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="flight_delay: the reference sample has no rows"):
        numbers_only(sample(10, seed=1), sample(10, seed=2).clear(), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_page_shows_our_numbers_above_evidentlys_pictures_and_needs_no_network(tmp_path):
    current = sample(300, seed=1).with_columns(temp=pl.col("temp") + 30, pressure=pl.lit(None, dtype=pl.Float64))
    report = drift_report(FLIGHTS, current=current, reference=sample(600, seed=2), reports=tmp_path)
    assert report.html == str(tmp_path / "flight_delay" / "drift.html")
    assert [path.name for path in (tmp_path / "flight_delay").iterdir()] == ["drift.html"]
    page = (tmp_path / "flight_delay" / "drift.html").read_text()
    body = page[page.index("<body>") :]
    assert body.index("Drift of flight_delay") < body.index("<script")
    assert f"2 of {len(report.features)} features drifted" in body
    drawn = len(FLIGHTS.features) - 1
    assert f"pictures of {drawn} features" in body, "a column without values can't be drawn, and must not raise"
    assert "wasserstein" in page.lower()
    assert not re.search(r"""<(script|link|img)[^>]*\b(src|href)=["']https?://""", page)


def test_a_page_without_anything_to_draw_says_so(tmp_path):
    empty = pl.DataFrame({feature.name: pl.Series([None, None], dtype=pl.Float64) for feature in LOANS.features})
    report = drift_report(LOANS, current=empty, reference=empty, reports=tmp_path)
    assert report.drifted == []
    assert "nothing to draw" in (tmp_path / "loan_approval" / "drift.html").read_text()
