"""The fate of each batch: passed, refused or empty, and why. Decides; reads and writes nothing but the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from pilotage.data.bands import Band, Measured, learn
from pilotage.data.contract import CheckedRows
from pilotage.data.expectations import judge
from pilotage.data.profile import measure
from pilotage.data.report import ExpectationResult
from pilotage.data.source import SourceSpec

Status = Literal["passed", "refused", "empty"]

SCHEMA = {
    "day": pl.Date(),
    "status": pl.String(),
    "rows": pl.Int64(),
    "broken": pl.Int64(),
    "reason": pl.String(),
    "warnings": pl.List(pl.String()),
    "withdrawn": pl.Boolean(),
    "run_id": pl.String(),
    "raw_version": pl.Int64(),
    "rules": pl.String(),
    "checked_at": pl.Datetime("us", "UTC"),
}
"""Columns of ``verdict/<source>``: what the last check of a batch found. What is *published* is what
``validated/<source>`` holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What was decided for every batch, with the evidence."""

    batches: Sequence[date | None]
    counts: Mapping[date | None, tuple[int, int]]
    """Batch → rows read, and how many of them break the contract."""
    refused: Mapping[date | None, str]
    """Batch → why."""
    results: Sequence[ExpectationResult]
    measured: Sequence[Measured]
    """Batches that the contract did not refuse, with how they did."""
    bands: Sequence[dict[str, Band]]

    def status(self, batch: date | None) -> Status:
        rows, broken = self.counts.get(batch, (0, 0))
        return "refused" if batch in self.refused else "passed" if rows > broken else "empty"

    def of_status(self, status: Status) -> list[date | None]:
        return [batch for batch in self.batches if self.status(batch) == status]

    def as_frame(self, *, withdrawn: set[date], run_id: str, raw_version: int, rules: str) -> pl.DataFrame:
        """Rows of ``verdict/<source>``, one for each batch."""
        warnings: dict[date | None, list[str]] = {}
        for result in self.results:
            if not result.met and result.severity == "warn":
                warnings.setdefault(result.batch, []).append(result.message)
        now = datetime.now(UTC)
        rows = [
            {
                "day": batch,
                "status": self.status(batch),
                "rows": self.counts.get(batch, (0, 0))[0],
                "broken": self.counts.get(batch, (0, 0))[1],
                "reason": self.refused.get(batch, "no row passes" if self.status(batch) == "empty" else None),
                "warnings": warnings.get(batch, []),
                "withdrawn": batch in withdrawn,
                "run_id": run_id,
                "raw_version": raw_version,
                "rules": rules,
                "checked_at": now,
            }
            for batch in self.batches
        ]
        return pl.DataFrame(rows, schema=SCHEMA)


def decide(
    spec: SourceSpec,
    batches: Sequence[date | None],
    checked: CheckedRows,
    *,
    history: Sequence[Measured],
    docs: Path | None = None,
    run_id: str = "",
) -> Verdicts:
    """Decides on each batch: first by the share of rows that break the contract, then by the expectations.

    Args:
        history: Earlier batches, for the bands that are learned.
        docs: Folder for Great Expectations' Data Docs.

    Raises:
        ExpectationFailed: An expectation could not be evaluated.
    """
    counts = _counts(checked)
    refused = {
        batch: f"{broken:,} of {rows:,} rows ({broken / rows:.1%}) break the contract; {spec.tolerated:.1%} may"
        for batch, (rows, broken) in counts.items()
        if broken / rows > spec.tolerated
    }
    asked = [batch for batch in batches if batch not in refused]
    passing = checked.reasons.is_null()
    measured = measure(spec, checked.rows.filter(passing), checked.batch.filter(passing), asked)
    bands = learn(spec.expectations, measured, history=history)
    results = judge(spec, measured, bands, docs=docs, run_id=run_id)
    unmet: dict[date | None, list[ExpectationResult]] = {}
    for result in results:
        if not result.met:
            unmet.setdefault(result.batch, []).append(result)
    for batch, failed in unmet.items():
        if blocking := [result.message for result in failed if result.severity == "block"]:
            # "0 departures" reads like a file that was cut; that there was none is another thing to look into.
            nothing = [f"raw/{spec.name} has no row of {batch or 'it'}."] if batch not in counts else []
            refused[batch] = " ".join([*nothing, *blocking])
    verdicts = Verdicts(
        batches=batches,
        counts=counts,
        refused={batch: refused[batch] for batch in batches if batch in refused},
        results=results,
        measured=measured,
        bands=bands,
    )
    final = [
        replace(
            each,
            passed=verdicts.status(each.day) == "passed",
            unmet=frozenset(result.name for result in unmet.get(each.day, [])),
        )
        for each in measured
    ]
    return replace(verdicts, measured=final)


def _counts(checked: CheckedRows) -> dict[date | None, tuple[int, int]]:
    frame = pl.DataFrame([checked.batch, checked.reasons.is_not_null().alias("broken")])
    grouped = frame.group_by("batch").agg(pl.len(), pl.col("broken").sum())
    return {batch: (rows, broken) for batch, rows, broken in grouped.iter_rows()}
