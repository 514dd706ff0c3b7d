"""Segments on disk: how their files are called, what is in them, how they are read. Nothing here writes.

=============  ==========================================================================================
``.open``      written by a worker that holds its lock, and ends in room; without a lock an orphan (``repair.py``)
``.sealed``    complete and never changed again; waits to be moved into the lake
``.committed`` beside an ``.open`` one that could not be cut: up to which byte it counts
``.torn``      evidence: what was cut off an orphan's end
``.damaged``   evidence: a segment as it was found, with bytes in its middle that are no record
``.new``       is being made, or was left so by a worker that died
=============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from pilotage.errors import UnreadableFile
from pilotage.runtime.answer import BatchRecord, Record, Written
from pilotage.runtime.log.framing import scan, without_room

FORMAT = 3
"""1 had no ``BatchRecord``, 2 none of several requests."""
OPEN, SEALED, COMMITTED, NEW = ".open", ".sealed", ".committed", ".new"
TORN, DAMAGED = ".torn", ".damaged"


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="segment"):
    """The first record of a segment."""

    format: int = FORMAT
    """See ``FORMAT``."""
    worker: str
    at: int
    """When the segment was begun, microseconds since 1970 UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment's file, as its name tells it."""

    path: Path
    worker: str
    began: datetime
    number: int
    """Counts the segments of one worker process, from 1."""
    sealed: bool
    bytes: int
    """Of the file; of an open one with its room."""
    modified: float
    """When it was last written, seconds since 1970."""

    @property
    def name(self) -> str:
        """Names the segment for ever, whether it is open or sealed."""
        return self.path.stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Bytes of a segment that are no record, though records come after them or it is sealed."""

    path: Path
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.path.name} has {self.end - self.start} bytes at {self.start} that are no record"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A log record holds no {type(value).__name__}.")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_HEADER = msgspec.json.Decoder(Header)


_BATCHES = msgspec.json.Decoder(BatchRecord)
_START = 4096
"""Bytes in which the header has its end."""
_BATCH = b'{"kind":"predictions"'


def encode(record: Written | Header) -> bytes:
    """One record as JSON on one line. NaN and infinities become null: JSON has none."""
    return _ENCODER.encode(record)


def decode(payload: bytes) -> Record:
    """What ``encode`` was given; sets and tuples inside ``entity``, ``request`` and ``features`` come back as lists.

    Raises:
        msgspec.MsgspecError: The payload is no record.
    """
    return _DECODER.decode(payload)


def singles(payload: bytes) -> Iterable[bytes]:
    """A line as it is read: of a batch, the lines that its predictions would have alone."""
    if not payload.startswith(_BATCH):
        return (payload,)
    return map(_ENCODER.encode, _BATCHES.decode(payload).records())


def name_of(worker: str, began: datetime, number: int) -> str:
    """The name of a segment, without what says its state."""
    return f"{worker}-{began:%Y%m%dT%H%M%S.%f}Z-{number:06d}"


def parse(path: Path) -> Segment | None:
    """What a file's name says; ``None`` if it is no segment, or is gone.

    An open segment that was sealed since it was listed is given under its new name.
    """
    try:
        worker, began, number = path.stem.rsplit("-", 2)
        found = path.stat()
        return Segment(
            path=path,
            worker=worker,
            began=_moment(began),
            number=int(number),
            sealed=path.suffix == SEALED,
            bytes=found.st_size,
            modified=found.st_mtime,
        )
    except ValueError:
        return None
    except FileNotFoundError:
        return parse(path.with_suffix(SEALED)) if path.suffix == OPEN else None


def segments(folder: Path, *, state: Literal["open", "sealed", "both"] = "both") -> list[Segment]:
    """The segments that are there now, the oldest first.

    Nothing is locked: an open one can be sealed, and a sealed one moved away, any moment. None that stays is missed.
    """
    if not folder.is_dir():
        return []
    # A name that changes while a large folder is read can be missed, old and new. It does so once: a second look helps.
    listed = {path.stem: path for _ in range(2) for path in folder.iterdir() if path.suffix in (OPEN, SEALED)}
    found = [each for path in listed.values() if (each := parse(path))]
    wanted = {"open": (False,), "sealed": (True,), "both": (False, True)}[state]
    return sorted(
        (each for each in found if each.sealed in wanted), key=lambda each: (each.began, each.worker, each.number)
    )


def oldest(folder: Path) -> datetime | None:
    """Since when what was logged waits there longest; ``None`` if nothing does.

    A worker begins a segment before it has anything to write, which may be a night later, and seals it within a minute
    of its first record: so it is not its name that tells, but when it was last written.
    """
    waiting = [each.modified for each in segments(folder) if each.sealed or has_records(each.path)]
    return datetime.fromtimestamp(min(waiting), UTC) if waiting else None


def has_records(path: Path) -> bool:
    """Whether a segment holds more than its header and room; one that is gone does not. Cheap: reads its start alone,
    for whoever looks each second."""
    try:
        with path.open("rb") as file:
            _, _, behind = file.read(_START).partition(b"\n")
    except FileNotFoundError:
        return False
    return bool(without_room(behind))


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)


def payloads(path: Path, *, damage: Callable[[Damage], None] | None = None) -> Iterator[bytes]:
    """The records of a segment, each as JSON, the oldest first; those of a batch as if each had been written alone.

    See ``lines``.
    """
    return chain.from_iterable(map(singles, lines(path, damage=damage)))


def lines(path: Path, *, damage: Callable[[Damage], None] | None = None) -> Iterator[bytes]:
    """What was written into a segment, the oldest first; reads a megabyte at a time.

    The end of an open segment may be half written: such bytes, and a submission that is not complete, are left out. So
    is what is read behind room there, which was being written meanwhile.

    Args:
        path: An open or a sealed segment. One that was sealed since it was listed is found under its new name.
        damage: Called for bytes in the middle that are no record; the records after them follow.

    Raises:
        UnreadableFile: It is of another format; or it is damaged, and ``damage`` was not given.
        FileNotFoundError: It is gone.
    """
    try:
        file = path.open("rb")
        is_open = path.suffix == OPEN
    except FileNotFoundError:
        if path.suffix != OPEN:
            raise
        path, is_open = path.with_suffix(SEALED), False
        file = path.open("rb")

    def tell(start: int, end: int) -> None:
        found = Damage(path=path, start=start, end=end)
        if damage is None:
            raise UnreadableFile(
                f"A segment of the prediction log is damaged: {found}.",
                fix="See docs/runbooks/prediction-log.md; pass damage= to read the rest.",
                path=str(path),
                start=start,
                end=end,
            )
        damage(found)

    with file:
        read = bounded(file.read, committed_length(path) if is_open else None)
        gap: tuple[int, int] | None = None
        unfinished: list[bytes] = []
        first = True
        for start, end, payload, _, continues, vacant in scan(read):
            if payload is None:
                if vacant and is_open:
                    return
                gap = (start, end)
                continue
            if gap is not None:
                tell(*gap)
                gap = None
                # What it cut through is readable all the same.
                yield from unfinished
                unfinished.clear()
            if first and is_header(payload, path):
                first = False
                continue
            first = False
            if continues:
                unfinished.append(payload)
            elif unfinished:
                yield from unfinished
                unfinished.clear()
                yield payload
            else:
                yield payload
        if not is_open:
            yield from unfinished
            if gap is not None:
                tell(*gap)


def read_segment(path: Path, *, damage: Callable[[Damage], None] | None = None) -> Iterator[Record]:
    """The records of a segment, the oldest first. See ``payloads``."""
    return map(_DECODER.decode, payloads(path, damage=damage))


def is_header(payload: bytes, path: Path) -> bool:
    """Whether the first record is a header.

    Raises:
        UnreadableFile: It is, of a format that is not known.
    """
    if not payload.startswith(b'{"kind":"segment"'):
        return False
    header = _HEADER.decode(payload)
    if header.format > FORMAT:
        raise UnreadableFile(
            f"{path.name} is a segment of format {header.format}; this version reads up to {FORMAT}.",
            fix="Read it with the version of Pilotage that wrote it, or a newer one.",
            path=str(path),
        )
    return True


def bounded(read: Callable[[int], bytes], length: int | None) -> Callable[[int], bytes]:
    """Reads no further than ``length`` bytes."""
    if length is None:
        return read
    left = length

    def within(size: int) -> bytes:
        nonlocal left
        data = read(min(size, left))
        left -= len(data)
        return data

    return within


def committed_length(path: Path) -> int | None:
    """Up to which byte an open segment counts; ``None`` if up to its end."""
    try:
        return int(path.with_suffix(COMMITTED).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnreadableFile(
            f"{path.with_suffix(COMMITTED).name} does not say a number of bytes.",
            fix="See docs/runbooks/prediction-log.md.",
            path=str(path),
        ) from error
