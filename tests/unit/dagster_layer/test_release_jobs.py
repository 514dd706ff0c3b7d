"""Decisions from the Dagster UI, and the looks of the rollout: what they record, and what they say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jobs.decisions import decision_jobs
from jobs.rollout import rollout_job_name
from pilotage.policy import Rollout
from pilotage.release import rollout, tick
from pilotage.release.champions import states
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.release.retraining import watch
from pilotage.release.state import ModelState
from pilotage.run_tags import CAUSE, DECISION, MODEL
from pilotage.testing.bundles import make_bundle, tiny_spec
from resources.failures import what_failed
from sensors.rollout import rollout_sensor
from tests.unit.dagster_layer.release_house import MODEL_NAME, House, failure
from tests.unit.release.lives import draft, registered


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bundles") / "good"
    return folder, make_bundle(folder)


@pytest.fixture
def house(tmp_path: Path, bundle: tuple[Path, str]) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path / "home", instance, bundle)


def test_an_operator_kills_resumes_promotes_and_rolls_back_from_the_ui(house: House) -> None:
    house.versions(1, 2, 3)
    house.run("promote_flight_delay", version=1, why="first", actor="ada")
    house.run("promote_flight_delay", version=2, why="better", actor="ada")
    house.run("shadow_flight_delay", version=3, why="try it")
    house.run("canary_flight_delay", version=3, share=0.2, why="go on")
    assert house.state.canary is not None
    assert house.state.canary.share == 0.2
    house.run("rollback_flight_delay", why="it is slow", actor="bob")
    killed = house.run("kill_flight_delay", why="wrong answers", actor="bob")
    assert (house.state.killed.why, house.state.killed.actor) == ("wrong answers", "bob")  # type: ignore[union-attr]
    metadata = next(event for event in killed.all_node_events if event.is_successful_output).step_output_data.metadata
    assert metadata["killed"].value == "wrong answers"
    house.run("resume_flight_delay", why="mended")
    house.run("rollback_flight_delay", to=1, why="was better")
    state = house.state
    assert {number: known.stage for number, known in state.versions.items()} == {
        1: "champion",
        2: "rolled_back",
        3: "rolled_back",
    }
    assert state.champion is not None
    assert state.champion.actor == "somebody in the Dagster UI"


@pytest.mark.parametrize(
    ("job", "config", "said"),
    [
        ("kill_flight_delay", {}, "why is missing"),
        ("promote_flight_delay", {"why": "because", "actor": "ada"}, "Which version of flight_delay"),
        ("approve_flight_delay", {"why": "because", "version": 1}, "An approval needs a name"),
        ("promote_loan_approval", {"why": "because", "version": 9}, "no version 9"),
    ],
)
def test_a_decision_that_lacks_something_is_refused_and_says_what(
    house: House, job: str, config: dict[str, Any], said: str
) -> None:
    result = house.run(job, raises=False, **config)
    assert said in failure(result)
    # Where the run's page begins, and in the alarm: not below Dagster's own words and stack traces.
    failed = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert said in failed.error_display_string.splitlines()[0]
    assert failed.user_failure_data is not None
    assert "fix" in failed.user_failure_data.metadata
    assert re.match(rf"decide_{job}: (ConfigError|NotReleasable): .*{said}", what_failed(house.instance, result.run_id))
    assert states(settings=house.settings) == {}


def test_the_launchpad_opens_with_every_field_and_decisions_go_before_other_runs() -> None:
    for job in decision_jobs(tiny_spec("tiny")):
        decision = job.tags[DECISION]
        [(_, step)] = job.run_config["ops"].items()
        assert {"why", "actor"} <= set(step["config"]), job.name
        assert (job.tags["dagster/priority"], job.tags[MODEL], job.name) == ("100", "tiny", f"{decision}_tiny")
        # The queue lets two runs with a cause through; a kill must not wait for them.
        assert CAUSE not in job.tags


SPEC = tiny_spec(MODEL_NAME)
AUTOMATIC = tiny_spec(MODEL_NAME, rollout=Rollout(automatic=True))


def evaluate(house: House, spec: Any = SPEC) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=house.instance, resources={"platform": house.platform})
    return rollout_sensor(spec)(context)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("drafts", "reason"),
    [
        ([], "flight_delay has no champion"),
        (
            [registered(MODEL_NAME, 1), draft("promoted", 1, model=MODEL_NAME)],
            "no version of flight_delay is in shadow",
        ),
        (
            [
                *(registered(MODEL_NAME, number) for number in (1, 2)),
                draft("promoted", 1, model=MODEL_NAME),
                draft("shadowed", 2, model=MODEL_NAME),
                draft("killed", model=MODEL_NAME),
            ],
            "flight_delay is killed",
        ),
        (
            [
                *(registered(MODEL_NAME, number) for number in (1, 2)),
                draft("promoted", 1, model=MODEL_NAME),
                draft("ab_started", 2, model=MODEL_NAME, share=0.5, salt="s"),
            ],
            "an A/B test of flight_delay runs",
        ),
    ],
)
def test_the_rollout_sensor_says_why_there_is_nothing_to_look_at(
    house: House, drafts: list[Draft], reason: str
) -> None:
    house.happens(*drafts)
    result = evaluate(house)
    assert result.run_requests == []
    assert reason in str(result.skip_reason.skip_message)  # type: ignore[union-attr]


def test_a_version_in_shadow_is_looked_at_once_a_window_and_the_run_says_why(house: House) -> None:
    house.happens(*(registered(MODEL_NAME, number) for number in (1, 2)))
    house.happens(draft("promoted", 1, model=MODEL_NAME))
    assert evaluate(house).run_requests == []
    [begin] = evaluate(house, AUTOMATIC).run_requests or []
    assert begin.tags["pilotage/looks_because"] == "version 2 is to begin its rollout"
    house.happens(draft("shadowed", 2, model=MODEL_NAME))
    [request] = evaluate(house).run_requests or []
    assert request.tags == {DECISION: "rollout", MODEL: MODEL_NAME, "pilotage/looks_because": "version 2 is in shadow"}
    assert request.run_key.startswith("flight_delay-60-")  # type: ignore[union-attr]
    job = house.defs.resolve_job_def(rollout_job_name(MODEL_NAME))
    house.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    skipped = evaluate(house)
    assert skipped.run_requests == []
    assert f"looks at {MODEL_NAME}" in str(skipped.skip_reason.skip_message)  # type: ignore[union-attr]


def test_a_tick_in_a_window_that_was_looked_at_says_so(house: House) -> None:
    house.happens(*(registered(MODEL_NAME, number) for number in (1, 2)))
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    [request] = evaluate(house).run_requests or []
    name, number = str(request.run_key).rsplit("-", 1)
    job = house.defs.resolve_job_def(rollout_job_name(MODEL_NAME))
    # A minute may end before the next tick.
    for key in (number, str(int(number) + 1)):
        tags = {"dagster/run_key": f"{name}-{key}"}
        house.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
    skipped = evaluate(house)
    assert skipped.run_requests == [], "Dagster would launch nothing, and say nothing"
    said = str(skipped.skip_reason.skip_message)  # type: ignore[union-attr]
    assert re.fullmatch(r"Run \w{8} has looked; the next look is at \d\d:\d\d:00 UTC: version 2 is in shadow\.", said)


def test_looks_become_rarer_after_the_first_hour_of_a_stage() -> None:
    from sensors.rollout import _request, _window

    now = datetime(2024, 1, 1, 12, tzinfo=UTC)

    def keys(since: datetime) -> int:
        windows = (_window(since=since, now=now + timedelta(seconds=30 * n)) for n in range(20))
        return len({_request("m", "", window).run_key for window in windows})

    assert (keys(now - timedelta(minutes=10)), keys(now - timedelta(hours=2))) == (10, 2)


Decided = Callable[..., tick.Ticked]


@pytest.fixture
def decided(house: House, monkeypatch: pytest.MonkeyPatch) -> Decided:
    """Lets the rollout come to a decision, whatever the evidence."""

    def carry_out(kind: Any, *, stuck: bool = False, **payload: Any) -> tick.Ticked:
        monkeypatch.setattr(rollout, "gather", lambda *_, **__: None)
        made = rollout.Decision(kind=kind, model=MODEL_NAME, version=2, why="so it is", payload=payload, stuck=stuck)
        monkeypatch.setattr(rollout, "assess", lambda *_: made)
        lake: Any = house.platform.lake
        return tick.tick(SPEC, settings=house.settings, lake=lake, now=datetime.now(UTC))

    return carry_out


def test_a_rollout_goes_through_its_steps_and_each_decision_holds_its_evidence(house: House, decided: Decided) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    events = len(SqlLedger(house.settings.ledger).events())
    assert decided("hold").did == "held"
    assert len(SqlLedger(house.settings.ledger).events()) == events
    assert decided("advance", seen=1).state.canary.step == 0  # type: ignore[union-attr]
    assert decided("advance", seen=2).state.canary.step == 1  # type: ignore[union-attr]
    ticked = decided("promote", seen=3)
    assert (ticked.did, ticked.state.champion.version) == ("promoted", 2)  # type: ignore[union-attr]
    added = SqlLedger(house.settings.ledger).events(after=events)
    assert [(each.kind, each.actor, each.cause, each.payload["evidence"]) for each in added] == [
        ("canaried", "rollout", "so it is", {"seen": 1}),
        ("canaried", "rollout", "so it is", {"seen": 2}),
        ("promoted", "rollout", "so it is", {"seen": 3}),
    ]
    assert added[-1].payload["how"] == "rollout"


def test_a_breach_takes_a_canary_back_and_rejects_a_shadow(house: House, decided: Decided) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    assert decided("reject").state.versions[2].stage == "rejected"
    house.happens(draft("shadowed", 2, model=MODEL_NAME))
    decided("advance")
    ticked = decided("roll_back", guardrail="errors")
    assert (ticked.did, ticked.state.versions[2].stage) == ("rolled_back", "rolled_back")
    assert ticked.state.champion.version == 1  # type: ignore[union-attr]
    assert ticked.state.history[-1].version == 1


def test_an_approval_is_asked_for_once(house: House, decided: Decided) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    assert decided("request_approval").did == "asked_for_approval"
    assert decided("request_approval").did == "held"
    kinds = [event.kind for event in SqlLedger(house.settings.ledger).events()]
    assert kinds.count("verdict") == 1
    house.happens(draft("approved", 2, model=MODEL_NAME, actor="bob"))
    assert decided("advance").did == "advanced"


def test_a_person_is_called_once_in_each_stage_that_does_not_go_on(house: House, decided: Decided) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    assert [decided("hold", stuck=True).did for _ in range(3)] == ["called_a_person", "held", "held"]
    assert decided("advance").did == "advanced"
    assert [decided("hold", stuck=True).did for _ in range(2)] == ["called_a_person", "held"]
    told = [event for event in SqlLedger(house.settings.ledger).events() if event.kind == "verdict"]
    assert [(event.cause, event.payload["decision"]) for event in told] == [("so it is", "needs_a_person")] * 2


def test_an_automatic_rollout_begins_by_itself_and_only_where_the_file_says_so(house: House) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME))
    at: dict[str, Any] = {"settings": house.settings, "lake": house.platform.lake, "now": datetime.now(UTC)}
    assert tick.tick(SPEC, **at).did == "nothing"
    assert tick.tick(AUTOMATIC, **at).did == "began"
    assert house.state.versions[2].stage == "shadow"
    assert tick.begin_rollout(AUTOMATIC, settings=house.settings).did == "nothing"


def test_an_automatic_rollout_without_a_shadow_stage_asks_for_approval_first(house: House) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME))
    strict = tiny_spec(MODEL_NAME, rollout=Rollout(automatic=True, shadow=None, approvals=1))
    assert tick.begin_rollout(strict, settings=house.settings).did == "asked_for_approval"
    assert tick.begin_rollout(strict, settings=house.settings).did == "held"
    house.happens(draft("approved", 2, model=MODEL_NAME, actor="bob"))
    assert tick.begin_rollout(strict, settings=house.settings).state.canary is not None


def test_the_job_of_the_rollout_looks_at_the_real_log_and_says_what_it_found(house: House) -> None:
    house.versions(1, 2)
    assert house.run(rollout_job_name(MODEL_NAME)).success
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    result = house.run(rollout_job_name(MODEL_NAME))
    metadata = next(event for event in result.all_node_events if event.is_successful_output).step_output_data.metadata
    assert metadata["did"].value == "held"
    assert "500 more of 500 answers" in metadata["why"].value
    assert len(metadata["guardrails"].records) == len(SPEC.rollout.guardrails)


def test_a_look_that_somebody_decides_during_looks_again_and_does_not_fail(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.versions(1, 2, 3)
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    made = rollout.Decision(kind="reject", model=MODEL_NAME, version=2, why="so it is")
    looks: list[int] = []

    def meanwhile(_: Any, state: ModelState, *__: Any) -> rollout.Decision:
        looks.append(state.sequence)
        if len(looks) == 1:
            house.happens(draft("approved", 3, model=MODEL_NAME, actor="bob"))
        return made

    monkeypatch.setattr(rollout, "assess", meanwhile)
    assert house.run(rollout_job_name(MODEL_NAME)).success
    assert [each - looks[0] for each in looks] == [0, 1], "what was decided on before, and what is decided on"
    assert house.state.versions[2].stage == "rejected"


def test_what_a_run_decides_names_the_run(house: House, decided: Decided, monkeypatch: pytest.MonkeyPatch) -> None:
    house.versions(1, 2)
    house.happens(draft("promoted", 1, model=MODEL_NAME), draft("shadowed", 2, model=MODEL_NAME))
    decided("hold")
    made = rollout.Decision(kind="reject", model=MODEL_NAME, version=2, why="so it is", payload={"guardrails": []})
    monkeypatch.setattr(rollout, "assess", lambda *_: made)
    result = house.run(rollout_job_name(MODEL_NAME))
    [event] = [event for event in SqlLedger(house.settings.ledger).events() if event.kind == "rejected"]
    assert event.payload["evidence"]["run"] == result.run_id

    seen: list[str] = []

    def look(*_: Any, run: str, **__: Any) -> watch.Looked:
        seen.append(run)
        return watch.Looked(model=MODEL_NAME, did="nothing", why="", state=house.state)

    monkeypatch.setattr(watch, "look", look)
    ran = house.run(f"watch_{MODEL_NAME}").run_id
    assert seen == [ran]
