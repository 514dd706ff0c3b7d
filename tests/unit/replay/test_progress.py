"""What a replay remembers: enough to go on where it was, and nothing twice."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from pilotage.errors import ConfigError
from pilotage.replay.progress import Answer, Progress

FIRST, LAST = date(2013, 3, 1), date(2013, 3, 5)


def opened(path: Path, *, model: str = "flight_delay", first: date = FIRST, last: date = LAST) -> Progress:
    return Progress(path / "year.db", model=model, first=first, last=last)


def answer(entity: str, **changes: object) -> Answer:
    one = Answer(
        entity=entity,
        day="2013-03-01",
        moment=1,
        prediction_id=f"p-{entity}",
        version=1,
        stage="champion",
        answered_by="model",
        probability=0.25,
        decision=False,
        latency_ms=2.0,
        attempts=1,
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def test_a_replay_that_was_stopped_knows_what_it_has_done(tmp_path: Path) -> None:
    progress = opened(tmp_path)
    progress.finish(FIRST, "landed", files=2)
    progress.keep([answer("a"), answer("b", moment=0)])
    progress.close()
    again = opened(tmp_path, last=date(2013, 3, 9))
    assert again.done(FIRST, "landed")
    assert not again.done(FIRST, "answered")
    assert again.answered(FIRST) == {"a", "b"}
    assert [(day, step, facts) for day, step, _, facts in again.facts()] == [(FIRST, "landed", {"files": 2})]
    again.close()


def test_an_answer_that_is_written_down_stays_as_it_was(tmp_path: Path) -> None:
    progress = opened(tmp_path)
    progress.keep([answer("a")])
    progress.keep([answer("a", probability=0.9, prediction_id="another")])
    frame = progress.answers()
    assert frame["probability"].to_list() == [0.25]
    assert frame["label"].to_list() == [None]


def test_an_outcome_is_told_once_and_only_for_what_was_answered(tmp_path: Path) -> None:
    progress = opened(tmp_path)
    progress.keep([answer("a"), answer("b")])
    assert sorted(progress.untold(["a", "b", "never asked"])) == [("a", "p-a"), ("b", "p-b")]
    progress.told(FIRST, [("a", True, 5)])
    assert progress.untold(["a", "b"]) == [("b", "p-b")]
    assert progress.rates() == (1, 1.0, 0.25)
    by_entity = {row["entity"]: row for row in progress.answers().to_dicts()}
    assert by_entity["a"]["label"] is True
    assert by_entity["b"]["label"] is None


def test_a_request_has_the_same_id_in_every_attempt_and_another_one_in_another_replay(tmp_path: Path) -> None:
    one, two = opened(tmp_path), Progress(tmp_path / "other.db", model="flight_delay", first=FIRST, last=LAST)
    assert one.request_id("a") == one.request_id("a")
    assert len({one.request_id("a"), one.request_id("b"), two.request_id("a")}) == 3


@pytest.mark.parametrize("other", [{"model": "another"}, {"first": date(2013, 4, 1)}])
def test_the_progress_of_another_replay_is_not_gone_on_with(tmp_path: Path, other: dict[str, object]) -> None:
    opened(tmp_path).close()
    with pytest.raises(ConfigError, match="progress of a replay"):
        opened(tmp_path, **other)  # type: ignore[arg-type]


def test_answers_that_are_kept_together_are_kept_all_or_none(tmp_path: Path) -> None:
    progress = opened(tmp_path)
    broken = answer("b", latency_ms=object())
    with pytest.raises(Exception, match=r"type|supported"):
        progress.keep([answer("a"), broken])
    assert progress.answered(FIRST) == set()
