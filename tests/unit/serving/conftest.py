"""What several of these tests start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pilotage.testing.bundles import tiny_spec
from tests.unit.serving.hosted import Hosted, hosted


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """A worker that answers for two models, on its own."""
    with hosted(tmp_path_factory.mktemp("gateway"), tiny_spec("tiny"), tiny_spec("other")) as made:
        yield made
