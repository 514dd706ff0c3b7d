"""What the soak suite shares: for how long. Run by ``make soak``, not ``make test``."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=30.0, help="how long each test takes (default: 30)")


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """How long to use what is watched."""
    minutes: float = request.config.getoption("--minutes")
    return minutes * 60


@pytest.fixture
def tell() -> Callable[[str], None]:
    """Prints what a test found, with the minutes since it began."""
    began = time.monotonic()

    def say(line: str) -> None:
        for each in line.splitlines():
            print(f"  {(time.monotonic() - began) / 60:5.1f} min  {each}", flush=True)

    return say
