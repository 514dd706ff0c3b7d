"""How records lie in a segment: one line each, so that a person can read it, with what proves that it is whole.

::

    000001f3+5a0c11d2 {"kind":"prediction",…}⏎
    00000042 0f8e77aa&{"kind":"prediction",…}⏎
    ^length ^CRC-32   ^JSON without a line feed

The sign before the CRC is ``+`` on the first record of a commit. A commit starts only when the one before it is on
the disk, so a ``+`` proves that everything before it had been there. The sign after it is ``&`` if the next record
belongs to the same submission: those are there all or not at all. Bytes only; what a record means is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

LONGEST = 1 << 24
"""Bytes of the longest record. A length above it is damage, not a reason to read a gigabyte."""

_HEAD = 18
"""Bytes before the JSON."""
_CHUNK = 1 << 20
_LINE_FEED = 0x0A


class Found(NamedTuple):
    """A stretch of a segment: a record, or bytes that are none."""

    start: int
    end: int
    payload: bytes | None
    """``None`` for bytes that are no record."""
    opens_commit: bool = False
    continues: bool = False
    """Whether the next record belongs to the same submission."""


def frame(submissions: Iterable[Sequence[bytes]]) -> bytes:
    """The bytes of one commit."""
    lines = []
    before = b"+"
    for payloads in submissions:
        if len(payloads) == 1:
            payload = payloads[0]
            lines.append(b"%08x%b%08x %b\n" % (len(payload), before, crc32(payload), payload))
            before = b" "
            continue
        last = len(payloads) - 1
        for index, payload in enumerate(payloads):
            after = b" " if index == last else b"&"
            lines.append(b"%08x%b%08x%b%b\n" % (len(payload), before, crc32(payload), after, payload))
            before = b" "
    return b"".join(lines)


def scan(read: Callable[[int], bytes]) -> Iterator[Found]:
    """Every stretch, in order and without gaps, from the start to the end of what ``read`` gives.

    After bytes that are no record it goes on at the next line that is one.
    """
    data, base, at, ended = b"", 0, 0, False
    bad_from = -1  # Where the bytes begin that are no record; an offset in the file, as ``data`` moves on.
    while True:
        end = _end_of(data, at)
        if end is not None and end > len(data):
            if not ended:
                more = read(_CHUNK)
                ended = not more
                data, base, at = data[at:] + more, base + at, 0
                continue
            end = None
        payload = None if end is None else data[at + _HEAD : end - 1]
        if end is not None and payload is not None and data[end - 1] == _LINE_FEED and crc32(payload) == _crc(data, at):
            if bad_from >= 0:
                yield Found(bad_from, base + at, None)
                bad_from = -1
            yield Found(base + at, base + end, payload, data[at + 8] == 0x2B, data[at + 17] == 0x26)
            at = end
            continue
        if at == len(data) and ended:
            break
        if bad_from < 0:
            bad_from = base + at
        line_end = data.find(b"\n", at)
        while line_end < 0 and not ended:
            more = read(_CHUNK)
            ended = not more
            base += len(data)
            data, at = more, 0
            line_end = data.find(b"\n")
        if line_end < 0:
            at = len(data)
            break
        at = line_end + 1
    if bad_from >= 0:
        yield Found(bad_from, base + len(data), None)


def _end_of(data: bytes, at: int) -> int | None:
    """Where a record that starts here would end; ``None`` if none starts here."""
    if len(data) - at < _HEAD:
        return at + _HEAD  # Cannot be told yet.
    try:
        length = int(data[at : at + 8], 16)
    except ValueError:
        return None
    return at + _HEAD + length + 1 if 0 <= length <= LONGEST else None


def _crc(data: bytes, at: int) -> int:
    try:
        return int(data[at + 9 : at + 17], 16)
    except ValueError:
        return -1
