"""Who sent an HTTP request, by its raw headers. What they may do is the caller's roles; how often, the limiter's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from pilotage.errors import Unauthenticated
from pilotage.runtime.access.caller import Caller
from pilotage.runtime.access.keys import KeyRing

_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))


def admit(ring: KeyRing, headers: Iterable[tuple[bytes, bytes]], peer: str | None) -> Caller:
    """Tells who asks.

    While no key was ever made, only this machine itself is let in: a connection from loopback that no proxy passed on,
    to a name of this machine (another name that resolves here is a page that plays a trick on a browser), and not from
    a page of elsewhere.

    Args:
        ring: The keys.
        headers: Names (lower case) and values as they came, as ASGI has them.
        peer: Address of who connected; ``None`` for a Unix socket.

    Raises:
        Unauthenticated: No key was sent, more than one, or none that is valid now.
    """
    sent = None
    for name, value in headers:
        if name == b"authorization":
            if sent is not None:
                # Which one counts would depend on who reads it: a proxy in front, or we.
                raise Unauthenticated(
                    "There is more than one Authorization header.",
                    fix="Send the header Authorization: Bearer <API key> once.",
                )
            sent = value
    caller = ring.authenticate(sent)
    if not caller.id:
        _require_this_machine(headers, peer)
    return caller


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine for sure. Remembered: the same few ask with every request."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _require_this_machine(headers: Iterable[tuple[bytes, bytes]], peer: str | None) -> None:
    if peer is not None and not is_loopback(peer):
        raise _foreign(f"{peer[:50]} is another machine")
    for name, value in headers:
        text = value.decode("latin-1")
        if name in _FORWARDED:
            raise _foreign("the request was passed on by a proxy")
        if name == b"host" and not _is_ours(text):
            raise _foreign(f"{text[:100]!r} is no name of this machine")
        if name == b"origin" and not _is_ours(text.partition("://")[2]):
            raise _foreign(f"the page {text[:100]!r} is from elsewhere")


def _is_ours(authority: str) -> bool:
    """Whether a host with or without a port, and nothing else, is this machine."""
    found = _AUTHORITY.fullmatch(authority)
    return found is not None and is_loopback(found[1])


def _foreign(why: str) -> Unauthenticated:
    return Unauthenticated(
        f"No API key was made yet, so only this machine itself is answered, and {why}.",
        fix="Make a key (pilotage keys create NAME --role predict), and send it: Authorization: Bearer <API key>.",
    )
