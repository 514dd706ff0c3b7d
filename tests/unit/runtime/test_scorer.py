"""Encoding and calibration hold for all inputs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import BundleCorrupt
from pilotage.runtime.scorer import Calibrator, encode

PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(PROBABILITIES, st.floats(0.01, 50), st.floats(-20, 20))
def test_a_sigmoid_calibrator_keeps_the_order_and_stays_a_probability(p: list[float], a: float, b: float) -> None:
    applied = Calibrator("sigmoid", [a], [b]).apply(np.array(sorted(p)))
    assert ((applied >= 0) & (applied <= 1)).all()
    assert (np.diff(applied) >= -1e-12).all()


@settings(deadline=None)
@given(PROBABILITIES, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_an_isotonic_calibrator_keeps_the_order_and_stays_within_its_knots(
    p: list[float], knots: list[tuple[float, float]]
) -> None:
    x, y = (sorted(values) for values in zip(*knots, strict=True))
    applied = Calibrator("isotonic", x, y).apply(np.array(sorted(p)))
    assert (np.diff(applied) >= -1e-12).all()
    assert ((applied >= min(y)) & (applied <= max(y))).all()


def test_the_identity_sigmoid_changes_nothing() -> None:
    p = np.linspace(0.001, 0.999, 50)
    assert np.allclose(Calibrator("sigmoid", [1.0], [0.0]).apply(p), p, atol=1e-15)
    assert Calibrator("none").apply(p) is p


@pytest.mark.parametrize(
    ("kind", "x", "y"),
    [
        ("sigmoid", [], []),
        ("sigmoid", [1.0, 2.0], [0.0, 0.0]),
        ("isotonic", [], []),
        ("isotonic", [0.5, 0.1], [0.1, 0.5]),
        ("isotonic", [0.1, 0.5], [0.5, 0.1]),
        ("isotonic", [0.1], [0.1, 0.2]),
        ("sigmoid", [float("nan")], [0.0]),
        ("magic", [], []),
    ],
)
def test_a_calibrator_that_makes_no_sense_is_refused(kind: str, x: list[float], y: list[float]) -> None:
    with pytest.raises(BundleCorrupt):
        Calibrator(kind, x, y)  # type: ignore[arg-type]


def test_nulls_and_levels_never_seen_are_missing() -> None:
    frame = pl.DataFrame({"shop": ["b", None, "new", "a"], "n": [1, None, 3, 4], "yes": [True, None, False, True]})
    encoded = encode(frame, ["n", "shop", "yes"], {"shop": ["a", "b"]})
    assert np.array_equal(
        encoded,
        np.array([[1, 1, 1], [np.nan, np.nan, np.nan], [3, np.nan, 0], [4, 0, 1]], dtype=np.float64),
        equal_nan=True,
    )
    assert encoded.flags.c_contiguous


def test_a_category_without_any_level_is_always_missing() -> None:
    assert np.isnan(encode(pl.DataFrame({"c": ["x", None]}), ["c"], {"c": []})).all()


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False))))
def test_numbers_are_kept_to_the_last_bit(values: list[float | None]) -> None:
    encoded = encode(pl.DataFrame({"x": values}, schema={"x": pl.Float64}), ["x"], {})[:, 0]
    wanted = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    assert encoded.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("column", [pl.Series("x", ["1"]), pl.Series("x", [0]).cast(pl.Date)])
def test_a_feature_of_another_type_is_not_guessed(column: pl.Series) -> None:
    with pytest.raises(ValueError, match="feature x is"):
        encode(column.to_frame(), ["x"], {})
