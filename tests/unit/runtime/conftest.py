"""What several of these tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.runtime.key_rings import Clocks
from tests.unit.runtime.limiting import Clock
from tests.unit.runtime.sharing import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture
def clocks() -> Clocks:
    """Of rings of keys."""
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a file of keys, in a folder that is empty."""
    return tmp_path / "api-keys.json"


@pytest.fixture
def told() -> list[str]:
    """Where a ring of keys reports to."""
    return []


@pytest.fixture
def clock() -> Clock:
    """Of limiters."""
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of rate limits, in a folder that is not there yet."""
    return tmp_path / "service" / "rate-limits"
