"""A decision that is launched in the Dagster UI is about what could be seen then, and is recorded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from pilotage.errors import LedgerUnavailable
from pilotage.release import aliases, commands
from pilotage.release.ledger import SqlLedger
from pilotage.testing.bundles import make_bundle
from tests.unit.dagster_layer.release_house import MODEL_NAME, House
from tests.unit.release.lives import draft

CRASHED = {"dagster/retry_number": "1"}
"""Tag of a run that Dagster itself launches, after the one before lost its process."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bundles") / "good"
    return folder, make_bundle(folder)


@pytest.fixture
def house(tmp_path: Path, bundle: tuple[Path, str]) -> Iterator[House]:
    """Versions 1 to 4 were champions, one after the other."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = House(tmp_path / "home", instance, bundle)
        made.versions(1, 2, 3, 4)
        made.happens(*(draft("promoted", number, model=MODEL_NAME) for number in (1, 2, 3, 4)))
        yield made


def unavailable(*_: object, **__: object) -> None:
    raise LedgerUnavailable("The ledger can't be used.", fix="See that its database runs.")


def champion(house: House) -> int | None:
    return house.state.champion.version if house.state.champion else None


def test_two_runs_that_are_launched_about_one_bad_version_take_back_that_one_alone(house: House) -> None:
    one, same, other = (
        house.launch("rollback_flight_delay", why="wrong answers", actor=actor) for actor in ("ada", "ada", "bob")
    )
    assert house.carry_out(one) == ""
    assert house.carry_out(same) == "", "the very same, launched twice"
    assert "flight_delay 4 rolled back by ada (event 9). Nothing was recorded." in house.carry_out(other)
    assert champion(house) == 3
    assert house.carry_out(house.launch("rollback_flight_delay", why="wrong answers", actor="ada")) == ""
    assert champion(house) == 2, "launched when it was known that version 3 answers"


def test_a_run_that_crashed_when_it_had_decided_decides_nothing_when_dagster_tries_it_again(house: House) -> None:
    first = house.launch("rollback_flight_delay", why="wrong answers")
    assert house.carry_out(first) == ""
    assert house.carry_out(house.launch(first.job_name, again=first, tags=CRASHED)) == ""
    assert champion(house) == 3
    assert [kind for kind, *_ in house.decided()].count("rolled_back") == 1


@pytest.mark.parametrize(
    ("job", "config", "since"),
    [
        ("rollback_flight_delay", {}, draft("promoted", 1, model=MODEL_NAME)),
        ("kill_flight_delay", {}, draft("resumed", model=MODEL_NAME)),
        ("promote_flight_delay", {"version": 2}, draft("rolled_back", 2, model=MODEL_NAME, to=1)),
        ("shadow_flight_delay", {"version": 3}, draft("rejected", 3, model=MODEL_NAME)),
        ("approve_flight_delay", {"version": 3, "actor": "ada"}, draft("shadowed", 3, model=MODEL_NAME)),
    ],
)
def test_an_old_run_that_is_repeated_does_not_decide_about_what_is_there_now(
    house: House, job: str, config: dict[str, object], since: object
) -> None:
    old = house.launch(job, why="so it was", **config)
    assert house.carry_out(old) == ""
    if job.startswith("approve"):
        house.happens(draft("promoted", 3, model=MODEL_NAME), draft("rolled_back", 3, model=MODEL_NAME, to=1))
    house.happens(since)  # type: ignore[arg-type]
    before = house.decided()
    said = house.carry_out(house.launch(job, again=old))
    assert "LedgerConflict: This was decided at" in said
    assert "not by one that is repeated" in said
    assert house.decided() == before


def test_a_decision_that_could_not_be_recorded_may_be_repeated_while_nothing_has_changed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = house.launch("rollback_flight_delay", why="wrong answers", actor="ada")
    with monkeypatch.context() as patch:
        patch.setattr(SqlLedger, "append", unavailable)
        assert "LedgerUnavailable" in house.carry_out(first)
    assert house.carry_out(house.launch(first.job_name, again=first)) == ""
    assert house.decided()[-1] == ("rolled_back", 4, "ada")


def test_a_kill_is_never_late(house: House) -> None:
    run = house.launch("kill_flight_delay", why="wrong answers")
    house.happens(draft("rolled_back", 4, model=MODEL_NAME, to=3))
    assert house.carry_out(run) == ""
    assert house.state.killed is not None


def test_a_canary_that_its_rollout_gave_more_meanwhile_is_taken_back_all_the_same(house: House) -> None:
    house.versions(5)
    house.happens(draft("canaried", 5, model=MODEL_NAME, share=0.1, salt="s", step=0, segment=None))
    run = house.launch("rollback_flight_delay", why="wrong answers")
    house.happens(draft("canaried", 5, model=MODEL_NAME, share=0.2, salt="s", step=1, segment=None))
    assert house.carry_out(run) == ""
    assert (house.state.versions[5].stage, champion(house)) == ("rolled_back", 4)


def test_a_run_whose_first_one_was_deleted_says_that_nobody_knows_when_it_was_decided(house: House) -> None:
    first = house.launch("rollback_flight_delay", why="wrong answers")
    again = house.launch(first.job_name, again=first)
    house.instance.delete_run(first.run_id)
    assert "which is repeated here, is deleted" in house.carry_out(again)
    assert champion(house) == 4


def test_a_run_that_is_stopped_while_mlflow_is_told_has_said_what_was_decided(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise dg.DagsterExecutionInterruptedError

    house.settings.home.joinpath("mlflow.db").touch()
    monkeypatch.setattr(aliases, "project", stopped)
    run = house.launch("rollback_flight_delay", why="wrong answers")
    house.carry_out(run)
    said = [entry.user_message for entry in house.instance.all_logs(run.run_id)]
    assert "flight_delay: version 3 answers." in said


def test_an_empty_reason_is_what_is_wrong_with_a_run_without_one(house: House) -> None:
    run = house.launch("rollback_flight_delay", why=" ")
    commands.rollback(MODEL_NAME, settings=house.settings.without_mlflow(), actor="ada", why="wrong answers")
    assert "why is missing" in house.carry_out(run)
    assert len(SqlLedger(house.settings.ledger).events()) == 9


def test_a_wish_to_retrain_whose_run_crashed_is_recorded_once(house: House) -> None:
    first = house.launch("retrain_flight_delay", why="new carriers", actor="ada")
    assert house.carry_out(first) == ""
    assert house.carry_out(house.launch(first.job_name, again=first, tags=CRASHED)) == ""
    assert house.decided()[-2:] == [("promoted", 4, "ada"), ("retrain_requested", None, "ada")]
    assert house.carry_out(house.launch("retrain_flight_delay", why="new carriers", actor="ada")) == ""
    assert house.state.retraining.open is not None
    assert len(house.state.retraining.open.asks) == 2, "who asks by a run of their own asks again"
