"""What ``build_features`` writes to the lake, and when it writes more or less than it was asked for."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import DataError, DeclarationError, UnpublishedData
from pilotage.features import build
from pilotage.features.build import build_features, features_fingerprint
from pilotage.features.online import build_online
from pilotage.features.reading import ValidatedRows
from pilotage.features.store import OnlineStore
from pilotage.features.view import FeatureView
from pilotage.spec import (
    CostMatrix,
    Fallback,
    Feature,
    Gate,
    HashSplit,
    Kpi,
    Label,
    Latest,
    ModelSpec,
    RequestField,
    TimeSplit,
    Window,
)

UTC_TIME = pl.Datetime("us", "UTC")
DAYS = [date(2013, 1, 1) + timedelta(days=n) for n in range(5)]


def spec(**changes: object) -> ModelSpec:
    declared: dict[str, object] = {
        "name": "spoilage",
        "title": "Milk that spoils",
        "objective": "Say which batch spoils.",
        "owner": "team:dairy",
        "risk": "minimal",
        "intended_use": "Tests.",
        "limitations": ("None of it is true.",),
        "kpi": Kpi(
            name="Waste",
            unit="litres",
            cost=CostMatrix(true_positive=0, false_positive=1, true_negative=0, false_negative=1),
        ),
        "source": "batches",
        "entity": ("batch",),
        "event_time": "filled_at",
        "predicts_at": pl.col("filled_at") - pl.duration(hours=1),
        "request": (
            RequestField(name="batch", dtype=pl.Int64, description="Number.", example=1),
            RequestField(name="farm", dtype=pl.String, description="Farm.", example="north"),
            RequestField(name="filled_at", dtype=UTC_TIME, description="When.", example="2013-01-01T10:00:00Z"),
        ),
        "label": Label(name="spoiled", expr=pl.col("acid") > 5, known_at="tested_at", description="Too sour."),
        "asof": (
            Window(name="spoiled_2d", source="batches", on={"farm": "farm"}, known_at="tested_at",
                   over=timedelta(days=2), aggregate="mean", value=pl.col("acid") > 5),
            Latest(name="farm_info", source="farms", on={"farm": "farm"}, columns={"cows": pl.Int64}),
        ),
        "features": (
            Feature(name="farm", expr=pl.col("farm"), description="Farm"),
            Feature(name="record", expr=pl.col("spoiled_2d"), description="Record"),
            Feature(name="cows", expr=pl.col("farm_info_cows"), description="Cows"),
        ),
        "split": TimeSplit(calibration=timedelta(days=1), holdout=timedelta(days=1), embargo=timedelta(0)),
        "gate": Gate(),
        "fallback": Fallback(rule=pl.lit(0.1), reason="Milk mostly keeps."),
    }  # fmt: skip
    return ModelSpec(**(declared | changes))


def batches(days: list[date], *, acid: int = 3) -> pl.DataFrame:
    """Four batches a day, two a farm; tested a day and a half later, the last one never."""
    rows = []
    for day in days:
        for hour in range(4):
            filled = datetime(day.year, day.month, day.day, 6 + hour, tzinfo=UTC)
            rows.append({
                "batch": day.toordinal() * 10 + hour,
                "farm": "north" if hour % 2 else "south",
                "filled_at": filled,
                "tested_at": None if hour == 3 else filled + timedelta(hours=36),
                "acid": None if hour == 3 else acid + 4 * (hour == 1),
                "day": day,
            })  # fmt: skip
    schema = {"batch": pl.Int64, "farm": pl.String, "filled_at": UTC_TIME, "tested_at": UTC_TIME, "acid": pl.Int64,
              "day": pl.Date}  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    lake.replace_days("validated/batches", batches(DAYS), DAYS, note={})
    lake.replace("validated/farms", pl.DataFrame({"farm": ["north", "west"], "cows": [40, 3]}), note={})
    return lake


def stored(lake: Lake) -> pl.DataFrame:
    return lake.scan("features/spoilage").sort("batch").collect()


def test_the_table_has_entity_request_times_label_as_of_columns_features_and_day(lake: Lake) -> None:
    report = build_features(spec(), lake=lake, days=None, run_id="run-1")

    frame = stored(lake)
    assert frame.schema == {
        "batch": pl.Int64(), "farm": pl.String(), "filled_at": UTC_TIME, "day": pl.Date(), "label": pl.Boolean(),
        "event_time": UTC_TIME, "label_known_at": UTC_TIME, "spoiled_2d": pl.Float64(), "farm_info_cows": pl.Int64(),
        "record": pl.Float64(), "cows": pl.Int64(),
    }  # fmt: skip
    assert frame.get_column("label").to_list()[:4] == [False, True, False, None]
    assert (report.rows, report.labelled, report.days, report.missing) == (20, 15, DAYS, [])
    assert report.null_rates["farm"] == 0
    assert report.null_rates["cows"] == 0.5
    assert report.versions == {"validated/batches": 0, "validated/farms": 0}
    assert report.column_schema["record"] == "Float64"


def test_a_feature_knows_only_the_tests_that_were_back_by_its_prediction_moment(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")

    north = stored(lake).filter(pl.col("farm") == "north", pl.col("filled_at").dt.hour() == 7)
    # The batch of 7:00 is tested at 19:00 of the next day, so the next day's batch can't know of it.
    assert north.get_column("record").to_list() == [None, None, 1.0, 1.0, 1.0]


def test_the_commit_says_which_run_which_definition_and_which_versions_were_read(lake: Lake) -> None:
    report = build_features(spec(), lake=lake, days=None, run_id="run-1")

    note = lake.history("features/spoilage")[0]
    assert note["run_id"] == "run-1"
    assert note["feature_fingerprint"] == FeatureView(spec()).fingerprint == report.fingerprint
    assert json.loads(note["versions"]) == report.versions
    assert features_fingerprint(lake, "spoilage") == report.fingerprint


def test_only_the_days_asked_for_are_replaced(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    lake.replace_days("validated/batches", batches([DAYS[1], DAYS[4]], acid=6), [DAYS[1], DAYS[4]], note={})

    report = build_features(spec(), lake=lake, days=[DAYS[4]], run_id="run-2")

    labels = stored(lake).group_by("day", maintain_order=True).agg(pl.col("label").sum()).get_column("label").to_list()
    assert report.days == [DAYS[4]]
    assert labels == [1, 1, 1, 1, 3]


def test_days_built_apart_hold_what_one_build_of_all_holds(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    whole = stored(lake)
    for day in reversed(DAYS):
        build_features(spec(), lake=lake, days=[day], run_id="run-2")

    assert stored(lake).equals(whole)


def test_a_fact_that_became_known_long_after_its_day_is_found(lake: Lake) -> None:
    late = pl.col("filled_at").dt.hour() == 7
    first_day = batches([DAYS[0]]).with_columns(
        tested_at=pl.when(late).then(datetime(2013, 1, 5, 4, tzinfo=UTC)).otherwise("tested_at"),
        acid=pl.when(late).then(pl.lit(0, pl.Int64)).otherwise("acid"),
    )
    lake.replace_days("validated/batches", first_day, [DAYS[0]], note={})

    build_features(spec(), lake=lake, days=[DAYS[4]], run_id="run-1")

    # Known in the two days before: two sour batches of the second and third day, and the good one of the first.
    north = stored(lake).filter(pl.col("farm") == "north").get_column("record").to_list()
    assert north == [2 / 3, 2 / 3]


def test_days_that_can_not_matter_are_not_read(lake: Lake) -> None:
    validated = ValidatedRows(
        lake, FeatureView(spec()).lookups, lake.versions(["validated/batches", "validated/farms"])
    )
    since, until = datetime(2013, 1, 3, tzinfo=UTC), datetime(2013, 1, 4, 18, tzinfo=UTC)

    # Tested a day and a half later: the second and the third day.
    read = validated.read("batches", since, until).collect()
    assert read.get_column("day").unique().sort().to_list() == DAYS[1:3]
    assert validated.read("batches", None, until).collect().height == 12
    assert validated.read("farms", since, until).collect().height == 2
    assert validated.newest() == {"batches": datetime(2013, 1, 6, 20, tzinfo=UTC)}
    assert validated.lags() == {"batches": timedelta(days=1, hours=20)}


def test_a_reference_look_up_beside_a_timed_one_is_the_same_however_it_is_built(lake: Lake, tmp_path: Path) -> None:
    """Only the last day knows the farm in the east; what always was known is known to every day."""
    lake.replace_days(
        "validated/tests",
        batches(DAYS).with_columns(farm=pl.when(pl.col("day") == DAYS[4]).then(pl.lit("east")).otherwise("farm")),
        DAYS,
        note={},
    )
    both = spec(asof=(
        Window(name="tests_2d", source="tests", on={"farm": "farm"}, known_at="tested_at", over=timedelta(days=2),
               aggregate="count"),
        Latest(name="any", source="tests", on={"farm": "farm"}, columns={"batch": pl.Int64}),
    ), features=(Feature(name="any", expr=pl.col("any_batch"), description="Any"),))  # fmt: skip
    east = batches(DAYS).with_columns(farm=pl.lit("east"))
    lake.replace_days("validated/batches", east, DAYS, note={})

    build_features(both, lake=lake, days=None, run_id="run-1")
    whole = stored(lake)
    for day in DAYS:
        build_features(both, lake=lake, days=[day], run_id="run-2")
    assert whole.get_column("any").null_count() == 0
    assert stored(lake).equals(whole)

    path = tmp_path / "online.db"
    build_online(both, lake=lake, path=path, run_id="run-3")
    view = FeatureView(both)
    with OnlineStore.open(path) as store:
        answers = view.online(whole.select(view.request_types.keys()), store)
    assert answers.select("tests_2d", "any").equals(whole.select("tests_2d", "any"))


def test_building_twice_changes_no_row(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=DAYS, run_id="run-1")
    before = stored(lake)
    build_features(spec(), lake=lake, days=DAYS, run_id="run-2")

    assert stored(lake).equals(before)


def test_a_withdrawn_day_is_withdrawn_from_the_features(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    lake.replace_days("validated/batches", batches([]), [DAYS[2]], note={})

    report = build_features(spec(), lake=lake, days=[DAYS[2]], run_id="run-2")

    assert (report.days, report.missing, report.rows) == ([DAYS[2]], [DAYS[2]], 0)
    assert DAYS[2] not in stored(lake).get_column("day")


@pytest.mark.parametrize("changed", [False, True])
def test_a_build_of_all_days_withdraws_those_that_are_not_published_any_more(lake: Lake, changed: bool) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    lake.replace_days("validated/batches", batches([]), [DAYS[2]], note={})

    fewer = spec(features=(Feature(name="farm", expr=pl.col("farm"), description="Farm"),))
    report = build_features(fewer if changed else spec(), lake=lake, days=None, run_id="run-2")

    assert (report.days, report.missing, report.rows) == (DAYS, [DAYS[2]], 16)
    assert lake.days("features/spoilage") == [day for day in DAYS if day != DAYS[2]]


def test_a_source_all_of_whose_days_were_withdrawn_has_no_features(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    lake.replace_days("validated/batches", batches([]), DAYS, note={})

    report = build_features(spec(), lake=lake, days=None, run_id="run-2")

    assert (report.missing, report.rows, lake.days("features/spoilage")) == (DAYS, 0, [])


def test_days_that_were_never_published_are_refused_by_name(lake: Lake) -> None:
    with pytest.raises(UnpublishedData, match="validated/batches has no rows of 2013-02-01") as refusal:
        build_features(spec(), lake=lake, days=[date(2013, 2, 1)], run_id="run-1")

    assert "batches" in refusal.value.fix
    assert not lake.exists("features/spoilage")


def test_a_source_without_validated_rows_is_named(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.replace_days("validated/batches", batches(DAYS), DAYS, note={})

    with pytest.raises(UnpublishedData, match="validated/farms"):
        build_features(spec(), lake=lake, days=None, run_id="run-1")


def test_a_changed_definition_rebuilds_every_day_so_that_one_table_never_mixes_two(lake: Lake) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    # Another type under the same name, and one feature less.
    changed = spec(
        features=(
            Feature(name="farm", expr=pl.col("farm"), description="Farm"),
            Feature(name="record", expr=pl.col("spoiled_2d") > 0.5, description="Record"),
        )
    )

    report = build_features(changed, lake=lake, days=[DAYS[0]], run_id="run-2")

    frame = stored(lake)
    assert report.rebuilt
    assert report.days == DAYS
    assert frame.get_column("day").n_unique() == 5
    assert frame.schema["record"] == pl.Boolean()
    assert "cows" not in frame.columns
    assert features_fingerprint(lake, "spoilage") == FeatureView(changed).fingerprint
    # The table still has its days, so the next day is replaced alone.
    assert build_features(changed, lake=lake, days=[DAYS[0]], run_id="run-3").days == [DAYS[0]]
    assert stored(lake).equals(frame)


def test_data_without_a_time_is_built_as_one_table(lake: Lake) -> None:
    lake.replace("validated/batches_all", batches(DAYS).drop("day"), note={})
    timeless = spec(
        name="spoilage",
        source="batches_all",
        event_time=None,
        predicts_at=None,
        label=Label(name="spoiled", expr=pl.col("acid") > 5, known_at=None, description="Too sour."),
        asof=(),
        features=(Feature(name="farm", expr=pl.col("farm"), description="Farm"),),
        split=HashSplit(calibration=0.2, holdout=0.2),
    )
    for run in ("run-1", "run-2"):
        report = build_features(timeless, lake=lake, days=None, run_id=run)

    assert (report.rows, report.days, report.labelled) == (20, [], 15)
    assert stored(lake).columns == ["batch", "farm", "filled_at", "label"]
    assert stored(lake).height == 20


@pytest.mark.parametrize("name", ["label", "event_time", "label_known_at", "day"])
def test_a_feature_with_the_name_of_a_platform_column_is_refused(lake: Lake, name: str) -> None:
    clash = spec(features=(Feature(name=name, expr=pl.col("spoiled_2d"), description="Clash"),))

    with pytest.raises(DeclarationError, match=f"a column is called {name}"):
        build_features(clash, lake=lake, days=None, run_id="run-1")


def test_a_row_without_a_prediction_moment_stops_the_build(lake: Lake) -> None:
    rows = batches([DAYS[0]]).with_columns(filled_at=pl.lit(None, UTC_TIME))
    lake.replace_days("validated/batches", rows, [DAYS[0]], note={})

    with pytest.raises(DataError, match="4 of 20 rows have no prediction moment"):
        build_features(spec(), lake=lake, days=None, run_id="run-1")
    assert not lake.exists("features/spoilage")


def test_a_column_that_a_source_does_not_have_is_named(lake: Lake) -> None:
    lake.replace("validated/farms", pl.DataFrame({"farm": ["north"], "goats": [1]}), note={})

    with pytest.raises(DataError, match="Source farms has no column cows"):
        build_features(spec(), lake=lake, days=None, run_id="run-1")


def test_a_build_in_several_parts_holds_what_one_part_holds(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    whole = stored(lake)
    lake.replace_days("features/spoilage", whole.clear(), DAYS, note={})
    monkeypatch.setattr(build, "PART_DAYS", 2)

    told: list[str] = []
    report = build_features(spec(), lake=lake, days=None, run_id="run-2", progress=told.append)

    assert stored(lake).equals(whole)
    assert told[-1] == "features/spoilage: 20 rows, 3 of 3 parts"
    assert (report.rows, report.labelled, report.null_rates["cows"]) == (20, 15, 0.5)
    assert report.lake_version == lake.version("features/spoilage")


def test_a_part_holds_no_more_rows_than_memory_is_meant_for(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PART_ROWS", 7)  # Four rows a day: every day is a part of its own.

    told: list[str] = []
    build_features(spec(), lake=lake, days=None, run_id="run-1", progress=told.append)

    assert told[-1] == "features/spoilage: 20 rows, 5 of 5 parts"


def test_a_rebuild_that_stopped_half_way_is_done_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    build_features(spec(), lake=lake, days=None, run_id="run-1")
    changed = spec(features=(Feature(name="farm", expr=pl.col("farm"), description="Farm"),))
    monkeypatch.setattr(build, "PART_DAYS", 2)

    def stop(sentence: str) -> None:
        if "1 of 3" in sentence:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_features(changed, lake=lake, days=None, run_id="run-2", progress=stop)
    assert features_fingerprint(lake, "spoilage") != FeatureView(changed).fingerprint

    report = build_features(changed, lake=lake, days=[DAYS[4]], run_id="run-3")
    assert report.rebuilt
    assert stored(lake).height == 20
    assert features_fingerprint(lake, "spoilage") == FeatureView(changed).fingerprint
