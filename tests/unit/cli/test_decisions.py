"""Decisions at the command line: recorded with who and why, refused with a fix, and shown by `pilotage status`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pilotage.cli.main import cli, run
from pilotage.cli.status import report, show
from pilotage.errors import DeclarationError
from pilotage.release import aliases
from pilotage.release.champions import states
from pilotage.runtime.kill_notes import KillNotes
from pilotage.runtime.plan import Plan
from pilotage.runtime.plans_file import PlansFile
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle
from tests.unit.cli.ledgers import append
from tests.unit.release.lives import draft, registered

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for port in ("DAGSTER", "MLFLOW", "SERVICE", "REPORTS"):
        monkeypatch.setenv(f"PILOTAGE_{port}_PORT", "1")
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    return Settings.load()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("bundles") / "good"
    return str(folder), make_bundle(folder)


@pytest.fixture
def pilotage(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str) -> tuple[int, str]:
        code = run(lambda: cli.main(list(arguments), standalone_mode=False))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture
def versions(settings: Settings, bundle: tuple[str, str]) -> None:
    for model in ("flight_delay", "loan_approval"):
        for number in (1, 2, 3):
            append(settings, registered(model, number, bundle=bundle[0], sha256=bundle[1]))


WHY = ("--why", "for a reason", "--actor", "ada")


@pytest.mark.usefixtures("versions")
def test_a_release_in_steps_and_back(settings: Settings, pilotage: Command) -> None:
    told = [
        pilotage("promote", "flight_delay", "1", *WHY),
        pilotage("shadow", "flight_delay", "2", *WHY),
        pilotage("canary", "flight_delay", "2", *WHY),
        pilotage("canary", "flight_delay", "2", "--share", "0.4", *WHY),
        pilotage("promote", "flight_delay", "2", *WHY),
        pilotage("rollback", "flight_delay", *WHY),
        pilotage("kill", "flight_delay", *WHY),
        pilotage("resume", "flight_delay", *WHY),
        pilotage("reject", "flight_delay", "3", *WHY),
    ]
    assert [(code, said.splitlines()[0]) for code, said in told] == [
        (0, "flight_delay version 1 is in production, promoted by ada: for a reason"),
        (0, "flight_delay version 2 is in shadow: its predictions are logged and never returned."),
        (1, "Error: flight_delay has no canary step 1 of its own."),
        (0, "flight_delay version 2 is a canary: it answers 40% of the entities."),
        (0, "flight_delay version 2 is in production, promoted by ada: for a reason"),
        (0, "flight_delay version 2 is rolled back. Version 1 answers."),
        (0, "flight_delay is killed: its fallback answers until you `pilotage resume flight_delay --why …`."),
        (0, "flight_delay is resumed. Version 1 answers."),
        (0, "flight_delay version 3 is rejected. Version 1 answers."),
    ]
    stages = states(settings=settings)["flight_delay"].versions
    assert [known.stage for known in stages.values()] == ["champion", "rolled_back", "rejected"]


@pytest.mark.usefixtures("versions")
def test_high_risk_waits_for_an_approval_and_says_how(settings: Settings, pilotage: Command) -> None:
    code, said = pilotage("promote", "loan_approval", "1", *WHY)
    assert code == 1
    assert "needs 1 more approval" in said
    assert "Fix: pilotage approve loan_approval 1 --why …" in said
    code, said = pilotage("approve", "loan_approval", "1", *WHY)
    assert (code, said) == (0, "loan_approval version 1 is approved by ada (1 of 1 needed). It may get traffic.\n")
    assert pilotage("promote", "loan_approval", "1", *WHY)[0] == 0
    [model] = report(settings, ["loan_approval"])["models"]
    assert [(each["version"], each["missing"], each["may_approve"]) for each in model["approvals"]] == [
        (2, 1, "anybody but trainer, who trained it"),
        (3, 1, "anybody but trainer, who trained it"),
    ]


@pytest.mark.usefixtures("versions")
def test_a_canary_takes_the_steps_of_its_models_file(pilotage: Command) -> None:
    for version in ("1", "2"):
        pilotage("approve", "loan_approval", version, *WHY)
    pilotage("promote", "loan_approval", "1", *WHY)
    told = [pilotage("canary", "loan_approval", "2", *WHY) for _ in range(2)]
    assert [(code, said.splitlines()[0]) for code, said in told] == [
        (0, "loan_approval version 2 is a canary: it answers 5% of the entities."),
        (0, "loan_approval version 2 is a canary: it answers 25% of the entities."),
    ]


@pytest.mark.usefixtures("versions")
def test_an_ab_test_begins_and_ends(pilotage: Command) -> None:
    pilotage("promote", "flight_delay", "1", *WHY)
    assert pilotage("ab", "start", "flight_delay", "2", *WHY)[1].startswith("flight_delay version 2 answers 50%")
    assert (
        pilotage("ab", "end", "flight_delay", *WHY)[1] == "The A/B test of flight_delay has ended. Version 1 answers.\n"
    )


@pytest.mark.usefixtures("versions")
def test_rollback_asks_for_the_approvals_of_todays_file_unless_it_does_not_load(
    pilotage: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise DeclarationError(f"The file of {name} does not load.", fix="Mend it.")

    pilotage("approve", "loan_approval", "2", *WHY)
    pilotage("promote", "loan_approval", "2", *WHY)
    back = ("rollback", "loan_approval", "--to", "1", *WHY)
    code, said = pilotage(*back)
    assert (code, "version 1 needs 1 more approval before it answers anybody" in said) == (1, True)
    monkeypatch.setattr("pilotage.cli.declared.model", broken)
    assert pilotage(*back) == (0, "loan_approval version 2 is rolled back. Version 1 answers.\n")


@pytest.mark.parametrize("command", ["kill", "resume", "rollback", "approve", "reject", "promote", "shadow", "canary"])
def test_without_a_reason_it_is_not_even_asked(command: str, settings: Settings, pilotage: Command) -> None:
    version = [] if command in ("kill", "resume", "rollback") else ["1"]
    code, said = pilotage(command, "flight_delay", *version)
    assert (code, "--why" in said) == (2, True)
    assert not settings.home.exists()


def test_a_model_that_does_not_exist_can_not_be_killed_by_mistake(settings: Settings, pilotage: Command) -> None:
    code, said = pilotage("kill", "flight_dely", *WHY)
    assert (code, "There is no model 'flight_dely'" in said) == (2, True)
    assert not settings.home.exists()


def test_a_kill_of_what_is_not_in_production_says_so(settings: Settings, pilotage: Command) -> None:
    code, said = pilotage("kill", "flight_delay", *WHY)
    assert code == 0
    assert f"No version of it was in production. Is {settings.home} the home that you mean?" in said


def test_a_kill_needs_no_declarations(settings: Settings, pilotage: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilotage.cli import declared

    def broken() -> None:
        raise click.ClickException("assets/models/flight_delay.py does not load")

    append(settings, registered("flight_delay", 1))
    monkeypatch.setattr(declared, "models", broken)
    assert pilotage("kill", "flight_delay", *WHY)[0] == 0
    assert states(settings=settings)["flight_delay"].killed is not None


@pytest.mark.parametrize("served", [True, False], ids=["served on this host", "declared, and not served here yet"])
def test_a_kill_without_the_ledger_holds_where_the_model_is_served(
    settings: Settings, pilotage: Command, served: bool
) -> None:
    plan = Plan(model="flight_delay", sequence=1)
    PlansFile(settings.service_state).write({"flight_delay": plan} if served else {})
    (settings.home / "ledger.db").mkdir()
    code, told = pilotage("kill", "flight_delay", *WHY)
    assert (code, "flight_delay is killed on this host, and perhaps on no other" in told) == (1, True), told
    assert [note.model for note in KillNotes(settings.service_state).read()] == ["flight_delay"]
    code, told = pilotage("kill", "flight_dely", *WHY)
    assert (code, "There is no model 'flight_dely'" in told) == (2, True)


def test_a_kill_is_told_before_mlflow_hears_of_it(
    settings: Settings, pilotage: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    append(settings, registered("flight_delay", 1))
    said: list[str] = []
    monkeypatch.setattr(aliases, "show", lambda *_, **__: said.append(capsys.readouterr().out))
    assert pilotage("kill", "flight_delay", *WHY)[0] == 0
    assert ["flight_delay is killed" in each for each in said] == [True]


def test_a_kill_needs_no_sense_in_the_events_of_another_model(settings: Settings, pilotage: Command) -> None:
    append(settings, registered("flight_delay", 1))
    append(settings, registered("flight_delay", 1))
    append(settings, registered("loan_approval", 1))
    code, told = pilotage("kill", "loan_approval", *WHY)
    assert (code, "loan_approval is killed" in told) == (0, True)


def test_a_user_without_a_name_is_asked_to_say_one(
    settings: Settings, pilotage: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    append(settings, registered("loan_approval", 1))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nameless)
    code, told = pilotage("kill", "loan_approval", "--why", "burning")
    assert (code, "--actor NAME" in told) == (2, True)
    assert pilotage("kill", "loan_approval", "--why", "burning", "--actor", "ada")[0] == 0


def test_status_tells_stages_shares_and_what_the_rollout_waits_for(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in (
        *(registered("loan_approval", number) for number in (1, 2, 3)),
        draft("promoted", 1, model="loan_approval"),
        draft("shadowed", 2, model="loan_approval"),
    ):
        append(settings, each)
    [model] = report(settings, ["loan_approval"])["models"]
    assert model["stages"] == {"1": "champion", "2": "shadow", "3": "candidate"}
    assert model["waiting_versions"] == [3]
    assert model["rollout"].startswith("version 2: 500 predictions in shadow without a breach, at most 7 days (until ")
    append(settings, draft("canaried", 2, model="loan_approval", share=0.05, salt="s", step=0, segment="{}"))
    append(settings, draft("killed", model="loan_approval"))
    status = report(settings, ["loan_approval"])
    [model] = status["models"]
    running = model["challenger"]
    assert (running["version"], running["share"], running["step"], running["steps"]) == (2, 0.05, 1, 2)
    assert model["killed"]["why"] == "killed for a reason"
    show(status)
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "version 2, 5% of the entities, of the first segment, step 1 of 2" in printed
    assert "pilotage resume loan_approval" in printed


def test_status_shows_people_where_each_version_stands(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for each in (
        *(registered("loan_approval", number) for number in range(1, 17)),
        *(draft("promoted", number, model="loan_approval") for number in (1, 3, 4)),
        draft("rolled_back", 4, model="loan_approval", to=3),
        *(draft("rejected", number, model="loan_approval") for number in range(5, 16)),
    ):
        append(settings, each)
    show(report(settings, ["loan_approval"]))
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    for told in (
        "in production version 3",
        "waiting version 16",
        "passed over version 2",
        "rejected version 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 1 older",
        "rolled back version 4",
        "retired version 1",
    ):
        assert told in printed


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    "decision",
    [
        ("promote", "flight_delay", "2"),
        ("shadow", "flight_delay", "2"),
        ("canary", "flight_delay", "2", "--share", "0.4"),
        ("ab", "start", "flight_delay", "2"),
    ],
)
def test_who_gives_a_version_something_to_do_while_the_model_is_killed_is_told_so(
    pilotage: Command, decision: tuple[str, ...]
) -> None:
    assert pilotage("promote", "flight_delay", "1", *WHY)[0] == 0
    assert pilotage("kill", "flight_delay", *WHY)[0] == 0
    code, said = pilotage(*decision, *WHY)
    killed = "But flight_delay is killed: no version is asked until you `pilotage resume flight_delay --why …`."
    assert (code, said.splitlines()[-1]) == (0, killed)


@pytest.mark.usefixtures("settings")
def test_status_as_json_is_one_document() -> None:
    answer = CliRunner().invoke(cli, ["status", "--json"])
    assert [model["rollout"] for model in json.loads(answer.output)["models"]] == [None, None]
