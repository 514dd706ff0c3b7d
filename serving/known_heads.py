"""Heads that are known: a client sends the same again and again, but for the length of the body.

To parse a head costs as much as to check what it asks for. What a connection sent once, byte for byte, and was parsed
then, need not be parsed again; nothing is read here that the parser did not read in the same form before.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from serving.exchange import HEAD, head_of

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_MOST_DIGITS = 7


class KnownHead(NamedTuple):
    """A head of a request that came in one piece with its body."""

    before: bytes
    """Up to the number that is the body's length."""
    after: bytes
    """From there to the head's end."""
    scope: dict[str, Any]
    """ASGI's of the request that had it. Only the length in it is not that of the others."""

    def read(self, data: bytes) -> bytes | None:
        """The body of a request with the same head; ``None`` for anything else."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + _MOST_DIGITS + 1)
        length = data[start:end]
        if end < 0 or not length.isdigit() or not data.startswith(after, end):
            return None
        body = data[end + len(after) :]
        return body if len(body) == int(length) else None


def known_head_of(data: bytes, scope: Mapping[str, Any]) -> KnownHead | None:
    """The head of a request.

    Args:
        data: Where it begins; what was read in one piece.
        scope: What the parser made of it.

    Returns:
        ``None`` if it has no length, or more than its body came with it.
    """
    end = data.find(b"\r\n\r\n") + 4
    lengths = sum(name == b"content-length" for name, _ in scope["headers"])
    found = _LENGTH.search(data, 0, end)
    if found is None or lengths != 1 or len(data) != end + int(found[1]):
        return None
    head = head_of(scope["headers"])
    return KnownHead(data[: found.start(1)], data[found.end(1) : end], {**scope, HEAD: head})
