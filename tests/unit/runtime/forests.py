"""Small models of LightGBM's in every way that it trains them, and rows that are hard to get right."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np

from pilotage.runtime.booster import Booster
from pilotage.runtime.forest import Forest, compare
from pilotage.runtime.scorer import Calibrator, Scorer
from pilotage.runtime.trees import read_trees

ZERO = float(np.float32(1e-35))
ODD = [
    math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -5e-324, 1e-35, -1e-35, ZERO, -ZERO, math.nextafter(ZERO, 1),
    -math.nextafter(ZERO, 1), 2e-35, -0.5, -0.999, -1.0, math.nextafter(-1.0, -2), 0.999, 1e300, -1e300, 2.0**31 - 1,
    2.0**31, -(2.0**31), 2.0**32, 2.0**32 + 1, 1e19, -1e19, 2.0**64 + 4096,
]  # fmt: skip
COLUMNS = 7
TREE = 30
"""The tree of ``large`` that tests change."""

WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "stumps": {"num_leaves": 2, "rounds": 40},
    "8 leaves": {"num_leaves": 8},
    "9 leaves": {"num_leaves": 9},
    "32 leaves": {"num_leaves": 32},
    "33 leaves": {"num_leaves": 33, "min_data_in_leaf": 3},
    "64 leaves": {"num_leaves": 64, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0.0},
    "nothing missing": {"use_missing": False},
    "zero is missing": {"zero_as_missing": True},
    "few bins": {"max_bin": 4},
    "many bins": {"max_bin": 1000, "min_data_in_bin": 1},
    "dart": {"boosting": "dart", "drop_rate": 0.5},
    "goss": {"data_sample_strategy": "goss", "learning_rate": 0.5},
    "only one leaf": {"min_data_in_leaf": 10_000},
    "one tree": {"rounds": 1},
    "each level by itself": {"max_cat_to_onehot": 600, "min_data_per_group": 1, "cat_smooth": 0.0},
    "sets of levels": {"max_cat_to_onehot": 1, "min_data_per_group": 1, "cat_smooth": 0.0, "max_cat_threshold": 200},
    "steep": {"sigmoid": 2.0},
    "flat": {"sigmoid": 0.7},
    "far out": {"learning_rate": 300.0, "boost_from_average": False},
    "stopped early": {"early_stopping_round": 3, "learning_rate": 0.8, "rounds": 60},
}


def data(seed: int, rows: int = 700) -> tuple[np.ndarray, np.ndarray]:
    """Numbers with gaps and without, next to zero, and mostly zero; a few levels, and many."""
    chance = np.random.default_rng(seed)
    numbers = chance.normal(size=(rows, COLUMNS))
    numbers[:, 1] = np.round(numbers[:, 1] * 3)
    numbers[:, 2] *= 2e-35
    numbers[:, 3] = np.where(chance.random(rows) < 0.6, 0.0, numbers[:, 3])
    numbers[:, 4] = chance.integers(0, 5, rows)
    numbers[:, 5] = chance.zipf(1.3, rows) % 900
    label = (
        numbers[:, 0] + (numbers[:, 1] == 3) + (numbers[:, 2] > 1e-35) + (numbers[:, 4] == 2) + (numbers[:, 5] % 3 == 1)
    ) > 1
    gaps = chance.random(numbers.shape) < 0.15
    gaps[:, 1] = False
    numbers[gaps] = np.nan
    return numbers, (label ^ (chance.random(rows) < 0.1)).astype(float)


@cache
def text_of(seed: int = 1, rounds: int = 15, **params: Any) -> str:
    import lightgbm

    numbers, label = data(seed)
    way = {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": seed, "min_data_in_leaf": 5, **params}
    levels: list[int] = [] if params.get("linear_tree") else [4, 5]
    dataset = lightgbm.Dataset(numbers, label, categorical_feature=levels, params={"verbose": -1, **params})
    valid = [lightgbm.Dataset(*data(seed + 1), reference=dataset)] if "early_stopping_round" in params else []
    text: str = lightgbm.train(way, dataset, rounds, valid_sets=valid).model_to_string()
    return text


def nasty(text: str, seed: int = 0, rows: int = 400) -> np.ndarray:
    """Rows of thresholds as the text spells them, their neighbours, levels, and values that are out of bounds."""
    chance = np.random.default_rng(seed)
    made = chance.choice(ODD, (rows, COLUMNS))
    pools: dict[int, list[float]] = {feature: [*range(-2, 900)] for feature in (4, 5)}
    for features, thresholds in re.findall(r"split_feature=(.*)\n.*\nthreshold=(.*)\n", text):
        for feature, threshold in zip(features.split(), thresholds.split(), strict=True):
            here = float(threshold)
            pools.setdefault(int(feature), []).extend(
                [here, math.nextafter(here, math.inf), math.nextafter(here, -math.inf), here + 0.5, -here]
            )
    for feature, pool in pools.items():
        usual = chance.random(rows) < 0.75
        made[usual, feature] = chance.choice(pool, usual.sum())
    return made


def made_of(text: str) -> tuple[Forest, Booster]:
    """A forest though LightGBM may be as quick."""
    trees, booster = read_trees(text), Booster(text)
    forest = Forest(trees)
    compare(forest, trees, booster)
    return forest, booster


def scorer_of(text: str, **more: Any) -> Scorer:
    return Scorer(text, Calibrator("sigmoid", [1.1], [0.2]), {}, [f"f{number}" for number in range(COLUMNS)], **more)


def large(**params: Any) -> str:
    return text_of(**{"rounds": 60, "num_leaves": 31, **params})
