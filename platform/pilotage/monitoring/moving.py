"""Sealed segments of the prediction log → tables of the lake, each record exactly once, whatever is killed when.

A move is planned before it is made: ``mover.json`` in the log's folder names the segments of the move under way, and
its number. Every table takes the move in one commit that carries the number as a Delta app transaction, so a table that
has it takes it no second time; the segments go only after all of their tables have it, and have it on disk. Who is
killed leaves a plan, and the next mover carries it out to the end first.

One app id a folder, not one a segment: a table keeps its transactions for ever, and reads them whenever it is opened.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from pilotage.data.lake import Lake
from pilotage.durable import sync_folder
from pilotage.errors import LakeError, PilotageError, UnreadableFile
from pilotage.monitoring.log_frames import IDENTITY, ROOMS, declared_types, frame_of, when
from pilotage.monitoring.log_lines import Lines, read_lines
from pilotage.monitoring.move_plan import MovePlan, nobody_else_moves, read_plan, write_plan
from pilotage.runtime.answer import Record, StateRecord
from pilotage.runtime.log import Damage, Segment, adopt_orphans, segments
from pilotage.runtime.requests_table import LIFETIME_S
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

BATCH_BYTES = 24 * 2**20
"""Segments that one move takes up, bytes. In memory their rows are five times as large, those of batches twenty."""
QUIET_S = 60.0
"""A worker that comes back answers repeated requests from what its predecessor logged, and reads that first."""
_DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """What one call moved."""

    segments: int
    bytes: int
    rows: dict[str, int]
    """Table → records; only tables that got any."""
    adopted: int
    """Segments of dead workers that were sealed first."""
    oldest: datetime | None
    """When the oldest record that was moved had been made (UTC)."""
    problems: tuple[str, ...]
    """Segments that are damaged or can't be read, each in a sentence. They stay in the folder."""
    waiting: int
    """Sealed segments that are still there."""
    seconds: float


@dataclass(slots=True)
class _Tally:
    segments: int = 0
    bytes: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    oldest: datetime | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """What is in some segments."""

    records: Lines = field(default_factory=dict)
    there: list[Path] = field(default_factory=list)
    """The segments that are still there."""
    done: list[tuple[Path, bool]] = field(default_factory=list)
    """Those of them that could be read, and whether they are damaged."""


def move_log(
    settings: Settings,
    lake: Lake,
    *,
    models: Mapping[str, ModelSpec] | None = None,
    batch_bytes: int = BATCH_BYTES,
    quiet_s: float = QUIET_S,
    step: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> MoveReport:
    """Moves every sealed segment, those of dead workers included. Another mover waits for this one.

    Args:
        settings: Where the log is.
        lake: Where the tables are.
        models: Give new columns their declared types; without them a value's own type is taken.
        batch_bytes: Segments that go into one commit a table.
        quiet_s: How long the segment of a dead worker lies before it is taken up, seconds.
        step: Called with the name of each step when it is done; tests stop the mover there.
        progress: Called with what is being done.

    Raises:
        StorageFull: No room was left. Nothing is lost: the next call goes on.
        CommitConflict: Other writers of a table kept winning; the next call goes on.
        LakeError: ``mover.json`` is damaged, or a table can't be written.
    """
    started = time.monotonic()
    folder = settings.prediction_log
    if not folder.is_dir():
        return MoveReport(segments=0, bytes=0, rows={}, adopted=0, oldest=None, problems=(), waiting=0, seconds=0.0)
    types = {name: declared_types(spec) for name, spec in (models or {}).items()}
    tally = _Tally()

    def settle(before: float) -> bool:
        return _settle_requests(settings, before, progress)

    with nobody_else_moves(folder):
        adopted = [each for each in adopt_orphans(folder, report=progress, quiet_s=quiet_s) if each.outcome != "empty"]
        tally.problems += [
            f"{each.path.name}: {each.lost_bytes} bytes in its middle are no record; see {each.evidence}"
            for each in adopted
            if each.outcome == "damaged"
        ]
        step("adopted")
        plan = read_plan(folder)
        if plan.segments:
            progress(f"Finishes move {plan.number}, which was interrupted.")
            with _no_cycles():
                found = _read_all(folder, plan.segments, tally)
            if len(found.there) != len(found.done):
                # Some of its rows may be in the lake already, under this number: to leave it out would lose the rest.
                raise LakeError(
                    f"A move that was interrupted can't be finished: {' '.join(tally.problems)}",
                    fix="Finish it with the version of Pilotage that began it: launch move_prediction_log there.",
                    segments=plan.segments,
                )
            plan = _carry_out(folder, plan, found, lake, types, tally, step, settle)
        left: set[str] = set()
        # A folder that was restored from a backup forgot the moves since, and the tables did not.
        newest = max([plan.number, *_moved(lake, plan.id)])
        # A plan that is left is carried out to the end before the next one is made.
        while not plan.segments and (batch := _next(folder, left, batch_bytes)):
            left |= set(batch)
            with _no_cycles():
                found = _read_all(folder, batch, tally)
            if not found.done:
                continue
            newest += 1
            names = tuple(path.name for path, _ in found.done)
            plan = write_plan(folder, MovePlan(id=plan.id, number=newest, segments=names))
            step("planned")
            plan = _carry_out(folder, plan, found, lake, types, tally, step, settle)
            progress(f"Moved {tally.segments} segments, {sum(tally.rows.values()):,} records.")
        waiting = len(segments(folder, state="sealed"))
    return MoveReport(
        segments=tally.segments,
        bytes=tally.bytes,
        rows=dict(tally.rows),
        adopted=len(adopted),
        oldest=tally.oldest,
        problems=tuple(dict.fromkeys(tally.problems)),
        waiting=waiting,
        seconds=time.monotonic() - started,
    )


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Without the search for reference cycles: records have none, and looking through each batch of them again and
    again takes a quarter of a move's time."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def _next(folder: Path, left: set[str], batch_bytes: int) -> tuple[str, ...]:
    """The oldest segments that go into one commit; at least one, whatever its size."""
    batch: list[Segment] = []
    for segment in segments(folder, state="sealed"):
        if segment.path.name in left:
            continue
        if batch and sum(each.bytes for each in batch) + segment.bytes > batch_bytes:
            break
        batch.append(segment)
    return tuple(segment.path.name for segment in batch)


def _moved(lake: Lake, folder_id: str) -> list[int]:
    """The numbers of the newest moves that the tables have."""
    tables = [table for table in lake.tables() if table.split("/")[0] in ROOMS.values()]
    return [number for table in tables if (number := lake.sequence(table, _app(folder_id))) is not None]


def _app(folder_id: str) -> str:
    return f"prediction-log/{folder_id}"


def _settle_requests(settings: Settings, before: float, progress: Callable[[str], None]) -> bool:
    """Sees that what workers had answered under a client's own id is noted, before the segments that tell it are gone.

    Args:
        settings: Where the requests are.
        before: When the segments were last written, seconds since 1970.
        progress: Called with what is in the way.

    Returns:
        Whether that went well.
    """
    if not (settings.service_state / "requests.db").exists():
        return True
    from pilotage.runtime.idempotency import Idempotency

    requests = Idempotency.of(settings, report=progress)
    try:
        requests.settle(before)
    except (PilotageError, OSError, msgspec.MsgspecError) as error:
        progress(f"What workers had answered can't be noted yet, so that their log stays: {error}")
        return False
    finally:
        requests.close()
    return True


def _forgotten(path: Path) -> bool:
    """Whether every request that a segment tells of is too old to be answered again."""
    return time.time() - path.stat().st_mtime > LIFETIME_S


def _read_all(folder: Path, names: Sequence[str], tally: _Tally) -> _Found:
    """What can be read of some segments; those that can't be stay, and are told."""
    found = _Found()
    for name in names:
        path = folder / name
        try:
            lines, damage = _read(path)
        except FileNotFoundError:
            continue  # Gone already: the mover before was killed while it tidied up.
        except (UnreadableFile, msgspec.MsgspecError) as error:
            tally.problems.append(f"{name} can't be read and stays: {error}")
            found.there.append(path)
            continue
        for key, some in lines.items():
            found.records.setdefault(key, []).extend(some)
        tally.segments += 1
        tally.bytes += path.stat().st_size
        tally.problems += damage
        found.there.append(path)
        found.done.append((path, bool(damage)))
    return found


def _carry_out(
    folder: Path,
    plan: MovePlan,
    found: _Found,
    lake: Lake,
    types: Mapping[str, Mapping[str, pl.DataType]],
    tally: _Tally,
    step: Callable[[str], None],
    settle: Callable[[float], bool],
) -> MovePlan:
    """Puts what was found into its tables, and removes the segments.

    Returns:
        The plan: an empty one, or the same where the segments have to stay until the next time.
    """
    # States first: whoever reads a prediction finds the state that it names.
    tables = sorted(found.records.items(), key=lambda item: (item[0][0] is not StateRecord, item[0][1]))
    for (kind, model), some in tables:
        _append(lake, plan, kind, model, some, types.get(model, {}), tally)
        step(f"{ROOMS[kind]} of {model}")
    if tables:
        lake.sync()
    step("synced")
    # Not before: workers die, and their segments are sealed, while others are being moved.
    newest = max((path.stat().st_mtime for path, _ in found.done), default=0.0)
    if not settle(newest) and not all(_forgotten(path) for path, _ in found.done):
        return plan
    step("settled")
    for path, damaged in found.done:
        if damaged:
            path.replace(path.with_suffix(_DAMAGED))  # Evidence; what could be read of it is moved.
        else:
            path.unlink()
        step("removed")
    sync_folder(folder)
    plan = write_plan(folder, MovePlan(id=plan.id, number=plan.number))
    step("done")
    return plan


def _read(path: Path) -> tuple[Lines, list[str]]:
    damage: list[Damage] = []
    return read_lines(path, damage=damage.append), [f"{found}, and is kept" for found in damage]


def _append(
    lake: Lake,
    plan: MovePlan,
    kind: type[Record],
    model: str,
    records: Sequence[Any],
    types: Mapping[str, pl.DataType],
    tally: _Tally,
) -> None:
    table = f"{ROOMS[kind]}/{model}"
    there: dict[str, pl.DataType] = dict(lake.schema(table)) if lake.exists(table) else {}
    with _no_cycles():
        rows = frame_of(kind, records, types={**types, **there})
    moment = when(kind)
    if kind is StateRecord:
        rows = _new_states(lake, table, rows)
        if rows.is_empty():
            return
    commit = lake.append(
        table,
        rows,
        note={"segments": str(len(plan.segments)), "first_segment": plan.segments[0]},
        app_id=_app(plan.id),
        sequence=plan.number,
        by_day=moment is not None,
    )
    if commit.rows:
        tally.rows[table] += commit.rows
        if moment is not None:
            oldest = rows[moment].min()
            if isinstance(oldest, datetime):
                tally.oldest = min(oldest, tally.oldest or oldest)


def _new_states(lake: Lake, table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Every segment tells its states again, and one row of each is enough."""
    rows = rows.unique(IDENTITY[StateRecord], keep="first", maintain_order=True)
    if not lake.exists(table):
        return rows
    return rows.join(lake.scan(table).select("state").collect(), on="state", how="anti")


def log_lag(settings: Settings, *, now: datetime | None = None) -> float:
    """Seconds since the oldest segment that is not in the lake was begun; 0 if there is none."""
    there = segments(settings.prediction_log)
    return ((now or datetime.now(UTC)) - there[0].began).total_seconds() if there else 0.0
