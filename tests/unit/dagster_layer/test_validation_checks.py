"""What a person sees of a validation in the UI: measured values, thresholds, failing rows, the way to the Data Docs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.ingestion import validated_key
from assets.validation import check_results, refusal, validated_metadata
from pilotage.data.lake import Lake
from pilotage.data.report import Refusal, ValidationReport
from pilotage.data.validate import validate
from pilotage.settings import Settings
from tests.unit.data.readings import day, land, ordinary, row, source

SPEC = source()
KEY = validated_key(SPEC.name)
REFUSAL = Refusal(batch=day(0), reason="rows is 0", withdrawn=False)
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def validated(settings: Settings, *days: list[dict[str, Any]]) -> ValidationReport:
    lake = Lake(settings.lake)
    land(lake, {day(number): rows for number, rows in enumerate(days)})
    return validate(SPEC, lake=lake, reports=settings.reports, days=None, run_id="r1")


def checks(report: ValidationReport, settings: Settings) -> dict[str, dg.AssetCheckResult]:
    return {str(check.check_name): check for check in check_results(SPEC, report, KEY, settings)}


def records(value: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in value.records]


def test_a_broken_contract_shows_its_share_what_is_tolerated_the_rules_and_the_rows(settings: Settings) -> None:
    bad = [row("x", day(1), low=999.0, high=None), row("b", day(1), low=999.0, high=None), row("c", day(1))]
    check = checks(validated(settings, ordinary(day(0)), bad), settings)["contract"]

    assert not check.passed
    assert check.description == "1 batches refused: 2 of 3 rows (66.7%) break the contract; 50.0% may"
    assert check.metadata["quarantined_share"].value == 0.5  # All rows of the refused day.
    assert check.metadata["tolerated_share"].value == 0.5
    assert {(rule["column"], rule["rule"], rule["failures"]) for rule in records(check.metadata["rules"])} == {
        ("low", "in [-50, 150]", 2),
        ("sensor", "one of a, b, c, d", 1),
    }
    assert [each["sensor"] for each in records(check.metadata["failing_rows"])] == ["x", "x", "b"]


def test_an_expectation_shows_the_newest_number_with_its_bounds_and_every_batch_that_missed_them(
    settings: Settings,
) -> None:
    ordinary_days = [ordinary(day(number)) for number in range(8)]
    report = validated(settings, *ordinary_days, ordinary(day(8), shift=40.0), ordinary(day(9)))
    check = checks(report, settings)["mean_low"]

    assert not check.passed
    assert check.severity is WARN
    newest = report.expectations[-1]
    assert {name: check.metadata[name].value for name in ("measured", "low", "high")} == {
        "measured": newest.value,
        "low": newest.low,
        "high": newest.high,
    }
    [missed] = records(check.metadata["missed"])
    assert (missed["batch"], missed["measured"] > missed["high"]) == (str(day(8)), True)
    assert f"mean_low of {day(8)} is " in str(check.description)
    assert check.metadata["batches_judged"].value == 10


def test_a_check_leads_to_the_data_docs_of_its_own_run(settings: Settings) -> None:
    report = validated(settings, ordinary(day(0)))
    for metadata in (checks(report, settings)["readings"].metadata, validated_metadata(SPEC, report, settings)):
        address = str(metadata["data_docs"].value)
        assert address == f"{settings.reports_ui}/readings/r1/index.html"
        assert (settings.reports / address.removeprefix(f"{settings.reports_ui}/")).is_file()


def test_only_a_blocking_check_of_a_run_that_published_nothing_is_an_error(settings: Settings) -> None:
    one = [row("a", day(0))]  # Two sensors have to report.
    assert checks(validated(settings, one), settings)["readings"].severity is ERROR
    assert checks(validated(settings, one, ordinary(day(1))), settings)["readings"].severity is WARN
    assert checks(validated(settings, one), settings)["mean_low"].severity is WARN


def test_a_run_that_publishes_nothing_fails_with_what_was_refused_why_and_what_to_do(settings: Settings) -> None:
    bad = [row("x", day(0), low=999.0, high=None), row("b", day(0), low=999.0, high=None), row("c", day(0))]
    failure = refusal(SPEC, validated(settings, bad), delivered="s.csv: low is renamed.")
    fix = failure.metadata["fix"].value
    assert failure.description == (
        f"{SPEC.name} was refused. {day(0)}: 2 of 3 rows (66.7%) break the contract; 50.0% may. Fix: {fix}"
    )
    assert f"assets/sources/{SPEC.name}.py" in str(fix)


def test_where_no_row_came_the_failure_says_what_the_delivery_said(settings: Settings) -> None:
    report = replace(validated(settings, ordinary(day(0))), rows_in=0, published=[], refused=[REFUSAL])
    failure = refusal(SPEC, report, delivered="s.csv: low is renamed.")
    assert str(failure.description).startswith(
        f"{SPEC.name} was refused. No row was there to check: s.csv: low is renamed. {day(0)}: rows is 0. Fix: "
    )
