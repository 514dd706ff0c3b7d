"""The plan of a move: what a mover is at, on the disk before it begins; and who may move. Only the files live here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from pilotage.durable import replacing
from pilotage.errors import LakeError

NAME = "mover.json"
_LOCK = "mover.lock"


class MovePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``mover.json``."""

    id: str
    """Names the folder to the lake; made once."""
    number: int = 0
    """Of the newest move."""
    segments: tuple[str, ...] = ()
    """The files that it takes up; empty once it is done."""


@contextmanager
def nobody_else_moves(folder: Path) -> Iterator[None]:
    """Nothing goes from the log into the lake meanwhile but by whoever asked for it. Waits for who is at it."""
    from filelock import FileLock

    with FileLock(folder / _LOCK):
        yield


def read_plan(folder: Path) -> MovePlan:
    """What the mover before was at; a new plan in a new folder.

    Raises:
        LakeError: It can't be read.
    """
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=MovePlan)
    except FileNotFoundError:
        return write_plan(folder, MovePlan(id=uuid4().hex))
    except msgspec.MsgspecError as error:
        raise LakeError(
            f"{path} can't be read: {error}.",
            fix="See docs/runbooks/prediction-log.md; without it, the segments there may be moved a second time.",
            path=str(path),
        ) from error


def unfinished(folder: Path) -> bool:
    """Whether a move was begun that is not at its end. Changes nothing.

    Raises:
        LakeError: It can't be told.
    """
    return (folder / NAME).exists() and bool(read_plan(folder).segments)


def write_plan(folder: Path, plan: MovePlan) -> MovePlan:
    """Puts it on the disk, whole; returns it."""
    with replacing(folder / NAME) as aside:
        aside.write_bytes(msgspec.json.encode(plan))
    return plan
