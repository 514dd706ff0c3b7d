"""A version that an address names is asked by its own fields, and who answers instead of it says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotage.release import commands
from pilotage.testing.bundles import tiny_spec
from tests.unit.runtime.test_responder import fail
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.test_gateway import TENSORS

UNKNOWN = {"name": "express.null", "shape": [1], "datatype": "BOOL", "data": [True]}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Hosted]:
    """Its champion is version 1. Version 2 is on trial, takes two items at most, and need not know of the delivery."""
    spec = tiny_spec("tiny")
    changes: dict[str, dict[str, Any]] = {"items": {"maximum": 2}, "express": {"nullable": True}}
    request = tuple(field.model_copy(update=changes.get(field.name, {})) for field in spec.request)
    with hosted(tmp_path, spec) as made:
        made.release("tiny", spec.model_copy(update={"request": request}), 2, promote=False)
        commands.canary("tiny", 2, 0.001, settings=made.settings, actor="ada", why="try it", spec=spec)
        made.core.follower.look()
        yield made


def asked(service: Hosted, version: int, *more: Any, items: int = 1) -> tuple[int, dict[str, Any]]:
    """Status, and the outputs."""
    inputs = [{**each, "data": [items]} if each["name"] == "items" else each for each in TENSORS["inputs"]]
    answer = service.post(f"/v2/models/tiny/versions/{version}/infer", json={"inputs": [*inputs, *more]})
    return answer.status_code, {each["name"]: each["data"][0] for each in answer.json().get("outputs", [])}


def test_each_version_is_asked_by_its_own_fields(service: Hosted) -> None:
    def optional(path: str) -> list[str]:
        inputs = service.get(path).json()["inputs"]
        return [tensor["name"] for tensor in inputs if tensor["parameters"]["optional"]]

    assert optional("/v2/models/tiny") == optional("/v2/models/tiny/versions/1") == ["courier"]
    assert optional("/v2/models/tiny/versions/2") == ["express", "courier"]
    status, told = asked(service, 2, UNKNOWN)
    assert (status, told.get("version")) == (200, 2)
    assert asked(service, 1, UNKNOWN)[0] == 422


def test_who_answers_instead_of_the_version_that_was_asked_says_why(service: Hosted) -> None:
    _, told = asked(service, 2, items=3)
    assert (told["version"], told["answered_by"]) == (1, "model")
    assert told["reasons"].startswith("canary version 2 does not take this request: items")
    canary = service.core.follower.boards["tiny"].canary
    assert canary is not None
    fail(canary.loaded, "score_many")
    fail(canary.loaded, "decide")
    _, told = asked(service, 2)
    assert (told["version"], told["reasons"]) == (1, "canary version 2 failed: RuntimeError")
