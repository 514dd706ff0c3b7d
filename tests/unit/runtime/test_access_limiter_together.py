"""Requests of several keys that came together are let through as if they had come one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import RateLimited, RequestTooLarge
from pilotage.runtime.access.caller import ANYBODY, Caller
from pilotage.runtime.access.limiter import Limiter
from tests.unit.runtime.limiting import SECOND, Clock, caller

KEYS = [
    ANYBODY,
    caller("aaaaaaaaaa", per_second=10, burst=5),
    caller("bbbbbbbbbb", per_second=0.5, burst=1),
    caller("cccccccccc", per_second=1000, burst=40),
]


def one_by_one(limiter: Limiter, callers: Sequence[Caller]) -> list[str | None]:
    told: list[str | None] = []
    for each in callers:
        try:
            limiter.take(each)
        except (RateLimited, RequestTooLarge) as error:
            told.append(str(error))
        else:
            told.append(None)
    return told


@given(st.lists(st.tuples(st.integers(0, 3 * SECOND), st.lists(st.sampled_from(KEYS), max_size=60)), max_size=8))
def test_they_are_let_through_as_one_after_another(groups: list[tuple[int, list[Caller]]]) -> None:
    with TemporaryDirectory() as folder:
        clock = Clock()
        together = Limiter(Path(folder) / "together", clock=clock)
        apart = Limiter(Path(folder) / "apart", clock=clock)
        for pause, callers in groups:
            clock.now += pause
            told = [None if error is None else str(error) for error in together.take_each(callers)]
            assert told == one_by_one(apart, callers)
        together.close()
        apart.close()


def test_nobody_pays_for_who_asks_too_often(tmp_path: Path) -> None:
    limiter = Limiter(tmp_path / "limits", clock=Clock())
    greedy, other = KEYS[1], KEYS[3]
    refused = limiter.take_each([greedy, other] * 7)
    assert [place for place, error in enumerate(refused) if error is not None] == [10, 12]
    assert {type(error) for error in refused if error} == {RateLimited}
    limiter.close()
