"""A prediction is traced to its answer, its version and its data; what can't be told is said, and never made up."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.data.erasing import erase
from pilotage.data.lineage import origin, validated_versions
from pilotage.errors import UnknownPrediction, UnpublishedData
from pilotage.governance.whom import by_columns
from pilotage.monitoring.predictions import move_log
from pilotage.monitoring.trace import Trace, trace
from pilotage.pseudonyms import PREFIX
from pilotage.testing.service import register_bundle, release_bundle
from tests.unit.cli.ledgers import append
from tests.unit.monitoring.logs import outcome, prediction, shadow, write_segment
from tests.unit.monitoring.served_world import World, stock
from tests.unit.release.lives import draft

SHA256 = "ab" * 32
FACTS = {"lake_versions": {"features/tiny": 0}, "rows": 60, "first": "2024-01-01", "last": "2024-01-02"}


def released(home: Path, facts: dict[str, Any] | None = None, **options: Any) -> World:
    """A world whose version is in the ledger, and its tables in the lake with the notes that the platform writes."""
    world = World(home, **options)
    delivered = [(date(2024, 1, day), f"orders_{day}.csv", SHA256) for day in (1, 1, 2, 3)]
    raw = pl.DataFrame(delivered, schema=["day", "source_file", "source_sha256"], orient="row")
    world.lake.replace("raw/orders", raw, note={})
    world.lake.replace("validated/orders", world.orders, note={"raw_version": "0"})
    world.lake.replace("features/tiny", world.orders, note={"versions": '{"validated/orders": 1}'})
    register_bundle(
        world.settings, "tiny", home / "bundle", world.bundle.sha256, version=1, facts=FACTS if facts is None else facts
    )
    return world


def of(world: World, prediction_id: str = "p00003") -> Trace:
    return trace(prediction_id, settings=world.settings, lake=world.lake)


@pytest.mark.parametrize("moved", [False, True], ids=["in a segment", "in the lake"])
def test_an_answer_is_traced_to_its_version_its_reasons_and_the_files_of_its_data(tmp_path: Path, moved: bool) -> None:
    world = released(tmp_path)
    scored = world.serve(range(5))[3]
    write_segment(world.settings.prediction_log, [shadow(3), shadow(4), outcome(3, label=True)], number=2)
    if moved:
        move_log(world.settings, world.lake, models={"tiny": world.spec}, quiet_s=0)
    found = of(world)
    assert (found.model, found.prediction["probability"]) == ("tiny", scored.probability)
    assert found.request["amount"] == scored.prepared.request["amount"]
    assert found.features["per_item"] == scored.prepared.features["per_item"]
    assert found.state is not None
    assert found.state["versions"] == {"validated/stock": 0}
    assert [(each["version"], each["probability"]) for each in found.shadows] == [(2, 0.5)]
    assert found.outcome is not None
    assert found.outcome["label"] is True
    assert found.explanation == world.predictor.explain(scored)
    assert found.version is not None
    assert (found.version.bundle_sha256, found.version.stage) == (world.bundle.sha256, "candidate")
    assert [(each.kind, each.actor) for each in found.version.decisions] == [("registered", "test")]
    [came] = found.origins
    assert (came.table, came.version, came.raw_version, found.lost) == ("validated/orders", 1, 0, ())
    days = [date(2024, 1, day) for day in (1, 2)]
    assert [(each.name, each.sha256, each.rows, each.first) for each in came.files] == [
        ("orders_1.csv", SHA256, 2, days[0]),
        ("orders_2.csv", SHA256, 1, days[1]),
    ], "the third day came after the training's last"


def test_each_answer_has_the_state_that_it_was_made_with(tmp_path: Path) -> None:
    world = released(tmp_path)
    world.serve(range(2), segment=1)
    world.publish(stock(80, level=7))
    world.serve(range(2, 4), segment=2)
    states = [of(world, name).state for name in ("p00001", "p00003")]
    assert [state and state["versions"] for state in states] == [{"validated/stock": 0}, {"validated/stock": 1}]


def test_what_was_sent_is_shown_by_its_names_wherever_the_log_put_it(tmp_path: Path) -> None:
    """A field may be called ``id``, and a value may be of another type than its column."""
    world = released(tmp_path, with_state=False)
    sent = [{"id": "x-1", "amount": 7.5, "seats": 4}, {"id": "x-2", "amount": 8.5, "seats": "four"}]
    records = [prediction(number, version=None, answered_by="rule", request=each) for number, each in enumerate(sent)]
    write_segment(world.settings.prediction_log, records)
    move_log(world.settings, world.lake, models={"tiny": world.spec}, quiet_s=0)
    for number, each in enumerate(sent):
        found = of(world, f"p{number:05d}")
        assert {name: found.request[name] for name in each} == each
        assert found.prediction["request_id"] == f"r{number:05d}"


def test_what_was_decided_about_another_version_is_not_among_its_decisions(tmp_path: Path) -> None:
    world = released(tmp_path)
    world.serve(range(4))
    release_bundle(world.settings, "tiny", tmp_path / "bundle", world.bundle.sha256, version=2)
    found = of(world)
    assert found.version is not None
    assert [each.sequence for each in found.version.decisions] == [1]


def test_a_prediction_that_nobody_made_is_told_so(tmp_path: Path) -> None:
    world = released(tmp_path)
    world.serve(range(2))
    with pytest.raises(UnknownPrediction, match="p00003"):
        of(world)


def test_an_answer_that_its_features_do_not_give_is_not_explained(tmp_path: Path) -> None:
    world = released(tmp_path)
    world.serve(range(4), amount=9999.0)
    found = of(world)
    assert found.explanation is None
    assert found.unexplained is not None
    assert "skew.md" in found.unexplained


def test_without_its_bundle_an_answer_is_traced_all_the_same(tmp_path: Path) -> None:
    world = released(tmp_path)
    world.serve(range(4))
    (tmp_path / "bundle" / "model.txt").write_text("tree")
    found = of(world)
    assert found.explanation is None
    assert found.unexplained is not None
    assert "model.txt" in found.unexplained
    assert len(found.origins) == 1


def test_of_an_answer_by_a_rule_there_is_no_version_and_that_is_said(tmp_path: Path) -> None:
    world = released(tmp_path, with_state=False)
    ruled = prediction(3, version=None, stage=None, answered_by="rule", routed_version=None, reasons=("killed",))
    write_segment(world.settings.prediction_log, [ruled])
    found = of(world)
    assert (found.version, found.origins, found.state) == (None, (), None)
    assert found.unexplained == "no model was asked: it was answered by rule"
    assert found.prediction["reasons"] == ["killed"]


def test_a_person_stays_hidden(tmp_path: Path) -> None:
    world = released(tmp_path, personal=("shop",))
    world.serve(range(4))
    found = of(world)
    shop = world.orders.row(3, named=True)["shop"]
    assert found.request["shop"].startswith(PREFIX)
    assert found.explanation is None
    assert found.unexplained is not None
    assert "shop" in found.unexplained
    assert shop not in repr(found)


def test_what_the_lake_has_forgotten_is_said(tmp_path: Path) -> None:
    world = released(tmp_path, facts={**FACTS, "lake_versions": {"features/gone": 3, "validated/stock": 0}})
    world.serve(range(4))
    found = of(world)
    assert found.origins == ()
    assert "features/gone" in found.lost[0]
    assert "validated/stock version 0" in found.lost[1]


def test_a_table_is_traced_as_it_was_at_the_version_that_was_read(tmp_path: Path) -> None:
    world = released(tmp_path)
    lake = world.lake
    lake.replace("raw/orders", pl.DataFrame({"source_file": ["later.csv"], "source_sha256": [SHA256]}), note={})
    lake.replace("validated/orders", world.orders, note={"raw_version": "1"})
    lake.replace("features/tiny", world.orders, note={"versions": '{"validated/orders": 2}'})
    assert validated_versions(lake, "features/tiny", 0) == {"validated/orders": 1}
    assert validated_versions(lake, "features/tiny", 1) == {"validated/orders": 2}
    assert origin(lake, "validated/orders", 1).files[0].name == "orders_1.csv"
    assert [file.name for file in origin(lake, "validated/orders", 2).files] == ["later.csv"]
    unknown = origin(lake, "validated/orders", 0)
    assert (unknown.raw_version, unknown.files) == (None, ())
    assert unknown.missing is not None
    assert "forgotten" in unknown.missing
    with pytest.raises(UnpublishedData):
        validated_versions(lake, "features/none", 0)


def test_what_was_erased_since_is_said(tmp_path: Path) -> None:
    world = released(tmp_path)
    world.serve(range(4))
    erase(world.lake, "raw/orders", by_columns({"source_file": "orders_1.csv"}), note={})
    append(world.settings, draft("erased", model="tiny"))
    [found] = [each for each in of(world).origins if each.table == "validated/orders"]
    assert found.files == ()
    assert "one of its files held rows of somebody who was erased" in str(found.missing)
    with pytest.raises(UnknownPrediction, match="People were erased, and their predictions with them"):
        of(world, "p00099")
