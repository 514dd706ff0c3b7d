"""The audit of a ledger that is really stored: what somebody with access to the database does is found from outside."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from pilotage.errors import ConfigError, LedgerUnavailable
from pilotage.release.audit import Audit, Known, audit
from pilotage.release.events import Draft, read_key, seal, to_row
from pilotage.release.head import head_of, read_head
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings
from tests.unit.release.lives import registered

KEY = "a secret of enough bytes"


DRAFT = Draft(model="m", kind="alias_edited", actor="ada", cause="manual", payload={})


def draft(number: int = 0) -> Draft:
    return replace(DRAFT, payload={"number": number})


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("postgres_database")() if request.param == "postgres" else ""
    return Settings(home=tmp_path / "home", ledger_url=url)


def keyed(settings: Settings) -> Settings:
    path = settings.home.parent / "key"
    path.write_text(KEY + "\n")
    return settings.model_copy(update={"ledger_key_file": path})


def append(settings: Settings, events: int = 1) -> None:
    ledger = SqlLedger.of(settings)
    for number in range(events):
        ledger.append(draft(number))
    ledger.close()


def execute(settings: Settings, *statements: str) -> None:
    engine = sa.create_engine(settings.ledger)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def faults(found: Audit) -> list[tuple[int | None, str]]:
    return [(fault.sequence, fault.kind) for fault in found.faults]


def test_a_ledger_that_got_its_key_later_verifies_and_shows_since_when(settings: Settings) -> None:
    append(settings, 2)
    assert faults(audit(settings)) == []
    settings = keyed(settings)
    assert audit(settings).notes == ("A key is configured, and no event is keyed yet.",)
    append(settings, 3)
    found = audit(settings)
    assert faults(found) == []
    assert (found.events, found.keyed, found.keyed_since, found.noted) == (5, 3, 3, 5)
    head = read_head(settings.ledger_head)
    assert head is not None
    assert (head.sequence, head.hash, head.algorithm) == (5, found.head_hash, "hmac-sha256")
    assert KEY not in settings.ledger_head.read_text()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE pilotage_ledger SET actor = 'eve' WHERE sequence = 2", [(2, "edited")]),
        ("UPDATE pilotage_ledger SET payload = '{\"number\":1}' WHERE sequence = 2", [(2, "edited")]),
        ("DELETE FROM pilotage_ledger WHERE sequence = 3", [(3, "missing")]),
        ("DELETE FROM pilotage_ledger WHERE sequence > 3", [(4, "truncated")]),
        ("DELETE FROM pilotage_ledger", [(1, "truncated")]),
        ("DROP TABLE pilotage_ledger", [(1, "truncated")]),
        (
            "UPDATE pilotage_ledger SET sequence = 9 WHERE sequence = 2;"
            "UPDATE pilotage_ledger SET sequence = 2 WHERE sequence = 3;"
            "UPDATE pilotage_ledger SET sequence = 3 WHERE sequence = 9",
            [(2, "reordered"), (3, "reordered")],
        ),
        (
            "INSERT INTO pilotage_ledger SELECT 0, at, model, kind, version, actor, cause, payload, previous, hash,"
            " algorithm FROM pilotage_ledger WHERE sequence = 1",
            [(0, "inserted")],
        ),
    ],
    ids=["edit", "spelling", "deletion", "truncation", "emptied", "dropped", "reordering", "insertion"],
)
@pytest.mark.parametrize("with_key", [False, True], ids=["plain", "keyed"])
def test_what_is_done_to_the_table_is_found(
    settings: Settings, statement: str, expected: list[tuple[int, str]], with_key: bool
) -> None:
    settings = keyed(settings) if with_key else settings
    append(settings, 5)
    execute(settings, *statement.split(";"))
    assert faults(audit(settings)) == expected


def test_a_cut_off_tail_stays_found_when_others_write_on(settings: Settings) -> None:
    append(settings, 5)
    execute(settings, "DELETE FROM pilotage_ledger WHERE sequence > 3")
    append(settings, 1)
    assert faults(audit(settings)) == [(5, "truncated")]
    append(settings, 4)
    assert faults(audit(settings)) == [(5, "replaced")]
    head = read_head(settings.ledger_head)
    assert head is not None
    assert head.sequence == 5


def test_the_head_never_goes_backwards_however_many_write(settings: Settings) -> None:
    ledgers = [SqlLedger.of(settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ledgers[number % 4].append(draft(number)), range(40)))
    head = read_head(settings.ledger_head)
    assert head is not None
    assert head.sequence == 40
    assert faults(audit(settings)) == []
    for ledger in ledgers:
        ledger.close()


def test_a_head_that_a_crash_left_behind_catches_up(settings: Settings) -> None:
    append(settings, 2)
    unnoted = SqlLedger(settings.ledger)
    unnoted.append(draft())
    unnoted.append(draft())
    unnoted.close()
    behind = audit(settings)
    assert faults(behind) == []
    assert behind.notes == ("Events after 2 are not in the head file yet; the next append notes them.",)
    append(settings)
    assert (audit(settings).noted, audit(settings).notes) == (5, ())


def test_a_damaged_head_is_found_and_kept_and_decisions_go_on(settings: Settings) -> None:
    append(settings, 2)
    settings.ledger_head.write_text('{"sequence": ')
    append(settings)
    assert settings.ledger_head.read_text() == '{"sequence": '
    found = audit(settings)
    assert (found.events, faults(found)) == (3, [(None, "head")])
    settings.ledger_head.unlink()
    assert faults(audit(settings)) == [(3, "head")]
    append(settings)
    assert faults(audit(settings)) == []


def test_an_auditor_who_noted_an_event_needs_no_file(settings: Settings) -> None:
    append(settings, 5)
    noted = audit(settings)
    settings.ledger_head.unlink()
    execute(settings, "DELETE FROM pilotage_ledger WHERE sequence > 3")
    append(settings)
    assert faults(audit(settings)) == []
    known = Known.parse(f"{noted.head}:{noted.head_hash[:12]}")
    assert faults(audit(settings, known=[known])) == [(5, "truncated")]


def test_bytes_that_are_no_text_are_an_edit_like_another(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    append(settings, 3)
    execute(settings, "UPDATE pilotage_ledger SET cause = CAST(x'ff41' AS TEXT) WHERE sequence = 2")
    assert faults(audit(settings)) == [(2, "edited")]
    ledger = SqlLedger.of(settings)
    with pytest.raises(LedgerUnavailable, match="Event 2 of the ledger"):
        ledger.events()
    ledger.close()


def test_a_table_from_before_the_algorithm_verifies_without_being_touched(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    append(settings, 3)
    settings.ledger_head.unlink()
    execute(settings, "ALTER TABLE pilotage_ledger DROP COLUMN algorithm")
    before = (tmp_path / "ledger.db").read_bytes()
    assert faults(audit(settings)) == []
    assert (tmp_path / "ledger.db").read_bytes() == before
    append(settings)
    assert (audit(settings).noted, faults(audit(settings))) == (4, [])


@pytest.mark.parametrize("content", [None, b"short\n", b""], ids=["missing", "short", "empty"])
def test_a_key_file_that_holds_no_key_is_refused_before_anything_is_written(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    settings = Settings(home=tmp_path / "home", ledger_key_file=path)
    with pytest.raises(ConfigError, match="key file"):
        SqlLedger.of(settings)
    with pytest.raises(ConfigError, match="key file"):
        audit(settings)
    assert not settings.home.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_key_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0)
    with pytest.raises(ConfigError, match="denied"):
        read_key(path)


def test_the_line_end_of_an_editor_is_no_part_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for end in (b"", b"\n", b"\r\n"):
        path.write_bytes(KEY.encode() + end)
        assert read_key(path) == KEY.encode()


def forged(settings: Settings) -> None:
    """Somebody with the database and the home, and without the key, writes everything anew as plain events."""
    previous = ""
    for event in SqlLedger(settings.ledger).events():
        made = seal(replace(DRAFT, actor="eve"), sequence=event.sequence, at=event.at, previous=previous)
        previous = made.hash
        row = to_row(made)
        changes = ", ".join(f"{name} = :{name}" for name in row)
        engine = sa.create_engine(settings.ledger)
        with engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE pilotage_ledger SET {changes} WHERE sequence = :sequence"), row)
        engine.dispose()
        settings.ledger_head.write_text(json.dumps(asdict(head_of(made, None))))


def test_a_keyed_ledger_that_was_written_anew_without_the_key_is_found_by_who_knows_since_when(
    settings: Settings,
) -> None:
    writer = keyed(settings)
    append(writer, 3)
    assert "PILOTAGE_LEDGER_KEYED_SINCE" in audit(writer).notes[0]
    knows = writer.model_copy(update={"ledger_keyed_since": 1})
    assert (faults(audit(knows)), audit(knows).notes) == ([], ())
    forged(settings)
    assert faults(audit(writer)) == []
    assert faults(audit(knows)) == [(1, "unkeyed"), (2, "unkeyed"), (3, "unkeyed"), (3, "head")]
    with pytest.raises(LedgerUnavailable, match="Event 3 of the ledger is not keyed"):
        append(knows)
    assert len(SqlLedger(settings.ledger).events()) == 3


def test_a_writer_without_the_key_can_not_begin_a_ledger_that_is_to_be_keyed(settings: Settings) -> None:
    without = settings.model_copy(update={"ledger_keyed_since": 1})
    with pytest.raises(ConfigError, match="no key is configured here"):
        append(without)
    append(keyed(without))
    assert faults(audit(keyed(without))) == []


def test_what_was_plain_before_there_was_a_key_stays_right(settings: Settings) -> None:
    append(settings, 2)
    later = keyed(settings).model_copy(update={"ledger_keyed_since": 3})
    append(later, 2)
    assert (faults(audit(later)), audit(later).keyed_since) == ([], 3)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_all_keyed_events_that_are_cut_off_without_the_key_are_missed_by_who_knows_since_when(
    settings: Settings, left: int
) -> None:
    append(settings, 2)
    knows = keyed(settings).model_copy(update={"ledger_keyed_since": 3})
    append(knows, 2)
    execute(settings, f"DELETE FROM pilotage_ledger WHERE sequence > {left}")
    settings.ledger_head.unlink()
    for event in SqlLedger(settings.ledger).events():
        settings.ledger_head.write_text(json.dumps(asdict(head_of(event, None))))
    assert faults(audit(knows)) == [(3, "truncated")]
    if left < 2:
        with pytest.raises(LedgerUnavailable, match="it was cut off"):
            append(knows)


def test_an_event_that_could_not_have_happened_is_found_though_its_hash_is_right(settings: Settings) -> None:
    ledger = SqlLedger.of(settings)
    for each in (registered("m", 1), registered("n", 1), registered("m", 1), registered("m", 2), registered("n", 1)):
        ledger.append(each)
    ledger.close()
    found = audit(settings)
    assert faults(found) == [(3, "senseless"), (5, "senseless")]
    assert "a version with this number is registered" in found.faults[0].detail


def test_words_of_a_terminal_of_another_encoding_are_recorded_and_verify(settings: Settings) -> None:
    ledger = SqlLedger.of(settings)
    ledger.append(replace(DRAFT, cause="gef\udce4hrlich"))
    assert [event.cause for event in ledger.events()] == ["gef\\udce4hrlich"]
    ledger.close()
    assert faults(audit(settings)) == []
