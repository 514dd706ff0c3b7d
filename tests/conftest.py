"""What holds for every test."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The machines that run this are shared and noisy: how long an example takes says nothing about the code.
settings.register_profile("pilotage", deadline=None)
settings.load_profile("pilotage")


@pytest.fixture(autouse=True)
def _dagster_forgets_the_instance() -> Iterator[None]:
    """Dagster keeps the storage of the last instance in a variable of the process, and fails once that one is gone."""
    yield
    if (state := sys.modules.get("dagster._core.storage.defs_state.base")) is not None:
        state._current_storage.set(None)


@pytest.fixture(autouse=True)
def _dagster_gives_sigterm_back() -> Iterator[None]:
    """Dagster has SIGTERM do what SIGINT does, which is nothing where a shell runs the tests in its background.

    Programs that a later test starts would ignore it, too, until they have a handler of their own.
    """
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
