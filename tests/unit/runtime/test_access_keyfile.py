"""The file of API keys: what becomes of who gets in when it changes, is damaged or is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from pilotage.errors import ConfigError
from pilotage.runtime.access import keyfile, keys
from pilotage.runtime.access.caller import Limit
from pilotage.runtime.access.keyfile import import_keys, lock_of, read_keys, revoke_key
from tests.unit.runtime.key_rings import NOW, Clocks, make, refusal, ring_of


def test_a_revoked_key_is_refused_at_the_next_look_and_the_holder_is_told(path: Path, clocks: Clocks):
    key, text = make(path)
    ring = ring_of(path, clocks)
    ring.authenticate(f"Bearer {text}")
    revoke_key(path, key.id, why="left on a laptop")
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert "was revoked" in refusal(ring, f"Bearer {text}")
    assert "was revoked" not in refusal(ring, f"Bearer {text}x"), "only whoever has the secret"
    assert keys.LOOK_EVERY_S <= 1


def test_the_file_is_not_looked_at_for_each_request(path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch):
    _, text = make(path)
    ring = ring_of(path, clocks)
    looks: list[Path] = []
    real = keys._stamp
    monkeypatch.setattr(keys, "_stamp", lambda file: looks.append(file) or real(file))
    for _ in range(1000):
        ring.authenticate(f"Bearer {text}")
    clocks.pass_by(keys.LOOK_EVERY_S)
    for _ in range(1000):
        ring.authenticate(f"Bearer {text}")
    assert len(looks) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"format": 2, "keys": []}',
        b'{"format": 1}',
        b'{"format": 1, "keys": [{"id": "abcdefghij"}]}',
        b'{"format": 1, "keys": [1]}',
        b'{"format": 1, "keys": "abc"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (keyfile.LARGEST_FILE + 1),
    ],
)
def test_a_damaged_file_leaves_the_last_good_keys_and_lets_nobody_else_in(
    path: Path, clocks: Clocks, told: list[str], damage: bytes
):
    gone, gone_text = make(path)
    _, text = make(path, "other")
    revoke_key(path, gone.id, why="test")
    ring = ring_of(path, clocks, told)
    path.write_bytes(damage)
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert ring.authenticate(f"Bearer {text}").name == "other"
    assert refusal(ring, f"Bearer {gone_text}"), "what was revoked stays revoked"
    assert refusal(ring, None)
    assert ring.problem and str(path) in ring.problem
    assert len(told) == 1 and "stay" in told[0]
    clocks.pass_by(keys.LOOK_EVERY_S)
    ring.refresh()
    assert len(told) == 1, "told once"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expires": "9999-12-31T23:59:59-10:00"}, "the time 9999-12-31T23:59:59-10:00 is out of range"),
        ({"created": "0001-01-01T00:00:00+10:00"}, "the time 0001-01-01T00:00:00+10:00 is out of range"),
        ({"limit": {"per_second": 1e-310, "burst": 1}}, "takes more than a year"),
        ({"limit": {"per_second": float("inf"), "burst": 1}}, "per_second is inf"),
        ({"limit": {"per_second": 1, "burst": float("inf")}}, "burst is inf"),
    ],
)
def test_a_value_that_no_computer_can_hold_is_damage_like_any_other(
    path: Path, clocks: Clocks, told: list[str], changes: dict[str, object], words: str
):
    _, text = make(path)
    ring = ring_of(path, clocks, told)
    content = json.loads(path.read_text())
    content["keys"][0].update(changes)
    path.write_text(json.dumps(content))
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert ring.authenticate(f"Bearer {text}").name == "booking"
    assert refusal(ring, None)
    assert len(told) == 1 and words in told[0] and "stay" in told[0]
    again = ring_of(path, clocks, told)
    assert refusal(again, f"Bearer {text}"), "after a restart nobody gets in"
    with pytest.raises(ConfigError, match="can't be used"):
        make(path, "other")


@pytest.mark.parametrize("lost", ["file", "both"])
def test_a_file_that_vanished_does_not_open_the_service(path: Path, clocks: Clocks, told: list[str], lost: str):
    _, text = make(path)
    ring = ring_of(path, clocks, told)
    path.unlink()
    if lost == "both":
        lock_of(path).unlink()
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert ring.authenticate(f"Bearer {text}")
    assert refusal(ring, None)
    assert not ring.open
    assert told
    if lost == "file":
        again = ring_of(path, clocks, told)
        assert not again.open, "nor does a restart"
        assert refusal(again, None)
        assert refusal(again, f"Bearer {text}")
        with pytest.raises(ConfigError, match="gone"):
            make(path)


def test_a_file_that_is_emptied_of_keys_does_not_open_the_service(path: Path, clocks: Clocks, told: list[str]):
    _, text = make(path)
    ring = ring_of(path, clocks, told)
    path.write_text('{"format": 1, "keys": []}')
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert ring.authenticate(f"Bearer {text}")
    assert refusal(ring, None)


def test_a_service_that_starts_on_a_damaged_file_lets_nobody_in_until_it_is_mended(
    path: Path, clocks: Clocks, told: list[str]
):
    _, text = make(path)
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    ring = ring_of(path, clocks, told)
    assert not ring.open
    assert refusal(ring, None)
    assert refusal(ring, f"Bearer {text}")
    assert "Nobody gets in" in told[0]
    path.write_bytes(good)
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert ring.authenticate(f"Bearer {text}")
    assert ring.problem is None


def test_an_older_file_that_is_put_back_does_not_bring_a_revoked_key_back(path: Path, clocks: Clocks):
    key, text = make(path)
    before = path.read_bytes()
    revoke_key(path, key.id, why="test")
    ring = ring_of(path, clocks)
    path.write_bytes(before)
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert "was revoked" in refusal(ring, f"Bearer {text}")


def test_a_file_that_everybody_may_write_is_not_believed(path: Path, clocks: Clocks, told: list[str]):
    _, text = make(path)
    path.chmod(0o666)
    assert refusal(ring_of(path, clocks, told), f"Bearer {text}")
    assert "everybody" in told[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roles": []}, "without a role"),
        ({"roles": ["root"]}, "no role 'root'"),
        ({"name": " "}, "printable name"),
        ({"name": "a\nb"}, "printable name"),
        ({"name": "n" * 201}, "printable name"),
        ({"lasts": timedelta(0)}, "expired"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made_and_leaves_no_trace(path: Path, changes: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        make(path, **changes)  # type: ignore[arg-type]
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "limit",
    [
        (0, 1),
        (-1, 1),
        (float("nan"), 1),
        (float("inf"), 1),
        (1, 0),
        (1, 10**9),
        (1e9, 1),
        (1, 1.5),
        (1e-6, 10**6),
        (1e-310, 1),
    ],
)
def test_a_limit_is_positive_and_bounded(limit: tuple[float, int]):
    with pytest.raises(ValueError, match=r"burst|per_second"):
        Limit(per_second=limit[0], burst=limit[1])


def test_a_key_is_revoked_once_with_its_first_reason(path: Path):
    key, _ = make(path)
    first = revoke_key(path, key.id, why="lost", now=NOW)
    assert revoke_key(path, key.id, why="again") == first
    assert read_keys(path) == (first,)
    assert (first.revoked, first.why) == (NOW, "lost")
    with pytest.raises(ConfigError, match="no key"):
        revoke_key(path, "nothing", why="test")
    with pytest.raises(ConfigError, match="reason"):
        revoke_key(path, key.id, why=" ")


def test_to_revoke_in_a_place_without_keys_leaves_nothing_behind(path: Path):
    with pytest.raises(ConfigError, match="There is no file"):
        revoke_key(path, "abcdefghij", why="test")
    assert list(path.parent.iterdir()) == []


def test_keys_made_at_once_are_all_there(path: Path):
    code = (
        "import sys; from pathlib import Path; from pilotage.runtime.access.keyfile import create_key; "
        "[create_key(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', roles=['read'], limit=None) for n in range(10)]"
    )
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(
            lambda name: subprocess.run([sys.executable, "-c", code, str(path), name], check=True, timeout=120), "abcd"
        )
        assert len(list(done)) == 4
    assert {key.name for key in read_keys(path)} == {f"{name}-{n}" for name in "abcd" for n in range(10)}
    assert sorted(file.name for file in path.parent.iterdir()) == ["api-keys.json", "api-keys.json.lock"]


def test_a_disk_that_is_full_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    make(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left") as refused:
        make(path, "other")
    # Nothing is wrong with the file: who put it away, as one does with a damaged one, would open the service.
    assert "Make room" in refused.value.fix and "emove" not in refused.value.fix
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["api-keys.json", "api-keys.json.lock"]


@pytest.mark.parametrize("folder", ["of the file", "above it"])
def test_a_file_that_can_no_longer_be_reached_leaves_the_keys_that_were_read_last(
    tmp_path: Path, clocks: Clocks, told: list[str], monkeypatch: pytest.MonkeyPatch, folder: str
):
    path = tmp_path / "access" / "api-keys.json"
    _, text = make(path)
    ring = ring_of(path, clocks, told)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # By hand, since root may search any folder.
    monkeypatch.setattr(Path, "open", denied)
    if folder == "above it":
        monkeypatch.setattr(Path, "stat", denied)
    else:
        os.utime(path)
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert ring.authenticate(f"Bearer {text}")
    assert refusal(ring, None)
    assert len(told) == 1 and "Permission denied" in told[0] and "emove" not in told[0]
    assert not ring_of(path, clocks, told).open, "nor does a restart open the service"


def test_keys_made_elsewhere_are_taken_over_once_and_what_is_known_stays(path: Path, tmp_path: Path, clocks: Clocks):
    source = tmp_path / "elsewhere" / "keys.json"
    first, text = make(source, "first")
    assert [key.id for key in import_keys(path, source)] == [first.id]
    assert ring_of(path, clocks).authenticate(f"Bearer {text}").name == "first"
    revoke_key(path, first.id, why="test")
    second, _ = make(source, "second")
    assert [key.id for key in import_keys(path, source)] == [second.id]
    assert [(key.name, key.revoked is not None) for key in read_keys(path)] == [("first", True), ("second", False)]
    assert import_keys(path, source) == ()
    with pytest.raises(ConfigError, match="There is no file"):
        import_keys(path, tmp_path / "nothing.json")


def test_what_is_written_reads_back_the_same(path: Path):
    made = [make(path, roles=["read", "predict"], limit=None, lasts=timedelta(days=1))[0], make(path)[0]]
    assert read_keys(path) == tuple(made)
    assert json.loads(path.read_text())["format"] == keyfile.FORMAT
