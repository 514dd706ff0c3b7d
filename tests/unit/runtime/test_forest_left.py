"""What a forest does not know, or gets otherwise than LightGBM, is LightGBM's to answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pilotage.errors import BundleCorrupt
from pilotage.runtime import forest as module
from pilotage.runtime import trees as reading
from pilotage.runtime.booster import Booster
from pilotage.runtime.forest import Forest, forest_of
from pilotage.runtime.trees import LeftToLightGBM, read_trees
from tests.unit.runtime.forests import TREE, WAYS, data, large, made_of, nasty, scorer_of, text_of


def next_float(word: str) -> str:
    return repr(math.nextafter(float(word), math.inf))


def change(key: str, place: int, to: Callable[[str], str]) -> Callable[[str], str]:
    """A text with one word of one tree changed."""

    def changed(text: str) -> str:
        lines = list(re.finditer(rf"\n{key}=(.*)\n", text))
        line = lines[TREE]
        words = line.group(1).split(" ")
        words[place] = to(words[place])
        return text[: line.start(1)] + " ".join(words) + text[line.end(1) :]

    return changed


def position(key: str, of: Callable[[str], object]) -> int:
    """Of the first such word of that tree."""
    words = re.findall(rf"\n{key}=(.*)\n", large())[TREE].split(" ")
    return next(number for number, word in enumerate(words) if of(word))


UNKNOWN: dict[str, tuple[Callable[[], str], str]] = {
    "more leaves than bits": (lambda: text_of(num_leaves=80, min_data_in_leaf=1), r"a tree has \d+ leaves"),
    "linear leaves": (lambda: text_of(linear_tree=True), "'leaf_const', which is not known"),
    "a random forest": (
        lambda: text_of(boosting="rf", bagging_fraction=0.5, bagging_freq=1),
        "'average_output', which is not known",
    ),
    "another objective": (lambda: text_of(objective="cross_entropy"), "objective is cross_entropy"),
    "a regression": (lambda: text_of(objective="regression"), "objective is regression"),
    "small, with many features": (lambda: text_of(rounds=1), "too small"),
}


@pytest.mark.parametrize("way", UNKNOWN)
def test_what_it_does_not_know_is_left_to_lightgbm_and_right(way: str) -> None:
    make, why = UNKNOWN[way]
    text = make()
    scorer, booster = scorer_of(text), Booster(text)
    assert scorer.forest is None
    assert re.search(why, scorer.left_to_lightgbm)
    rows = data(5, 50)[0]
    wanted = scorer.calibrator.apply(booster.predict(rows))
    assert scorer.score_rows([row.tobytes() for row in rows]) == wanted.tolist()


def test_several_classes_are_refused_by_both() -> None:
    import lightgbm

    rows, label = data(1)
    way = {"objective": "multiclass", "num_class": 2, "verbose": -1, "num_threads": 1}
    text = lightgbm.train(way, lightgbm.Dataset(rows, label), 2).model_to_string()
    with pytest.raises(LeftToLightGBM, match="num_class is 2"):
        read_trees(text)
    with pytest.raises(BundleCorrupt, match="2 classes"):
        Booster(text)


@pytest.mark.parametrize(
    ("pattern", "put", "why"),
    [
        (r"^tree\n", "trees\n", "of no known form"),
        (r"\nend of trees\n", "\n", "of no known form"),
        (r"\nis_linear=0", "\nis_linear=1", "leaves are linear"),
        (r"version=v4", "version=v5", "version is v5"),
        (r"sigmoid:1\n", "sigmoid:-1\n", "objective is"),
        (r"sigmoid:1\n", "sigmoid:1 is_weighted\n", "objective is"),
        (r"\nnum_cat=", "\nnum_bat=", "'num_bat', which is not known"),
        (r"\nnum_cat=.*\n", "\n", "odd: 'num_cat'"),
        (r"\nshrinkage=.*\n", "\nshrinkage=1\nshrinkage=2\n", "said twice"),
        (r"\nTree=1\n", "\nTree=7\n", "tree 1 is called 7"),
        (r"\ntree_sizes=\d+ ", "\ntree_sizes=", "as many as it says"),
        (r"\nleaf_value=(\S+)", r"\nleaf_value=\1 \1", "does not have 31 leaf_value"),
        (r"\nleaf_value=\S+", "\nleaf_value=inf", "no finite value"),
        (r"\nleaf_value=\S+", "\nleaf_value=1_0", "does not have 31 leaf_value"),
        (r"\nleaf_value=\S+", "\nleaf_value=ten", "is odd"),
        (r"\nthreshold=\S+", "\nthreshold=nan", "threshold is no number"),
        (r"\nsplit_feature=\S+", "\nsplit_feature=7", "a split is of feature 7"),
        (r"\ndecision_type=\S+", "\ndecision_type=16", "and kind 16"),
        (r"\ndecision_type=\S+", "\ndecision_type=12", "and kind 12"),
        (r"\nleft_child=\S+", "\nleft_child=0", "a tree is none"),
        (r"\ncat_boundaries=0", "\ncat_boundaries=1", "categories overlap"),
        (r"\ncat_threshold=\S+", "\ncat_threshold=-1", "is odd"),
    ],
)
def test_a_text_with_a_word_that_it_does_not_know_is_refused(pattern: str, put: str, why: str) -> None:
    text, hits = re.subn(pattern, put, large(), count=1)
    assert hits == 1
    with pytest.raises(LeftToLightGBM, match=why):
        read_trees(text)


@pytest.mark.parametrize("number", ["99", "0.5", "-1", "inf"])
def test_a_set_of_categories_that_is_not_there_is_refused(number: str) -> None:
    forged = change("threshold", position("decision_type", lambda word: int(word) & 1), lambda _: number)(large())
    with pytest.raises(LeftToLightGBM, match="a split has no set of categories"):
        read_trees(forged)


@pytest.mark.parametrize("child", ["0", "1", "-1"])
def test_a_tree_whose_children_make_no_tree_is_refused(child: str) -> None:
    with pytest.raises(LeftToLightGBM, match="a tree is none"):
        read_trees(change("left_child", -1, lambda _: child)(large()))


def test_a_feature_that_is_a_number_here_and_a_category_there_is_refused() -> None:
    trees = read_trees(large())
    first = trees.trees[0]
    number = next(split for tree in trees.trees for split in tree.splits if split.categories is None)
    mixed = replace(first, splits=[*first.splits, number._replace(categories=np.array([1]))])
    with pytest.raises(LeftToLightGBM, match=r"feature \d is a number and a category"):
        Forest(replace(trees, trees=[mixed, *trees.trees[1:]]))


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = large()
    taken = made_of(text)[0].bytes
    assert taken == sum(table.nbytes for _, _, table in made_of(text)[0]._features)
    monkeypatch.setattr(module, "_MOST_BYTES", taken)
    assert scorer_of(text).forest is not None
    monkeypatch.setattr(module, "_MOST_BYTES", taken - 1)
    assert scorer_of(text).left_to_lightgbm == f"its tables would take {taken / 2**20:.1f} MiB"


def test_sets_of_categories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_WORDS", 3)
    scorer = scorer_of(text_of(**WAYS["sets of levels"]))
    assert re.fullmatch(r"a tree has \d+ words of categories", scorer.left_to_lightgbm)


def test_tables_made_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = large()
    whole = [table.tobytes() for _, _, table in made_of(text)[0]._features]
    monkeypatch.setattr(module, "_CELLS", 1000)
    assert [table.tobytes() for _, _, table in made_of(text)[0]._features] == whole


FORGED: dict[str, tuple[Callable[[str], str], str]] = {
    "a leaf's value": (change("leaf_value", 3, next_float), "leaves have other values"),
    "a leaf's value that no row reaches": (change("leaf_value", -1, next_float), "leaves have other values"),
    "two children": (
        lambda text: re.sub(r"\n(left_child)=(.*)\n(right_child)=(.*)\n", r"\nleft_child=\4\nright_child=\2\n", text),
        "other leaves",
    ),
    "a default side": (
        # Looked up when it is run: no model is trained to collect tests.
        lambda text: change("decision_type", position("decision_type", "10".__eq__), lambda _: "8")(text),  # noqa: PLW0108
        "other leaves",
    ),
    "the steepness": (lambda text: text.replace("sigmoid:1\n", "sigmoid:1.0000000000000002\n"), "answers are not"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forest_that_differs_from_lightgbm_in_one_number_is_not_used(what: str) -> None:
    forge, why = FORGED[what]
    booster, text = Booster(large()), large()
    forged = forge(text)
    assert forged != text
    assert forest_of(text, booster)[0].trees == 60
    with pytest.raises(LeftToLightGBM, match=why):
        forest_of(forged, booster)


def test_a_forest_of_other_trees_is_not_used() -> None:
    with pytest.raises(LeftToLightGBM, match="other trees or features"):
        forest_of(large(), Booster(text_of()))
    with pytest.raises(LeftToLightGBM, match="other leaves than LightGBM says"):
        forest_of(large(), Booster(text_of(rounds=60, num_leaves=30)))


def test_what_a_forest_is_held_to_is_what_lightgbm_says() -> None:
    import lightgbm

    text, rows = large(), nasty(large())
    booster, theirs = Booster(text), lightgbm.Booster(model_str=large())
    assert np.array_equal(booster.leaves(rows), theirs.predict(rows, pred_leaf=True))
    counts = [len(tree.values) for tree in read_trees(text).trees]
    assert booster.leaf_values(counts) == [
        [theirs.get_leaf_output(tree, leaf) for leaf in range(count)] for tree, count in enumerate(counts)
    ]
    with pytest.raises(BundleCorrupt, match="can't use the model"):
        booster.leaf_values([counts[0] + 1])


def test_a_lightgbm_with_another_rule_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a release took a missing value for something else."""
    text, rows = large(), nasty(large())
    theirs = Booster.predict, Booster.leaves
    monkeypatch.setattr(Booster, "predict", lambda self, matrix, **more: theirs[0](self, np.nan_to_num(matrix), **more))
    monkeypatch.setattr(Booster, "leaves", lambda self, matrix: theirs[1](self, np.nan_to_num(matrix)))
    scorer = scorer_of(text)
    assert scorer.left_to_lightgbm == "rows end in other leaves than LightGBM's"
    wanted = scorer.calibrator.apply(theirs[0](Booster(text), np.nan_to_num(rows))).tolist()
    assert scorer.score_rows([row.tobytes() for row in rows]) == wanted


def test_the_rows_that_a_forest_is_tried_on_reach_most_leaves() -> None:
    forest, booster = made_of(large())
    rows = forest.trial()
    reached = {(tree, int(leaf)) for tree, leaves in enumerate(booster.leaves(rows).T) for leaf in leaves}
    there = sum(len(tree.values) for tree in read_trees(large()).trees)
    assert len(reached) > 0.8 * there
