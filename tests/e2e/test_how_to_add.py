"""Follows docs/how-to/add-a-dataset.md and add-a-model.md to the letter, in a copy of the checkout.

Every fenced block of the two pages is used, in its order: a file is written where the page says, a command is run as it
stands. What a person does in the UI is asked of the UI's own API. The port of the service is the only word changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import House, Started, stop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
BLOCK = re.compile(r"(?:\*\*`(?P<path>[^`]+)`\*\*\n+)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)
BACKFILL = """mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on PythonError { message } }
}"""
RUNS = "query { runsOrError(limit: 20) { ... on Runs { results { status tags { key value } } } } }"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page; ``path`` where it is a file."""

    kind: str
    text: str
    path: str | None


def page(name: str) -> list[Block]:
    text = (ROOT / "docs" / "how-to" / name).read_text()
    return [Block(found["kind"], found["text"], found["path"]) for found in BLOCK.finditer(text)]


class Reader:
    """Somebody who follows the pages in a checkout."""

    def __init__(self, checkout: Path, house: House) -> None:
        self.checkout = checkout
        self.house = house
        self.started: Started | None = None

    @property
    def variables(self) -> dict[str, str]:
        roots = os.pathsep.join([str(self.checkout), str(self.checkout / "platform")])
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return self.house.variables | {"PYTHONPATH": roots, "PATH": path}

    def write(self, block: Block) -> None:
        assert block.path is not None
        (self.checkout / block.path).write_text(block.text)

    def run(self, block: Block) -> str:
        command = block.text.replace(":8000", f":{self.house.ports['service']}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.checkout,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def up(self) -> None:
        """`make up`, on this copy, without the two months of flights."""
        self.down()
        process = subprocess.Popen(
            [sys.executable, "-m", "pilotage.cli.main", "up", "--plain", "--no-sample"],
            cwd=self.checkout,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started = Started(process).listen()
        self.started.until("Serving at", seconds=PATIENCE)

    def down(self) -> None:
        if self.started is not None and self.started.process.poll() is None:
            assert stop(self.started) == 0
        self.started = None

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> Any:
        return self.house.get("dagster", "/graphql", {"query": query, "variables": variables or {}})["data"]

    def until_run(self, key: str, value: str) -> None:
        """Waits until a run with this tag has succeeded."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            runs = self.ask(RUNS)["runsOrError"]["results"]
            found = [run["status"] for run in runs if {"key": key, "value": value} in run["tags"]]
            assert "FAILURE" not in found
            if found and set(found) == {"SUCCESS"}:
                return
            time.sleep(1)
        raise AssertionError(f"No run with {key}={value} ended: {runs}")

    def materialize_all_days(self, asset: list[str], days: list[str]) -> None:
        params = {
            "assetSelection": [{"path": asset}],
            "partitionNames": days,
            "tags": [{"key": "how-to", "value": "yes"}],
        }
        answer = self.ask(BACKFILL, {"params": params})["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        self.until_run("how-to", "yes")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, house: House) -> Iterator[Reader]:
    checkout = tmp_path_factory.mktemp("copy") / "pilotage"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    made = Reader(checkout, House(checkout / ".pilotage", house.ports))
    yield made
    made.down()
    made.house.until_empty(seconds=60)


@pytest.fixture(scope="module")
def dataset(reader: Reader) -> list[str]:
    """The first page, followed to its end; what its last commands printed."""
    told: list[str] = []
    for block in page("add-a-dataset.md"):
        if block.path is not None:
            reader.write(block)
        elif "activate" in block.text:
            continue
        elif "make up" in block.text:
            reader.up()
            reader.until_run("pilotage/cause", "new_data")
        else:
            told.append(reader.run(block))
    return told


def test_the_scaffold_of_a_source_lists_its_blanks(dataset: list[str]) -> None:
    assert "assets/sources/pump_readings.py" in dataset[0]
    assert "blank" in dataset[0]


def test_the_new_dataset_is_ingested_by_itself_and_its_bad_rows_are_put_aside(
    dataset: list[str], reader: Reader
) -> None:
    counts = reader.run(Block("bash", "pilotage sql 'select count(*) n from validated.pump_readings' --json", None))
    good = json.loads(counts)[0]["n"]
    counts = reader.run(Block("bash", "pilotage sql 'select count(*) n from quarantine.pump_readings' --json", None))
    bad = json.loads(counts)[0]["n"]
    assert good + bad == 60 * 24 * 20
    assert bad > 0
    assert "-999" in dataset[-1]


def test_the_new_model_ends_as_a_served_champion(dataset: list[str], reader: Reader) -> None:
    told: list[str] = []
    for block in page("add-a-model.md"):
        if block.path is not None:
            reader.write(block)
        elif "make up" in block.text:
            reader.up()
            days = reader.run(
                Block("bash", "pilotage sql 'select distinct day from validated.pump_readings order by 1' --json", None)
            )
            reader.materialize_all_days(["pump_trip", "features"], [row["day"] for row in json.loads(days)])
        else:
            told.append(reader.run(block))
    answer = json.loads(told[-1])
    assert (answer["model"], answer["version"], answer["label"]) == ("pump_trip", 1, "tripped")
    assert 0 < answer["probability"] < 1
    status = json.loads(reader.run(Block("bash", "pilotage status pump_trip --json", None)))
    assert "pump_trip" in json.dumps(status)
