"""What a validation found, as plain frozen records: the shape that checks, metadata and reports are made from.

No rule is evaluated here, and nothing is read or written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

Severity = Literal["block", "warn"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """One rule of a row contract over all rows that were read."""

    rule: str
    """What a good value is, in words: ``in [0, 150]``, ``present``, ``unique``."""
    column: str | None
    """``None`` for a rule over several columns."""
    failures: int
    share: float
    """Failures of all rows read, 0..1."""
    examples: list[Row] = field(default_factory=list)
    """At most ten rows that fail, in the order they were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationResult:
    """One expectation judged on one batch."""

    name: str
    batch: date | None
    """Day; ``None`` where the batch is the whole table."""
    severity: Severity
    value: float | None
    """The number measured; ``None`` where there was nothing to measure."""
    low: float | None
    high: float | None
    met: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A batch that was not published."""

    batch: date | None
    reason: str
    withdrawn: bool
    """The day had been published before, and its older rows were taken out: they are known to be superseded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """Everything that one validation found and did. Every row read was either published or quarantined."""

    source: str
    rows_in: int
    rows_published: int
    rows_quarantined: int
    published: list[date | None]
    """Batches whose passing rows downstream can read now."""
    refused: list[Refusal]
    refused_days: list[date]
    """Days of a daily source that stand refused, by this run or an earlier one: what a person still has to look at."""
    days_by_other_rules: list[date]
    """Days of a daily source that were published by another ``prepare`` or contract than today's."""
    empty: list[date | None]
    """Batches that were asked for and hold no row, without that being blocked. They are not published either."""
    contract: list[RuleResult]
    expectations: list[ExpectationResult]
    docs: str | None
    """``index.html`` of this run's Data Docs; ``None`` for a source without expectations."""
    version: int | None
    """Version of ``validated/<source>`` after this run; ``None`` if nothing was ever published."""
    schema: dict[str, str]
    """Column → Polars type of the validated rows."""
    sample: list[Row]
    """At most ten quarantined rows with their ``reasons``."""
