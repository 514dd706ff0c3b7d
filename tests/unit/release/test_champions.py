"""What the ledger says of every model, asked again and again by one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import LedgerUnavailable
from pilotage.release.champions import states
from pilotage.release.ledger import SqlLedger
from pilotage.release.state import fold
from pilotage.settings import Settings
from tests.unit.release.lives import draft, registered


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each reading, how many rows."""
    counts: list[int] = []
    read = SqlLedger.rows

    def counted(self: SqlLedger, **limits: Any) -> list[dict[str, Any]]:
        rows = read(self, **limits)
        counts.append(len(rows))
        return rows

    monkeypatch.setattr(SqlLedger, "rows", counted)
    return counts


def write(settings: Settings, *drafts: Any) -> None:
    ledger = SqlLedger.of(settings)
    for each in drafts:
        ledger.append(each)
    ledger.close()


def champions(settings: Settings) -> dict[str, int | None]:
    return {name: state.champion and state.champion.version for name, state in states(settings=settings).items()}


def test_each_event_is_read_once_whoever_asks_how_often(settings: Settings, rows_read: list[int]) -> None:
    write(settings, registered("m", 1), draft("promoted", 1), registered("m", 2))
    rows_read.clear()
    assert champions(settings) == champions(settings) == {"m": 1}
    write(settings, draft("promoted", 2), registered("other", 1))
    assert champions(settings) == {"m": 2, "other": None}
    # Three, the last one of them to see that it is still there, that one and two more; the others are the writer's.
    assert [count for count in rows_read if count] == [3, 1, 3]
    ledger = SqlLedger.to_read(settings)
    assert states(settings=settings) == fold(ledger.events())
    ledger.close()


def test_a_ledger_that_was_restored_is_read_from_its_beginning(settings: Settings) -> None:
    write(settings, registered("m", 1), registered("m", 2))
    shutil.copytree(settings.home, settings.home / "backup", ignore=shutil.ignore_patterns("backup"))
    write(settings, draft("promoted", 1))
    assert champions(settings) == {"m": 1}
    for each in settings.home.glob("ledger.db*"):
        each.unlink()
    for each in (settings.home / "backup").glob("ledger.db*"):
        shutil.copy(each, settings.home)
    write(settings, draft("promoted", 2))
    assert champions(settings) == {"m": 2}


def test_a_ledger_that_is_lost_is_not_remembered(settings: Settings) -> None:
    write(settings, registered("m", 1))
    assert champions(settings) == {"m": None}
    for each in settings.home.glob("ledger.db*"):
        each.unlink()
    with pytest.raises(LedgerUnavailable, match="is empty or not there"):
        states(settings=settings)
