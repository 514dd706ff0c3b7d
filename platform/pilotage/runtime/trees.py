"""LightGBM's text of a binary model, read to the letter: whatever is not known here is refused, never guessed.

What the trees mean is for ``forest.py``. The text's hash was verified before, and LightGBM itself parsed it first.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

MOST_LEAVES = 64
"""Of a tree: a set of them is one integer, and there is no wider one."""
_MOST_WORDS = 1 << 14
"""Of a tree's sets of categories, 32 categories each. More is of ids, and takes seconds to read."""
MISSING_NONE, MISSING_ZERO, MISSING_NAN = 0, 1, 2
"""LightGBM's ``MissingType``: what a number must be to take the default side. NaN is 0.0 for the first two."""

_OBJECTIVE = re.compile(r"binary sigmoid:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_KIND = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1"}
_HEADER = {
    "objective", "max_feature_idx", "tree_sizes", "label_index", "feature_names", "feature_infos",
    "monotone_constraints", *_KIND,
}  # fmt: skip
_TREE = {
    "num_leaves", "num_cat", "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child",
    "leaf_value", "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count", "cat_boundaries",
    "cat_threshold", "is_linear", "shrinkage",
}  # fmt: skip


class LeftToLightGBM(Exception):
    """Why a model's rows are not for ``forest.py``. Whoever asks for a forest catches it; no caller is told."""


class Split(NamedTuple):
    """One node: which side a value of its feature takes, and what each side gives up."""

    feature: int
    threshold: float
    """A number goes left when it is not above it; infinite where only what is missing goes right."""
    categories: np.ndarray | None
    """Those that go left, ascending; ``None`` where the feature is a number."""
    missing: int
    default_left: bool
    left: int
    """Leaves on the left, a bit each."""
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Any order of its splits is right: a leaf is the one that no split on the way to it gives up."""

    values: list[float]
    """Of its leaves."""
    splits: list[Split]
    depth: float
    """Splits above a leaf, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """A binary model: ``1 / (1 + exp(-sigmoid * sum of the trees))``."""

    columns: int
    sigmoid: float
    trees: list[Tree]


def read_trees(text: str) -> Trees:
    """Reads a model.

    Raises:
        LeftToLightGBM: There is something in it that is not known here.
    """
    try:
        return _model(text)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise LeftToLightGBM(f"its text is odd: {error}") from error


def _model(text: str) -> Trees:
    body, ends, _ = text.partition("\nend of trees\n")
    head, *blocks = body.split("\nTree=")
    kind, *lines = head.strip("\n").split("\n")
    if kind != "tree" or not ends or not blocks:
        raise LeftToLightGBM("its text is of no known form")
    header = _fields(lines, _HEADER)
    for key, known in _KIND.items():
        if header[key] != known:
            raise LeftToLightGBM(f"its {key} is {header[key]}")
    objective = _OBJECTIVE.fullmatch(header["objective"])
    if objective is None:
        raise LeftToLightGBM(f"its objective is {header['objective']}")
    columns = int(header["max_feature_idx"]) + 1
    if len(header["tree_sizes"].split()) != len(blocks):
        raise LeftToLightGBM("its trees are not as many as it says")
    return Trees(
        columns=columns,
        sigmoid=float(objective.group(1)),
        trees=[_tree(number, block, columns) for number, block in enumerate(blocks)],
    )


def _tree(number: int, block: str, columns: int) -> Tree:
    first, *lines = block.strip("\n").split("\n")
    if first != str(number):
        raise LeftToLightGBM(f"its tree {number} is called {first}")
    fields = _fields(lines, _TREE)
    if fields["is_linear"] != "0":
        raise LeftToLightGBM("its leaves are linear")
    leaves = int(fields["num_leaves"])
    if not 1 <= leaves <= MOST_LEAVES:
        raise LeftToLightGBM(f"a tree has {leaves} leaves")
    values = _numbers(fields, "leaf_value", leaves)
    if not all(map(math.isfinite, values)):
        raise LeftToLightGBM("a leaf has no finite value")
    if leaves == 1:
        return Tree(values=values, splits=[], depth=0.0)
    nodes = leaves - 1
    features = _integers(fields, "split_feature", nodes)
    thresholds = _numbers(fields, "threshold", nodes)
    decisions = _integers(fields, "decision_type", nodes)
    children = [_integers(fields, side, nodes) for side in ("left_child", "right_child")]
    below, depth = _below(leaves, *children)
    sets = _category_sets(fields)
    splits = []
    for node, (feature, threshold, decision) in enumerate(zip(features, thresholds, decisions, strict=True)):
        if not (0 <= feature < columns and 0 <= decision < 16 and decision >> 2 <= MISSING_NAN):
            raise LeftToLightGBM(f"a split is of feature {feature} and kind {decision}")
        splits.append(
            Split(
                feature=feature,
                threshold=threshold,
                categories=sets[_position(threshold, len(sets))] if decision & _CATEGORICAL else None,
                missing=decision >> 2,
                default_left=bool(decision & _DEFAULT_LEFT),
                left=below[children[0][node]],
                right=below[children[1][node]],
            )
        )
    return Tree(values=values, splits=splits, depth=depth)


def _below(leaves: int, left: list[int], right: list[int]) -> tuple[dict[int, int], float]:
    """Node or leaf → leaves below it as bits, and how deep leaves are. LightGBM numbers a node after its parent."""
    bits = {~leaf: 1 << leaf for leaf in range(leaves)}
    if sorted([*left, *right]) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise LeftToLightGBM("a tree is none")
    depths = 0
    for node in reversed(range(leaves - 1)):
        bits[node] = bits[left[node]] | bits[right[node]]
        depths += bits[node].bit_count()
    return bits, depths / leaves


def _category_sets(fields: dict[str, str]) -> list[np.ndarray]:
    count = int(fields["num_cat"])
    if count == 0:
        return []
    bounds = _integers(fields, "cat_boundaries", count + 1)
    if bounds[-1] > _MOST_WORDS:
        raise LeftToLightGBM(f"a tree has {bounds[-1]} words of categories")
    words = np.array(_integers(fields, "cat_threshold", bounds[-1]), dtype="<u4")
    if bounds[0] != 0 or bounds != sorted(bounds):
        raise LeftToLightGBM("its sets of categories overlap")
    return [
        np.flatnonzero(np.unpackbits(words[start:end].view(np.uint8), bitorder="little"))
        for start, end in pairwise(bounds)
    ]


def _position(threshold: float, count: int) -> int:
    if not 0 <= threshold < count or threshold != int(threshold):
        raise LeftToLightGBM(f"a split has no set of categories {threshold}")
    return int(threshold)


def _fields(lines: list[str], known: set[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        if key not in known or key in fields:
            raise LeftToLightGBM(f"its text says {key[:40]!r}, which is not known, or said twice")
        fields[key] = value
    return fields


def _integers(fields: dict[str, str], key: str, count: int) -> list[int]:
    return [int(word) for word in _words(fields, key, count)]


def _numbers(fields: dict[str, str], key: str, count: int) -> list[float]:
    numbers = [float(word) for word in _words(fields, key, count)]
    if any(map(math.isnan, numbers)):
        raise LeftToLightGBM(f"a {key} is no number")
    return numbers


def _words(fields: dict[str, str], key: str, count: int) -> list[str]:
    words = fields[key].split(" ")
    if len(words) != count or "_" in fields[key]:
        raise LeftToLightGBM(f"a tree does not have {count} {key}")
    return words
