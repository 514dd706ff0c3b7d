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
from pilotage.features.compiled_lookups import RowFunction
from pilotage.features.state import EPOCH, Hit, Key, Query, RowLookups, microseconds

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
    """When the newest fact in it that counts became known (UTC), of those that were known when it was built; ``None``
    if no source has a time."""
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

    def __init__(self, path: Path, *, follow: bool = True) -> None:
        """Opens nothing yet.

        Args:
            path: The file.
            follow: Whether a replaced file is taken up at the next look-up. Otherwise what was opened once stays, even
                when its file is gone.
        """
        self._path = path
        self._follow = follow
        self._lock = threading.Lock()
        self._state: _State | None = None
        self.bound: dict[RowLookups, RowFunction] = {}
        """See ``RowState``: nothing."""

    @classmethod
    def open(cls, path: Path, *, follow: bool = True) -> Self:
        """Opens the file and checks its structure.

        Raises:
            StateUnavailable: There is no such file, or it is no online store.
        """
        store = cls(path, follow=follow)
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

    def require(self, earliest: int) -> None:
        """See ``RowState``."""
        require_reach(self.meta, earliest)

    def timeline(self, name: str) -> AskedTimeline:
        """See ``RowState``."""
        return AskedTimeline(self, name)

    def searched(self, name: str) -> None:
        """See ``RowState``: a store that is asked row by row has none."""

    def arrays(self, name: str) -> None:
        """See ``RowState``: a store that is asked row by row has none."""

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
        if self._state is not None and not self._follow:
            return self._state
        identity = identity_of(self._path)
        if self._state is None or self._state.identity != identity:
            opened = _State.open(self._path, identity)
            if self._state is not None:
                self._state.connection.close()
            self._state = opened
        return self._state


class AskedTimeline:
    """A timeline that asks the store for each row, and keeps what it answered: for one request, then dropped."""

    def __init__(self, store: OnlineStore, name: str) -> None:
        self._store = store
        self._name = name
        self._hits: list[Hit] = []
        meta = store.meta
        if name not in meta.columns:
            raise no_timeline(meta, name)
        _, width = meta.columns[name]
        self.known_at = _Answered(self._hits, 0)
        self.columns = tuple(_Answered(self._hits, slot + 1) for slot in range(width))

    def find(self, key: Key, at: int) -> int:
        """See ``RowTimeline``."""
        # Only the request's own moment tells whether the store reaches back far enough, and it was asked for.
        hit = None if None in key else self._store.lookups([(self._name, key, at)], earliest=2**63)[0]
        if hit is None:
            return -1
        self._hits.append(hit)
        return len(self._hits) - 1


class _Answered:
    """A column of what was answered."""

    def __init__(self, hits: list[Hit], slot: int) -> None:
        self._hits = hits
        self._slot = slot

    def __getitem__(self, position: int) -> Any:
        return self._hits[position][self._slot]


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
        connection, meta = open_checked(path)
        statements = {name: _statement(name, *meta.columns[name]) for name in meta.timelines}
        answers_from = None if meta.answers_from is None else microseconds(meta.answers_from)
        return cls(path, identity, connection, meta, statements, answers_from)

    def lookups(self, queries: Sequence[Query], earliest: int) -> list[Hit | None]:
        if self.answers_from is not None and earliest < self.answers_from:
            require_reach(self.meta, earliest)
        execute = self.connection.execute
        try:
            return [execute(self.statements[name], (*key, at)).fetchone() for name, key, at in queries]
        except KeyError as error:
            raise no_timeline(self.meta, error.args[0]) from error
        except sqlite3.Error as error:
            raise damaged(self.path, error) from error


def _statement(timeline: str, keys: int, payload: int) -> str:
    columns = ", ".join(["known_at", *(f"p{i}" for i in range(payload))])
    where = " AND ".join([*(f"k{i} = ?" for i in range(keys)), "known_at <= ?"])
    # The name is a lower_snake_case source and a hash; SQLite takes no parameter for a table.
    return f'SELECT {columns} FROM "{timeline}" WHERE {where} ORDER BY known_at DESC LIMIT 1'  # noqa: S608


def identity_of(path: Path) -> tuple[int, int, int]:
    """Tells a file from the one that replaces it. Raises ``StateUnavailable`` if there is none."""
    try:
        found = path.stat()
    except OSError as error:
        raise StateUnavailable(
            f"There is no online store {path}: {error.strerror}.",
            fix="Materialise the model's online store.",
            path=str(path),
        ) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def open_checked(path: Path) -> tuple[sqlite3.Connection, StoreMeta]:
    """Opens a store read-only, and checks its structure.

    Raises:
        StateUnavailable: There is no such file, or it is no online store.
    """
    identity_of(path)
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    except sqlite3.Error as error:
        raise damaged(path, error) from error
    try:
        return connection, _checked(connection)
    except (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError) as error:
        connection.close()
        raise damaged(path, error) from error


def require_reach(meta: StoreMeta, earliest: int) -> None:
    """Raises ``StateUnavailable`` if a store does not reach back to a moment (microseconds since 1970 UTC)."""
    if meta.answers_from is None or earliest >= microseconds(meta.answers_from):
        return
    asked = EPOCH + timedelta(microseconds=earliest)
    raise StateUnavailable(
        f"The online store of {meta.model} reaches back to {meta.answers_from:%Y-%m-%d %H:%M} UTC; "
        f"asked as of {asked:%Y-%m-%d %H:%M} UTC.",
        fix="Ask for a later moment, or build the store with a longer reach.",
        model=meta.model,
        asked=asked.isoformat(),
    )


def no_timeline(meta: StoreMeta, timeline: str) -> StateUnavailable:
    """A store that was built for other features."""
    return StateUnavailable(
        f"The online store of {meta.model} has no timeline {timeline}: it was built for the features "
        f"{meta.fingerprint[:12]}.",
        fix="Materialise the online store for the version that serves.",
        model=meta.model,
        timeline=timeline,
    )


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
    if set(meta.columns) != set(meta.timelines):
        raise ValueError("it does not say which columns its timelines have")
    return meta


def damaged(path: Path, error: Exception) -> StateUnavailable:
    """A file that can't be read as a store."""
    return StateUnavailable(
        f"The online store {path} can't be read: {error}.",
        fix="Materialise the model's online store again.",
        path=str(path),
    )
