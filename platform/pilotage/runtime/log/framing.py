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
_LONGEST_LINE = _HEAD + LONGEST + 1
_CHUNK = 1 << 20
_LINE_FEED, _PLUS, _AND = b"\n+&"


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
        room = len(data) - at
        needed = _HEAD
        if room >= _HEAD:
            try:
                needed = _HEAD + int(data[at : at + 8], 16) + 1
                crc = int(data[at + 9 : at + 17], 16)
            except ValueError:
                needed = 0
        if not ended and room < needed <= _LONGEST_LINE:
            more = read(_CHUNK)
            ended = not more
            data, base, at = data[at:] + more, base + at, 0
            continue
        end = at + needed
        if _HEAD < needed <= room and data[end - 1] == _LINE_FEED:
            payload = data[at + _HEAD : end - 1]
            if crc32(payload) == crc:
                if bad_from >= 0:
                    yield Found(bad_from, base + at, None)
                    bad_from = -1
                yield Found(base + at, base + end, payload, data[at + 8] == _PLUS, data[at + 17] == _AND)
                at = end
                continue
        if not room and ended:
            break
        if bad_from < 0:
            bad_from = base + at
        line_end = data.find(b"\n", at)
        while line_end < 0 and not ended:
            base += len(data)
            data, at = read(_CHUNK), 0
            ended = not data
            line_end = data.find(b"\n")
        at = line_end + 1 if line_end >= 0 else len(data)
    if bad_from >= 0:
        yield Found(bad_from, base + len(data), None)
