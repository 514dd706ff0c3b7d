"""What is learned, measured, decided and remembered of a model's drift. Records only; each is one JSON object."""

from __future__ import annotations

from datetime import date

import msgspec

from pilotage.monitoring.drift.bins import Role

ALWAYS = 0
"""The season of thresholds that hold for the whole year."""


class Null(msgspec.Struct, frozen=True, kw_only=True):
    """How large a measure becomes without drift: the largest of a year (or of one of its months) is near a Gumbel
    distribution (Fisher and Tippett 1928)."""

    location: float
    scale: float


class ColumnNull(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned of a column."""

    role: Role
    weight: float
    """What the column matters, 1 on average. A column of weight 2 may be half as unlikely."""
    scarce: bool = False
    """Whether there were few windows to learn from: then no threshold is below the declared one either."""
    seasons: dict[int, dict[str, Null]]
    """Month (or ``ALWAYS``) → measure → null."""


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """Which data thresholds were learned from."""

    first: date | None
    last: date | None
    days: int
    """Days with rows that were used."""
    left_out: tuple[date, ...]
    """Days that were incidents: to learn from them would make the next one normal."""
    rows_a_window: float
    """Median rows of a window."""
    sources: dict[str, int]
    """Lake table → Delta version."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """What is much, for one version of a model."""

    model: str
    version: int
    window_days: int
    block_days: int
    false_alarms_a_year: float
    """Declared; the share of simulated years with an alarm is 1 − exp(−this)."""
    enough: bool
    """Whether there was enough history. Without it, ``declared`` holds instead of anything learned."""
    why: str
    learned: Learned
    columns: dict[str, ColumnNull]
    joint: dict[str, list[float]]
    """Column → its largest score of each simulated year. The years are the same for all columns of one list position,
    so that columns which move together are not counted as if they were strangers."""
    declared: dict[str, float]
    """Measure → threshold where nothing could be learned."""
    expected_cost: Null | None
    """Rise of the expected cost a row in a year without drift, cost units."""
    seasonal: bool

    def season(self, day: date | None) -> int:
        """The season whose thresholds hold on a day."""
        return day.month if self.seasonal and day else ALWAYS


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of one column."""

    value: float | None
    """``None`` where there is nothing to compare: no values at all, or a reference that does not vary."""
    threshold: float | None
    """From which it counts as drift; ``None`` for what is only told."""


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One column, now against the reference."""

    column: str
    role: Role
    measures: dict[str, Measured]
    null_rate: float
    reference_null_rate: float
    importance: float | None
    """Share of the champion's total gain, 0..1; ``None`` for what is no feature."""
    score: float | None
    """How unlikely the column's most surprising measure is, −ln of about its chance in a year without drift, plus what
    the column matters. ``None`` without learned thresholds."""
    drifted: bool
    raised: bool
    """With hysteresis: drifted now, or lately and not back to normal since."""


class ExpectedLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What the model should expect to lose if its probabilities can still be taken at their word."""

    cost: float
    """Expected cost a row, by the cost matrix, in the window."""
    reference_cost: float
    cost_change: float
    """Difference of the two."""
    threshold: float | None
    """Rise from which performance is expected to suffer: what half of the ordinary years reach once."""
    suffers: bool


class Multivariate(msgspec.Struct, frozen=True, kw_only=True):
    """A classifier that tries to tell the window from the reference, on days that it did not see."""

    effect: float
    """AUC − 0.5, 0..0.5."""
    threshold: float | None
    """From past windows; ``None`` if there were too few."""
    past: tuple[float, ...]
    """Effects of past windows."""
    rows: int
    """Rows it learned and was judged on, of each side at most."""
    used: dict[str, float]
    """Feature → share of its gain, the highest first: what it told them apart by."""
    drifted: bool


class Raised(msgspec.Struct, frozen=True, kw_only=True):
    """A column whose alarm is open."""

    since: date
    calm: int
    """Windows in a row in which it was below the lower bound."""
    worst: float
    """Highest score so far."""
    role: Role | None = None
    """The column's; ``None`` for all columns together, and in records from before it was kept."""


class DriftState(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision needs of those before it: an explicit input and output."""

    raised: dict[str, Raised] = {}
    alarm_since: date | None = None
    incidents: tuple[date, ...] = ()
    through: date | None = None
    """Last day of the newest window that was decided; one that is not newer changes nothing."""


class DriftVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one window means."""

    model: str
    version: int
    first: date | None
    last: date | None
    rows: int
    reference_rows: int
    alarm: bool
    """An alarm is open: something moved that matters to the model."""
    new: bool
    """It was opened by this window."""
    cleared: bool
    """It was closed by this window."""
    why: str
    columns: tuple[ColumnDrift, ...]
    """The highest score first."""
    expected_loss: ExpectedLoss | None
    multivariate: Multivariate | None
    incident: tuple[date, ...]
    """Days of the window that are an incident: told, and left out of what is compared."""
    learned: bool
    """Whether thresholds were learned (else declared ones hold)."""

    @property
    def drifted(self) -> list[str]:
        """Columns that drifted, the highest score first."""
        return [each.column for each in self.columns if each.drifted]

    @property
    def raised(self) -> list[str]:
        """Columns whose alarm is open."""
        return [each.column for each in self.columns if each.raised]

    @property
    def matters(self) -> float:
        """Share of the model's gain that comes from raised features, 0..1."""
        return sum(each.importance or 0.0 for each in self.columns if each.raised)
