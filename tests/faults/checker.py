"""Holds what clients saw against what is on disk: in the segments, and then in the lake."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pilotage.errors import BundleCorrupt
from pilotage.monitoring.predictions import move_log, read_log
from pilotage.runtime.answer import PredictionRecord, Record
from pilotage.runtime.log import Damage, adopt_orphans, read_segment, segments
from tests.faults.crowd import Seen
from tests.faults.models import SPECS
from tests.faults.world import World, expected, opened, order


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was compared."""

    requests: int
    acknowledged: int
    """Answers that said that they are logged."""
    unlogged: int
    """Answers that said that they are not."""
    refused: dict[str, int]
    """Error → answers."""
    reasons: dict[str, str]
    """Error → the words of one such answer."""
    broken: int
    """Requests that got no whole answer."""
    rows: int
    """Predictions in the log."""
    repairs: dict[str, int]
    """What became of the segments of dead workers → how many."""

    def __str__(self) -> str:
        said = "".join(f" ({error}: {words})" for error, words in self.reasons.items())
        return (
            f"{self.requests} requests: {self.acknowledged} acknowledged, {self.unlogged} unlogged, refused"
            f" {self.refused or 0}{said}, {self.broken} broken; {self.rows} rows in the log; segments taken over:"
            f" {self.repairs or 0}"
        )


def check(world: World, seen: Sequence[Seen], *, state: bool = True) -> Checked:
    """Compares; nothing may be running in the world any more.

    Args:
        world: Whose log.
        seen: What clients saw.
        state: Whether the model with as-of features had its history all the time.

    Raises:
        AssertionError: Something is missing, twice, or another than was told.
    """
    folder = world.settings.prediction_log
    repairs = Counter(each.outcome for each in adopt_orphans(folder, report=lambda _: None))
    assert repairs["damaged"] == 0, "a dead worker leaves a torn end, never damage"
    damage: list[Damage] = []
    records = [record for segment in segments(folder) for record in read_segment(segment.path, damage=damage.append)]
    assert damage == []
    predictions = _predictions(records)
    _check_answers(world, seen, predictions, state=state)
    _check_names(seen, predictions)
    _check_lake(world, predictions)
    told = world.logs()
    assert "Traceback" not in told, told[-3000:]
    assert "DAMAGED" not in told, told[-3000:]
    repairs.update(re.findall("Took over the log of a worker that died: ([a-z]+)", told))
    answered = [each.answer for each in seen if each.status == 200]
    return Checked(
        requests=len(seen),
        acknowledged=sum(answer["logged"] for answer in answered),
        unlogged=sum(not answer["logged"] for answer in answered),
        refused=dict(Counter(each.answer["error"] for each in seen if each.status not in (0, 200))),
        reasons={each.answer["error"]: each.answer["message"] for each in seen if each.status not in (0, 200)},
        broken=sum(each.status == 0 for each in seen),
        rows=len(predictions),
        repairs=dict(repairs),
    )


def _predictions(records: Sequence[Record]) -> dict[str, PredictionRecord]:
    found = [record for record in records if isinstance(record, PredictionRecord)]
    twice = [name for name, count in Counter(record.prediction_id for record in found).items() if count > 1]
    assert twice == [], "each prediction is in the log once"
    return {record.prediction_id: record for record in found}


def _check_answers(
    world: World, seen: Sequence[Seen], predictions: dict[str, PredictionRecord], *, state: bool
) -> None:
    """Each answer is in the log as it was told, or is not, as it was told; and is the right one."""
    missing, there = [], []
    by_version: dict[tuple[str, int], list[Seen]] = defaultdict(list)
    for each in seen:
        if each.status != 200:
            continue
        answer = each.answer
        record = predictions.get(answer["prediction_id"])
        if answer["logged"] and record is None:
            missing.append(answer)
        elif not answer["logged"] and record is not None:
            there.append(answer)
        asked = order(each.number)
        assert (answer["model"], answer["entity"]) == (each.model, {"order_id": asked["order_id"]}), "its own answer"
        if record is not None:
            told = {name: getattr(record, name) for name in ("model", "version", "probability", "decision", "referred")}
            assert told == {name: answer[name] for name in told}, "the log has what was told"
            assert (record.entity, record.request["amount"]) == (answer["entity"], asked["amount"])
            assert record.request_id == each.request_id
        if answer["answered_by"] in ("model", "previous_champion"):
            by_version[each.model, answer["version"]].append(each)
    assert missing == [], f"{len(missing)} acknowledged predictions are missing from the log"
    assert there == [], f"{len(there)} predictions are in the log though their answers say that they are not"
    bundles = opened(world)
    for key, answered in by_version.items():
        if key not in bundles:
            raise BundleCorrupt(f"No bundle was made of {key}.", fix="Make it in the world.")
        if bundles[key].asof and not state:
            continue
        right = expected(bundles[key], [each.number for each in answered])
        assert [each.answer["probability"] for each in answered] == right, f"{key} gives its own probabilities"


def _check_names(seen: Sequence[Seen], predictions: dict[str, PredictionRecord]) -> None:
    """A request that has an id has one answer and one row, a batch one each order; what was refused has none."""
    rows = Counter((record.model, record.request_id) for record in predictions.values())
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    outcomes: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for each in seen:
        if each.request_id:
            outcomes[each.model, each.request_id].append(each)
        if each.status == 200 and each.answer["logged"]:
            answers[each.model, each.request_id].add(each.answer["prediction_id"])
    for key, group in outcomes.items():
        orders = group[0].together
        if key in answers:
            assert len(answers[key]) == orders, f"one answer an order; {key} has {len(answers[key])} of {orders}"
            assert rows[key] == orders, f"one log row an order; {key} has {rows[key]} of {orders}"
        elif all(each.status not in (0, 200) for each in group):
            assert rows[key] == 0, f"{key} was refused, and is in the log"
        else:
            assert rows[key] in (0, orders), f"all log rows of a request or none; {key} has {rows[key]} of {orders}"


def _check_lake(world: World, predictions: dict[str, PredictionRecord]) -> None:
    """The mover puts every row there once, and a second mover nothing."""
    for _ in range(2):
        report = move_log(world.settings, world.lake, models=SPECS, quiet_s=0.0)
        assert report.problems == ()
        assert report.waiting == 0
    moved: list[str] = []
    for model in SPECS:
        if world.lake.exists(f"predictions/{model}"):
            moved += world.lake.scan(f"predictions/{model}").collect()["prediction_id"].to_list()
            told = read_log(world.settings, model, lake=world.lake)["prediction_id"].to_list()
            assert sorted(told) == sorted(name for name, row in predictions.items() if row.model == model)
    assert sorted(moved) == sorted(predictions), "in the lake exactly once"
