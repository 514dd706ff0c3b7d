"""Carries out one validation: stage → check → publish.

Everything is checked before anything is published, and publishing is the last commit. ``validated/<source>`` holds
passing batches only, so that what failed can't be read downstream in any run, then or later.

A batch (a day, or the whole table) is refused when more rows break the contract than the source tolerates, or when an
expectation that blocks is not met. What happens to rows that were published before:

- A refused or emptied *day* is withdrawn: its file was corrected, so the older rows are known to be wrong.
- A refused or empty *whole table* leaves the older one published: it was right when it came, and an empty one never is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from pilotage.data import datadocs
from pilotage.data.contract import TECHNICAL, CheckedRows, check_rows
from pilotage.data.declared import rules
from pilotage.data.lake import Lake
from pilotage.data.profile import as_frame, past
from pilotage.data.quarantine import quarantined
from pilotage.data.report import ExpectationResult, Refusal, RuleResult, ValidationReport
from pilotage.data.source import SourceSpec
from pilotage.data.verdict import decide
from pilotage.errors import UnpublishedData

__all__ = ["ExpectationResult", "Refusal", "RuleResult", "ValidationReport", "as_published", "validate"]

SAMPLE = 10


def validate(
    spec: SourceSpec,
    *,
    lake: Lake,
    reports: Path,
    days: Sequence[date] | None,
    run_id: str,
    progress: Callable[[str], None] = lambda _: None,
) -> ValidationReport:
    """Checks raw rows and publishes the batches that pass. Doing it again changes nothing.

    Writes ``quarantine/<source>`` (rows that failed, with ``reasons``), ``profile/<source>`` (one row a batch: its
    numbers and their bands), ``verdict/<source>`` (one row a batch: what this check found), the Data Docs, and last
    ``validated/<source>``.

    Args:
        reports: Folder of all reports; the Data Docs go to ``<reports>/<source>/<run_id>/``.
        days: Days to validate, also those of which nothing was delivered. ``None``: every day from the first to the
            last of the raw table. Without meaning for a source that has no days.
        run_id: Who did it; goes into every commit.
        progress: Is told in short sentences how far it is.

    Raises:
        UnpublishedData: Nothing was ingested yet, or no day was named.
        DeclarationError, ExpectationFailed: The source's declaration can't be carried out; says nothing of the data.
        CommitConflict, StorageFull, LakeError: The lake can't be written; nothing was published.
    """
    raw_version = lake.version(f"raw/{spec.name}")
    batches = _batches(spec, lake, days)
    if not batches:
        raise UnpublishedData(
            f"There is no day of {spec.name} to validate.", fix="Ingest some files, or name the days.", source=spec.name
        )
    delivered = _delivered(spec, lake, raw_version, batches)
    progress(f"{spec.name}: checking {delivered.height:,} rows in {len(batches):,} batches")
    checked = check_rows(spec, delivered)
    origin = delivered.select(name for name in TECHNICAL if name in delivered.columns)
    rows_in = delivered.height
    del delivered  # The prepared rows are all that is needed now, and a year of them is large enough.
    with datadocs.staged(reports / spec.name, run_id) as docs:
        verdicts = decide(spec, batches, checked, history=past(lake, spec, batches), docs=docs.folder, run_id=run_id)
        if spec.expectations:
            docs.finish(spec, verdicts, checked.rules)

    passed = verdicts.of_status("passed")
    bad = quarantined(spec, checked, verdicts.refused, origin)
    good = as_published(spec, checked).filter(checked.reasons.is_null() & checked.batch.is_in(passed, nulls_equal=True))
    published_before = lake.days(f"validated/{spec.name}") if spec.daily else []
    withdrawn = set(published_before).intersection(batches).difference(passed)
    progress(f"{spec.name}: publishing {good.height:,} rows, quarantining {bad.height:,}")
    tables = {
        "quarantine": bad,
        "profile": as_frame(spec, verdicts.measured, verdicts.bands),
        "verdict": verdicts.as_frame(withdrawn=withdrawn, run_id=run_id, raw_version=raw_version, rules=rules(spec)),
    }
    if passed or withdrawn:
        tables["validated"] = good
    if _overtaken(spec, lake, batches, raw_version):
        progress(f"{spec.name}: newer rows were checked meanwhile; looking again")
        return validate(spec, lake=lake, reports=reports, days=days, run_id=run_id, progress=progress)
    _commit(spec, lake, tables, batches, {"run_id": run_id, "raw_version": str(raw_version)})
    published = f"validated/{spec.name}"
    return ValidationReport(
        source=spec.name,
        rows_in=rows_in,
        rows_published=good.height,
        rows_quarantined=bad.height,
        published=passed,
        refused=[
            Refusal(batch=batch, reason=reason, withdrawn=batch in withdrawn)
            for batch, reason in verdicts.refused.items()
        ],
        refused_days=_verdict_days(spec, lake, pl.col("status") == "refused"),
        days_by_other_rules=_verdict_days(
            spec, lake, (pl.col("status") == "passed") & (pl.col("rules") != rules(spec))
        ),
        empty=verdicts.of_status("empty"),
        contract=checked.rules,
        expectations=list(verdicts.results),
        docs=str(docs.index) if spec.expectations else None,
        version=lake.version(published) if lake.exists(published) else None,
        schema={name: str(dtype) for name, dtype in good.schema.items()},
        sample=bad.head(SAMPLE).to_dicts(),
    )


def _batches(spec: SourceSpec, lake: Lake, days: Sequence[date] | None) -> list[date | None]:
    if spec.daily is None:
        return [None]
    if days is not None:
        return [*sorted(set(days))]
    # Until a day of the future, of which a table may have rows, none is missing.
    there = [day for day in lake.days(f"raw/{spec.name}") if day <= spec.daily.newest]
    # A day in the middle that was never delivered is as missing as one that was asked for by name.
    return [there[0] + timedelta(days=number) for number in range((there[-1] - there[0]).days + 1)] if there else []


def _overtaken(spec: SourceSpec, lake: Lake, batches: Sequence[date | None], raw_version: int) -> bool:
    """Whether another run published what a newer version of the raw table says of these batches."""
    table = f"verdict/{spec.name}"
    if not lake.exists(table):
        return False
    # Versions above the table's own are of one that was there before it.
    newer = pl.col("raw_version").is_between(raw_version + 1, lake.version(f"raw/{spec.name}"))
    mine = pl.col("day").is_in(list(batches), nulls_equal=True)
    return lake.scan(table).filter(newer, mine).collect().height > 0


def _verdict_days(spec: SourceSpec, lake: Lake, which: pl.Expr) -> list[date]:
    """Days with a verdict of some kind, by this run or an earlier one."""
    if spec.daily is None:
        return []
    return lake.scan(f"verdict/{spec.name}").filter(which).select("day").collect()["day"].sort().to_list()


def as_published(spec: SourceSpec, checked: CheckedRows) -> pl.DataFrame:
    """The prepared rows as they would be published: a daily table has its batch as the column ``day``."""
    return checked.rows.with_columns(checked.batch.alias("day")) if spec.daily else checked.rows


def _delivered(spec: SourceSpec, lake: Lake, version: int, batches: Sequence[date | None]) -> pl.DataFrame:
    days = [day for day in batches if day is not None]
    if spec.daily is None:
        return lake.scan(f"raw/{spec.name}", version=version).collect()
    rows = lake.scan(f"raw/{spec.name}", first=days[0], last=days[-1], version=version)
    consecutive = len(days) == (days[-1] - days[0]).days + 1
    return (rows if consecutive else rows.filter(pl.col("day").is_in(days))).collect()


def _commit(
    spec: SourceSpec,
    lake: Lake,
    tables: Mapping[str, pl.DataFrame],
    batches: Sequence[date | None],
    note: Mapping[str, str],
) -> None:
    """Writes one table after the other, in their order; an error leaves the later ones as they were."""
    days = [batch for batch in batches if batch is not None]
    for room, frame in tables.items():
        table = f"{room}/{spec.name}"
        if spec.daily:
            lake.replace_days(table, frame, days, note=note, retypes=True)
        else:
            lake.replace(table, frame, note=note)
