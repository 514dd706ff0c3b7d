"""Takes rows out of a table for good: out of its newest version, and out of the files that its older ones are made of.

A ``DELETE`` of Delta would not do: the older versions keep the rows, and the log keeps its predicate, which names whom
it forgets. So the days (or the table) that hold the rows are written again without them, like any other day. Then, of
the files that no newer version needs, those that hold the rows are deleted, and no others: an older version can still
be read if none of its files held them. What the log says of such a file, its smallest and largest values, is cut out.

Each step can be killed, and is done by the next call: what is still to do is seen from the files themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.data.lake_commits import DAY
from pilotage.data.table_folder import LOG, StoredFile, TableFolder
from pilotage.errors import CommitConflict

Whose = Callable[[pl.DataFrame], pl.Series]
"""Says of each row of a frame whether it is meant. Files of older versions may lack columns, or have other types."""

WRITING = timedelta(hours=1)
"""A file that no commit names may be one that is being written; only an older one is a dead writer's."""
_ROUNDS = 5
"""Times that rows are taken out which others write meanwhile."""
_PARTITION = re.compile(rf"(?:^|/){DAY}=([^/]*)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """A file of a table that holds rows that are meant."""

    file: StoredFile
    rows: int
    live: bool
    """Whether the newest version is made of it."""

    @property
    def day(self) -> date | None:
        """Of its partition."""
        found = _PARTITION.search(self.file.path)
        try:
            return date.fromisoformat(found[1]) if found else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a table holds of somebody."""

    table: str
    files: tuple[HeldFile, ...]

    @property
    def rows(self) -> int:
        """In the newest version."""
        return sum(each.rows for each in self.files if each.live)

    @property
    def old_files(self) -> int:
        """Files of older versions."""
        return sum(not each.live for each in self.files)

    def __bool__(self) -> bool:
        return bool(self.files)


def look(lake: Lake, table: str, whose: Whose, *, known: dict[str, int] | None = None) -> Holding:
    """The files of a table that hold rows that are meant, of whatever version.

    Args:
        lake: The lake.
        table: The table; one that is not there holds nothing.
        whose: Which rows are meant.
        known: Name of a file → rows of it that are meant; filled here, so that no file is read twice.
    """
    if not lake.exists(table):
        return Holding(table=table, files=())
    counts = {} if known is None else known
    folder = lake.folder(table)
    # Listed first: what is committed after it is not among the files, and seen in the next round.
    stored = folder.data()
    live = {uri.rsplit("/", 1)[-1] for uri in lake.file_uris(table)}
    for file in stored:
        if file.name not in counts:
            try:
                counts[file.name] = int(whose(_rows(folder, file)).sum() or 0)
            except FileNotFoundError:
                continue  # Erased or vacuumed by somebody else.
    held = [file for file in stored if counts.get(file.name)]
    return Holding(
        table=table,
        files=tuple(HeldFile(file=file, rows=counts[file.name], live=file.name in live) for file in held),
    )


def erase(
    lake: Lake, table: str, whose: Whose, *, note: Mapping[str, str], step: Callable[[str], None] = lambda _: None
) -> Holding:
    """Takes the rows out of a table, and deletes the files that still hold them.

    Args:
        lake: The lake.
        table: The table.
        whose: Which rows are meant.
        note: Goes into the commit.
        step: Called with the name of each step when it is done; tests stop it there.

    Returns:
        What is left of them: files that no commit names and that are so young that a writer may be at them.

    Raises:
        CommitConflict: Others kept writing the rows again.
        StorageFull, LakeError: As ``Lake`` says. What was done stays done; the next call goes on.
    """
    counts: dict[str, int] = {}
    for _ in range(_ROUNDS):
        held = look(lake, table, whose, known=counts)
        live = [each for each in held.files if each.live]
        if not live:
            break
        days = sorted({each.day for each in live if each.day is not None})
        undated = any(each.day is None for each in live)
        lake.rewrite(table, lambda rows: rows.filter(~whose(rows)), days=[] if undated else days, note=note)
        step("rewritten")
    else:
        raise CommitConflict(
            f"{table}: others wrote the rows that are to be erased {_ROUNDS} times meanwhile.",
            fix="Run it again when no run writes the table.",
            table=table,
        )
    folder = lake.folder(table)
    named = _named(folder)
    young = datetime.now(UTC) - WRITING
    doomed = [each.file for each in held.files if each.file.name in named or each.file.modified < young]
    if doomed:
        names = {each.name for each in doomed}
        folder.note_erased(names)
        step("noted")
        _cut_statistics(folder, names)
        _replace_checkpoints(lake, table, folder, names)
        step("cut")
        for file in doomed:
            folder.delete(file.path)
            step("deleted")
    return Holding(table=table, files=tuple(each for each in held.files if each.file not in doomed))


def _rows(folder: TableFolder, file: StoredFile) -> pl.DataFrame:
    rows = folder.rows(file.path)
    found = _PARTITION.search(file.path)
    if found is None:
        return rows
    return rows.with_columns(pl.lit(found[1]).str.to_date("%Y-%m-%d", strict=False).alias(DAY))


def _named(folder: TableFolder) -> set[str]:
    """Names of all files that a commit ever added."""
    found: set[str] = set()
    for path in folder.log():
        if path.endswith(".json"):
            found.update(line["add"]["path"].rsplit("/", 1)[-1] for line in _lines(folder.read(path)) if "add" in line)
    return found


def _lines(commit: bytes) -> list[dict[str, dict[str, str]]]:
    return [json.loads(line) for line in commit.splitlines() if line.strip()]


def _cut_statistics(folder: TableFolder, names: Collection[str]) -> None:
    """Leaves of the statistics of these files the number of their rows. Statistics are optional in Delta."""
    for path in folder.log():
        if not path.endswith(".json"):
            continue
        lines = _lines(content := folder.read(path))
        cut = False
        for action in (body for line in lines for body in (line.get("add"), line.get("remove")) if body):
            if action["path"].rsplit("/", 1)[-1] in names and (said := action.get("stats")):
                kept = json.dumps({"numRecords": json.loads(said).get("numRecords")})
                cut = cut or kept != said
                action["stats"] = kept
        if cut:
            written = "\n".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in lines)
            folder.write(path, written.encode() + (b"\n" if content.endswith(b"\n") else b""))


def _replace_checkpoints(lake: Lake, table: str, folder: TableFolder, names: Collection[str]) -> None:
    """Deletes the checkpoints that tell of these files. They are a shortcut: every commit is still there."""
    telling = [
        path
        for path in folder.log()
        if path.endswith(".parquet") and names & _added(folder.rows(path))  # type: ignore[operator]
    ]
    if telling:
        newest = lake.checkpoint(table)
        for path in telling:
            if path != f"{LOG}/{newest:020d}.checkpoint.parquet":
                folder.delete(path)


def _added(checkpoint: pl.DataFrame) -> set[str]:
    if "add" not in checkpoint.columns:
        return set()
    paths = checkpoint["add"].struct.field("path").drop_nulls().to_list()
    return {path.rsplit("/", 1)[-1] for path in paths}
