"""Who sent a request, by its raw headers; and what "this machine only" means while there is no key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.errors import Unauthenticated
from pilotage.runtime.access.admission import admit, is_loopback
from pilotage.runtime.access.caller import ANYBODY
from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.access.keys import KeyRing

HOST = (b"host", b"127.0.0.1:8000")


@pytest.fixture
def open_ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys.json")


def test_a_key_lets_in_from_anywhere_through_any_proxy(tmp_path: Path):
    key, text = create_key(tmp_path / "keys.json", "booking", roles=["predict"], limit=None)
    ring = KeyRing(tmp_path / "keys.json")
    headers = [
        (b"host", b"predictions.example.com"),
        (b"x-forwarded-for", b"198.51.100.7"),
        (b"origin", b"https://elsewhere.example"),
        (b"authorization", b"Bearer " + text.encode()),
    ]
    assert admit(ring, headers, "203.0.113.9").id == key.id


def test_two_authorization_headers_are_refused_even_if_both_are_right(tmp_path: Path):
    _, text = create_key(tmp_path / "keys.json", "booking", roles=["predict"], limit=None)
    ring = KeyRing(tmp_path / "keys.json")
    good = (b"authorization", b"Bearer " + text.encode())
    for headers in ([good, good], [good, (b"authorization", b"")], [(b"authorization", b"Bearer x"), HOST, good]):
        with pytest.raises(Unauthenticated, match="more than one"):
            admit(ring, headers, "127.0.0.1")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None])
@pytest.mark.parametrize("host", [b"127.0.0.1:8000", b"localhost", b"LOCALHOST:8000", b"[::1]:8000"])
def test_without_a_key_this_machine_is_let_in(open_ring: KeyRing, peer: str | None, host: bytes):
    assert admit(open_ring, [(b"host", host)], peer) is ANYBODY
    assert admit(open_ring, [(b"host", host), (b"origin", b"http://localhost:8000")], peer) is ANYBODY


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1", "fe80::1", "0.0.0.0", "", "testclient"])
def test_without_a_key_another_machine_is_refused(open_ring: KeyRing, peer: str):
    with pytest.raises(Unauthenticated, match="another machine"):
        admit(open_ring, [HOST], peer)


@pytest.mark.parametrize(
    "headers",
    [
        # A name of somebody else that resolves to 127.0.0.1: DNS rebinding.
        [(b"host", b"rebound.example:8000")],
        [(b"host", b"localhost.rebound.example")],
        [(b"host", b"127.0.0.1.rebound.example")],
        [(b"host", b"")],
        [(b"host", b"127.0.0.1:8000@rebound.example")],
        [(b"host", b"127.0.0.1@rebound.example")],
        [(b"host", b"localhost:rebound.example")],
        [(b"host", b"127.0.0.1,rebound.example")],
        [(b"host", b"[::1].rebound.example")],
        [(b"host", b"[::1")],
        [(b"host", b"127.0.0.1:8000/")],
        [HOST, (b"host", b"rebound.example")],
        [HOST, (b"origin", b"http://127.0.0.1@elsewhere.example")],
        [HOST, (b"origin", b"http://127.0.0.1:8000 https://elsewhere.example")],
        [HOST, (b"origin", b"localhost")],
        [(b"host", b"\xff\xfe")],
        # A page of elsewhere in a browser on this machine.
        [HOST, (b"origin", b"https://elsewhere.example")],
        [HOST, (b"origin", b"https://localhost.elsewhere.example")],
        [HOST, (b"origin", b"null")],
        [HOST, (b"origin", b"file://")],
        # A proxy on this machine that lets the world in.
        [HOST, (b"x-forwarded-for", b"127.0.0.1")],
        [HOST, (b"forwarded", b"for=127.0.0.1")],
        [HOST, (b"x-real-ip", b"127.0.0.1")],
    ],
)
def test_without_a_key_what_only_looks_like_this_machine_is_refused(
    open_ring: KeyRing, headers: list[tuple[bytes, bytes]]
):
    with pytest.raises(Unauthenticated, match="pilotage keys create"):
        admit(open_ring, headers, "127.0.0.1")


@pytest.mark.parametrize("header", [b"", b"Basic dXNlcjpwYXNz", b"Bearer x"])
def test_without_a_key_one_that_is_sent_all_the_same_is_refused(open_ring: KeyRing, header: bytes):
    with pytest.raises(Unauthenticated):
        admit(open_ring, [HOST, (b"authorization", header)], "127.0.0.1")


def test_loopback_is_what_is_loopback_for_sure():
    assert all(
        is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "::ffff:127.0.0.1")
    )
    assert not any(
        is_loopback(host) for host in ("0.0.0.0", "::", "", "192.168.0.1", "example.com", "127.1", "0x7f000001")
    )
