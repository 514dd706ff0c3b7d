"""What the new-file sensor remembers between ticks, and how landed files become runs. No Dagster, no files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta

from pilotage.data.ingested import LandedFile
from pilotage.data.lake_commits import unbroken

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """A batch of landed files that one run takes up."""

    key: str
    """Hash of the files, so that the same files ask for the same run."""
    sources: list[str]
    """Sources that have files in it."""
    first: str | None
    """First day, ``YYYY-MM-DD``; ``None`` for sources without days."""
    last: str | None
    files: int
    attempt: int = 1


@dataclass(slots=True)
class Memory:
    """The sensor's cursor."""

    seen: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """Source → file → size and modification time."""
    open: dict[str, Landing] = field(default_factory=dict)
    """Landings whose run has not succeeded yet, by key."""
    misnamed: dict[str, list[str]] = field(default_factory=dict)
    """Source → files whose names fit no day of it, which somebody was told of."""
    versions: dict[str, int] = field(default_factory=dict)
    """Source → version of its raw table; -1 without one."""

    @classmethod
    def read(cls, cursor: str | None) -> Memory:
        if not cursor:
            return cls()
        data = json.loads(cursor)
        seen = {
            source: {name: (size, modified) for name, (size, modified) in files.items()}
            for source, files in data["seen"].items()
        }
        landings = {key: Landing(**landing) for key, landing in data["open"].items()}
        return cls(seen=seen, open=landings, misnamed=data.get("misnamed", {}), versions=data.get("versions", {}))

    def write(self) -> str:
        landings = {key: asdict(item) for key, item in self.open.items()}
        data = {"seen": self.seen, "open": landings, "misnamed": self.misnamed, "versions": self.versions}
        return json.dumps(data)

    def forget(self, declared: Set[str]) -> list[str]:
        """Drops what is known of sources that are not declared any more. The keys of landings that had no other."""
        self.seen = {source: files for source, files in self.seen.items() if source in declared}
        left = {
            key: replace(landing, sources=[source for source in landing.sources if source in declared])
            for key, landing in self.open.items()
        }
        dropped = [key for key, landing in left.items() if not landing.sources]
        self.open = {key: landing for key, landing in left.items() if landing.sources}
        return dropped

    def went_back(self, source: str, version: int) -> bool:
        """Whether a source's raw table is an older one than before, from a backup say. What was taken up since is
        forgotten, since its rows may be gone; whatever the table does hold is found there."""
        before = self.versions.get(source, version)
        self.versions[source] = version
        if version < before:
            self.seen.pop(source, None)
        return version < before

    def take(self, source: str, files: Iterable[LandedFile]) -> None:
        self.seen.setdefault(source, {}).update({file.name: (file.size, file.modified_ns) for file in files})


def daily_landings(
    files: Mapping[str, Sequence[LandedFile]], *, newest: date | None, reach: timedelta
) -> list[Landing]:
    """One landing for each unbroken range of days.

    Args:
        files: Daily source → its pending files. The sources have the same first and last day.
        newest: Newest day taken up before. Days at or before it are late or corrected.
        reach: How far later days look back. A late or corrected day changes features of the days after it, so its
            range goes on for so long, but not beyond ``newest``.
    """
    days = {file.day for batch in files.values() for file in batch if file.day}
    if newest is not None:
        for day in sorted(day for day in days if day <= newest):
            last = min(newest, day + reach)
            days |= {day + timedelta(days=offset) for offset in range((last - day).days + 1)}
    landings = []
    for first, last in unbroken(sorted(days)):
        within = [
            (source, file)
            for source, batch in files.items()
            for file in batch
            if file.day is not None and first <= file.day <= last
        ]
        landings.append(
            Landing(
                key=_key(within),
                sources=sorted({source for source, _ in within}),
                first=first.isoformat(),
                last=last.isoformat(),
                files=len(within),
            )
        )
    return landings


def table_landing(files: Mapping[str, Sequence[LandedFile]]) -> Landing | None:
    """One landing for all reference tables that have a new file."""
    batch = [(source, file) for source, some in files.items() for file in some]
    return Landing(key=_key(batch), sources=sorted(files), first=None, last=None, files=len(batch)) if batch else None


def _key(files: Iterable[tuple[str, LandedFile]]) -> str:
    text = json.dumps(sorted((source, file.name, file.size, file.modified_ns) for source, file in files))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
