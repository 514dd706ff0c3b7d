"""What several of these tests start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pilotage.testing.bundles import tiny_spec
from serving import express
from tests.unit.serving.hosted import Hosted, hosted


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """A worker that answers for two models, on its own."""
    with hosted(tmp_path_factory.mktemp("gateway"), tiny_spec("tiny"), tiny_spec("other")) as made:
        yield made


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were answered together, group by group."""
    found: list[int] = []
    answer = express.answer_together

    def counted(core: Any, requests: Sequence[Any], over: Any) -> None:
        found.append(len(requests))
        answer(core, requests, over)

    monkeypatch.setattr(express, "answer_together", counted)
    return found
