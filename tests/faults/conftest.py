"""What the fault suite shares: its seed, and a home with released models. Run by ``make faults``, not ``make test``."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.world import World
from tests.postgres import PostgresServer, running_postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="draws the same faults again (default: another each run)")
    parser.addoption("--outage", type=float, default=120.0, help="seconds that a store is down at least (default: 120)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seed", None) is None:
        config.option.seed = random.SystemRandom().randrange(1_000_000)


def pytest_report_header(config: pytest.Config) -> str:
    return f"faults are drawn from the seed {config.getoption('--seed')}: --seed {config.getoption('--seed')}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of everything that is drawn; shown with what a failed test printed."""
    drawn: int = request.config.getoption("--seed")
    print(f"\nseed {drawn}")
    return drawn


@pytest.fixture
def draw(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Draws the same for a test with the same seed, whatever ran before it."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def outage_s(request: pytest.FixtureRequest) -> float:
    """How long a store is down at least."""
    seconds: float = request.config.getoption("--outage")
    return seconds


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A home with a champion of every model, and nothing running."""
    return World(tmp_path / "home")


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Prints what a test found, with the seconds since it began."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {line}", flush=True)

    yield say
    sys.stdout.flush()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL of its own, to be stopped and started."""
    with running_postgres() as server:
        yield server
