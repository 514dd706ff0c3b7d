"""How records lie in a segment: one line each, so that a person can read it, with what proves that it is whole.

::

    000001f3+5a0c11d2 {"kind":"prediction",…}⏎
    00000042 0f8e77aa&{"kind":"prediction",…}⏎
    ^length ^CRC-32   ^JSON without a line feed

The sign before the CRC is ``+`` on the first record of a commit. A commit starts only when the one before it is on
the disk, so a ``+`` proves that everything before it had been there. The sign after it is ``&`` if the next record
belongs to the same submission: those are there all or not at all. Bytes only; what a record means is not known here.

While a segment is being written, it ends in *room*: line feeds that the next commits are written over. Over what the
disk has already, a commit needs no change of the file's length, and of the file system's own records.
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
_VACANT = b"\n\0"
"""What room is of, or was to be before a power failure. No record begins so."""


class Found(NamedTuple):
    """A stretch of a segment: a record, or bytes that are none."""

    start: int
    end: int
    payload: bytes | None
    """``None`` for bytes that are no record."""
    opens_commit: bool = False
    continues: bool = False
    """Whether the next record belongs to the same submission."""
    vacant: bool = False
    """Whether there is room among these bytes, which nobody wrote to, or not yet. (Zeros are left by a crash alone.)"""


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


def room(length: int) -> bytes:
    """To be written over later."""
    return b"\n" * length


def without_room(data: bytes) -> bytes:
    """The end of a segment without the room there."""
    return data.rstrip(_VACANT)


def scan(read: Callable[[int], bytes]) -> Iterator[Found]:
    """Every stretch, in order and without gaps, from the start to the room at the end of what ``read`` gives.

    After bytes that are no record it goes on at the next line that is one.
    """
    data, base, at, ended = b"", 0, 0, False
    bad_from = bad_to = -1  # Where the bytes are that are no record; offsets in the file, as ``data`` moves on.
    vacant = False
    while True:
        left = len(data) - at
        if left and data[at] in _VACANT:
            if bad_from < 0:
                bad_from = bad_to = base + at
            vacant = vacant or data[at] == _LINE_FEED
            at = len(data) - len(data[at:].lstrip(_VACANT))
            continue
        needed = _HEAD
        if left >= _HEAD:
            try:
                needed = _HEAD + int(data[at : at + 8], 16) + 1
                crc = int(data[at + 9 : at + 17], 16)
            except ValueError:
                needed = 0
        if not ended and left < needed <= _LONGEST_LINE:
            more = read(_CHUNK)
            ended = not more
            data, base, at = data[at:] + more, base + at, 0
            continue
        end = at + needed
        if _HEAD < needed <= left and data[end - 1] == _LINE_FEED:
            payload = data[at + _HEAD : end - 1]
            if crc32(payload) == crc:
                if bad_from >= 0:
                    yield Found(bad_from, base + at, None, vacant=vacant)
                    bad_from, vacant = -1, False
                yield Found(base + at, base + end, payload, data[at + 8] == _PLUS, data[at + 17] == _AND)
                at = end
                continue
        if not left and ended:
            break
        if bad_from < 0:
            bad_from = base + at
        line_end = data.find(b"\n", at)
        after = line_end + 1 if line_end >= 0 else len(data)
        bad = data[at:after]
        bad_to = base + at + len(bad.rstrip(_VACANT)) if bad.strip(_VACANT) else bad_to
        at = after
    if bad_from >= 0 and bad_to > bad_from:
        yield Found(bad_from, bad_to, None, vacant=vacant)
