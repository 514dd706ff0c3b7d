"""Many rows through a model's trees at once: LightGBM's answers to the last bit, at a quarter of its cost.

LightGBM walks each tree for each row, and guesses wrong at every other node. Here no tree is walked. A feature's
thresholds cut its axis into classes of values that all nodes treat alike, and a table holds, for each class and tree,
the leaves that such a value leaves within reach, a bit each. One row of each feature's table, ANDed, leave one leaf a
tree: QuickScorer (Lucchese et al., SIGIR 2015), by classes instead of nodes, so that a few calls of NumPy do it for
many rows. The leaves' values are then added tree after tree, as LightGBM adds them.

A forest is LightGBM to the bit, or it is not there: what ``trees.py`` does not know is refused, and so is a model whose
leaves, leaves' values or answers are not LightGBM's own when it is loaded. The rules followed are those of LightGBM
4's ``tree.h`` (``NumericalDecision``, ``CategoricalDecision``), ``c_api.cpp`` (what is next to zero is read as zero)
and ``binary_objective.hpp`` (``ConvertOutput``). ADR 14 says why there is this, and when it would go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pilotage.errors import BundleCorrupt
from pilotage.runtime.booster import Booster
from pilotage.runtime.trees import MISSING_NAN, MISSING_ZERO, LeftToLightGBM, Split, Trees, read_trees

Array = np.ndarray[Any, Any]

_MOST_BYTES = 32 << 20
"""Of a model's tables. A service holds a few versions at a time, and what is out of the cache is not quick."""
_CELLS = 1 << 20
"""Of a table that are worked on at once while it is made."""
_BLOCK_CELLS = 1 << 16
"""Rows times trees that are worked on at once: what is written next is still in the cache."""
_FEW_BYTES = 1 << 20
"""Of the tables that few rows select. Up to here it is quicker to take the rows of all tables in one call."""
_ZERO = float(np.float32(1e-35))
"""LightGBM's ``kZeroThreshold``: a value no further from zero is zero."""
_BELOW_ZERO = math.nextafter(-_ZERO, -math.inf)
_ODD = (
    math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -5e-324, 1e-40, -1e-40, _ZERO, -_ZERO, 1.1e-35, -1.1e-35,
    -0.5, -0.99, -1.0, -1.5, 0.99, 1e9, 2.0**31 - 1, 2.0**31, -(2.0**31), 2.0**32 + 1, 1e19, -1e19, 1e300, -1e300,
)  # fmt: skip
_TRIED = 384
"""Rows that a forest is compared on when it is made."""
_USUAL = 0.8
"""Share of values among them that are on a threshold or next to one."""


class Forest:
    """A model's tables. Never changed once made, so any number of threads may use them."""

    def __init__(self, trees: Trees) -> None:
        """Makes the tables.

        Raises:
            LeftToLightGBM: They would be too large, or a feature is both a number and a category.
        """
        self.trees = len(trees.trees)
        self.columns = trees.columns
        self._sigmoid = trees.sigmoid
        most = max(len(tree.values) for tree in trees.trees)
        mask = np.dtype(f"u{max(8, 1 << (most - 1).bit_length()) // 8}")
        self._values = np.zeros((self.trees, most))
        for number, tree in enumerate(trees.trees):
            self._values[number, : len(tree.values)] = tree.values
        self._first_leaf = np.arange(0, self._values.size, most)[:, None]

        by_feature: dict[int, list[tuple[int, Split]]] = {}
        for number, tree in enumerate(trees.trees):
            for split in tree.splits:
                by_feature.setdefault(split.feature, []).append((number, split))
        # A model that never splits has one class of one feature.
        splits = sorted(by_feature.items()) or [(0, [])]
        cuts = [_cuts([split for _, split in some]) for _, some in splits]
        ends = np.cumsum([each.size + 1 for each in cuts]).tolist()
        self.bytes = ends[-1] * self.trees * mask.itemsize
        if self.bytes > _MOST_BYTES:
            raise LeftToLightGBM(f"its tables would take {self.bytes / 2**20:.1f} MiB")
        self._table = np.empty((ends[-1], self.trees), mask)
        # Leaves that a tree does not have are never within reach.
        self._table[:] = np.array([(1 << len(tree.values)) - 1 for tree in trees.trees], mask)
        self._starts = np.array([0, *ends[:-1]])[:, None]
        self._features = [
            (feature, each, self._table[start:end])
            for (feature, _), each, start, end in zip(splits, cuts, [0, *ends], ends, strict=False)
        ]
        for (_, each, table), (_, some) in zip(self._features, splits, strict=True):
            _fill(table, each, some)
        self._few = _FEW_BYTES // (self._table[0].nbytes * len(cuts))
        self._block = max(1, _BLOCK_CELLS // self.trees)
        self.fewest = _fewest(
            columns=self.columns,
            features=len(self._features),
            width=mask.itemsize,
            depths=[tree.depth for tree in trees.trees],
        )
        """Rows from which this is quicker than LightGBM; ``None``: never, as for few small trees of many features."""

    def predict(self, matrix: Array) -> Array:
        """``Booster.predict``.

        Args:
            matrix: Shape (rows, columns), float64; missing is NaN.

        Returns:
            Shape (rows,), 0..1.
        """
        if matrix.ndim != 2 or matrix.shape[1] != self.columns:
            raise ValueError(f"a matrix of shape {matrix.shape} is not (rows, {self.columns})")
        answers = np.empty(len(matrix))
        for start in range(0, len(matrix), self._block):
            rows = slice(start, start + self._block)
            answers[rows] = self._probabilities(self._sums(matrix[rows]))
        return answers

    def leaves(self, matrix: Array) -> Array:
        """``Booster.leaves``: where each row ends in each tree; shape (rows, trees)."""
        return (self._reached(matrix) - self._first_leaf).T

    def trial(self) -> Array:
        """Rows that are hard to get right: on thresholds and next to them, missing, and out of all bounds."""
        chance = np.random.default_rng(20150809)
        rows = chance.choice(_ODD, (_TRIED, self.columns))
        for feature, cuts, _ in self._features:
            near = np.concatenate([cuts, np.nextafter(cuts, -math.inf), np.nextafter(cuts, math.inf)])
            usual = chance.random(_TRIED) < _USUAL
            rows[usual, feature] = chance.choice(near, np.count_nonzero(usual))
        return rows

    def _sums(self, matrix: Array) -> list[float]:
        """From one tree to the next, as LightGBM adds: of several rows NumPy adds whole rows of a C-ordered array."""
        if len(matrix) == 1:
            # A single row's values lie side by side, and NumPy adds such by halves.
            return self._sums(np.repeat(matrix, 2, axis=0))[:1]
        sums: list[float] = np.add.reduce(self._values.take(self._reached(matrix)), axis=0).tolist()
        return sums

    def _reached(self, matrix: Array) -> Array:
        """Positions among the values of all leaves; shape (trees, rows)."""
        by_feature = np.ascontiguousarray(matrix.T)
        if len(matrix) <= self._few:
            classes = np.array([cuts.searchsorted(by_feature[feature]) for feature, cuts, _ in self._features])
            left = np.bitwise_and.reduce(self._table.take(classes + self._starts, axis=0, mode="clip"), axis=0)
        else:
            (feature, cuts, table), *others = self._features
            left = table.take(cuts.searchsorted(by_feature[feature]), axis=0, mode="clip")
            more = np.empty_like(left)
            for feature, cuts, table in others:
                table.take(cuts.searchsorted(by_feature[feature]), axis=0, mode="clip", out=more)
                left &= more
        # One bit is left of each tree; below it are as many as its number.
        left -= left.dtype.type(1)
        return np.ascontiguousarray(np.bitwise_count(left).T) + self._first_leaf

    def _probabilities(self, raw: list[float]) -> list[float]:
        # The C library's exponential, as LightGBM's; NumPy's own differs in the last bit.
        factor, exp = -self._sigmoid, math.exp
        try:
            return [1.0 / (1.0 + exp(factor * each)) for each in raw]
        except OverflowError:
            return [1.0 / (1.0 + _exp(factor * each)) for each in raw]


def forest_of(text: str, booster: Booster) -> tuple[Forest, int]:
    """Reads a model's text, and compares what comes of it with what LightGBM made of the same text.

    Returns:
        The forest, and how many rows it takes to be quicker than LightGBM.

    Raises:
        LeftToLightGBM: The model is not for this file, LightGBM is as quick, or anything at all differs.
    """
    trees = read_trees(text)
    forest = Forest(trees)
    if forest.fewest is None:
        raise LeftToLightGBM("it is too small for its number of features to gain anything")
    compare(forest, trees, booster)
    return forest, forest.fewest


def compare(forest: Forest, trees: Trees, booster: Booster) -> None:
    """Holds a forest to LightGBM's own numbers: all leaves' values, and some hundred rows that are hard to get right.

    Raises:
        LeftToLightGBM: One is not LightGBM's, to the bit.
    """
    if (forest.trees, forest.columns) != (booster.rounds, booster.columns):
        raise LeftToLightGBM("it has other trees or features than LightGBM says")
    values = [tree.values for tree in trees.trees]
    try:
        theirs = booster.leaf_values([len(each) for each in values])
    except BundleCorrupt as error:
        raise LeftToLightGBM("it has other leaves than LightGBM says") from error
    if values != theirs:
        raise LeftToLightGBM("its leaves have other values than LightGBM's")
    rows = forest.trial()
    if not np.array_equal(forest.leaves(rows), booster.leaves(rows)):
        raise LeftToLightGBM("rows end in other leaves than LightGBM's")
    # NumPy adds in another order when there is one row, and might when there are two.
    for some in (rows, rows[:2], rows[:1]):
        if forest.predict(some).tobytes() != booster.predict(some).tobytes():
            raise LeftToLightGBM("its answers are not LightGBM's")


def _fewest(*, columns: int, features: int, width: int, depths: list[float]) -> int | None:
    """By what calls and rows cost in microseconds, fitted to models of 10 to 500 trees and 3 to 150 features.

    Only the ratios of the costs matter, and they matter little: near the limit all ways cost the same.
    """
    ours, our_row = 9 + 0.65 * features, 0.1 + 0.03 * features + len(depths) * (0.0025 + 4e-5 * width * features)
    theirs, their_row = 12, 0.0012 * columns + 0.008 * sum(depths)
    if their_row <= 1.1 * our_row:
        return None
    than_at_once = (ours - theirs) / (their_row - our_row)
    # One by one, a row is a call for 2 µs, and nothing is put together and calibrated at once, for 10.
    than_one_by_one = (ours + 10) / (their_row + 2 - our_row)
    return max(2, math.ceil(max(than_at_once, than_one_by_one)))


def _exp(x: float) -> float:
    """Infinity where Python raises, as in C."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _cuts(splits: list[Split]) -> Array:
    """Upper ends of a feature's classes of values, ascending; the last is infinity, after which comes NaN's class.

    LightGBM truncates a category to an integer: from -1 to 1, both excluded, it is 0.
    """
    numbers, levels = {math.inf}, set[int]()
    for split in splits:
        if (split.categories is None) != (splits[0].categories is None):
            raise LeftToLightGBM(f"its feature {split.feature} is a number and a category")
        if split.categories is not None:
            levels.update(split.categories.tolist())
        else:
            numbers.add(_cut(split.threshold))
            if split.missing == MISSING_ZERO:
                numbers.update((_BELOW_ZERO, _ZERO))
    of = np.array(sorted(levels), np.float64)
    return np.unique([*np.where(of > 0, np.nextafter(of, 0), -1.0), *np.nextafter(of + 1, 0), *numbers])


def _cut(threshold: float) -> float:
    """The same threshold, moved to where it parts what is read as zero from what is not."""
    if -_ZERO <= threshold < 0:
        return _BELOW_ZERO
    return _ZERO if 0 <= threshold < _ZERO else threshold


def _fill(table: Array, cuts: Array, splits: list[tuple[int, Split]]) -> None:
    """Takes from a feature's table, shape (classes, trees), the leaves that its splits put out of reach."""
    every = int(np.iinfo(table.dtype).max)
    step = max(1, _CELLS // len(table))
    for start in range(0, len(splits), step):
        some = splits[start : start + step]
        of = np.array([tree for tree, _ in some])
        lefts = _lefts(cuts, [split for _, split in some])
        # Whoever goes left gives up the leaves on the right.
        left = np.array([every ^ split.right for _, split in some], table.dtype)
        right = np.array([every ^ split.left for _, split in some], table.dtype)
        kept = np.where(lefts, left[:, None], right[:, None])
        firsts = np.flatnonzero(np.diff(of, prepend=-1))
        table[:, of[firsts]] &= np.bitwise_and.reduceat(kept, firsts, axis=0).T


def _lefts(cuts: Array, splits: list[Split]) -> Array:
    """Which classes go left at which split; shape (splits, classes)."""
    sets = [split.categories for split in splits if split.categories is not None]
    if sets:
        # What is between two categories of any set ends within one that is in none.
        levels = np.append(np.trunc(cuts), math.nan)
        return np.array([np.isin(levels, each) for each in sets])
    ends = cuts.searchsorted([_cut(split.threshold) for split in splits])
    lefts = np.arange(cuts.size + 1) <= ends[:, None]
    zero, missing = cuts.searchsorted(0.0), np.array([split.missing for split in splits])
    default = np.array([split.default_left for split in splits])
    by_zero, by_nan = missing == MISSING_ZERO, missing == MISSING_NAN
    lefts[by_zero, zero] = default[by_zero]
    lefts[:, -1] = np.where(by_nan, default, lefts[:, zero])
    return lefts
