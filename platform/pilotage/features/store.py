"""The online store as serving sees it: one read-only SQLite file a model, replaced as a whole by ``online.py``.

Only reading lives here, and nothing that serving does not need. The file never changes once it has its name, so it is
opened as immutable, without locks; a replacement is another inode, noticed at the next look-up.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pilotage.errors import StateUnavailable
from pilotage.features.state import EPOCH, Hit, Key, Query, microseconds

APPLICATION_ID = 0x50494C54
"""``PILT`` in the SQLite header: this file is an online store."""
FORMAT = 1
"""Version of the layout, in the SQLite header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMeta:
    """What a store says of itself."""

    model: str
    fingerprint: str
    """Of the feature view that it was built for."""
    run_id: str
    materialised_through: datetime | None
    """When the newest fact in it became known (UTC); ``None`` if no source has a time."""
    answers_from: datetime | None
    """Earliest prediction moment for which all facts are kept (UTC); ``None`` for any."""
    newest: dict[str, datetime]
    """Source → when its newest fact became known (UTC): a source that lags shows here."""
    versions: dict[str, int]
    """Lake table → Delta version that was read."""
    timelines: dict[str, int]
    """Timeline → rows."""
    columns: dict[str, tuple[int, int]]
    """Timeline → number of its key and of its payload columns."""

    @property
    def id(self) -> str:
        """Names the content: the same in every process that reads the file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> StoreMeta:
        data: dict[str, Any] = json.loads(text)
        for name in ("materialised_through", "answers_from"):
            data[name] = None if data[name] is None else datetime.fromisoformat(data[name])
        data["newest"] = {source: datetime.fromisoformat(moment) for source, moment in data["newest"].items()}
        data["columns"] = {timeline: (keys, payload) for timeline, (keys, payload) in data["columns"].items()}
        return cls(**data)


class OnlineStore:
    """Looks up what was known of a key at a moment. Safe to share between threads; close it, or use ``with``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state: _State | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the file and checks its structure.

        Raises:
            StateUnavailable: There is no such file, or it is no online store.
        """
        store = cls(path)
        store.refresh()
        return store

    @property
    def meta(self) -> StoreMeta:
        """What the file that is there now says of itself. Raises ``StateUnavailable``."""
        with self._lock:
            return self._current().meta

    def refresh(self) -> bool:
        """Takes up a replaced file now rather than at the next look-up; says whether there was one."""
        with self._lock:
            before = self._state
            return self._current() is not before

    def lookup(self, timeline: str, key: Key, at: datetime) -> Hit | None:
        """The newest row of a timeline for a key that was known at a moment (UTC).

        Returns:
            ``known_at`` in microseconds since 1970 UTC, then the payload as stored; ``None`` if nothing was known.

        Raises:
            StateUnavailable: The store can't answer.
        """
        moment = microseconds(at)
        return self.lookups([(timeline, key, moment)], earliest=moment)[0]

    def lookups(self, queries: Sequence[Query], *, earliest: int) -> list[Hit | None]:
        """Answers all queries from one and the same file. See ``StateLookup``.

        Raises:
            StateUnavailable: The file is missing or damaged, lacks a timeline, or does not reach back to ``earliest``.
        """
        with self._lock:
            return self._current().lookups(queries, earliest)

    def close(self) -> None:
        """Lets go of the file; the next look-up opens it again."""
        with self._lock:
            if self._state is not None:
                self._state.connection.close()
                self._state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> _State:
        try:
            found = self._path.stat()
        except OSError as error:
            raise StateUnavailable(
                f"There is no online store {self._path}: {error.strerror}.",
                fix="Materialise the model's online store.",
                path=str(self._path),
            ) from error
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._state is None or self._state.identity != identity:
            opened = _State.open(self._path, identity)
            if self._state is not None:
                self._state.connection.close()
            self._state = opened
        return self._state


@dataclass(slots=True)
class _State:
    """One opened file."""

    path: Path
    identity: tuple[int, int, int]
    connection: sqlite3.Connection
    meta: StoreMeta
    statements: dict[str, str]
    """Timeline → its query."""
    answers_from: int | None

    @classmethod
    def open(cls, path: Path, identity: tuple[int, int, int]) -> _State:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise _damaged(path, error) from error
        try:
            meta = _checked(connection)
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            connection.close()
            raise _damaged(path, error) from error
        statements = {name: _statement(name, *meta.columns[name]) for name in meta.timelines}
        answers_from = None if meta.answers_from is None else microseconds(meta.answers_from)
        return cls(path, identity, connection, meta, statements, answers_from)

    def lookups(self, queries: Sequence[Query], earliest: int) -> list[Hit | None]:
        if self.answers_from is not None and earliest < self.answers_from:
            asked = EPOCH + timedelta(microseconds=earliest)
            raise StateUnavailable(
                f"The online store of {self.meta.model} reaches back to {self.meta.answers_from:%Y-%m-%d %H:%M} UTC; "
                f"asked as of {asked:%Y-%m-%d %H:%M} UTC.",
                fix="Ask for a later moment, or build the store with a longer reach.",
                model=self.meta.model,
                asked=asked.isoformat(),
            )
        execute = self.connection.execute
        try:
            return [execute(self.statements[name], (*key, at)).fetchone() for name, key, at in queries]
        except KeyError as error:
            raise StateUnavailable(
                f"The online store of {self.meta.model} has no timeline {error.args[0]}: it was built for the features "
                f"{self.meta.fingerprint[:12]}.",
                fix="Materialise the online store for the version that serves.",
                model=self.meta.model,
                timeline=error.args[0],
            ) from error
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error


def _statement(timeline: str, keys: int, payload: int) -> str:
    columns = ", ".join(["known_at", *(f"p{i}" for i in range(payload))])
    where = " AND ".join([*(f"k{i} = ?" for i in range(keys)), "known_at <= ?"])
    # The name is a lower_snake_case source and a hash; SQLite takes no parameter for a table.
    return f'SELECT {columns} FROM "{timeline}" WHERE {where} ORDER BY known_at DESC LIMIT 1'  # noqa: S608


def _checked(connection: sqlite3.Connection) -> StoreMeta:
    """Reads what the file says of itself, and holds it against what is there."""
    for pragma, expected in (("application_id", APPLICATION_ID), ("user_version", FORMAT), ("quick_check", "ok")):
        with closing(connection.execute(f"PRAGMA {pragma}")) as cursor:
            (found,) = cursor.fetchone()
        if found != expected:
            raise ValueError(f"its {pragma} is {found!r}, not {expected!r}")
    meta = StoreMeta.from_json(connection.execute("SELECT value FROM meta").fetchone()[0])
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := sorted(set(meta.timelines) - tables):
        raise ValueError(f"it lacks the timeline {missing[0]}")
    return meta


def _damaged(path: Path, error: Exception) -> StateUnavailable:
    return StateUnavailable(
        f"The online store {path} can't be read: {error}.",
        fix="Materialise the model's online store again.",
        path=str(path),
    )
