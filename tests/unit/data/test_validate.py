"""One validation from raw rows to what downstream can read."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from pilotage.data.declared import rules
from pilotage.data.lake import Commit, Lake
from pilotage.data.report import ValidationReport
from pilotage.data.source import SourceSpec
from pilotage.data.validate import validate
from pilotage.errors import ExpectationFailed, StorageFull, UnpublishedData
from tests.unit.data.readings import (
    COUNT,
    MEAN,
    contract,
    day,
    delivered,
    land,
    ordinary,
    prepare,
    reference,
    row,
    rows_of,
    source,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return tmp_path / "reports"


def run(
    lake: Lake, reports: Path, spec: SourceSpec | None = None, days: list[date] | None = None, run_id: str = "r1"
) -> ValidationReport:
    return validate(spec or source(), lake=lake, reports=reports, days=days, run_id=run_id)


def test_rows_that_pass_are_published_and_the_others_are_kept_with_all_their_reasons(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): [*ordinary(day(0)), row("x", day(0), low=999.0, high=60.0)]})

    report = run(lake, reports)

    assert (report.rows_in, report.rows_published, report.rows_quarantined) == (4, 3, 1)
    assert report.published == [day(0)]
    assert [each["sensor"] for each in rows_of(lake, "validated/readings")] == ["a", "b", "c"]
    assert rows_of(lake, "quarantine/readings") == [
        {
            "sensor": "x", "low": 999.0, "high": 60.0, "day": day(0), "twice": 120.0,
            "source_file": "readings_2024-03-01.csv", "source_sha256": "5e" * 32, "unparsed": [],
            "reasons": [
                "sensor: x is not one of a, b, c, d", "low: 999 is not in [-50, 150]", "high: is below low",
            ],
        }
    ]  # fmt: skip
    assert report.sample == rows_of(lake, "quarantine/readings")
    assert report.schema == {"sensor": "String", "low": "Float64", "high": "Float64", "day": "Date", "twice": "Float64"}


def test_published_rows_carry_nothing_of_the_platform(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0))})

    run(lake, reports)

    assert lake.schema("validated/readings").names() == ["sensor", "low", "high", "day", "twice"]


def test_more_bad_rows_than_tolerated_refuse_the_day_and_no_other(lake: Lake, reports: Path) -> None:
    bad = [row("a", day(1)), row("b", day(1), low=999.0, high=None), row("c", day(1), low=999.0, high=None)]
    land(lake, {day(0): ordinary(day(0)), day(1): bad, day(2): ordinary(day(2))})

    report = run(lake, reports)

    assert report.published == [day(0), day(2)]
    (refusal,) = report.refused
    assert (refusal.batch, refusal.withdrawn) == (day(1), False)
    assert refusal.reason == "2 of 3 rows (66.7%) break the contract; 50.0% may"
    assert lake.days("validated/readings") == [day(0), day(2)]
    held = rows_of(lake, "quarantine/readings")
    assert [each["reasons"][-1] for each in held] == [f"batch: {refusal.reason}"] * 3
    assert held[1]["reasons"][0] == "low: 999 is not in [-50, 150]"


def test_exactly_the_tolerated_share_is_tolerated(lake: Lake, reports: Path) -> None:
    rows = [*ordinary(day(0))[:2], row("x", day(0)), row("x", day(0))]
    land(lake, {day(0): rows})

    assert run(lake, reports, source(tolerated=0.5)).published == [day(0)]
    assert run(lake, reports, source(tolerated=0.49)).published == []


def test_a_blocking_expectation_keeps_the_whole_day_out(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0)), day(1): [row("a", day(1))]})

    report = run(lake, reports)

    assert lake.days("validated/readings") == [day(0)]
    assert report.refused[0].reason == (
        "readings of 2024-03-02 is 1, below 2 (as declared). Two sensors report at least."
    )
    assert rows_of(lake, "quarantine/readings")[0]["reasons"] == [f"batch: {report.refused[0].reason}"]


def test_a_day_that_was_not_delivered_is_told_apart_from_one_that_was_cut(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0)), day(1): [row("a", day(1))]})

    report = run(lake, reports, days=[day(0), day(1), day(2)])

    reasons = {refusal.batch: refusal.reason for refusal in report.refused}
    assert reasons[day(1)].startswith("readings of 2024-03-02 is 1, below 2")
    assert reasons[day(2)].startswith("raw/readings has no row of 2024-03-03. readings of 2024-03-03 is 0, below 2")


def test_a_warning_is_said_and_the_day_is_published(lake: Lake, reports: Path) -> None:
    land(lake, {day(number): ordinary(day(number), shift=40.0 if number == 9 else 0.0) for number in range(10)})

    report = run(lake, reports)

    assert lake.days("validated/readings") == [day(number) for number in range(10)]
    (missed,) = [result for result in report.expectations if not result.met]
    assert (missed.name, missed.batch, missed.severity) == ("mean_low", day(9), "warn")
    verdict = rows_of(lake, "verdict/readings")[9]
    assert (verdict["status"], verdict["warnings"]) == ("passed", [missed.message])


def test_what_was_refused_cannot_be_read_in_any_later_run(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0)), day(1): [row("a", day(1))]})
    run(lake, reports)

    land(lake, {day(2): ordinary(day(2))})
    run(lake, reports, days=[day(2)])

    assert lake.days("validated/readings") == [day(0), day(2)]


def test_a_refused_day_stays_in_the_report_until_it_passes(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0)), day(1): [row("a", day(1))]})
    assert run(lake, reports).refused_days == [day(1)]

    later = run(lake, reports, days=[day(0)])
    assert (later.refused, later.refused_days) == ([], [day(1)])

    land(lake, {day(1): ordinary(day(1))})
    assert run(lake, reports, days=[day(1)]).refused_days == []


def test_nothing_is_published_when_no_batch_passes(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): [row("a", day(0))]})

    report = run(lake, reports)

    assert report.version is None
    with pytest.raises(UnpublishedData, match="validated/readings"):
        lake.scan("validated/readings")


def test_a_corrected_day_that_fails_is_withdrawn_since_the_older_rows_are_known_to_be_wrong(
    lake: Lake, reports: Path
) -> None:
    land(lake, {day(0): ordinary(day(0)), day(1): ordinary(day(1))})
    run(lake, reports)
    land(lake, {day(1): [row("a", day(1))]})

    report = run(lake, reports, days=[day(1)])

    assert lake.days("validated/readings") == [day(0)]
    assert report.refused[0].withdrawn
    first, second = rows_of(lake, "verdict/readings")
    assert (first["status"], first["withdrawn"]) == ("passed", False)
    assert (second["status"], second["withdrawn"]) == ("refused", True)


def test_a_day_that_is_corrected_again_comes_back_and_leaves_the_quarantine(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): [row("a", day(0))]})
    run(lake, reports)
    land(lake, {day(0): ordinary(day(0))})

    run(lake, reports, days=[day(0)])

    assert lake.days("validated/readings") == [day(0)]
    assert rows_of(lake, "quarantine/readings") == []


def test_a_refused_whole_table_leaves_the_one_before_it_published(lake: Lake, reports: Path) -> None:
    good = delivered(ordinary(day(0)), file_day=None)
    lake.replace("raw/readings", good, note={})
    version = run(lake, reports, reference()).version
    lake.replace("raw/readings", good.head(1), note={})

    report = run(lake, reports, reference())

    assert report.refused[0].batch is None
    assert (report.published, report.rows_published, report.version) == ([], 0, version)
    assert lake.scan("validated/readings").collect()["sensor"].to_list() == ["a", "b", "c"]
    assert lake.scan("verdict/readings").collect()["status"].to_list() == ["refused"]


def test_an_empty_whole_table_is_never_published(lake: Lake, reports: Path) -> None:
    lake.replace("raw/readings", delivered([], file_day=None), note={})

    report = run(lake, reports, reference(expectations=()))

    assert (report.published, report.refused, report.empty) == ([], [], [None])
    assert not lake.exists("validated/readings")


@pytest.mark.parametrize("asked", [None, [day(0), day(1), day(2)]])
def test_a_day_that_was_never_delivered_is_noticed(lake: Lake, reports: Path, asked: list[date] | None) -> None:
    land(lake, {day(0): ordinary(day(0)), day(2): ordinary(day(2))})
    warning = COUNT.model_copy(update={"severity": "warn"})

    report = run(lake, reports, source(expectations=(warning, MEAN)), days=asked)

    assert report.empty == [day(1)]
    (missed,) = [result for result in report.expectations if not result.met]
    assert (missed.batch, missed.value) == (day(1), 0.0)
    assert rows_of(lake, "verdict/readings")[1]["reason"] == "no row passes"


def test_a_day_that_was_never_delivered_is_refused_where_that_blocks(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0))})

    report = run(lake, reports, days=[day(0), day(1)])

    assert [refusal.batch for refusal in report.refused] == [day(1)]


def test_validating_again_changes_no_row(lake: Lake, reports: Path) -> None:
    land(lake, {day(number): [*ordinary(day(number)), row("x", day(number))] for number in range(9)})
    stable = {
        "validated/readings": [],
        "quarantine/readings": [],
        "profile/readings": [],
        "verdict/readings": ["checked_at"],
    }
    run(lake, reports)
    before = {table: rows_of(lake, table, without=dropped) for table, dropped in stable.items()}

    run(lake, reports)
    run(lake, reports, days=[day(4)])

    assert {table: rows_of(lake, table, without=dropped) for table, dropped in stable.items()} == before


def test_a_run_over_many_days_finds_what_a_run_a_day_finds(tmp_path: Path) -> None:
    days = {day(number): ordinary(day(number), shift=40.0 if number in (9, 10) else 0.0) for number in range(11)}
    days[day(4)] = [row("a", day(4))]
    found = {}
    for name in ("at once", "day by day"):
        lake, reports = Lake(str(tmp_path / name)), tmp_path / f"reports of {name}"
        land(lake, days)
        for some in [list(days)] if name == "at once" else [[each] for each in days]:
            run(lake, reports, days=some)
        found[name] = [rows_of(lake, "profile/readings"), rows_of(lake, "validated/readings")]

    assert found["at once"] == found["day by day"]
    assert [each["day"] for each in found["at once"][0] if each["unmet"]] == [day(4), day(9), day(10)]


def test_a_day_validated_alone_is_judged_by_the_days_before_it_and_none_after(lake: Lake, reports: Path) -> None:
    land(lake, {day(number): ordinary(day(number), shift=0.0 if number < 10 else 100.0) for number in range(20)})
    run(lake, reports)

    report = run(lake, reports, days=[day(9)])

    (mean,) = [result for result in report.expectations if result.name == "mean_low"]
    assert mean.met
    assert mean.high is not None
    assert mean.high < 60


def test_the_profile_has_a_row_a_batch_with_each_number_and_its_band(lake: Lake, reports: Path) -> None:
    land(lake, {day(number): ordinary(day(number)) for number in range(8)})

    run(lake, reports)

    last = rows_of(lake, "profile/readings")[-1]
    assert (last["day"], last["passed"], last["unmet"], last["readings"]) == (day(7), True, [], 3.0)
    assert (last["readings_low"], last["readings_high"]) == (2.0, None)
    assert last["mean_low_low"] <= last["mean_low"] <= last["mean_low_high"]


def test_a_new_expectation_joins_the_profile_of_the_days_before_it(lake: Lake, reports: Path) -> None:
    land(lake, {day(number): ordinary(day(number)) for number in range(3)})
    run(lake, reports, source(expectations=(COUNT,)), days=[day(0), day(1)])

    run(lake, reports, source(expectations=(COUNT, MEAN)), days=[day(2)])

    profile = rows_of(lake, "profile/readings")
    assert [each["mean_low"] is None for each in profile] == [True, True, False]


def test_the_verdict_names_the_run_and_the_raw_version_it_read(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0))})
    land(lake, {day(0): ordinary(day(0))})

    run(lake, reports, run_id="nightly-7")

    (verdict,) = rows_of(lake, "verdict/readings", without=["checked_at"])
    assert verdict == {
        "day": day(0), "status": "passed", "rows": 3, "broken": 0, "reason": None, "warnings": [], "withdrawn": False,
        "run_id": "nightly-7", "raw_version": 1, "rules": rules(source()),
    }  # fmt: skip
    commit = lake.history("validated/readings", 1)[0]
    assert (commit["run_id"], commit["raw_version"]) == ("nightly-7", "1")


def test_days_that_were_published_by_another_prepare_or_contract_are_told_until_they_are_validated_again(
    lake: Lake, reports: Path
) -> None:
    def doubled(delivered: pl.LazyFrame) -> pl.LazyFrame:
        return prepare(delivered).with_columns(pl.col("low") * 2)

    def stricter() -> Any:
        return contract().add_columns({"twice": pa.Column(pl.Float64, nullable=True)})

    land(lake, {day(number): ordinary(day(number)) for number in range(3)})
    assert run(lake, reports).days_by_other_rules == []
    for changed in (source(prepare=doubled), source(contract=stricter)):
        assert run(lake, reports, changed, days=[day(2)]).days_by_other_rules == [day(0), day(1)]
        assert run(lake, reports, changed).days_by_other_rules == []


def test_other_names_and_comments_in_prepare_change_no_rules() -> None:
    def named_otherwise(rows: pl.LazyFrame) -> pl.LazyFrame:
        # The same.
        return prepare(rows)

    assert rules(source(prepare=named_otherwise)) == rules(source())
    assert rules(source(prepare=lambda rows: prepare(rows).drop("twice"))) != rules(source())


def test_a_prepare_that_fails_still_has_rules_so_that_the_other_sources_load() -> None:
    def broken(raw: pl.LazyFrame) -> pl.LazyFrame:
        raise TypeError(raw)

    assert rules(source(prepare=broken)) != rules(source())


def test_a_source_without_expectations_needs_no_great_expectations(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0))})

    report = run(lake, reports, source(expectations=()))

    assert (report.published, report.expectations, report.docs) == ([day(0)], [], None)
    assert not reports.exists()


def test_an_expectation_that_cannot_be_evaluated_publishes_nothing(lake: Lake, reports: Path) -> None:
    land(lake, {day(0): ordinary(day(0))})
    broken = COUNT.model_copy(update={"sql": "avg(nowhere)"})

    with pytest.raises(ExpectationFailed, match="Expectation readings of readings"):
        run(lake, reports, source(expectations=(broken,)))

    assert lake.tables() == ["raw/readings"]
    assert list(reports.rglob("*")) == []


class LakeWithoutRoom(Lake):
    """A lake whose disk is full for one table."""

    def __init__(self, uri: str, full: str) -> None:
        super().__init__(uri)
        self.full = full

    def replace_days(self, table: str, *args: Any, **kwargs: Any) -> Commit:
        if table == self.full:
            raise StorageFull(f"No room is left to write {table}.", fix="Free space.")
        return super().replace_days(table, *args, **kwargs)


@pytest.mark.parametrize("room", ["quarantine", "profile", "verdict", "validated"])
def test_a_full_disk_at_any_step_publishes_nothing_and_the_next_run_mends_it(
    lake: Lake, reports: Path, room: str
) -> None:
    land(lake, {day(0): ordinary(day(0))})
    run(lake, reports)
    published = rows_of(lake, "validated/readings")
    land(lake, {day(0): [*ordinary(day(0), shift=1.0), row("x", day(0))]})

    with pytest.raises(StorageFull):
        run(LakeWithoutRoom(lake.uri, f"{room}/readings"), reports)

    assert rows_of(lake, "validated/readings") == published
    run(lake, reports)
    assert rows_of(lake, "validated/readings") != published
    assert len(rows_of(lake, "quarantine/readings")) == 1


def test_nothing_to_validate_is_said(lake: Lake, reports: Path) -> None:
    with pytest.raises(UnpublishedData, match="raw/readings"):
        run(lake, reports)
    land(lake, {day(0): ordinary(day(0))})
    with pytest.raises(UnpublishedData, match="no day of readings to validate"):
        run(lake, reports, days=[])


def test_the_day_of_a_source_may_have_another_name(lake: Lake, reports: Path) -> None:
    def prepare(frame: pl.LazyFrame) -> pl.LazyFrame:
        return source().prepare(frame).rename({"day": "measured_on"})

    def contract() -> Any:
        import pandera.polars as pa

        return pa.DataFrameSchema({"measured_on": pa.Column(pl.Date)})

    changes = {"prepare": prepare, "contract": contract, "key": ("sensor", "measured_on")}
    spec = source(**changes, daily=source().daily.model_copy(update={"column": "measured_on"}))
    land(lake, {day(0): ordinary(day(0))})

    run(lake, reports, spec)

    assert lake.days("validated/readings") == [day(0)]
    assert {each["measured_on"] for each in rows_of(lake, "validated/readings")} == {day(0)}
