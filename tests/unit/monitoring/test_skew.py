"""Served features are computed again from the lake as it was, and every difference is found and named."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.skew import probabilities_check
from pilotage.errors import BundleCorrupt
from pilotage.monitoring.predictions import move_log
from pilotage.monitoring.skew import EXAMPLES, SkewReport, check_skew, released_bundles, same_values
from pilotage.runtime.bundle import Bundle
from pilotage.testing.bundles import make_bundle
from pilotage.testing.service import release_bundle
from tests.unit.monitoring.served_world import World, stock


def check(world: World, **options: Any) -> SkewReport:
    return check_skew(world.spec, settings=world.settings, lake=world.lake, bundles=lambda _: world.bundle, **options)


def test_what_was_served_is_what_the_lake_gives_feature_by_feature(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(40))
    report = check(world)
    assert (report.predictions, report.sampled, report.skewed) == (40, 40, [])
    assert {each.feature: each.compared for each in report.features} == {f.name: 40 for f in world.spec.features}
    assert (report.probabilities, report.other_probabilities, report.not_comparable) == (40, (), {})


def test_a_feature_that_was_served_differently_is_found_and_named_with_both_values(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(10), segment=1)
    served = world.serve(range(10, 12), segment=2, per_item=1.25)
    report = check(world)
    assert report.skewed == ["per_item"]
    [first, _] = report.differences
    assert (first.prediction_id, first.served) == ("p00010", 1.25)
    assert first.recomputed == served[0].prepared.features["per_item"]
    # Its probability was of the right features, and is not compared as if it had been of the wrong ones.
    assert (report.probabilities, report.other_probabilities) == (10, ())


def test_one_bit_is_a_difference_and_a_feature_that_was_not_served_is_one_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    [scored] = world.serve(range(1), segment=1)
    world.settings.prediction_log.joinpath(next(world.settings.prediction_log.iterdir())).unlink()
    world.serve(
        range(1), segment=2, amount=float(np.nextafter(scored.prepared.features["amount"], 1e9)), stock_level=None
    )
    assert check(world).skewed == ["amount", "stock_level"]


def test_a_probability_that_its_features_do_not_give_is_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(5))
    other = World(tmp_path / "other")
    report = check_skew(
        world.spec, settings=world.settings, lake=world.lake, bundles=lambda _: _recalibrated(world.bundle, other)
    )
    assert report.skewed == []
    assert len(report.other_probabilities) == 5


def test_a_decision_that_does_not_follow_from_its_probability_is_found_up_to_the_tie(tmp_path: Path) -> None:
    world = World(tmp_path)
    served = sorted(each.probability for each in world.serve(range(20)))
    low, high = served[0], served[-1]

    def otherwise(**declared: Any) -> int:
        bundle = replace(world.bundle, **declared)
        report = check_skew(world.spec, settings=world.settings, lake=world.lake, bundles=lambda _: bundle)
        assert (report.skewed, report.other_probabilities) == ([], ())
        assert probabilities_check(report).passed == (not report.other_decisions)
        return len(report.other_decisions)

    assert otherwise() == 0
    found = {at: otherwise(threshold=at) for at in (low, high, float(np.nextafter(high, 1)))}
    assert found == {at: sum((each >= at) != (each >= world.bundle.threshold) for each in served) for at in found}
    assert any(found.values())
    assert otherwise(refer_between=(low, high)) == sum(low <= each < high for each in served)


def _recalibrated(bundle: Bundle, other: World) -> Bundle:
    from pilotage.runtime.scorer import Calibrator

    other.bundle.scorer.calibrator = Calibrator("sigmoid", [1.2], [0.0])
    return replace(bundle, scorer=other.bundle.scorer)


def test_a_correction_that_came_later_is_no_difference_since_the_lake_is_read_as_it_was(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(10), segment=1)
    world.publish(stock(80, level=1000))
    world.serve(range(10, 20), segment=2)
    report = check(world)
    assert report.skewed == []
    assert report.compared == 20 * len(world.spec.features)


def test_staleness_is_how_far_the_state_was_behind_the_moment(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(stock(1))
    world.serve(range(4))
    stale = check(world).staleness
    assert stale is not None
    assert stale.largest_s == timedelta(minutes=37 * 3).total_seconds()
    assert stale.median_s == timedelta(minutes=37 * 1.5).total_seconds()
    fresh = World(tmp_path / "fresh", with_state=False)
    fresh.serve(range(4))
    assert check(fresh).staleness is None


def test_without_its_state_record_only_what_depends_on_the_state_cannot_be_compared_and_that_is_said(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    scored = world.serve(range(3), segment=1)
    [path] = [p for p in world.settings.prediction_log.iterdir() if p.suffix == ".sealed"]
    path.unlink()
    from pilotage.pseudonyms import Pseudonyms
    from tests.unit.monitoring.logs import write_segment

    keys = Pseudonyms.of(world.settings)
    write_segment(world.settings.prediction_log, [world.record(n, each, keys, {}) for n, each in enumerate(scored)])
    report = check(world)
    blind = {each.feature: each.not_comparable for each in report.features if each.not_comparable}
    assert blind == {"stock_level": 3}
    assert report.not_comparable == {"the state that its as-of features are from is not in the log": 3}
    assert (report.skewed, report.probabilities) == ([], 0)


def test_a_version_of_the_lake_that_is_gone_is_said_and_not_taken_for_a_difference(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(3))
    world.publish(stock(3))
    from deltalake import DeltaTable

    table = DeltaTable(f"{world.settings.lake}/validated/stock")
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    report = check(world)
    assert report.skewed == []
    [(reason, rows)] = report.not_comparable.items()
    assert reason.startswith("its as-of features can't be computed again")
    assert rows == 3


@pytest.mark.parametrize("personal", [("courier",), ("order_id", "courier"), ("shop",)])
def test_personal_fields_are_taken_from_the_lake_by_entity_and_compared(
    tmp_path: Path, personal: tuple[str, ...]
) -> None:
    world = World(tmp_path, personal=personal)
    world.serve(range(20))
    report = check(world)
    assert (report.skewed, report.not_comparable) == ([], {})
    assert all(each.compared == 20 for each in report.features)
    assert report.probabilities == 20


def test_a_personal_value_that_is_not_the_lakes_is_reported_as_not_comparable_with_all_that_depends_on_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, personal=("shop",))
    world.serve(range(4))
    moved = world.orders.with_columns(shop=pl.lit("nowhere"))
    world.lake.replace("validated/orders", moved, note={})
    report = check(world)
    blind = {each.feature: each.not_comparable for each in report.features if each.not_comparable}
    assert blind == {"shop": 4, "stock_level": 4}
    assert report.not_comparable == {"shop is personal, and no row of validated/orders has the value that was sent": 4}
    assert report.skewed == []


def test_without_the_key_nothing_personal_is_compared_and_no_key_is_made(tmp_path: Path) -> None:
    world = World(tmp_path, personal=("courier",))
    world.serve(range(4))
    world.settings.pseudonym_key.unlink()
    report = check(world)
    assert [each.feature for each in report.features if each.not_comparable] == ["courier"]
    assert "no key" in next(iter(report.not_comparable))
    assert not world.settings.pseudonym_key.exists()


def test_the_sample_is_bounded_and_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(30), amount=-1.0)
    drawn = [{d.prediction_id for d in check(world, sample=6, seed=seed).differences} for seed in (1, 1, 2)]
    assert len(drawn[0]) == EXAMPLES
    assert drawn[0] == drawn[1] != drawn[2]
    assert check(world, sample=6).sampled == 6


def test_moved_predictions_are_checked_like_those_that_still_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(10), segment=1)
    move_log(world.settings, world.lake, models={"tiny": world.spec}, quiet_s=0)
    world.serve(range(10, 20), segment=2, express=True)
    report = check(world)
    assert report.sampled == 20
    assert report.skewed == ["express"]
    assert {each.prediction_id >= "p00010" for each in report.differences} == {True}


def test_answers_that_no_version_gave_are_not_in_the_sample(tmp_path: Path) -> None:
    from tests.unit.monitoring.logs import prediction, write_segment

    world = World(tmp_path)
    ruled = prediction(90, version=None, answered_by="rule", features=None)
    again = prediction(91, answered_by="cached_answer", features=None)
    write_segment(world.settings.prediction_log, [ruled, again], number=3)
    report = check(world)
    assert (report.predictions, report.compared, report.skewed) == (0, 0, [])


def test_the_bundles_are_those_that_the_ledger_knows_and_a_broken_one_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(range(3))
    release_bundle(world.settings, "tiny", tmp_path / "bundle", world.bundle.sha256, version=1)
    bundles = released_bundles("tiny", world.settings)
    assert bundles(1).sha256 == world.bundle.sha256
    (tmp_path / "bundle" / "model.txt").write_text("broken")
    make_bundle(world.settings.bundles / "tiny" / "1", spec=world.spec)
    assert released_bundles("tiny", world.settings)(1).sha256 == world.bundle.sha256
    (world.settings.bundles / "tiny" / "1" / "model.txt").unlink()
    with pytest.raises(BundleCorrupt):
        released_bundles("tiny", world.settings)(1)
    report = check_skew(world.spec, settings=world.settings, lake=world.lake)
    assert report.skewed == []
    assert next(iter(report.not_comparable)).startswith("version 1 can't be read")
    assert all(each.not_comparable == 3 for each in report.features)


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1.0]))] * 2), max_size=8))
def test_numbers_are_the_same_if_their_bits_are_or_if_neither_is_a_finite_number(
    pairs: list[tuple[float | None, float | None]],
) -> None:
    one, other = (pl.Series([pair[side] for pair in pairs], dtype=pl.Float64) for side in (0, 1))

    def finite(value: float | None) -> bool:
        return value is not None and np.isfinite(value)

    expected = [
        (not finite(a) and not finite(b))
        or (finite(a) and finite(b) and np.float64(a).tobytes() == np.float64(b).tobytes())
        for a, b in pairs
    ]
    assert same_values(one, other).tolist() == expected
