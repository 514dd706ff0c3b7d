"""Dagster's runs note the ledger's head, so that somebody who can write the ledger and its head file is noticed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.ledger import KEY, ledger_asset
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings
from resources.platform_home import PlatformHome
from tests.unit.release.lives import draft, registered


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load().model_copy(update={"home": tmp_path})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def happens(settings: Settings, *drafts: object) -> None:
    ledger = SqlLedger.of(settings)
    for each in drafts:
        ledger.append(each)  # type: ignore[arg-type]
    ledger.close()


def audited(settings: Settings, instance: dg.DagsterInstance) -> tuple[dg.AssetCheckEvaluation, bool]:
    """The check, and whether the head was noted."""
    platform = PlatformHome(home=str(settings.home))
    result = dg.materialize([ledger_asset()], instance=instance, resources={"platform": platform})
    [check] = result.get_asset_check_evaluations()
    return check, bool(result.asset_materializations_for_node("ledger"))


def noted(instance: dg.DagsterInstance) -> list[str]:
    return [
        str(record.asset_materialization.metadata["head"].value)  # type: ignore[union-attr]
        for record in instance.fetch_materializations(KEY, limit=10).records
    ]


def test_each_run_notes_the_head_and_compares_with_the_notes_of_before(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    for number in (1, 2):
        happens(settings, registered("m", number))
        check, written = audited(settings, instance)
        assert (check.passed, written) == (True, True)
        assert check.metadata["compared_with"].value == number - 1
    events = SqlLedger(settings.ledger).events()
    assert noted(instance) == [f"{event.sequence}:{event.hash}" for event in reversed(events)]


def test_a_ledger_that_nobody_wrote_to_verifies_and_notes_nothing(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    check, _ = audited(settings, instance)
    assert (check.passed, check.metadata["events"].value) == (True, 0)


def test_a_ledger_cut_off_together_with_its_head_file_fails_the_check_and_the_notes_stay(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    happens(settings, *(registered("m", number) for number in (1, 2, 3)))
    audited(settings, instance)
    before = noted(instance)
    with sqlite3.connect(settings.home / "ledger.db") as connection:
        connection.execute("DELETE FROM pilotage_ledger WHERE sequence > 1")
    connection.close()
    settings.ledger_head.unlink()
    happens(settings, draft("promoted", 1))
    check, written = audited(settings, instance)
    assert (check.passed, written, check.severity) == (False, False, dg.AssetCheckSeverity.ERROR)
    assert "Event 3 is cut off: somebody noted event 3" in str(check.description)
    assert noted(instance) == before


def test_an_edited_event_fails_the_check_with_its_number(settings: Settings, instance: dg.DagsterInstance) -> None:
    happens(settings, *(registered("m", number) for number in (1, 2)))
    with sqlite3.connect(settings.home / "ledger.db") as connection:
        connection.execute("UPDATE pilotage_ledger SET actor = 'eve' WHERE sequence = 2")
    connection.close()
    check, written = audited(settings, instance)
    assert (check.passed, written) == (False, False)
    assert "event 2, edited" in str(check.description)


def test_a_note_that_is_none_is_told_with_its_run(settings: Settings, instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY, metadata={"head": "nothing"}))
    with pytest.raises(dg.Failure, match=r"ConfigError: Run .*noted 'nothing', which is no head"):
        audited(settings, instance)
