"""From a wish to a run to a version, in Dagster: what sensors ask for, what runs record, and what is put right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jobs.retraining import wish
from pilotage.data import sample
from pilotage.errors import TrainingError
from pilotage.policy import Limit, Retraining
from pilotage.release.ledger import SqlLedger
from pilotage.release.retraining import attempts
from pilotage.release.retraining.requests import withdraw
from pilotage.run_tags import ACTOR, ATTEMPT, CAUSE, EVIDENCE, REQUEST
from resources.failures import plainly
from sensors.retraining import reconcile_sensor, retraining_sensor, watch_sensor
from sensors.retraining_alarms import alarm_sensor
from tests.unit.dagster_layer.retraining_house import MODEL_NAME, House
from tests.unit.release.lives import draft, registered

DECIDE = f"decide_withdraw_{MODEL_NAME}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path / "home", instance)


def test_nobody_asks_and_the_sensor_says_so(house: House) -> None:
    assert house.said(retraining_sensor(house.spec)) == "Nobody asks for a retraining."
    assert house.said(reconcile_sensor({MODEL_NAME: house.spec})) == "No attempt is lost. Running: none."
    assert "no champion that could get worse" in house.said(alarm_sensor(house.spec))
    assert house.said(watch_sensor(house.spec)).startswith("No champion of loan_approval is compared")


def test_a_champion_that_was_looked_at_this_hour_is_left_until_the_next_and_the_sensor_says_so(house: House) -> None:
    house.happens(registered(MODEL_NAME, 1), draft("promoted", 1, model=MODEL_NAME))
    limited = house.spec.retraining.model_copy(update={"limit": Limit(metric="brier", at=0.2)})
    sensor = watch_sensor(house.spec.model_copy(update={"retraining": limited}))
    [request] = house.tick(sensor).run_requests
    name, hour = request.run_key.rsplit("-", 1)
    job = house.defs.resolve_job_def(f"watch_{MODEL_NAME}")
    # The hour may end before the next tick.
    for key in (hour, str(int(hour) + 1)):
        tags = {"dagster/run_key": f"{name}-{key}"}
        house.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.FAILURE)
    assert house.tick(sensor).run_requests == [], "Dagster would launch nothing, and say nothing"
    said = (
        r"Run \w{8} was to look, and failed; the next look is at \d\d:00:00 UTC: version 1 is held against its limit\."
    )
    assert re.fullmatch(said, house.said(sensor))


def test_the_run_of_a_request_says_what_asked_for_it_who_and_why(house: House) -> None:
    house.asks(cause="drift", why="incomes moved", actor="monitoring", evidence={"since": "2024-01-05"})
    house.asks(why="a hunch")
    request = house.requested()
    assert request.run_key == "loan_approval-1-1"
    assert request.tags == {
        CAUSE: "drift+manual",
        ACTOR: "ada",
        REQUEST: "1",
        ATTEMPT: "1",
        EVIDENCE: "incomes moved a hunch",
        "dagster/max_retries": "0",
    }
    assert request.run_config == {"resources": {"training": {"config": {"evaluation": {"better_by": 0.8}}}}}


def test_who_repeats_the_run_of_a_schedule_asks_again_and_one_that_dagster_tries_again_does_not(house: House) -> None:
    night: dict[str, Any] = {"cause": "nightly", "actor": "schedule", "why": "the night", "once": "2024-01-05"}
    first = house.asks(**night)
    withdraw(MODEL_NAME, settings=house.settings, actor="ada", why="wrong day")
    parent = {"dagster/parent_run_id": first.run_id}
    config = wish(MODEL_NAME, **night)
    retried = house.run(f"retrain_{MODEL_NAME}", run_config=config, tags={**parent, "dagster/retry_number": "1"})
    assert house.state.retraining.open is None
    assert said_by(retried)["request"].value == 1, "not the next one: it is over"
    repeated = house.run(f"retrain_{MODEL_NAME}", run_config=config, tags=parent)
    assert house.state.retraining.open is not None
    [ask] = house.state.retraining.open.asks
    assert (ask.cause, ask.actor, ask.why) == ("nightly", "somebody in the Dagster UI", "the night")
    assert said_by(repeated)["request"].value == house.state.retraining.open.number


def test_who_stops_a_retraining_in_the_ui_stops_it_and_a_cancelled_run_alone_is_tried_again(house: House) -> None:
    house.asks()
    run = house.launched(house.requested(), dg.DagsterRunStatus.CANCELED)
    assert "is over: reconcile_retraining sees to it" in house.said(retraining_sensor(house.spec))
    withdrawn = house.run(f"withdraw_{MODEL_NAME}", run_config={"ops": {DECIDE: {"config": {"why": "wrong day"}}}})
    assert "loan_approval" in said_by(withdrawn)["state"].value
    [request] = house.state.retraining.closed
    assert (request.outcome, request.why) == ("withdrawn", "wrong day")
    assert "ended as withdrawn" in house.said(retraining_sensor(house.spec))
    assert house.said(reconcile_sensor({MODEL_NAME: house.spec})) == "No attempt is lost. Running: none.", run.run_id


def said_by(run: dg.ExecuteInProcessResult) -> Any:
    return next(event for event in run.all_node_events if event.is_successful_output).step_output_data.metadata


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        ({"why": ""}, "why is missing"),
        ({"verdict": "aks"}, "'aks' is no verdict. Fix: Fill in one of ask, needs_a_person, blocked"),
        ({"evidence": {"since": "yesterday"}}, "since in the evidence is 'yesterday'. Fix: Give a date"),
        (
            {"evidence": {"as_of": "2024-01-05"}},
            "as_of in the evidence is '2024-01-05'. Fix: Give a time with its zone",
        ),
    ],
)
def test_a_slip_in_the_launchpad_is_refused_and_nothing_is_recorded(
    house: House, slip: dict[str, Any], told: str
) -> None:
    config = wish(MODEL_NAME, **{"why": "to see", "actor": "ada", **slip})
    result = house.run(f"retrain_{MODEL_NAME}", raises=False, run_config=config)
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert told in str(failure.step_failure_data.error)
    assert house.events == []
    assert house.said(retraining_sensor(house.spec)) == "Nobody asks for a retraining."


@pytest.mark.slow
def test_a_request_is_carried_out_by_one_run_and_a_repeated_launch_trains_nothing(house: House) -> None:
    sample.publish_loans(house.settings.loans)
    house.run("ingest_loans")
    house.asks()
    request = house.requested()
    result = house.run(f"train_{MODEL_NAME}", tags=request.tags, run_config=request.run_config)
    [done] = house.state.retraining.closed
    assert (done.outcome, done.version, done.attempts[0].run) == ("registered", 1, result.run_id)
    assert house.said(retraining_sensor(house.spec)).endswith("the last one (1) ended as version 1.")
    again = house.run(f"train_{MODEL_NAME}", tags=request.tags, raises=False)
    failure = next(event for event in again.all_events if event.is_step_failure)
    assert "Request 1 of loan_approval is over: registered" in str(failure.step_failure_data.error)
    assert len(house.state.versions) == 1
    # Somebody who repeats it in the UI wants another training.
    repeated = {**request.tags, "dagster/parent_run_id": result.run_id}
    assert house.run(f"train_{MODEL_NAME}", tags=repeated).success
    assert len([event for event in house.events if event.kind in ("registered", "refused")]) == 2


def test_a_run_that_was_asked_for_is_not_asked_for_again_however_often_the_sensor_looks(house: House) -> None:
    house.asks()
    request = house.requested()
    house.launched(request, dg.DagsterRunStatus.NOT_STARTED)
    for _ in range(2):
        assert "was asked for attempt 1 of request 1." in house.said(retraining_sensor(house.spec))
    assert house.said(reconcile_sensor({MODEL_NAME: house.spec})).startswith("No attempt is lost")


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_run_that_died_before_it_began_counts_and_the_next_one_has_another_key(
    house: House, status: dg.DagsterRunStatus
) -> None:
    house.asks()
    house.launched(house.requested(), status)
    assert "reconcile_retraining sees to it" in house.said(retraining_sensor(house.spec))
    [put_right] = house.tick(reconcile_sensor({MODEL_NAME: house.spec})).run_requests
    assert "its attempt never began" in put_right.tags["pilotage/looks_because"]
    house.run("reconcile_retraining")
    [attempt] = house.state.retraining.open.attempts  # type: ignore[union-attr]
    assert "never began" in str(attempt.failure)
    assert "the next one begins at" in house.said(retraining_sensor(house.spec))


def test_an_attempt_whose_run_vanished_is_put_right_and_after_the_last_a_person_is_needed(house: House) -> None:
    house.asks()
    policy = Retraining(retry_after=timedelta(0))
    book = SqlLedger.of(house.settings)
    for number in (1, 2, 3):
        attempts.begin(MODEL_NAME, 1, run=f"gone-{number}", policy=policy, book=book)
        result = house.run("reconcile_retraining")
        assert result.success
    book.close()
    last = house.state.retraining.last
    assert last is not None
    assert (last.outcome, len(last.tried)) == ("gave_up", 3)
    assert last.tried[0]["failure"] == "Run gone-1 is gone, and its attempt did not finish."
    assert [event.kind for event in house.events].count("retrain_gave_up") == 1


def test_the_ledger_says_of_an_attempt_why_its_run_failed(house: House) -> None:
    @dg.asset
    @plainly
    def trained() -> None:
        raise TrainingError("No row has a label.", fix="Land labelled days.")

    run = dg.materialize([trained], instance=house.instance, raise_on_error=False).run_id
    house.asks()
    book = SqlLedger.of(house.settings)
    attempts.begin(MODEL_NAME, 1, run=run, policy=Retraining(), book=book)
    book.close()
    house.run("reconcile_retraining")
    [attempt] = house.state.retraining.open.attempts  # type: ignore[union-attr]
    assert attempt.failure == (
        f"Run {run[:8]} is failed, and its attempt did not finish. "
        "trained: TrainingError: No row has a label. Fix: Land labelled days."
    )


def test_a_run_that_lives_and_is_silent_loses_its_lease(house: House) -> None:
    house.asks()
    request = house.requested()
    run = house.launched(request, dg.DagsterRunStatus.STARTED)
    book = SqlLedger.of(house.settings)
    attempts.begin(MODEL_NAME, 1, run=run.run_id, policy=Retraining(lease=timedelta(minutes=10)), book=book)
    assert f"{MODEL_NAME} (attempt 1)" in house.said(reconcile_sensor({MODEL_NAME: house.spec}))
    from jobs.retraining import launches, stands
    from pilotage.release.retraining.reconcile import put_right

    later = datetime.now(UTC) + timedelta(minutes=11)
    seen = {"stand_of": stands(house.instance), "launched": launches(house.instance, MODEL_NAME)}
    [lost] = put_right(MODEL_NAME, house.spec.retraining, book=book, now=later, **seen)
    book.close()
    assert lost.kind == "attempt_lost"
    assert "has been silent" in lost.why
