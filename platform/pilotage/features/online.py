"""Writes the online store: the latest state of a model's as-of features, taken from validated data.

The file is built aside, checked, and takes its name in one step, so a reader sees the old state or the new one. What
reads it is ``store.py``.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from pilotage.data.lake import Lake
from pilotage.durable import sync_folder
from pilotage.errors import StorageFull
from pilotage.features.asof import read_timelines
from pilotage.features.reading import ValidatedRows
from pilotage.features.state import EPOCH
from pilotage.features.store import APPLICATION_ID, FORMAT, OnlineStore, StoreMeta
from pilotage.features.timeline import KNOWN_AT, MOMENT, Newest, Timeline, stored_type
from pilotage.features.view import FeatureView
from pilotage.spec import ModelSpec

REACH = timedelta(days=30)
"""How far back before the newest fact that is known the store answers, unless told otherwise."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineReport:
    """What was written."""

    model: str
    path: str
    bytes: int
    rows: int
    """Rows of all timelines."""
    meta: StoreMeta
    seconds: float


def build_online(
    spec: ModelSpec,
    *,
    lake: Lake,
    path: Path,
    run_id: str,
    reach: timedelta = REACH,
    also: Iterable[FeatureView] = (),
    now: datetime | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> OnlineReport:
    """Builds the store from the newest versions of the validated tables, and puts it in place atomically.

    Args:
        spec: Whose as-of features.
        lake: Where ``validated/<source>`` is read.
        path: The store's file; its folder is made. Readers of an earlier file there notice.
        run_id: Goes into the store.
        reach: Prediction moments back to this long before the newest fact are answered; earlier ones are refused.
            Where facts are ahead of the rows to predict, as in a history that tells every outcome, it counts from
            the newest of these rows.
        also: Views of other versions that must be served from it, such as a champion older than the spec.
        now: How late it is (UTC), by default by the wall clock. Facts that become known later are in the store, and
            take nothing from what is answered now.
        progress: Called with what is being done.

    Raises:
        UnpublishedData: A source has no validated rows yet.
        StorageFull: No room was left; the earlier store stays.
    """
    from filelock import FileLock

    started = time.monotonic()
    view = FeatureView(spec)
    lookups = tuple(lookup for each in (view, *also) for lookup in each.lookups)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One builder at a time: each then reads the lake after the one before it, so the state never goes back in time.
    with FileLock(f"{path}.lock"):
        versions = lake.versions(f"validated/{source}" for source in dict.fromkeys(x.timeline.source for x in lookups))
        validated = ValidatedRows(lake, lookups, versions)
        newest = validated.newest(by=now)
        through = max(newest.values(), default=None)
        answers_from = None if through is None else min(through, _newest_event(spec, lake, now) or through) - reach
        progress(f"reads the state of {spec.name} from {len(versions)} sources")
        frames = read_timelines(lookups, validated.read, first=answers_from or EPOCH, last=None)
        timelines = {lookup.timeline.name: lookup.timeline for lookup in lookups}
        for name, timeline in timelines.items():
            if isinstance(timeline, Newest) and answers_from is not None:
                frames[name] = _trimmed(frames[name], timeline, answers_from)
        meta = StoreMeta(
            model=spec.name,
            fingerprint=view.fingerprint,
            run_id=run_id,
            materialised_through=through,
            answers_from=answers_from,
            newest=newest,
            versions=versions,
            timelines={name: frame.height for name, frame in frames.items()},
            columns={name: (len(line.key_names), len(line.payload)) for name, line in timelines.items()},
        )
        progress(f"writes {sum(meta.timelines.values()):,} rows to {path.name}")
        _replace(path, meta, timelines, frames)
    return OnlineReport(
        model=spec.name,
        path=str(path),
        bytes=path.stat().st_size,
        rows=sum(meta.timelines.values()),
        meta=meta,
        seconds=time.monotonic() - started,
    )


def _newest_event(spec: ModelSpec, lake: Lake, now: datetime | None) -> datetime | None:
    """Newest event time (UTC) of the rows to predict, not later than now; ``None`` where they are not there."""
    table = f"validated/{spec.source}"
    if spec.event_time is None or not lake.exists(table):
        return None
    rows = lake.scan(table)
    if rows.collect_schema().get(spec.event_time) != MOMENT:
        return None
    event = pl.col(spec.event_time)
    newest = rows.select(event.filter(event <= (now or datetime.now(UTC))).max()).collect().item()
    return newest if isinstance(newest, datetime) else None


def _trimmed(frame: pl.DataFrame, timeline: Newest, first: datetime) -> pl.DataFrame:
    """Without the rows that a newer one hides from every moment since ``first``."""
    next_known = pl.col(KNOWN_AT).shift(-1).over(timeline.key_names)
    return frame.filter((next_known > first) | next_known.is_null())


def _replace(
    path: Path, meta: StoreMeta, timelines: Mapping[str, Timeline], frames: Mapping[str, pl.DataFrame]
) -> None:
    aside = path.with_name(f".{path.name}.building")
    aside.unlink(missing_ok=True)  # Left by a builder that was killed; the lock says that none is at work.
    try:
        _write(aside, meta, timelines, frames)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        with OnlineStore.open(aside):
            aside.replace(path)
        sync_folder(path.parent)
    except (sqlite3.OperationalError, OSError) as error:
        if "full" in str(error) or getattr(error, "errno", None) in _NO_ROOM:
            raise StorageFull(
                f"No room is left to write {path}; the earlier store stays.",
                fix="Free space on its disk.",
                path=str(path),
            ) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def _write(path: Path, meta: StoreMeta, timelines: Mapping[str, Timeline], frames: Mapping[str, pl.DataFrame]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nobody reads the file before it is complete, so a journal would only cost time.
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            f"application_id = {APPLICATION_ID}",
            f"user_version = {FORMAT}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE meta (value TEXT NOT NULL)")
        connection.execute("INSERT INTO meta VALUES (?)", (meta.to_json(),))
        for name, timeline in timelines.items():
            # Columns without a type keep what they are given, so 1.0 stays a double and "1" stays text.
            key = ", ".join([*timeline.key_names, KNOWN_AT])
            columns = ", ".join([key, *timeline.payload])
            connection.execute(f'CREATE TABLE "{name}" ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID')
            marks = ", ".join("?" * frames[name].width)
            rows = frames[name].cast({column: stored_type(dtype) for column, dtype in frames[name].schema.items()})
            connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', rows.iter_rows())  # noqa: S608
        connection.execute("COMMIT")
