"""What several of these tests start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.monitoring.alarms import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    """Where alarms are raised and told."""
    made = Desk(tmp_path)
    yield made
    made.book.close()
