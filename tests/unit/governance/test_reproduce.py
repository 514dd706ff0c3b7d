"""A registered version, built again from its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.data.erasing import erase
from pilotage.data.lake import Lake
from pilotage.errors import NotReproducible
from pilotage.governance import reproduce as room
from pilotage.governance.reproduce import Library, Reproduction, reproduce
from pilotage.governance.whom import by_columns
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.spec import CostMatrix, Feature, HashSplit, Kpi, ModelSpec, Retraining
from pilotage.training.candidates import train_candidates
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble
from pilotage.training.records import Candidate
from pilotage.training.refit import refit
from tests.unit.training.conftest import parcel_spec, parcels, publish, untimed_spec

SPEC = parcel_spec()
ROWS = parcels(40)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, SPEC, ROWS)
    return lake


def trained(lake: Lake, folder: Path, spec: ModelSpec = SPEC, *, refitted: bool = False, **values: Any) -> Candidate:
    """A version as the lineage makes it."""
    config = TrainConfig.from_values(values)
    rows = assemble(spec, lake=lake, config=config, directory=folder)
    candidate = train_candidates(spec, rows, config=config, directory=folder, threads=1)
    return refit(spec, rows, candidate, config=config, directory=folder, threads=1) if refitted else candidate


def bundle_of(candidate: Candidate) -> Bundle:
    return read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256)


def again(lake: Lake, candidate: Candidate, folder: Path, spec: ModelSpec = SPEC) -> Reproduction:
    return reproduce(
        spec,
        bundle_of(candidate),
        made={"policy": candidate.policy, "git_commit": "abc1234"},
        lake=lake,
        directory=folder / "again",
        threads=2,
    )


VARIANTS = [{"name": "all"}, {"name": "young", "half_life_days": 5.0}]


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"seed": 7, "rounds": 9, "params": {"max_depth": 3}, "calibration": "isotonic"},
        {"calibration": "none", "data": {"first": "2024-03-05", "last": "2024-04-06", "half_life_days": 9}},
        {"split": {"holdout_days": 5, "calibration_days": 4, "embargo_days": 2, "folds": 0}},
        {"early_stopping_rounds": 3, "rounds": 60},
        {"tuning": {"trials": 3}},
        {"variants": VARIANTS, "choose_on": 0.5},
    ],
    ids=["declared", "params", "data", "split", "early stopping", "tuned", "variants"],
)
def test_a_version_comes_out_the_same_byte_for_byte(
    lake: Lake, tmp_path: Path, values: Mapping[str, Any], refitted: bool
) -> None:
    candidate = trained(lake, tmp_path, refitted=refitted, **values)
    before = lake.version("features/parcel_late")
    found = again(lake, candidate, tmp_path)
    assert found.files == dict.fromkeys(found.files, True)
    assert (found.same, found.same_rows, found.largest_difference, found.libraries) == (True, True, 0.0, ())
    assert found.rows == found.rows_now > 0
    assert found.golden_rows == 20
    assert lake.version("features/parcel_late") == before


def test_data_without_a_time_is_divided_as_it_was_then(tmp_path: Path) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), untimed_spec()
    publish(lake, spec, ROWS)
    candidate = trained(lake, tmp_path, spec)
    changed = untimed_spec(split=HashSplit(calibration=0.3, holdout=0.2, salt="another", folds=2))
    assert again(lake, candidate, tmp_path, changed).same


def test_the_record_counts_and_not_what_is_declared_now(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path, refitted=True)
    now = parcel_spec(
        trainer=SPEC.trainer.model_copy(update={"rounds": 5, "params": {"max_depth": 2}, "calibration": "isotonic"}),
        split=SPEC.split.model_copy(update={"holdout": timedelta(days=3)}),
        label=SPEC.label.model_copy(update={"expr": ~pl.col("late")}),
    )
    assert again(lake, candidate, tmp_path, now).same


def test_rows_that_came_later_change_nothing(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path)
    publish(lake, SPEC, parcels(50, seed=3))
    assert again(lake, candidate, tmp_path).same


def test_it_tells_which_file_is_another_one(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path)
    cost = CostMatrix(true_positive=1, false_positive=2, true_negative=0, false_negative=3)
    found = again(lake, candidate, tmp_path, parcel_spec(kpi=Kpi(name="Cost", unit="EUR", cost=cost)))
    assert [name for name, same in found.files.items() if not same] == ["decision.json"]
    assert (found.same, found.largest_difference) == (False, 0.0)


def test_a_label_that_was_changed_where_it_was_only_judged_is_not_the_same(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path)
    newest = pl.col("sent_at") == pl.col("sent_at").max()
    other = Lake(str(tmp_path / "other"))
    publish(other, SPEC, ROWS.with_columns(late=pl.col("late") ^ newest))
    found = again(other, candidate, tmp_path)
    assert set(found.files.values()) == {True}
    assert (found.rows_now, found.same_rows, found.same) == (found.rows, False, False)


def test_it_tells_how_far_apart_the_answers_are(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = trained(lake, tmp_path)
    fitted = room.train
    monkeypatch.setattr(
        room,
        "train",
        lambda *args, config, **kwargs: fitted(*args, config=config.model_copy(update={"seed": 99}), **kwargs),
    )
    found = again(lake, candidate, tmp_path)
    assert not found.files["model.txt"]
    assert 0 < found.largest_difference < 1


@pytest.mark.parametrize("refitted", [False, True])
def test_days_that_were_withdrawn_before_the_training_are_left_out_again(
    lake: Lake, tmp_path: Path, refitted: bool
) -> None:
    days = sorted(ROWS["day"].unique())
    lake.replace_days("validated/parcels", ROWS.filter(pl.col("day") != days[3]), days, note={})
    candidate = trained(lake, tmp_path, refitted=refitted)
    left_out = {"first": None, "last": None, "without": ["2024-03-04"], "known_by": None}
    assert bundle_of(candidate).manifest["training"]["cut"] == left_out
    lake.replace_days("validated/parcels", ROWS.filter(pl.col("day") == days[3]), [days[3]], note={})
    found = again(lake, candidate, tmp_path)
    assert (found.same_rows, found.same, found.rows) == (True, True, 39 * 60)


def test_labels_that_were_not_known_then_are_left_out_again(lake: Lake, tmp_path: Path) -> None:
    days, number = sorted(ROWS["day"].unique()), pl.col("parcel_id")
    to_come = (pl.col("day") == days[-1]) | (number % 50 == 0)
    publish(
        lake,
        SPEC,
        ROWS.with_columns(
            delivered_at=pl.when(to_come).then(datetime(2999, 1, 1, tzinfo=UTC)).otherwise("delivered_at")
        ),
    )
    candidate = trained(lake, tmp_path)
    cut = bundle_of(candidate).manifest["training"]["cut"]
    assert cut["without"] == [days[-1].isoformat()]
    assert cut["known_by"] is not None
    found = again(lake, candidate, tmp_path)
    assert (found.same_rows, found.same, found.rows) == (True, True, ROWS.filter(~to_come).height)


@pytest.mark.parametrize("values", [{}, {"data": {"first": "2024-03-02", "last": "2024-04-08"}}])
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_model_in_another_zone_than_the_days_of_its_source_comes_out_the_same(
    tmp_path: Path, zone: str, values: dict[str, Any]
) -> None:
    """The rows of the first and of the last day are all of one half of it, so its local day is another one."""
    lake, spec = Lake(str(tmp_path / "lake")), parcel_spec(time_zone=zone)
    hour = pl.col("sent_at").dt.hour()
    publish(lake, spec, ROWS.filter((hour < 4) if zone.startswith("America") else (hour >= 15)))
    candidate = trained(lake, tmp_path, spec, **values)
    found = again(lake, candidate, tmp_path, spec)
    assert (found.same_rows, found.same) == (True, True)


def test_the_window_of_then_counts_and_not_the_one_that_is_declared_now(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path)
    now = parcel_spec(retraining=Retraining(window=timedelta(days=30)))
    assert again(lake, candidate, tmp_path, now).same


def test_a_record_that_does_not_say_which_days_were_read_goes_by_those_of_its_rows(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path, data={"first": "2024-03-05"})
    recorded = bundle_of(candidate)
    del recorded.manifest["training"]["cut"]
    assert reproduce(SPEC, recorded, made={}, lake=lake, directory=tmp_path / "again", threads=1).same


def test_libraries_that_are_others_now_are_named(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = trained(lake, tmp_path)
    recorded = bundle_of(candidate)
    known = recorded.manifest["training"]["libraries"]
    recorded.manifest["training"]["libraries"] = {**known, "polars": "0.20.1", "no-such-library": "1.0"}
    found = reproduce(SPEC, recorded, made={}, lake=lake, directory=tmp_path / "again", threads=1)
    assert found.libraries == (
        Library(name="polars", then="0.20.1", now=known["polars"]),
        Library(name="no-such-library", then="1.0", now=""),
    )


def test_features_that_are_declared_otherwise_now_are_named_before_anything_is_done(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path)
    features = (*SPEC.features[:-1], Feature(name="hour", expr=pl.lit(1, pl.Int64), description="Hour"))
    with pytest.raises(NotReproducible, match="parcel_late are declared otherwise now") as error:
        again(lake, candidate, tmp_path, parcel_spec(features=features))
    assert "git commit: abc1234" in str(error.value)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("what", ["*/*.parquet", "_delta_log/*"])
def test_a_table_that_was_vacuumed_or_is_gone_is_told(lake: Lake, tmp_path: Path, what: str) -> None:
    candidate = trained(lake, tmp_path)
    gone = list((tmp_path / "lake" / "features" / "parcel_late").glob(what))
    assert gone
    for each in gone:
        each.unlink()
    with pytest.raises(NotReproducible, match="does not have version 0 of features/parcel_late any more"):
        again(lake, candidate, tmp_path)


@pytest.mark.parametrize(
    ("without", "told"),
    [("seed", "says nothing of its seed"), ("lake_versions", "says nothing of its lake versions")],
)
def test_a_record_that_says_too_little_is_told(lake: Lake, tmp_path: Path, without: str, told: str) -> None:
    recorded = bundle_of(trained(lake, tmp_path))
    facts = {name: fact for name, fact in recorded.manifest["training"].items() if name != without}
    with pytest.raises(NotReproducible, match=told):
        reproduce(
            SPEC,
            replace(recorded, manifest={**recorded.manifest, "training": facts}),
            made={},
            lake=lake,
            directory=tmp_path / "again",
            threads=1,
        )


def test_a_version_of_another_table_is_told(lake: Lake, tmp_path: Path) -> None:
    recorded = bundle_of(trained(lake, tmp_path))
    facts = {**recorded.manifest["training"], "lake_versions": {"validated/parcels": 0}}
    with pytest.raises(NotReproducible, match="which version of features/parcel_late"):
        reproduce(
            SPEC,
            replace(recorded, manifest=json.loads(json.dumps({**recorded.manifest, "training": facts}))),
            made={},
            lake=lake,
            directory=tmp_path / "again",
            threads=1,
        )


def test_rows_that_were_erased_since_are_told_and_no_backup_is_asked_for(lake: Lake, tmp_path: Path) -> None:
    candidate = trained(lake, tmp_path)
    rows = lake.scan("features/parcel_late").collect()
    somebody = rows.row(0, named=True)[SPEC.entity[0]]
    erase(lake, "features/parcel_late", by_columns({SPEC.entity[0]: somebody}), note={})
    with pytest.raises(NotReproducible, match="were of somebody who was erased") as error:
        again(lake, candidate, tmp_path)
    assert "backup" not in str(error.value)
