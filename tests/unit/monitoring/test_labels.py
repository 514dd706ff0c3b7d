"""Outcomes from a declared source: each told once, corrections told with what was said before, others' words kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pilotage.errors import DeclarationError, UnpublishedData
from pilotage.features.state import microseconds
from pilotage.monitoring.answers import data_clock, read_answers
from pilotage.monitoring.labels import collect, label_source, source_rows
from pilotage.monitoring.measured import quarantine_contested
from pilotage.monitoring.outcomes import resolve
from pilotage.monitoring.predictions import labelled, read_log, read_outcomes
from pilotage.spec import Label, Outcomes
from pilotage.testing.bundles import tiny_spec
from tests.unit.monitoring.logs import outcome
from tests.unit.monitoring.used_world import TOOK, Used, used_spec


@pytest.fixture
def used(tmp_path: Path) -> Used:
    return Used(tmp_path, days=3, a_day=20)


def told(used: Used) -> pl.DataFrame:
    return read_outcomes(used.settings, used.spec.name, lake=used.lake)


def gather(used: Used) -> int:
    found = collect(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    assert found is not None
    return found.new


def test_what_the_source_says_labels_the_predictions_when_it_became_known(used: Used) -> None:
    used.serve()
    used.tell()
    delivered = used.orders.filter(~pl.col("cancelled"))
    assert gather(used) == delivered.height
    known = labelled(used.settings, used.spec.name, lake=used.lake)
    truth = dict(delivered.select("order_id", "is_late").iter_rows())
    assert {i.removeprefix("p-"): late for i, late in known.select("prediction_id", "label").iter_rows()} == truth
    assert known.select((pl.col("label_known_at") - pl.col("moment")).unique()).to_series().to_list() == [TOOK]
    assert told(used)["caller"].unique().to_list() == ["source:orders"]


def test_collecting_again_adds_nothing_and_new_rows_add_themselves(used: Used) -> None:
    used.serve()
    used.tell(used.orders.filter(pl.col("day") < used.day(2)))
    first = gather(used)
    version = used.lake.version("outcomes/tiny")
    assert gather(used) == 0
    assert used.lake.version("outcomes/tiny") == version
    used.tell()
    assert first + gather(used) == told(used).height == used.orders["is_late"].count()


def test_only_what_was_predicted_is_told_and_a_late_prediction_gets_its_label_too(used: Used) -> None:
    early, late = used.orders.head(10), used.orders.slice(10, 10)
    used.tell()
    used.serve(early)
    assert gather(used) == early["is_late"].count()
    used.serve(late)
    assert gather(used) == late["is_late"].count()


def test_two_that_collect_at_once_tell_it_once(used: Used) -> None:
    used.serve()
    used.tell()
    with ThreadPoolExecutor(3) as pool:
        new = list(pool.map(lambda _: gather(used), range(3)))
    assert sum(new) == told(used).height == told(used)["outcome_id"].n_unique() == used.orders["is_late"].count()


def test_a_source_that_changes_its_mind_and_back_has_said_three_things(used: Used) -> None:
    one = used.orders.filter(~pl.col("cancelled")).head(1)
    used.serve(one)
    day = used.orders.filter(pl.col("day") == one["day"][0])
    other = day.with_columns(
        is_late=pl.when(pl.col("order_id") == one["order_id"][0]).then(~pl.col("is_late")).otherwise("is_late")
    )
    for orders in (day, other, day):
        used.tell(orders)
        assert gather(used) == 1
    said = told(used)
    assert said["label"].to_list() == [one["is_late"][0], not one["is_late"][0], one["is_late"][0]]
    assert said["outcome_id"].n_unique() == 3


def test_who_disagrees_with_the_source_is_quarantined_with_both_values_and_left_out(used: Used) -> None:
    used.serve()
    used.tell()
    gather(used)
    order = used.orders.filter(~pl.col("cancelled")).row(0, named=True)
    known = microseconds(order["delivered_at"] + timedelta(minutes=1))
    entity = {"order_id": order["order_id"]}
    late = microseconds(datetime.now(UTC)) + 10**6
    other = not order["is_late"]
    used.log([outcome(1, prediction_id=None, entity=entity, label=other, known_at=known, received_at=late)])
    where = {"settings": used.settings, "lake": used.lake}
    assert quarantine_contested(used.spec, **where, now=used.now, run_id="r1") == 1
    kept = used.lake.scan("quarantine/tiny_outcomes").collect().sort("known_at")
    assert kept.select("caller", "label", "last_word").rows() == [
        ("source:orders", order["is_late"], True),
        ("key-1", not order["is_late"], True),
    ]
    answers = read_answers(used.spec, **where, first=used.day(0), last=used.day(2), known_by=used.now)
    [row] = answers.filter("contested").to_dicts()
    assert (row["prediction_id"], row["label"]) == (f"p-{order['order_id']}", None)
    # The application agrees in the end: nothing is contested, and the quarantine of that day empties.
    used.log([outcome(2, prediction_id=None, entity=entity, label=not other, known_at=known, received_at=late + 1)])
    assert quarantine_contested(used.spec, **where, now=used.now, run_id="r2") == 0
    assert used.lake.scan("quarantine/tiny_outcomes").collect().is_empty()


def test_the_same_words_of_two_applications_are_one_outcome_and_the_words_of_both(used: Used) -> None:
    used.serve()
    received = microseconds(used.now)
    about = {"prediction_id": "p-A-0", "known_at": received - 1}
    for second, (number, caller, label) in enumerate([(1, "crm", True), (1, "desk", True), (2, "crm", False)]):
        used.log([outcome(number, **about, caller=caller, label=label, received_at=received + second)])
    assert told(used)["outcome_id"].to_list() == ["o00001", "o00001", "o00002"]
    where = {"settings": used.settings, "lake": used.lake}
    assert quarantine_contested(used.spec, **where, now=used.now, run_id="r") == 1
    [row] = read_answers(used.spec, **where, first=used.day(0), last=used.day(2)).filter("contested").to_dicts()
    assert row["prediction_id"] == "p-A-0"


def test_a_source_that_corrects_itself_is_taken_at_its_last_word_but_rollouts_keep_their_labels(used: Used) -> None:
    used.serve()
    used.tell()
    gather(used)
    used.tell(used.orders.with_columns(is_late=~pl.col("is_late")))
    found = collect(used.spec, settings=used.settings, lake=used.lake, now=used.now)
    assert found is not None
    assert found.corrected == found.new == used.orders["is_late"].count()
    where = {"settings": used.settings, "lake": used.lake}
    log = read_log(used.settings, "tiny", lake=used.lake)
    statuses = resolve(log, told(used), now=used.now)["status"].value_counts()
    assert dict(statuses.iter_rows()) == {"counts": found.new, "conflicting": found.new}
    assert quarantine_contested(used.spec, **where, now=used.now, run_id="r") == 0
    first = labelled(used.settings, "tiny", lake=used.lake).select("prediction_id", "label").sort("prediction_id")
    now = read_answers(used.spec, **where, first=used.day(0), last=used.day(2)).filter(pl.col("label").is_not_null())
    assert now.select("prediction_id", ~pl.col("label")).sort("prediction_id").equals(first)


def test_truth_that_becomes_known_later_is_not_known_yet(used: Used) -> None:
    used.serve()
    used.tell()
    gather(used)
    last = used.orders["ordered_at"][-1]
    answers = read_answers(
        used.spec, settings=used.settings, lake=used.lake, first=used.day(0), last=used.day(2), known_by=last
    )
    waiting = answers.filter(pl.col("moment") > last - TOOK)
    assert waiting.height > 10
    assert waiting["label"].null_count() == waiting.height
    assert (
        answers.filter(pl.col("moment") <= last - TOOK, pl.col("no_label_reason").is_null())["label"].null_count() == 0
    )


def test_the_clock_of_the_data_is_the_newest_moment_or_truth_and_never_in_the_future(used: Used) -> None:
    used.serve()
    at = {"settings": used.settings, "lake": used.lake}
    assert data_clock(used.spec, **at) == used.orders["ordered_at"].max()
    used.tell()
    gather(used)
    assert data_clock(used.spec, **at) == used.orders.filter(~pl.col("cancelled"))["delivered_at"].max()
    assert data_clock(used.spec, **at, wall=used.orders["ordered_at"][5]) <= used.orders["ordered_at"][5]


def test_another_source_tells_by_its_own_columns(tmp_path: Path) -> None:
    spec = used_spec(
        outcomes=Outcomes(source="returns", on={"order_id": "number"}, expr=pl.col("back") == "yes", known_at="seen_at")
    )
    used = Used(tmp_path, days=1, a_day=3, spec=spec)
    used.serve()
    returns = used.orders.select(number="order_id", back=pl.Series(["yes", "no", None]), seen_at=pl.col("delivered_at"))
    used.lake.replace("validated/returns", returns, note={})
    assert gather(used) == 2
    assert told(used).sort("entity")["label"].to_list() == [True, False]


def test_personal_entities_are_found_by_their_pseudonyms(tmp_path: Path) -> None:
    from pilotage.pseudonyms import Pseudonyms

    plain = used_spec()
    hidden = tuple(f.model_copy(update={"personal": f.name == "order_id"}) for f in plain.request)
    used = Used(tmp_path, days=1, a_day=4, spec=plain.model_copy(update={"request": hidden}))
    used.tell()
    pseudonym = Pseudonyms.of(used.settings).apply("order_id", "A-2")
    used.serve(used.orders.slice(2, 1), entity={"order_id": pseudonym})
    rows = source_rows(
        read_log(used.settings, "tiny", lake=used.lake)["entity"],
        used.spec,
        table="validated/orders",
        on={"order_id": "order_id"},
        columns={"shop": pl.col("shop")},
        lake=used.lake,
        settings=used.settings,
    )
    assert rows["shop"].to_list() == [used.orders["shop"][2]]
    assert "A-2" not in rows["entity"][0]


def test_a_model_whose_truth_no_source_dates_is_told_by_applications_alone() -> None:
    assert label_source(tiny_spec()) is None


def test_a_source_without_a_column_that_the_spec_names_is_told(used: Used) -> None:
    used.serve()
    used.tell(used.orders.drop("delivered_at"))
    with pytest.raises(UnpublishedData, match="validated/orders has no column delivered_at"):
        gather(used)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"source": "returns"}, "what the rows of returns say is not told"),
        ({"known_at": "seen_at"}, "on, expr and known_at are about another source"),
    ],
)
def test_half_a_declaration_is_refused(declared: dict[str, str], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Outcomes(**declared)


def test_an_entity_column_that_is_none_is_refused() -> None:
    told = Outcomes(source="returns", on={"parcel": "number"}, expr=pl.col("back"), known_at="seen_at")
    with pytest.raises(DeclarationError, match=r"outcomes\.on reads parcel, which is no column of the entity"):
        used_spec(outcomes=told, label=Label(name="late", expr=pl.col("x"), known_at="delivered_at", description="."))


def test_labels_that_take_longer_than_they_are_looked_up_for_are_refused() -> None:
    with pytest.raises(DeclarationError, match=r"labels take up to 45 days.* looked up for 30 days"):
        Outcomes(within=timedelta(days=45))
