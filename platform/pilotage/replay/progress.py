"""What a replay has done so far, in a file of its own: a replay that was stopped goes on where it was.

Every answer is written down once; requests carry ids made of the replay's name and the entity, so that one that was
answered and not written down is asked again under the same id, and the service neither predicts nor logs it twice.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.errors import ConfigError

STEPS = ("landed", "answered", "told", "reacted")
"""Steps of a replayed day, in their order."""

_TABLES = """
CREATE TABLE IF NOT EXISTS replay (name TEXT PRIMARY KEY, model TEXT, first TEXT, last TEXT, began TEXT);
CREATE TABLE IF NOT EXISTS steps (day TEXT, step TEXT, at TEXT, facts TEXT, PRIMARY KEY (day, step));
CREATE TABLE IF NOT EXISTS answers (
    entity TEXT PRIMARY KEY, day TEXT, moment INTEGER, prediction_id TEXT, version INTEGER, stage TEXT,
    answered_by TEXT, probability REAL, decision INTEGER, latency_ms REAL, attempts INTEGER);
CREATE TABLE IF NOT EXISTS outcomes (entity TEXT PRIMARY KEY, day TEXT, label INTEGER, known_at INTEGER);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the service said to one request."""

    entity: str
    """JSON of the entity's columns."""
    day: str
    moment: int
    """Prediction moment, microseconds since 1970 UTC."""
    prediction_id: str
    version: int | None
    stage: str | None
    answered_by: str
    probability: float | None
    decision: bool | None
    latency_ms: float
    """From the first byte sent to the last one read, of the attempt that was answered."""
    attempts: int


class Progress:
    """The progress file of one replay. Used from one thread, but for ``rates``."""

    def __init__(self, path: Path, *, model: str, first: date, last: date) -> None:
        """Opens it, or makes it.

        Raises:
            ConfigError: It is of another replay.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.name = path.stem
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(_TABLES)
        with self._together():
            self._db.execute(
                "INSERT OR IGNORE INTO replay VALUES (?, ?, ?, ?, ?)",
                (self.name, model, str(first), str(last), datetime.now(UTC).isoformat()),
            )
        (found,) = self._db.execute("SELECT model, first, last, began FROM replay").fetchall()
        if (found[0], found[1]) != (model, str(first)):
            self.close()
            raise ConfigError(
                f"{path} is the progress of a replay of {found[0]} from {found[1]}.",
                fix="Give this one another --name, or the same model and --from.",
                path=str(path),
            )
        self.began = datetime.fromisoformat(found[3])
        """When the replay was first started (UTC)."""
        self._db.execute("UPDATE replay SET last = max(last, ?)", (str(last),))

    def close(self) -> None:
        self._db.close()

    def request_id(self, entity: str) -> str:
        """The id of a request: the same for the same entity of the same replay."""
        return f"replay-{hashlib.sha256(f'{self.name}/{entity}'.encode()).hexdigest()[:32]}"

    def done(self, day: date, step: str) -> bool:
        """Whether a step of a day is over."""
        found = self._db.execute("SELECT 1 FROM steps WHERE day = ? AND step = ?", (str(day), step)).fetchone()
        return found is not None

    def finish(self, day: date, step: str, **facts: Any) -> None:
        """Writes down that a step of a day is over, with what is to be known of it: JSON values."""
        self._db.execute(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)",
            (str(day), step, datetime.now(UTC).isoformat(), json.dumps(facts)),
        )

    def facts(self) -> Iterator[tuple[date, str, datetime, dict[str, Any]]]:
        """Every step that is over: day, step, when it was over (UTC), its facts."""
        for day, step, at, facts in self._db.execute("SELECT day, step, at, facts FROM steps ORDER BY day, at"):
            yield date.fromisoformat(day), step, datetime.fromisoformat(at), json.loads(facts)

    def answered(self, day: date) -> set[str]:
        """Entities of a day that were answered."""
        return {entity for (entity,) in self._db.execute("SELECT entity FROM answers WHERE day = ?", (str(day),))}

    def keep(self, answers: Iterable[Answer]) -> None:
        """Writes answers down; one that is there already stays."""
        rows = [tuple(asdict(answer).values()) for answer in answers]
        with self._together():
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)

    def untold(self, entities: Iterable[str]) -> list[tuple[str, str]]:
        """Of some entities those that were answered and whose outcome was not told: entity and prediction id."""
        told = {entity for (entity,) in self._db.execute("SELECT entity FROM outcomes")}
        ids = dict(self._db.execute("SELECT entity, prediction_id FROM answers"))
        return [(entity, ids[entity]) for entity in entities if entity in ids and entity not in told]

    def told(self, day: date, outcomes: Iterable[tuple[str, bool, int]]) -> None:
        """Writes down outcomes that the service took: entity, label, when it became known (microseconds)."""
        with self._together():
            self._db.executemany(
                "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, ?)",
                [(entity, str(day), int(label), known) for entity, label, known in outcomes],
            )

    def answers(self) -> pl.DataFrame:
        """Every answer with its outcome, where it was told; one row per prediction, by moment."""
        cursor = self._db.execute(
            "SELECT a.*, o.label, o.known_at FROM answers a LEFT JOIN outcomes o USING (entity)"
            " ORDER BY a.moment, a.entity"
        )
        names = [column[0] for column in cursor.description]
        types = {
            "moment": pl.Int64, "version": pl.Int64, "probability": pl.Float64, "decision": pl.Int64,
            "latency_ms": pl.Float64, "attempts": pl.Int64, "label": pl.Int64, "known_at": pl.Int64,
        }  # fmt: skip
        frame = pl.DataFrame(
            cursor.fetchall(), schema={name: types.get(name, pl.String()) for name in names}, orient="row"
        )
        return frame.with_columns(pl.col("label", "decision").cast(pl.Boolean))

    def rates(self) -> tuple[int, float, float]:
        """Outcomes told, the share of them that came true, and the mean probability that was answered; 0..1.

        From any thread: a display draws in one of its own.
        """
        with closing(sqlite3.connect(self.path)) as own:
            count, true, expected = own.execute(
                "SELECT count(*), avg(o.label), avg(a.probability) FROM outcomes o JOIN answers a USING (entity)"
            ).fetchone()
        return count, true or 0.0, expected or 0.0

    @contextmanager
    def _together(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
