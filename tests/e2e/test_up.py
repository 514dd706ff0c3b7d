"""The newcomer's way: `pilotage up` on an empty home, interrupted and killed on the way, ends in served champions.

The tests of this file build on each other, in their order: there is one home, and making it takes a minute.
"""

from __future__ import annotations

import json
import signal
import socket
from contextlib import suppress
from typing import Any

import psutil
import pytest

from assets.models import load_models
from pilotage.cli.servers import LOCATIONS
from tests.e2e.conftest import House, stop
from tests.unit.cli.programs import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PATIENCE = 900.0
"""Seconds for what takes one or two minutes on an idle machine."""
RUNS = """query { runsOrError(limit: 100) { ... on Runs { results { status jobName tags { key value } } } } }"""


def runs(house: House) -> list[dict[str, Any]]:
    answer = house.get("dagster", "/graphql", {"query": RUNS})
    found: list[dict[str, Any]] = answer["data"]["runsOrError"]["results"]
    return found


def test_a_taken_port_is_named_before_anything_starts(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", house.ports["mlflow"]))
        taken.listen()
        done = house.run("up")
    assert done.returncode == 2
    assert f"Port {house.ports['mlflow']}, for MLflow, is taken by" in done.stderr
    assert "PILOTAGE_MLFLOW_PORT=" in done.stderr
    assert house.processes() == []


def test_ctrl_c_while_the_home_is_being_set_up_leaves_no_process(house: House) -> None:
    started = house.start()
    started.until("MLflow store ...", seconds=PATIENCE)
    assert stop(started, signal.SIGINT) == 0
    assert house.processes() == []


def test_sigterm_in_the_middle_of_a_run_leaves_no_process(house: House) -> None:
    started = house.start()
    started.until("Ingest tables: raw airlines", seconds=PATIENCE)
    assert stop(started) == 0
    assert house.processes() == []


def test_kill_in_the_middle_of_a_run_leaves_no_process_either(house: House) -> None:
    started = house.start()
    started.until("Train loan_approval ...", seconds=PATIENCE)
    assert stop(started, signal.SIGKILL) == -signal.SIGKILL
    house.until_empty(seconds=60)


def test_the_next_start_goes_on_where_the_killed_one_stopped_and_reaches_serving(house: House) -> None:
    done = house.run("up", "--exit-when-ready", seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ready"] is True
    assert told["failures"] == []
    assert sorted((entry["model"], entry["version"]) for entry in told["champions"]) == [
        ("flight_delay", 1),
        ("loan_approval", 1),
    ]
    # The tables were ingested before the kill; what is in the lake is not made again.
    assert "Ingest tables" not in [step["name"] for step in told["steps"]]
    assert house.processes() == []


@pytest.fixture(scope="module")
def running(house: House) -> Any:
    started = house.start()
    started.until("Serving at", seconds=PATIENCE)
    yield started
    if started.process.poll() is None:
        stop(started)


def test_a_second_start_serves_without_training_again(running: Any, house: House) -> None:
    assert not running.said("Train ")
    assert {(model["model"], model["ready"]) for model in house.get("service", "/models")["models"]} == {
        ("flight_delay", True),
        ("loan_approval", True),
    }


def test_every_prediction_route_answers_its_own_example(running: Any, house: House) -> None:
    for name, spec in load_models().items():
        answer = house.get("service", f"/{name}/predict", {field.name: field.example for field in spec.request})
        assert answer["model"] == name
        assert answer["version"] == 1
        assert 0 < answer["probability"] < 1


def test_dagster_shows_the_lineage_and_every_run_with_its_cause_and_an_end(running: Any, house: House) -> None:
    [location] = house.get("dagster", "/graphql", {"query": LOCATIONS})["data"]["workspaceOrError"]["locationEntries"]
    assert location["loadStatus"] == "LOADED"
    found = runs(house)
    bootstrap = [run for run in found if {"key": "pilotage/cause", "value": "bootstrap"} in run["tags"]]
    assert {run["jobName"] for run in bootstrap if run["status"] == "SUCCESS"} >= {
        "ingest_tables",
        "data_flight_delay",
        "train_flight_delay",
        "train_loan_approval",
    }
    # Runs that were interrupted or killed are not shown as running for ever.
    assert {run["status"] for run in bootstrap} <= {"SUCCESS", "CANCELED", "FAILURE"}


def test_dagster_mlflow_and_the_reports_answer_to_this_machine_only_by_its_name(running: Any, house: House) -> None:
    import urllib.error
    import urllib.request

    assert house.get("mlflow", "/health") == "OK"
    for server in ("dagster", "mlflow", "reports"):
        url = f"http://127.0.0.1:{house.ports[server]}/"
        request = urllib.request.Request(url, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert caught.value.code == 403
        caught.value.close()


def test_starting_it_again_says_where_it_runs(running: Any, house: House) -> None:
    done = house.run("up")
    assert done.returncode == 0
    assert f"already runs on {house.home} (process {running.process.pid})" in done.stdout
    assert f"http://127.0.0.1:{house.ports['service']}" in done.stdout


def test_status_tells_what_is_in_production_and_how_it_is_doing(running: Any, house: House) -> None:
    told = json.loads(house.run("status", "--json").stdout)
    assert told["up"]["pid"] == running.process.pid
    assert {server["name"]: server["healthy"] for server in told["servers"]} == dict.fromkeys(
        ("Code server", "Dagster", "Dagster daemon", "Alerts watch", "MLflow", "Reports", "Prediction service"), True
    )
    flights = told["models"][0]
    assert flights["champion"]["version"] == 1
    assert (flights["champion"]["data"]["first"], flights["champion"]["data"]["last"]) == ("2013-01-01", "2013-02-28")
    assert flights["champion"]["metrics"]["auc"] > 0.62
    assert flights["champion"]["dagster_run"].startswith(f"http://127.0.0.1:{house.ports['dagster']}/runs/")
    assert "version 1" in house.run("status", "loan_approval").stdout


def test_the_lake_can_be_asked(running: Any, house: House) -> None:
    query = "select origin, count(*) as flights from validated.flights group by origin order by origin"
    told = json.loads(house.run("sql", query, "--json").stdout)
    assert [row["origin"] for row in told] == ["EWR", "JFK", "LGA"]
    assert sum(row["flights"] for row in told) > 50_000


def test_a_registered_version_comes_out_the_same_again(running: Any, house: House) -> None:
    told = json.loads(house.run("reproduce", "loan_approval", "1", "--json").stdout)
    assert (told["same"], told["same_rows"], told["files"]["model.txt"]) == (True, True, True)


def test_a_server_that_is_killed_comes_back(running: Any, house: House) -> None:
    def leash_of(log: str) -> psutil.Process:
        return next(
            process
            for process in psutil.Process(running.process.pid).children()
            if f"{house.ports[log]}" in process.cmdline() and "pilotage.cli.leash" in process.cmdline()
        )

    leash_of("reports").children()[0].kill()
    running.until("Reports is restarting", seconds=60)
    running.until("restart 1 in 1 s", seconds=60)

    def answers() -> bool:
        with suppress(OSError):
            return house.get("reports", "/-/health") == {"status": "ok"}
        return False

    until(answers, seconds=120)


def test_the_project_is_loaded_once_and_again_when_the_process_that_did_is_killed(running: Any, house: House) -> None:
    def loaded() -> list[psutil.Process]:
        everything = psutil.Process(running.process.pid).children(recursive=True)
        return [process for process in everything if process.cmdline()[2:5] == ["dagster", "api", "grpc"]]

    [alone] = loaded()
    alone.kill()
    alone.wait()

    def answers() -> bool:
        [location] = house.get("dagster", "/graphql", {"query": LOCATIONS})["data"]["workspaceOrError"][
            "locationEntries"
        ]
        return location["loadStatus"] == "LOADED" and "message" not in location["locationOrLoadError"]

    until(lambda: len(loaded()) == 1 and answers(), seconds=120)


def test_sigterm_stops_everything_in_order(running: Any, house: House) -> None:
    assert stop(running) == 0
    assert running.said("Stopped")
    assert house.processes() == []
    assert json.loads(house.run("status", "--json").stdout)["up"] is None
