"""Keys, and rings of them whose clocks are moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pilotage.errors import Unauthenticated
from pilotage.runtime.access import keyfile
from pilotage.runtime.access.caller import Limit
from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.access.keys import KeyRing

NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)


class Clocks:
    """A wall clock and a monotonic one, both moved by hand."""

    def __init__(self) -> None:
        self.wall = NOW.timestamp()
        self.steady = 0.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def ring_of(path: Path, clocks: Clocks, told: list[str] | None = None) -> KeyRing:
    report = (told if told is not None else []).append
    return KeyRing(path, report=report, wall=lambda: clocks.wall, monotonic=lambda: clocks.steady)


def make(path: Path, name: str = "booking", **changes: object) -> tuple[keyfile.Key, str]:
    given: dict[str, object] = {"roles": ["predict"], "limit": Limit(per_second=100, burst=200), "now": NOW, **changes}
    return create_key(path, name, **given)  # type: ignore[arg-type]


def refusal(ring: KeyRing, header: bytes | str | None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        ring.authenticate(header)
    return caught.value.message
