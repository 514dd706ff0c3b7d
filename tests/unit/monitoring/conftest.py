"""What several of these tests start from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.monitoring.alarms import Desk
from tests.unit.monitoring.drift_house import REFERENCE, WINDOW, House


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    """Where alarms are raised and told."""
    made = Desk(tmp_path)
    yield made
    made.book.close()


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a model whose thresholds were learned, which takes a second or two."""
    home = tmp_path_factory.mktemp("learned")
    made = House(home)
    made.publish(range(REFERENCE + WINDOW))
    assert made.watch().newly_learned
    return home


@pytest.fixture
def house(learned: Path, tmp_path: Path) -> House:
    """A copy of that home; the bundle stays where the ledger says that it is."""
    home = tmp_path / "home"
    shutil.copytree(learned, home)
    for name in ("state.json", "verdict.json"):
        (home / "drift" / "tiny" / name).unlink()
    return House(home, released=False)
