"""Whether a decision that is carried out late is still about what could be seen, and whether it is on record."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import LedgerConflict
from pilotage.release.events import Draft, Event, seal
from pilotage.release.sight import Sight, Taken, sight_of
from tests.unit.release.lives import START, canaried, draft, registered

MINUTE = timedelta(minutes=1)
LIFE = (
    *(registered("m", number) for number in (1, 2, 3)),
    *(draft("promoted", number) for number in (1, 2)),
    canaried(3, 0.1),
    canaried(3, 0.2, step=1),
    draft("rolled_back", 3, to=None),
    draft("killed"),
    draft("resumed"),
    draft("rolled_back", 2, to=1),
)
"""One event a minute."""


def events(*drafts: Draft) -> list[Event]:
    return [
        seal(each, sequence=number, at=START + number * MINUTE, previous="") for number, each in enumerate(drafts, 1)
    ]


def look(decision: Any, minute: float, *, why: str = "mine", version: int | None = None, **asked: Any) -> Sight:
    taken = Taken(
        decision=decision, model="m", at=START + minute * MINUTE, actor="ada", why=why, version=version, asked=asked
    )
    return sight_of(taken, events(*LIFE))


@pytest.mark.parametrize(
    ("decision", "minute", "version", "changed"),
    [
        ("rollback", 4, None, "m 2 promoted by ada (event 5)"),
        ("rollback", 6, None, "m 3 rolled back by ada (event 8)"),
        ("promote", 7, 3, "m 3 rolled back by ada (event 8)"),
        ("canary", 6, 3, "m 3 canaried by ada (event 7)"),
        ("shadow", 3, 3, "m 3 canaried by ada (event 6)"),
        ("resume", 9, None, "m resumed by ada (event 10)"),
    ],
)
def test_what_has_changed_since_is_named(decision: str, minute: int, version: int | None, changed: str) -> None:
    with pytest.raises(LedgerConflict) as raised:
        look(decision, minute, version=version)
    assert f"has changed since: {changed}. Nothing was recorded." in raised.value.message


@pytest.mark.parametrize("decision", ["kill", "approve", "reject"])
@given(minute=st.integers(0, len(LIFE)))
def test_what_takes_nothing_into_production_is_never_late(decision: str, minute: int) -> None:
    assert look(decision, minute, version=3).recorded is None


@given(minute=st.integers(0, len(LIFE) - 1))
def test_the_same_words_about_the_same_are_on_record_as_long_as_they_hold(minute: int) -> None:
    words = "rolled_back for a reason"
    if minute < 8:
        with pytest.raises(LedgerConflict, match="is on record as event 8"):
            look("rollback", minute, why=words, version=3)
    found = look("rollback", minute, why=words, version=2, to=1).recorded
    assert found is not None
    assert found.sequence == 11


def test_another_share_is_another_decision() -> None:
    life = events(*LIFE[:6])
    taken = Taken(
        decision="canary", model="m", at=START + 5 * MINUTE, actor="ada", why="canaried for a reason", version=3
    )
    assert sight_of(replace(taken, asked={"share": 0.1}), life).recorded == life[-1]
    with pytest.raises(LedgerConflict):
        sight_of(replace(taken, asked={"share": 0.2}), life)


def test_what_others_decide_about_another_model_changes_nothing() -> None:
    life = events(*LIFE[:5], *(replace(each, model="other") for each in (registered("other", 1), draft("killed"))))
    taken = Taken(decision="rollback", model="m", at=START + 5 * MINUTE, actor="ada", why="mine")
    assert sight_of(taken, life).state.champion.version == 2  # type: ignore[union-attr]
