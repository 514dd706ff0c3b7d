"""API keys: who gets in, and who does not."""

from __future__ import annotations

import hmac
from datetime import timedelta
from pathlib import Path

import pytest

from pilotage.errors import NotAllowed, Unauthenticated
from pilotage.runtime.access import keys
from pilotage.runtime.access.caller import ANYBODY, Limit
from pilotage.runtime.access.keyfile import lock_of, read_keys, revoke_key
from tests.unit.runtime.key_rings import NOW, Clocks, make, refusal, ring_of


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


def test_a_header_that_was_right_is_hashed_once_and_no_other_is_taken_for_it(
    path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
):
    (one, first), (two, second) = make(path), make(path, "other")
    ring = ring_of(path, clocks)
    hashed: list[bytes] = []
    real = keys.sha256
    monkeypatch.setattr(keys, "sha256", lambda key: hashed.append(key) or real(key))
    right = f"Bearer {first}".encode()
    assert [ring.authenticate(bytes(bytearray(right))).id for _ in range(3)] == [one.id] * 3
    assert hashed == [first.encode()]
    for place in range(len(right)):
        refusal(ring, right[:place] + bytes([right[place] ^ 0x03]) + right[place + 1 :])
    for wrong in (right[:-1], right + b"=", right[:20]):
        refusal(ring, wrong)
    assert ring.authenticate(f"Bearer {second}".encode()).id == two.id
    assert ring.authenticate(right).id == one.id


def test_a_header_that_was_right_is_no_longer_when_its_key_is_not(path: Path, clocks: Clocks):
    """Revoked, within the time that it takes to look; expired, at once."""
    key, text = make(path, lasts=timedelta(minutes=1))
    ring, right = ring_of(path, clocks), f"Bearer {text}".encode()
    assert ring.authenticate(right).id == key.id
    clocks.wall += 60
    assert "has expired" in refusal(ring, right)
    clocks.wall -= 60
    assert ring.authenticate(right).id == key.id
    revoke_key(path, key.id, why="test")
    clocks.pass_by(keys.LOOK_EVERY_S)
    assert "was revoked" in refusal(ring, right)
    assert "was revoked" in refusal(ring, right)


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
    with pytest.raises(Unauthenticated) as refused:
        ring_of(path, clocks).authenticate("Bearer plt_abcdefghij_" + "a" * 43)
    assert "pilotage keys create" in refused.value.fix


def test_a_key_expires_to_the_moment_without_a_change_of_the_file(path: Path, clocks: Clocks):
    _, text = make(path, lasts=timedelta(days=90))
    ring = ring_of(path, clocks)
    clocks.wall = (NOW + timedelta(days=90)).timestamp() - 0.001
    ring.authenticate(f"Bearer {text}")
    clocks.wall = (NOW + timedelta(days=90)).timestamp()
    assert "has expired" in refusal(ring, f"Bearer {text}")


def test_who_sent_a_key_that_is_none_any_more_is_not_told_to_send_it(path: Path, clocks: Clocks):
    _, expired = make(path, lasts=timedelta(days=1))
    key, revoked = make(path)
    revoke_key(path, key.id, why="test")
    ring = ring_of(path, clocks)
    clocks.wall = (NOW + timedelta(days=2)).timestamp()
    for text in (expired, revoked, revoked[:-1]):
        with pytest.raises(Unauthenticated) as refused:
            ring.authenticate(f"Bearer {text}")
        assert "sk for another one" in refused.value.fix
    for header in (None, f"Basic {revoked}"):
        with pytest.raises(Unauthenticated) as refused:
            ring.authenticate(header)
        assert "Authorization: Bearer" in refused.value.fix


def test_a_role_is_had_or_not_and_none_includes_another(path: Path, clocks: Clocks):
    _, text = make(path, roles=["operate"])
    caller = ring_of(path, clocks).authenticate(f"Bearer {text}")
    caller.require("operate")
    for role in ("predict", "outcomes", "read"):
        with pytest.raises(NotAllowed, match=f"--role {role}"):
            caller.require(role)  # type: ignore[arg-type]


def test_a_key_never_shows_in_an_error_or_in_what_a_ring_prints(path: Path, clocks: Clocks):
    _, text = make(path)
    ring = ring_of(path, clocks)
    secret = text.split("_", 2)[2]
    with pytest.raises(Unauthenticated) as caught:
        ring.authenticate(f"Bearer {text}x")
    assert secret not in f"{caught.value!r} {caught.value} {caught.value.details}"
    assert secret not in repr(vars(ring))
