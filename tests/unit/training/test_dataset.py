"""The training set: the labelled rows, frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import ConfigError, TrainingError, UnpublishedData
from pilotage.features.build import build_features
from pilotage.features.view import FeatureView
from pilotage.spec import Feature, Label, Retraining
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble, read_set, set_columns
from pilotage.training.records import Cut, TrainingSet
from tests.unit.training.conftest import START, parcel_spec, parcels, publish, untimed_spec

SPEC = parcel_spec()


def assembled(lake: Lake, folder: Path, spec: object = SPEC, **values: object) -> TrainingSet:
    return assemble(spec, lake=lake, config=TrainConfig.from_values(values), directory=folder)


def test_it_holds_the_labelled_rows_in_order_with_every_column(
    lake: Lake, tmp_path: Path, told: tuple[list[str], Callable[[str], None]]
) -> None:
    rows = parcels(10).with_columns(late=pl.when(pl.col("parcel_id") % 5 != 0).then("late"))
    publish(lake, SPEC, rows.sample(fraction=1.0, shuffle=True, seed=1))
    heard, progress = told
    made = assemble(SPEC, lake=lake, config=TrainConfig(), directory=tmp_path / "run", progress=progress)
    frame = read_set(made)
    assert frame.columns == set_columns(SPEC)
    assert frame["parcel_id"].to_list() == rows.filter(pl.col("late").is_not_null())["parcel_id"].to_list()
    assert (made.rows, made.positives) == (480, int(frame["label"].sum()))
    assert (made.first, made.last) == (date(2024, 3, 1), date(2024, 3, 10))
    assert made.lake_versions == {"features/parcel_late": lake.version("features/parcel_late")}
    assert made.feature_fingerprint == FeatureView(SPEC).fingerprint
    assert made.sha256 == hashlib.sha256(Path(made.path).read_bytes()).hexdigest()
    assert heard[0].startswith("480 labelled rows, ")


def test_the_same_rows_give_the_same_bytes_however_they_were_written(lake: Lake, tmp_path: Path) -> None:
    rows = parcels(8)
    publish(lake, SPEC, rows)
    first = assembled(lake, tmp_path / "one")
    publish(lake, SPEC, rows.sample(fraction=1.0, shuffle=True, seed=2))
    second = assembled(lake, tmp_path / "two")
    assert first.sha256 == second.sha256
    assert first.lake_versions != second.lake_versions


def test_days_are_chosen_inclusively(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(10))
    made = assembled(lake, tmp_path, data={"first": "2024-03-03", "last": "2024-03-05"})
    assert (made.first, made.last, made.rows) == (date(2024, 3, 3), date(2024, 3, 5), 180)


def test_the_retraining_window_counts_back_from_the_newest_day_unless_a_run_says_otherwise(
    lake: Lake, tmp_path: Path
) -> None:
    spec = parcel_spec(retraining=Retraining(window=timedelta(days=4)))
    publish(lake, spec, parcels(10))
    assert assembled(lake, tmp_path / "a", spec).first == date(2024, 3, 7)
    assert assembled(lake, tmp_path / "b", spec, data={"last": "2024-03-08"}).first == date(2024, 3, 5)
    assert assembled(lake, tmp_path / "c", spec, data={"first": "2024-03-02"}).first == date(2024, 3, 2)


def test_an_earlier_version_of_the_features_can_be_chosen(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(6))
    before = lake.version("features/parcel_late")
    publish(lake, SPEC, parcels(9))
    assert assembled(lake, tmp_path / "new").rows == 540
    old = assembled(lake, tmp_path / "old", data={"version": before})
    assert (old.rows, old.lake_versions) == (360, {"features/parcel_late": before})


def test_a_version_gives_the_same_rows_however_many_days_came_after_it(lake: Lake, tmp_path: Path) -> None:
    spec = parcel_spec(retraining=Retraining(window=timedelta(days=4)))
    publish(lake, spec, parcels(6))
    before = lake.version("features/parcel_late")
    then = assembled(lake, tmp_path / "then", spec)
    publish(lake, spec, parcels(10))
    now = assembled(lake, tmp_path / "now", spec, data={"version": before})
    assert (now.first, now.last, now.rows) == (date(2024, 3, 3), date(2024, 3, 6), 240)
    assert now.sha256 == then.sha256


def test_a_source_without_days_is_cut_by_the_local_day_of_event_time(lake: Lake, tmp_path: Path) -> None:
    spec = parcel_spec(time_zone="Asia/Tokyo", retraining=Retraining(window=timedelta(days=4)))
    lake.replace("validated/parcels", parcels(10).drop("day"), note={})
    build_features(spec, lake=lake, days=None, run_id="test")
    span = assembled(lake, tmp_path / "a", spec, data={"first": "2024-03-03", "last": "2024-03-05"})
    assert (span.first, span.last) == (date(2024, 3, 3), date(2024, 3, 5))
    sent = parcels(10)["sent_at"]
    assert (
        span.rows
        == sent.is_between(datetime(2024, 3, 2, 15, tzinfo=UTC), datetime(2024, 3, 5, 14, 59, tzinfo=UTC)).sum()
    )
    # In Tokyo the eleventh has begun.
    window = assembled(lake, tmp_path / "b", spec)
    assert (window.first, window.last) == (date(2024, 3, 8), date(2024, 3, 11))


def test_days_that_were_withdrawn_are_left_out_and_on_record(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(6))
    gone = date(2024, 3, 4)
    lake.replace_days("validated/parcels", parcels(6).clear(), [gone], note={})
    made = assembled(lake, tmp_path / "a")
    assert (made.rows, made.cut) == (300, Cut(without=[gone]))
    later = assembled(lake, tmp_path / "b", data={"first": "2024-03-05"})
    assert later.cut == Cut(first=date(2024, 3, 5))
    as_it_was = assembled(lake, tmp_path / "c", data={"version": lake.version("features/parcel_late")})
    assert (as_it_was.rows, as_it_was.cut) == (360, Cut())
    assert assemble(SPEC, lake=lake, config=TrainConfig(), directory=tmp_path / "d", cut=made.cut).sha256 == made.sha256


def test_a_label_that_is_to_become_known_is_none_and_days_of_which_too_few_are_known_are_left_out(
    lake: Lake, tmp_path: Path, told: tuple[list[str], Callable[[str], None]]
) -> None:
    # What is late is known on the day, and what is not only three days later, as a complaint that nobody made is.
    delivered = pl.when(pl.col("late")).then("delivered_at").otherwise(pl.col("delivered_at") + timedelta(days=3))
    rows = parcels(10).with_columns(delivered_at=delivered)
    publish(lake, SPEC, rows)
    now = datetime(2024, 3, 10, 23, 59, tzinfo=UTC)
    heard, progress = told
    made = assemble(SPEC, lake=lake, config=TrainConfig(), directory=tmp_path / "a", now=now, progress=progress)
    early = [date(2024, 3, 8), date(2024, 3, 9), date(2024, 3, 10)]
    assert made.cut == Cut(without=early, known_by=now)
    known = rows.filter(pl.col("delivered_at") <= now, ~pl.col("day").is_in(early))
    frame = read_set(made)
    assert frame["parcel_id"].to_list() == known["parcel_id"].to_list()
    assert made.last == date(2024, 3, 7)
    assert heard[0].endswith("labels that are not known yet, and 3 days from 2024-03-08 on, of which too few are")
    # Built again from its record, long after, it is the same; without one all is known by then.
    assert assemble(SPEC, lake=lake, config=TrainConfig(), directory=tmp_path / "b", cut=made.cut).sha256 == made.sha256
    assert assembled(lake, tmp_path / "c").cut == Cut()


def test_a_source_without_days_leaves_out_local_days(lake: Lake, tmp_path: Path) -> None:
    spec = parcel_spec(time_zone="Asia/Tokyo")
    lake.replace("validated/parcels", parcels(10).drop("day"), note={})
    build_features(spec, lake=lake, days=None, run_id="test")
    now = datetime(2024, 3, 9, 14, 59, tzinfo=UTC)
    made = assemble(spec, lake=lake, config=TrainConfig(), directory=tmp_path, now=now)
    assert made.cut is not None
    assert made.cut.without == [date(2024, 3, 10), date(2024, 3, 11)]
    assert made.last == date(2024, 3, 9)


def test_data_without_a_time_has_no_days(lake: Lake, tmp_path: Path) -> None:
    spec = untimed_spec()
    publish(lake, spec, parcels(5))
    made = assembled(lake, tmp_path, spec)
    assert (made.first, made.last, made.rows) == (None, None, 300)
    assert "event_time" not in read_set(made).columns


def test_a_model_without_features_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(UnpublishedData, match="features/parcel_late"):
        assembled(lake, tmp_path)


def test_no_label_and_one_class_are_refused_with_what_is_missing(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(4).with_columns(late=pl.lit(None, pl.Boolean)))
    with pytest.raises(TrainingError, match=r"No row of features/parcel_late from the first day .* has a label"):
        assembled(lake, tmp_path)
    publish(lake, SPEC, parcels(4).with_columns(late=pl.lit(value=True)))
    with pytest.raises(TrainingError, match=r"All 240 labels of .* are true: no row has late false"):
        assembled(lake, tmp_path)
    with pytest.raises(TrainingError, match="No row of features/parcel_late from 2030-01-01"):
        assembled(lake, tmp_path, data={"first": "2030-01-01"})
    assert list(tmp_path.glob("training_set*")) == []


def test_an_entity_in_two_rows_is_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(4).with_columns(parcel_id=pl.col("parcel_id").replace(7, 3)))
    with pytest.raises(TrainingError, match="parcel_id=3 stands in 2 rows"):
        assembled(lake, tmp_path)


OTHER_LABEL = Label(name="late", expr=~pl.col("late"), known_at="delivered_at", description="Was on time.")


def test_a_table_never_mixes_the_labels_of_two_definitions(lake: Lake, tmp_path: Path) -> None:
    rows, days = parcels(6), [START.date() + timedelta(days=number) for number in range(6)]
    lake.replace_days("validated/parcels", rows, days, note={})
    build_features(SPEC, lake=lake, days=days[:3], run_id="before")
    changed = parcel_spec(label=OTHER_LABEL)
    with pytest.raises(TrainingError, match="built by another definition of its rows or labels"):
        assemble(changed, lake=lake, config=TrainConfig(), directory=tmp_path)

    report = build_features(changed, lake=lake, days=days[3:4], run_id="after")

    assert (report.rebuilt, report.days) == (True, days)
    built = lake.scan("features/parcel_late").select("parcel_id", "label").collect()
    assert (built.join(rows, on="parcel_id")["late"] != built.join(rows, on="parcel_id")["label"]).all()
    assert assemble(changed, lake=lake, config=TrainConfig(), directory=tmp_path).rows == rows.height


@pytest.mark.parametrize(
    "change",
    [
        {"label": OTHER_LABEL},
        {"label": Label(name="late", expr=pl.col("late"), known_at="sent_at", description="Was late.")},
        {"event_time": "delivered_at"},
        {"entity": ("parcel_id", "depot")},
    ],
    ids=["label", "known_at", "event_time", "entity"],
)
def test_whatever_decides_the_rows_and_their_labels_is_noticed(lake: Lake, change: dict[str, Any]) -> None:
    publish(lake, SPEC, parcels(3))
    assert build_features(parcel_spec(**change), lake=lake, days=None, run_id="after").rebuilt
    assert not build_features(parcel_spec(**change), lake=lake, days=None, run_id="again").rebuilt


def test_features_of_another_definition_are_refused(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(4))
    doubled = Feature(name="weight_2", expr=pl.col("weight") * 2, description="Twice the weight")
    more = parcel_spec(features=(*SPEC.features, doubled))
    with pytest.raises(TrainingError, match="was built by another definition of its features"):
        assembled(lake, tmp_path, more)


def test_a_set_that_was_changed_or_is_gone_is_refused(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(4))
    made = assembled(lake, tmp_path)
    path = Path(made.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"has SHA-256 .* not the recorded"):
        read_set(made)
    with pytest.raises(TrainingError, match="is gone"):
        read_set(replace(made, path=str(tmp_path / "elsewhere.parquet")))


def test_a_run_that_means_nothing_for_the_model_is_refused_before_reading(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no event time"):
        assembled(lake, tmp_path, untimed_spec(), data={"first": "2024-03-01"})


def test_a_second_attempt_replaces_the_file_and_leaves_nothing_else(lake: Lake, tmp_path: Path) -> None:
    publish(lake, SPEC, parcels(4))
    first, second = assembled(lake, tmp_path / "run"), assembled(lake, tmp_path / "run")
    assert first == second
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["training_set.parquet"]
