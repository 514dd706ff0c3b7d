"""Bulk scoring gives the service's own numbers, day by day, and says of each row that has none why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pilotage.errors import InvalidRequest, ModelNotReady, UnpublishedData
from pilotage.features.state import microseconds
from pilotage.runtime.bulk import champion_predictor, score_rows
from pilotage.runtime.plan import Assignment, Plan
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.state import OnlineState
from tests.unit.monitoring.served_world import World


def by_day(world: World) -> None:
    """The orders as a daily source publishes them."""
    orders = world.orders.with_columns(pl.col("ordered_at").dt.date().alias("day"))
    world.lake.replace_days("validated/daily", orders, orders["day"].unique().to_list(), note={})
    world.spec = world.spec.model_copy(update={"source": "daily"})


def scores(world: World) -> pl.DataFrame:
    return world.lake.scan("scores/tiny").collect().sort("order_id")


@pytest.mark.parametrize("with_state", [True, False])
def test_the_scores_are_the_services_to_the_bit(tmp_path: Path, with_state: bool) -> None:
    world = World(tmp_path, with_state=with_state)
    served = {each.prepared.request["order_id"]: each for each in world.serve(range(60))}
    report = score_rows(world.spec, world.predictor, lake=world.lake, days=None, run_id="run")
    assert (report.rows, report.scored, report.errors) == (60, 60, {})
    for row in scores(world).iter_rows(named=True):
        one = served[row["order_id"]]
        assert np.float64(row["probability"]).tobytes() == np.float64(one.probability).tobytes()
        assert (row["decision"], row["referred"]) == (one.decision, one.referred)
        assert (microseconds(row["moment"]) if row["moment"] else None) == one.prepared.moment
        assert row["version"] == 1


def test_a_day_is_replaced_when_it_is_scored_again_and_other_days_stay(tmp_path: Path) -> None:
    world = World(tmp_path)
    by_day(world)
    days = world.lake.days("validated/daily")
    score_rows(world.spec, world.predictor, lake=world.lake, days=None, run_id="run")
    first = scores(world)
    again = score_rows(world.spec, Predictor(world.bundle, 2), lake=world.lake, days=days[:1], run_id="run")
    assert again.days == days[:1]
    after = scores(world)
    assert after.drop("version").equals(first.drop("version"))
    assert after.filter(pl.col("version") == 2)["day"].unique().to_list() == days[:1]


def test_probabilities_in_the_band_are_referred_to_a_person(tmp_path: Path) -> None:
    world = World(tmp_path)
    banded = Predictor(replace(world.bundle, refer_between=(0.0, 1.0)), 1)
    report = score_rows(world.spec, banded, lake=world.lake, days=None, run_id="run")
    assert report.referred == 60
    assert scores(world)["decision"].null_count() == 60


def test_a_row_that_no_request_could_look_like_has_its_reason_instead_of_a_score(tmp_path: Path) -> None:
    world = World(tmp_path)
    orders = world.orders.with_columns(
        amount=pl.when(pl.col("order_id") == "A-3").then(-5.0).otherwise("amount"),
        shop=pl.when(pl.col("order_id") == "A-4").then(None).otherwise("shop"),
    )
    world.lake.replace("validated/orders", orders, note={})
    report = score_rows(world.spec, world.predictor, lake=world.lake, days=None, run_id="run")
    assert (report.rows, report.scored) == (60, 58)
    assert sorted(error.split(":")[0] for error in report.errors) == ["amount", "shop"]
    without = scores(world).filter(pl.col("error").is_not_null())
    assert without["order_id"].to_list() == ["A-3", "A-4"]
    assert without["probability"].null_count() == 2


def test_a_source_that_lacks_a_request_column_is_refused_as_a_whole(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.lake.replace("validated/orders", world.orders.drop("amount"), note={})
    with pytest.raises(InvalidRequest, match="amount is missing"):
        score_rows(world.spec, world.predictor, lake=world.lake, days=None, run_id="run")
    assert not world.lake.exists("scores/tiny")


def test_days_that_nobody_published_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    by_day(world)
    with pytest.raises(UnpublishedData, match="2030-01-01"):
        score_rows(world.spec, world.predictor, lake=world.lake, days=[date(2030, 1, 1)], run_id="run")


def test_the_champion_scores_and_a_killed_model_does_not(tmp_path: Path) -> None:
    world = World(tmp_path)
    when = datetime(2024, 1, 1, tzinfo=UTC)
    champion = Assignment(
        version=4,
        role="champion",
        bundle=str(tmp_path / "bundle"),
        bundle_sha256=world.bundle.sha256,
        sequence=1,
        since=when,
        trained_at=when,
    )
    bundles = world.settings.bundles
    predictor = champion_predictor(Plan(model="tiny", sequence=1, champion=champion), "tiny", bundles=bundles)
    assert (predictor.version, predictor.bundle.sha256) == (4, world.bundle.sha256)
    assert (bundles / "tiny" / "4" / "manifest.json").exists()
    with pytest.raises(ModelNotReady, match="is killed: a bad week"):
        champion_predictor(Plan(model="tiny", sequence=2, killed="a bad week"), "tiny", bundles=bundles)
    with pytest.raises(ModelNotReady, match="no champion"):
        champion_predictor(None, "tiny", bundles=bundles)


def test_the_online_store_and_the_lake_are_the_same_state_to_the_predictor(tmp_path: Path) -> None:
    from pilotage.runtime.bulk import LakeState

    world = World(tmp_path)
    online = OnlineState(world.store)
    offline = LakeState(world.lake, world.bundle, world.lake.versions(["validated/stock"]))
    requests = world.orders.select(world.predictor.contract.schema.names())
    assert offline.attach(requests, world.bundle).equals(online.attach(requests, world.bundle))
    assert offline.through == online.through
    online.close()
