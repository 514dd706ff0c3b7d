"""The real year of 2013, landed, ingested and validated: what is noticed, what is kept out, what is left in peace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.sources import load_sources
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.report import ValidationReport
from pilotage.data.sample import publish_flights, publish_loans, publish_reference, publish_weather
from pilotage.data.validate import validate
from pilotage.settings import Settings

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)
YEAR = [FIRST + timedelta(days=number) for number in range(365)]
STORM = [date(2013, 2, 8), date(2013, 2, 9)]
SOURCES = load_sources()

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Year:
    lake: Lake
    reports: dict[str, ValidationReport]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    publish_flights(settings.landing, first=FIRST, last=LAST)
    publish_weather(settings.landing, first=FIRST, last=LAST)
    publish_reference(settings.landing)
    publish_loans(settings.loans)
    lake = Lake(settings.lake)
    reports = {}
    for name, spec in SOURCES.items():
        days = YEAR if spec.daily else None
        ingest(spec, lake=lake, settings=settings, days=days, run_id="year")
        reports[name] = validate(spec, lake=lake, reports=settings.reports, days=days, run_id="year")
    return Year(lake, reports)


def missed(report: ValidationReport) -> dict[date | None, list[str]]:
    found: dict[date | None, list[str]] = {}
    for result in report.expectations:
        if not result.met:
            found.setdefault(result.batch, []).append(result.name)
    return found


def test_the_storm_is_noticed_by_its_cancellations_and_its_missing_labels(year: Year) -> None:
    results = {(result.batch, result.name): result for result in year.reports["flights"].expectations}

    for day in STORM:
        for name in ("cancelled", "labelled"):
            assert not results[day, name].met
        assert results[day, "departures"].met, "row counts look normal: that is why they are not enough"
        assert results[day, "late"].met, "and so does the late rate, since cancelled flights have none"
    first = results[STORM[0], "cancelled"]
    assert first.value == pytest.approx(0.5075, abs=1e-4)
    assert first.high is not None
    assert first.high < 0.17


def test_the_storm_is_published_since_it_is_true(year: Year) -> None:
    verdicts = year.lake.scan("verdict/flights", first=STORM[0], last=STORM[1]).sort("day").collect()

    assert verdicts["status"].to_list() == ["passed", "passed"]
    assert all(len(warnings) == 2 for warnings in verdicts["warnings"])
    assert set(STORM) <= set(year.lake.days("validated/flights"))


def test_only_days_of_real_disruption_raise_an_alarm(year: Year) -> None:
    """14 of 365 days: the storm; snow on 6 and 8 March; thunderstorms on 23 May and 12 September; 7 October, on which
    nearly half of the flights were late; Thanksgiving, the emptiest day; and a December of snow and ice."""
    assert sorted(day.strftime("%m-%d") for day in missed(year.reports["flights"]) if day) == [
        "02-08", "02-09", "03-06", "03-08", "05-23", "09-12", "10-07", "11-28",
        "12-05", "12-08", "12-09", "12-10", "12-14", "12-17",
    ]  # fmt: skip


def test_every_flight_of_the_year_is_published_once(year: Year) -> None:
    report = year.reports["flights"]

    assert (report.rows_in, report.rows_published, report.rows_quarantined) == (336_776, 336_776, 0)
    assert (len(report.published), report.refused, report.empty) == (365, [], [])
    assert year.lake.scan("validated/flights").select(pl.col("flight_id").n_unique()).collect().item() == 336_776


def test_midnight_written_as_2400_is_a_time_like_any_other(year: Year) -> None:
    midnight = (pl.col("dep_time") == 2400) | (pl.col("arr_time") == 2400)
    ids = (
        year.lake.scan("raw/flights")
        .filter(midnight)
        .select(pl.format("{}/{}/{}/{}", "day", "carrier", "flight", "origin").alias("flight_id"))
    )

    published = year.lake.scan("validated/flights").join(ids, on="flight_id", how="semi").collect()

    assert published.height == 29 + 150
    assert published["cancelled"].sum() == 0


def test_the_wind_of_1048_mph_and_the_frost_in_may_are_kept_out_and_nothing_else(year: Year) -> None:
    held = year.lake.scan("quarantine/weather").sort("observed_at").collect()

    assert held.select("origin", "observed_at", "reasons").rows() == [
        ("EWR", datetime(2013, 2, 12, 8, tzinfo=UTC), ["wind_speed: 1048.36 is not in [0, 150]"]),
        (
            "JFK",
            datetime(2013, 5, 9, 2, tzinfo=UTC),
            ["temp: is 25 °F or more away from the readings before and after it"],
        ),
    ]
    assert held["temp"].to_list() == [39.02, 13.1]
    assert held["source_file"].to_list() == ["weather_2013-02-12.csv.gz", "weather_2013-05-08.csv.gz"]
    assert year.reports["weather"].rows_published == 26_115 - 2


def test_31_december_without_weather_is_noticed_and_stops_nothing(year: Year) -> None:
    report = year.reports["weather"]

    assert (report.empty, report.refused) == ([LAST], [])
    assert missed(report)[LAST] == ["readings", "airports"]
    assert year.lake.days("validated/weather") == YEAR[:-1]
    assert year.lake.scan("verdict/weather", first=LAST).collect()["status"].to_list() == ["empty"]


def test_short_days_of_weather_are_noticed_and_ordinary_ones_are_not(year: Year) -> None:
    """25 October, 2 November and 30 December end early; 23 January and 9 April turned cold and warm overnight; and on
    31 January it blew a gale."""
    assert sorted(day.strftime("%m-%d") for day in missed(year.reports["weather"]) if day) == [
        "01-23", "01-31", "04-09", "10-25", "11-02", "12-30", "12-31",
    ]  # fmt: skip


def test_loans_with_sentinels_are_kept_out_each_with_its_reason(year: Year) -> None:
    report = year.reports["loans"]
    held = year.lake.scan("quarantine/loans").collect()

    assert (report.rows_in, report.rows_published, report.rows_quarantined) == (1_989, 1_973, 16)
    assert Counter(held["reasons"].explode().to_list()) == {
        "liquid_assets: 1000000 is not in [0, 50000]": 9,
        "term_months: 999999 is not in [0, 480]": 4,
        "credit_lines: 999999 is not in [0, 200]": 1,
        "meets_guidelines: 666 is not one of 0, 1": 2,
    }
    assert missed(report) == {}


@pytest.mark.parametrize(("name", "rows"), [("planes", 3_322), ("airports", 1_458), ("airlines", 16)])
def test_the_registers_are_published_whole(year: Year, name: str, rows: int) -> None:
    report = year.reports[name]

    assert (report.rows_published, report.rows_quarantined) == (rows, 0)
    assert missed(report) == {}


def test_a_day_alone_has_the_same_rows_kept_out_as_in_the_year(year: Year, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    may = date(2013, 5, 8)
    lake.replace_days("raw/weather", year.lake.scan("raw/weather", first=may, last=may).collect(), [may], note={})

    report = validate(SOURCES["weather"], lake=lake, reports=tmp_path, days=[may], run_id="alone")

    assert report.rows_quarantined == 1


Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture
def after(year: Year, tmp_path: Path) -> Iterator[Callable[[Change], ValidationReport]]:
    """Validates an ordinary Monday as it would be with a change, in a lake of its own."""
    monday = date(2013, 6, 3)

    def run(change: Change) -> ValidationReport:
        lake = Lake(str(tmp_path / "lake"))
        rows = year.lake.scan("raw/flights", first=monday, last=monday).collect()
        lake.replace_days("raw/flights", change(rows), [monday], note={})
        return validate(SOURCES["flights"], lake=lake, reports=tmp_path, days=[monday], run_id="changed")

    yield run


def test_an_airline_that_nobody_knows_is_published_with_a_warning(
    after: Callable[[Change], ValidationReport],
) -> None:
    report = after(lambda rows: rows.with_columns(carrier=pl.col("carrier").replace("UA", "ZZ")))

    assert report.rows_quarantined == 0
    assert list(missed(report).values()) == [["unknown_carriers"]]
    assert len(report.published) == 1


def test_a_day_that_was_exported_before_its_evening_is_refused(after: Callable[[Change], ValidationReport]) -> None:
    report = after(lambda rows: rows.filter(pl.col("sched_dep_time") < 1400))

    assert report.published == []
    assert report.refused[0].reason.startswith("hours_unreported of 2013-06-03 is 11, above 6")


def test_a_day_without_its_arrivals_is_refused(after: Callable[[Change], ValidationReport]) -> None:
    nothing = pl.lit(None, dtype=pl.Int64)

    report = after(lambda rows: rows.with_columns(arr_delay=nothing, arr_time=nothing, air_time=nothing))

    assert report.refused[0].reason.startswith("labelled_of_departed of 2013-06-03 is 0, below 0.8")


def test_a_day_of_which_one_row_in_ten_has_impossible_values_is_refused(
    after: Callable[[Change], ValidationReport],
) -> None:
    tenth = pl.int_range(pl.len()) % 10 == 0

    report = after(lambda rows: rows.with_columns(distance=pl.when(tenth).then(-1).otherwise(pl.col("distance"))))

    assert "break the contract; 5.0% may" in report.refused[0].reason
    rule = next(rule for rule in report.contract if rule.failures)
    assert (rule.column, rule.rule, len(rule.examples)) == ("distance", "in [1, 10000]", 10)
