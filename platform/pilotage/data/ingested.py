"""What an ingest reports: what was taken, what was left, and why. Only shapes live here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedFile:
    """A file in the landing folder, as a listing sees it, unopened."""

    name: str
    day: date | None
    size: int
    """Bytes."""
    modified_ns: int
    """Nanoseconds since 1970, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedFile:
    """A delivery whose rows are in the lake now."""

    name: str
    sha256: str
    day: date | None
    rows: int
    replaced: bool = False
    """Whether other rows of the same day (or table) made way for it: it is a correction."""
    unparsed: int = 0
    """Rows with a cell that can't be read as its type; the contract quarantines them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedFile:
    """A delivery that can't be used. It stays where it is, and is tried again by the next ingest."""

    name: str
    day: date | None
    reason: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A file that was not needed, because another one holds its day."""

    name: str
    day: date | None
    by: str
    """The file that counts."""
    same: bool
    """Whether both hold the same bytes (a duplicate), or ``by`` is the newer one (superseded)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What one ingest did."""

    source: str
    rows: int
    """Rows written."""
    days: list[date]
    """Days written, sorted; empty for a source without days."""
    files: list[IngestedFile]
    unchanged: list[str]
    """Deliveries that the lake held already."""
    rejected: list[RejectedFile]
    set_aside: list[SetAside]
    missing_days: list[date]
    """Requested days that no file holds and the lake has no rows of."""
    extra_columns: list[str]
    """Delivered columns that the source does not declare; they were ignored."""
    version: int | None
    """Version of the raw table; ``None`` if there is none yet."""

    @property
    def duplicates(self) -> list[SetAside]:
        """Files with the same bytes as the one that counts."""
        return [file for file in self.set_aside if file.same]

    @property
    def superseded(self) -> list[SetAside]:
        """Files that a newer one for the same day corrects."""
        return [file for file in self.set_aside if not file.same]

    @property
    def corrections(self) -> list[IngestedFile]:
        """Files that replaced what the lake held."""
        return [file for file in self.files if file.replaced]
