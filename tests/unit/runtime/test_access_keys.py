"""API keys: who gets in, who does not, and what becomes of that when the file changes."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pilotage.errors import ConfigError, NotAllowed, Unauthenticated
from pilotage.runtime.access import keyfile, keys
from pilotage.runtime.access.caller import ANYBODY, Limit
from pilotage.runtime.access.keyfile import create_key, import_keys, lock_of, read_keys, revoke_key
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


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


@pytest.fixture
def told() -> list[str]:
    return []


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


def test_a_key_tells_who_asks_with_which_roles_and_which_limit(path: Path, clocks: Clocks):
    key, text = make(path, roles=["outcomes", "predict"])
    caller = ring_of(path, clocks).authenticate(f"Bearer {text}")
    assert (caller.id, caller.name, caller.roles) == (key.id, "booking", {"predict", "outcomes"})
    assert caller.limit == Limit(per_second=100, burst=200)


def test_a_key_has_its_id_in_it_and_256_bits_that_nobody_can_guess(path: Path):
    key, text = make(path)
    prefix, key_id, secret = text.split("_", 2)
    assert (prefix, key_id) == ("plt", key.id)
    assert len(key_id) >= 8
    assert len(secret) == 43, "32 bytes in base64 without padding"
    assert make(path)[1].split("_", 2)[2] != secret


def test_the_file_holds_no_secret_and_only_its_owner_may_read_it(path: Path):
    _, text = make(path)
    content = path.read_text()
    assert text not in content
    assert text.split("_", 2)[2] not in content
    assert path.stat().st_mode & 0o777 == 0o600
    assert lock_of(path).stat().st_mode & 0o777 == 0o600
    revoke_key(path, read_keys(path)[0].id, why="test")
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_unknown_id_and_a_wrong_secret_get_the_same_answer(path: Path, clocks: Clocks):
    _, text = make(path)
    ring = ring_of(path, clocks)
    wrong_secret = text[:-1] + ("a" if text[-1] != "a" else "b")
    other_id = "plt_zzzzzzzzzz_" + text.split("_", 2)[2]
    answers = {
        refusal(ring, f"Bearer {key}") for key in (wrong_secret, other_id, "plt_x", "nonsense", "plt__", "plt_a_")
    }
    assert len(answers) == 1
    assert text not in answers.pop()


def test_secrets_are_compared_in_constant_time_whether_the_id_is_known_or_not(
    path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
):
    _, text = make(path)
    ring = ring_of(path, clocks)
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr(keys.hmac, "compare_digest", counting)
    ring.authenticate(f"Bearer {text}")
    for wrong in (text + "x", "plt_zzzzzzzzzz_" + "a" * 43, "nonsense"):
        refusal(ring, f"Bearer {wrong}")
    assert compared == [(32, 32)] * 4, "the same work for each of them"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "Basic dXNlcjpwYXNz",
        "Bearer\t{key}",
        "{key}",
        "Token {key}",
        "Bearer {key} {key}",
        "Bearer {key},Bearer {key}",
        "Bearer {key}\x00",
        "Bearer {key}ü",
        "Bearer ü{key}",
        "Bearer \ud800{key}",
        "Bearer {key}=",
        "Bearer {upper}",
    ],
)
def test_what_is_no_key_to_the_letter_is_refused(path: Path, clocks: Clocks, header: str):
    _, text = make(path)
    ring = ring_of(path, clocks)
    header = header.format(key=text, upper=text.upper())
    assert refusal(ring, header)
    assert refusal(ring, header.encode("latin-1", "replace"))
    assert refusal(ring, header.encode("utf-8", "replace"))


def test_the_scheme_may_be_written_in_any_case_and_followed_by_more_than_one_space(path: Path, clocks: Clocks):
    key, text = make(path)
    ring = ring_of(path, clocks)
    for scheme in ("Bearer ", "bearer ", "BEARER ", "bEaReR   "):
        assert ring.authenticate(scheme + text).id == key.id
        assert ring.authenticate((scheme + text).encode()).id == key.id


def test_a_header_of_10_kb_is_refused_before_it_is_hashed(path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch):
    make(path)
    ring = ring_of(path, clocks)
    monkeypatch.setattr(keys, "sha256", lambda _: pytest.fail("it was hashed"))
    assert "more than" in refusal(ring, b"Bearer " + b"a" * 10_000)


def test_without_a_header_nobody_gets_in_once_there_is_a_key(path: Path, clocks: Clocks):
    ring = ring_of(path, clocks)
    assert ring.open
    assert ring.authenticate(None) is ANYBODY
    make(path)
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert refusal(ring, None)
    assert not ring.open


def test_a_key_that_is_sent_to_an_open_service_is_no_way_in(path: Path, clocks: Clocks):
    """Whoever sends one relies on it: the file may have been forgotten, not the protection."""
    assert refusal(ring_of(path, clocks), "Bearer plt_abcdefghij_" + "a" * 43)


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


def test_a_key_expires_to_the_moment_without_a_change_of_the_file(path: Path, clocks: Clocks):
    _, text = make(path, lasts=timedelta(days=90))
    ring = ring_of(path, clocks)
    clocks.wall = (NOW + timedelta(days=90)).timestamp() - 0.001
    ring.authenticate(f"Bearer {text}")
    clocks.wall = (NOW + timedelta(days=90)).timestamp()
    assert "has expired" in refusal(ring, f"Bearer {text}")


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


def test_a_role_is_had_or_not_and_none_includes_another(path: Path, clocks: Clocks):
    _, text = make(path, roles=["operate"])
    caller = ring_of(path, clocks).authenticate(f"Bearer {text}")
    caller.require("operate")
    for role in ("predict", "outcomes", "read"):
        with pytest.raises(NotAllowed, match=f"--role {role}"):
            caller.require(role)  # type: ignore[arg-type]


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
    [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (1, 0), (1, 10**9), (1e9, 1), (1, 1.5), (1e-6, 10**6)],
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
    with pytest.raises(ConfigError, match="not there"):
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
    with pytest.raises(ConfigError, match="No space left"):
        make(path, "other")
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["api-keys.json", "api-keys.json.lock"]


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
    with pytest.raises(ConfigError, match="not there"):
        import_keys(path, tmp_path / "nothing.json")


def test_what_is_written_reads_back_the_same(path: Path):
    made = [make(path, roles=["read", "predict"], limit=None, lasts=timedelta(days=1))[0], make(path)[0]]
    assert read_keys(path) == tuple(made)
    assert json.loads(path.read_text())["format"] == keyfile.FORMAT


def test_a_key_never_shows_in_an_error_or_in_what_a_ring_prints(path: Path, clocks: Clocks):
    _, text = make(path)
    ring = ring_of(path, clocks)
    secret = text.split("_", 2)[2]
    with pytest.raises(Unauthenticated) as caught:
        ring.authenticate(f"Bearer {text}x")
    assert secret not in f"{caught.value!r} {caught.value} {caught.value.details}"
    assert secret not in repr(vars(ring))
