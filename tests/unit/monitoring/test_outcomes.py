"""Late, repeated, early and conflicting outcomes: the first that became known counts, and none is thrown away."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pilotage.monitoring.log_frames import frame_of
from pilotage.monitoring.outcomes import PATIENCE, STATUSES, agreed, contested, label, resolve
from pilotage.runtime.answer import OutcomeRecord, PredictionRecord
from tests.unit.monitoring.logs import at, outcome, prediction

NOW = datetime(2024, 3, 2, 12, tzinfo=UTC)

told = st.builds(
    lambda number, about, by_id, label, known, received, caller: outcome(
        number,
        prediction_id=f"p{about:05d}" if by_id else None,
        entity=None if by_id else {"order_id": f"A-{about}"},
        label=label,
        known_at=at(known),
        received_at=at(received),
        caller=caller,
    ),
    st.integers(0, 6), st.integers(0, 4), st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 5),
    st.sampled_from(["key-1", "source:orders"]),
)  # fmt: skip
answered = st.builds(
    lambda number, about, moment: prediction(
        number, entity={"order_id": f"A-{about}"}, moment=None if moment is None else at(moment)
    ),
    st.integers(0, 3), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 5)),
)  # fmt: skip


def predictions(*records: PredictionRecord) -> pl.DataFrame:
    return frame_of(PredictionRecord, records)


def outcomes(*records: OutcomeRecord) -> pl.DataFrame:
    return frame_of(OutcomeRecord, records)


def status(said: pl.DataFrame, made: pl.DataFrame, now: datetime = NOW) -> dict[str, str]:
    return dict(resolve(made, said, now=now).select("outcome_id", "status").iter_rows())


def distinct(records: list[Any], field: str) -> list[Any]:
    return list({getattr(record, field): record for record in reversed(records)}.values())


def truth(asked: PredictionRecord, said: list[OutcomeRecord]) -> list[OutcomeRecord]:
    """By brute force: the outcomes about a prediction, the one that counts first."""
    about = [
        o
        for o in said
        if o.prediction_id == asked.prediction_id
        or (
            o.prediction_id is None
            and o.entity == asked.entity
            and (asked.moment is None or o.known_at >= asked.moment)
        )
    ]
    return sorted(about, key=lambda o: (o.known_at, o.received_at, o.outcome_id))


def test_a_label_arrives_with_the_time_it_became_known() -> None:
    [row] = label(predictions(prediction(1), prediction(2)), outcomes(outcome(1))).to_dicts()
    assert (row["prediction_id"], row["label"], row["outcome_id"]) == ("p00001", True, "o00001")
    assert row["label_received_at"] - row["label_known_at"] == timedelta(seconds=1)


def test_an_entity_labels_each_of_its_predictions_that_was_made_before_the_truth_was_known() -> None:
    about = {"order_id": "A-1"}
    made = predictions(
        prediction(1, moment=at(0), entity=about),
        prediction(2, moment=at(10), entity=about),
        prediction(3, moment=at(99), entity=about),
        prediction(4),
    )
    known = outcomes(outcome(1, prediction_id=None, entity=about, known_at=at(10)))
    assert label(made, known)["prediction_id"].to_list() == ["p00001", "p00002"]


def test_saying_it_again_changes_nothing() -> None:
    said = outcomes(outcome(1, known_at=at(5)), outcome(2, prediction_id="p00001", known_at=at(6)))
    made = predictions(prediction(1))
    assert status(said, made) == {"o00001": "counts", "o00002": "repeated"}
    assert label(made, said)["outcome_id"].to_list() == ["o00001"]


def test_of_two_that_conflict_the_first_that_became_known_counts_whichever_came_first() -> None:
    later = outcome(1, label=True, known_at=at(9), received_at=at(10))
    earlier = outcome(2, prediction_id="p00001", label=False, known_at=at(5), received_at=at(20))
    made = predictions(prediction(1))
    rows = {row["outcome_id"]: row for row in resolve(made, outcomes(later, earlier), now=NOW).to_dicts()}
    assert (rows["o00002"]["status"], rows["o00002"]["against"]) == ("counts", None)
    assert (rows["o00001"]["status"], rows["o00001"]["against"]) == ("conflicting", "o00002")
    assert label(made, outcomes(later, earlier))["label"].to_list() == [False]


def test_one_that_comes_before_its_prediction_waits_for_it_and_is_joined_later() -> None:
    said = outcomes(outcome(1))
    assert status(said, predictions()) == {"o00001": "waiting"}
    assert status(said, predictions(prediction(1))) == {"o00001": "counts"}


def test_one_whose_prediction_never_comes_is_reported_as_unknown() -> None:
    received = datetime.fromtimestamp(outcome(1).received_at / 1e6, UTC)
    assert status(outcomes(outcome(1)), predictions(), now=received + PATIENCE) == {"o00001": "unknown"}


def test_what_became_known_later_is_left_out_when_asked_as_of_a_time() -> None:
    made, said = predictions(prediction(1)), outcomes(outcome(1, known_at=at(100)))
    assert label(made, said, known_by=datetime.fromtimestamp(at(99) / 1e6, UTC)).is_empty()
    assert label(made, said, known_by=datetime.fromtimestamp(at(100) / 1e6, UTC)).height == 1


@given(st.lists(answered, max_size=5), st.lists(told, max_size=8), st.randoms(use_true_random=False))
def test_labels_are_those_of_brute_force_in_whatever_order_and_however_often_things_are_read(
    made: list[PredictionRecord], said: list[OutcomeRecord], order: random.Random
) -> None:
    made, said = distinct(made, "prediction_id"), distinct(said, "outcome_id")
    expected = {p.prediction_id: first[0].label for p in made if (first := truth(p, said))}
    shuffled = order.sample(said, len(said))
    joined = label(predictions(*made), outcomes(*shuffled, *said))
    assert dict(joined.select("prediction_id", "label").iter_rows()) == expected
    assert joined["label_known_at"].is_sorted()


@given(st.lists(answered, max_size=5), st.lists(told, max_size=8))
def test_each_outcome_has_the_status_of_brute_force(made: list[PredictionRecord], said: list[OutcomeRecord]) -> None:
    made, said = distinct(made, "prediction_id"), distinct(said, "outcome_id")
    about = [found for p in made if (found := truth(p, said))]
    expected = {}
    for one in said:
        mine = [found for found in about if one in found]
        if not mine:
            expected[one.outcome_id] = "waiting"
        elif any(found[0].label != one.label for found in mine):
            expected[one.outcome_id] = "conflicting"
        else:
            expected[one.outcome_id] = "counts" if any(found[0] == one for found in mine) else "repeated"
    assert status(outcomes(*said), predictions(*made)) == expected
    assert set(expected.values()) <= set(STATUSES)


@given(st.lists(answered, min_size=1, max_size=5), st.lists(told, max_size=8), told)
def test_a_label_that_counts_is_changed_by_no_outcome_that_became_known_later(
    made: list[PredictionRecord], said: list[OutcomeRecord], late: OutcomeRecord
) -> None:
    made, said = distinct(made, "prediction_id"), distinct(said, "outcome_id")
    late = outcome(9, prediction_id=late.prediction_id, entity=late.entity, label=late.label, known_at=at(50))
    before = label(predictions(*made), outcomes(*said)).select("prediction_id", "label")
    after = dict(label(predictions(*made), outcomes(*said, late)).select("prediction_id", "label").iter_rows())
    assert dict(before.iter_rows()).items() <= after.items()


@given(st.lists(answered, max_size=5), st.lists(told, max_size=8), st.randoms(use_true_random=False))
def test_what_all_agree_on_is_that_of_brute_force_in_whatever_order_things_are_read(
    made: list[PredictionRecord], said: list[OutcomeRecord], order: random.Random
) -> None:
    made, said = distinct(made, "prediction_id"), distinct(said, "outcome_id")
    shuffled = order.sample(said, len(said))
    found = {row["prediction_id"]: row for row in agreed(predictions(*made), outcomes(*shuffled, *said)).to_dicts()}
    disputed = contested(predictions(*made), outcomes(*shuffled, *said))
    for asked in made:
        about = sorted(truth(asked, said), key=lambda o: (o.received_at, o.known_at, o.outcome_id))
        words = {o.caller: o.label for o in about}
        if not words:
            assert asked.prediction_id not in found
            continue
        row, differ = found[asked.prediction_id], len(set(words.values())) > 1
        rows = disputed.filter(pl.col("prediction_id") == asked.prediction_id)
        assert row["contested"] == differ
        assert rows["outcome_id"].to_list() == ([o.outcome_id for o in about] if differ else [])
        assert {*rows.filter("last_word")["caller"]} == (set(words) if differ else set())
        if differ:
            assert (row["label"], row["label_known_at"]) == (None, None)
        else:
            [label] = set(words.values())
            assert row["label"] == label
            known = min(o.known_at for o in about if o.label == label)
            assert row["label_known_at"] == datetime.fromtimestamp(known / 1e6, UTC)


def test_one_that_corrects_itself_is_taken_at_its_last_word_whatever_time_it_names() -> None:
    made = predictions(prediction(1))
    said = outcomes(
        outcome(1, label=True, known_at=at(9), received_at=at(10)),
        outcome(2, prediction_id="p00001", label=False, known_at=at(5), received_at=at(20)),
    )
    [row] = agreed(made, said).to_dicts()
    assert (row["label"], row["contested"]) == (False, False)
    assert contested(made, said).is_empty()


def test_what_another_teller_said_before_is_its_word_too() -> None:
    """The endpoint gives the same words the same id, whoever says them: see ``serving/protocols/outcomes.py``."""
    made = predictions(prediction(1))
    said = outcomes(
        outcome(1, label=True, caller="crm", received_at=at(10)),
        outcome(1, label=True, caller="desk", received_at=at(11)),
        outcome(2, prediction_id="p00001", label=False, caller="crm", received_at=at(12)),
    )
    [row] = agreed(made, said).to_dicts()
    assert (row["label"], row["contested"]) == (None, True)
    disputed = contested(made, said)
    assert disputed.select("caller", "label", "last_word").rows() == [
        ("crm", True, False),
        ("desk", True, True),
        ("crm", False, True),
    ]
    assert status(said, made) == {"o00001": "counts", "o00002": "conflicting"}


def test_who_takes_a_correction_back_has_the_first_word_again() -> None:
    made = predictions(prediction(1))
    once = outcome(1, label=True, known_at=at(9), received_at=at(10))
    wrong = outcome(2, prediction_id="p00001", label=False, known_at=at(11), received_at=at(12))
    again = outcome(1, label=True, known_at=at(13), received_at=at(14))
    [row] = agreed(made, outcomes(again, wrong, once, once)).to_dicts()
    assert (row["label"], row["contested"]) == (True, False)
    # What counts for a rollout stays what was received first, whatever order it is read in.
    [counts] = label(made, outcomes(again, wrong, once)).to_dicts()
    assert (counts["label"], counts["label_received_at"]) == (True, datetime.fromtimestamp(at(10) / 1e6, UTC))
