"""A forest answers with LightGBM's bits on whatever rows, or LightGBM answers."""

from __future__ import annotations

import re
import threading
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.runtime import forest as module
from pilotage.runtime.booster import Booster
from pilotage.runtime.forest import Forest
from pilotage.runtime.trees import read_trees
from tests.unit.runtime.forests import COLUMNS, ODD, WAYS, data, large, made_of, nasty, scorer_of, text_of


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


def test_a_scorer_gives_many_rows_the_bits_of_one_and_says_how() -> None:
    text = large()
    scorer, plain = scorer_of(text), scorer_of(text, threads=4)
    assert (scorer.forest is not None, scorer.left_to_lightgbm) == (True, "")
    assert (plain.forest, plain.left_to_lightgbm) == (None, "its 4 threads are as quick")
    rows = [row.tobytes() for row in nasty(text)]
    wanted = [scorer.score_row(row) for row in rows]
    for count in (0, 1, 5, 6, 7, 30, 400):
        assert scorer.score_rows(rows[:count]) == plain.score_rows(rows[:count]) == wanted[:count]
