"""What an operator reads of a delivery: each rejected file once by name, with its reason, and what else there is."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import dagster as dg

from assets.delivery import delivery_check
from pilotage.data.ingested import IngestReport, RejectedFile

FIRST = date(2024, 3, 1)


def report(*, rejected: int = 0, missing: int = 0) -> IngestReport:
    files = [
        RejectedFile(name=f"f{number}.csv", day=FIRST, reason=f"f{number}.csv is empty: 0 bytes.", fix="Land it again.")
        for number in range(rejected)
    ]
    return IngestReport(
        source="flights",
        rows=0,
        days=[],
        files=[],
        unchanged=[],
        rejected=files,
        set_aside=[],
        missing_days=[FIRST + timedelta(days=number) for number in range(missing)],
        extra_columns=[],
        version=None,
    )


def test_a_rejected_file_and_a_missing_day_warn_and_name_themselves_once() -> None:
    check = delivery_check(report(rejected=1, missing=1))
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert check.description == "f0.csv is empty: 0 bytes. Nothing was delivered for 2024-03-01."


def test_of_many_rejected_files_the_first_are_told_and_the_others_counted() -> None:
    check = delivery_check(report(rejected=5))
    assert check.description is not None
    assert check.description.endswith("f2.csv is empty: 0 bytes. 2 more files were rejected: see the table.")
    assert check.metadata["rejected_files"].value == 5
    table = check.metadata["rejected"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["file"] for record in table.records] == [f"f{number}.csv" for number in range(5)]


def test_a_missing_day_and_a_column_that_nobody_declared_each_warn_alone() -> None:
    assert not delivery_check(report(missing=1)).passed
    extra = delivery_check(replace(report(), extra_columns=["gate"]))
    assert (extra.passed, extra.description) == (False, "Ignored columns that are not declared: gate.")


def test_a_delivery_without_a_flaw_passes() -> None:
    assert delivery_check(report()).passed
