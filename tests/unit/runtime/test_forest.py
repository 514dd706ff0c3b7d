"""A forest answers with LightGBM's bits on whatever rows, or LightGBM answers."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import BundleCorrupt
from pilotage.runtime import forest as module
from pilotage.runtime import trees as reading
from pilotage.runtime.booster import Booster
from pilotage.runtime.forest import Forest, alone_of, compare, forest_of
from pilotage.runtime.scorer import Calibrator, Scorer
from pilotage.runtime.trees import LeftToLightGBM, read_trees

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


@pytest.mark.parametrize("way", WAYS)
def test_rows_get_the_bits_of_lightgbm(way: str) -> None:
    text = text_of(**WAYS[way])
    forest, booster = made_of(text)
    for rows in (data(5)[0], nasty(text)):
        assert np.array_equal(forest.leaves(rows), booster.leaves(rows))
        assert forest.predict(rows).tobytes() == booster.predict(rows).tobytes()


def test_trees_of_one_leaf_among_others_count() -> None:
    first, *blocks = text_of().partition("\nend of trees\n")[0].split("\nTree=")
    constant = text_of(min_data_in_leaf=10_000).partition("\nend of trees\n")[0].split("\nTree=")[1]
    several = [constant, *blocks[:3], constant, *blocks[3:], constant]
    trees = [f"Tree={number}\n" + block.partition("\n")[2].rstrip() + "\n\n\n" for number, block in enumerate(several)]
    head = re.sub(r"tree_sizes=.*", "tree_sizes=" + " ".join(str(len(tree)) for tree in trees), first.rstrip())
    text = head + "\n\n" + "".join(trees) + "end of trees\n\n"
    forest, booster = made_of(text)
    assert forest.trees == 18
    assert forest.predict(nasty(text)).tobytes() == booster.predict(nasty(text)).tobytes()
    assert forest.predict(data(5)[0]).tobytes() != made_of(text_of())[0].predict(data(5)[0]).tobytes()


def test_the_ways_are_what_they_say() -> None:
    leaves = {way: [len(tree.values) for tree in read_trees(text_of(**params)).trees] for way, params in WAYS.items()}
    assert {way: max(count) for way, count in leaves.items() if way[0].isdigit()} == {
        "8 leaves": 8, "9 leaves": 9, "32 leaves": 32, "33 leaves": 33, "64 leaves": 64,
    }  # fmt: skip
    assert set(leaves["only one leaf"]) == {1}
    assert len(leaves["stopped early"]) < 60
    kinds = {
        way: {
            split.missing
            for tree in read_trees(text_of(**WAYS[way])).trees
            for split in tree.splits
            if split.categories is None
        }
        for way in ("as it comes", "nothing missing", "zero is missing")
    }
    assert kinds == {"as it comes": {0, 2}, "nothing missing": {0}, "zero is missing": {1}}
    sizes = {
        split.categories.size
        for tree in read_trees(text_of(**WAYS["sets of levels"])).trees
        for split in tree.splits
        if split.categories is not None
    }
    assert max(sizes) > 10
    extreme = Booster(text_of(**WAYS["far out"])).predict(data(5)[0])
    assert (extreme == 0.0).any() and (extreme == 1.0).any()


numbers = st.one_of(st.floats(), st.floats(-3, 3), st.integers(-3, 900).map(float), st.sampled_from(ODD))


@settings(deadline=None)
@given(rows=st.lists(st.lists(numbers, min_size=COLUMNS, max_size=COLUMNS), min_size=1, max_size=4), way=st.data())
def test_any_doubles_get_the_bits_of_lightgbm(rows: list[list[float]], way: Any) -> None:
    forest, booster = kept(way.draw(st.sampled_from(["as it comes", "zero is missing", "sets of levels"])))
    matrix = np.array(rows)
    answers = forest.predict(matrix)
    assert answers.tobytes() == booster.predict(matrix).tobytes()
    assert answers.tolist() == [booster.predict_row(row.tobytes()) for row in matrix]


@cache
def kept(way: str) -> tuple[Forest, Booster]:
    return made_of(text_of(**WAYS[way]))


def test_the_number_of_rows_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_CELLS", 15 * 16)
    text = text_of()
    forest, booster = made_of(text)
    rows = nasty(text)
    wanted = booster.predict(rows)
    for count in (0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 49, 400):
        assert forest.predict(rows[:count]).tobytes() == wanted[:count].tobytes()
    assert forest.predict(np.asfortranarray(rows)).tobytes() == wanted.tobytes()
    with pytest.raises(ValueError, match=r"shape \(400, 6\) is not"):
        forest.predict(rows[:, 1:])


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_how_tables_are_looked_up_changes_no_bit(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(module, "_FEW_BYTES", most)
    text = text_of()
    forest, booster = made_of(text)
    for rows in (nasty(text), nasty(text)[:7]):
        assert forest.predict(rows).tobytes() == booster.predict(rows).tobytes()


def test_threads_each_get_the_bits_of_one() -> None:
    forest, booster = kept("as it comes")
    rows = nasty(text_of())
    wanted, got = booster.predict(rows).tobytes(), dict[int, set[bytes]]()

    def work(number: int) -> None:
        got[number] = {forest.predict(rows).tobytes() for _ in range(30)}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: {wanted} for number in range(4)}


def scorer_of(text: str, **more: Any) -> Scorer:
    return Scorer(text, Calibrator("sigmoid", [1.1], [0.2]), {}, [f"f{number}" for number in range(COLUMNS)], **more)


def large(**params: Any) -> str:
    return text_of(**{"rounds": 60, "num_leaves": 31, **params})


def test_a_scorer_gives_many_rows_the_bits_of_one_and_says_how() -> None:
    text = large()
    scorer, plain = scorer_of(text), scorer_of(text, threads=4)
    assert (scorer.forest is not None, scorer.left_to_lightgbm) == (True, "")
    assert (plain.forest, plain.left_to_lightgbm) == (None, "its 4 threads are as quick")
    rows = [row.tobytes() for row in nasty(text)]
    wanted = [scorer.score_row(row) for row in rows]
    for count in (0, 1, 5, 6, 7, 30, 400):
        assert scorer.score_rows(rows[:count]) == plain.score_rows(rows[:count]) == wanted[:count]


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


@pytest.mark.parametrize("way", WAYS)
def test_a_row_by_itself_gets_the_bits_of_lightgbm(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(module, "_alone_pays", lambda **_: True)
    text = text_of(**WAYS[way])
    booster, made = Booster(text), Forest(read_trees(text))
    alone = made.alone()
    assert alone is not None
    for row in np.concatenate([made.trial(), data(2)[0], np.array([ODD[:COLUMNS], ODD[-COLUMNS:]])]):
        assert alone(row.tobytes()) == booster.predict_row(row.tobytes())


def test_a_row_by_itself_goes_where_it_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(large(rounds=200))
    row = scorer.encode_row([0.5] * COLUMNS)
    assert scorer._predict_row != scorer._booster.predict_row
    assert scorer._predict_row(row) == scorer._booster.predict_row(row)
    small = scorer_of(large(rounds=10))
    assert small._predict_row == small._booster.predict_row
    monkeypatch.setattr(module, "_ALONE_BYTES", 1)
    bounded = scorer_of(large(rounds=200))
    assert bounded._predict_row == bounded._booster.predict_row


def test_a_row_that_differs_by_itself_is_left_to_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    text = large(rounds=200)
    booster, made = Booster(text), Forest(read_trees(text))
    assert alone_of(made, booster) != booster.predict_row
    monkeypatch.setattr(made, "_values", made._values + 1e-9)
    assert alone_of(made, booster) == booster.predict_row
