"""What one step of a training run hands to the next: plain frozen records that msgspec writes as JSON.

Only shapes live here. Paths are strings, so that a record reads the same wherever it is opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    Bound = float
else:
    Bound = float | None  # As it is read.

Rate = Literal["selection_rate", "true_positive_rate", "false_positive_rate", "referral_rate"]
"""What was decided; of the labelled positives, and negatives, what was decided; and what was left to a person."""
RATES: tuple[Rate, ...] = get_args(Rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which rows of a version of the features are read, by days of its ``day`` column, which is the source's calendar,
    and where it has none, of event time in the model's time zone."""

    first: date | None = None
    """``None``: from the oldest on."""
    last: date | None = None
    """Inclusive; ``None``: up to the newest."""
    without: list[date] = field(default_factory=list)
    """Days between that were withdrawn since their features were built, or whose labels were not known yet."""
    known_by: datetime | None = None
    """UTC; labels that became known later are none. ``None`` where there are no later ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The labelled rows of one training run, as one Parquet file. Grain: one row per labelled row of the source.

    Columns: the spec's entity and request columns, ``event_time`` and ``label_known_at`` (UTC; absent for data
    without a time), every as-of column, every feature, and ``label`` (Boolean, never null). A feature that has the
    name of a request or as-of column is that column, so no name stands for two things.
    """

    model: str
    path: str
    sha256: str
    rows: int
    positives: int
    first: date | None
    """First day of event time, in the model's time zone."""
    last: date | None
    lake_versions: dict[str, int]
    """Lake table → Delta version that was read."""
    feature_fingerprint: str
    cut: Cut | None = None
    """The days that were read; ``None`` if the rows were not read from the lake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One hyper-parameter trial of a tuning study."""

    number: int
    params: dict[str, float | int | str | bool]
    log_loss: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One policy of training data that a run tried."""

    policy: str
    rows: int
    """That it learned from; 0 if it could not be trained."""
    metric: str
    value: float | None
    """On the rows that choose; ``None`` if there was no choice."""
    chosen: bool
    problem: str | None = None
    """Why it could not be trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with a bootstrap interval; −inf..inf where too few rows tell anything, which JSON has as null."""

    value: float
    low: Bound
    high: Bound

    def __post_init__(self) -> None:
        for name, open_end in (("low", -math.inf), ("high", math.inf)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, open_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trained, calibrated model as a bundle on disk, not yet judged."""

    model: str
    bundle: str
    """Folder of the bundle."""
    bundle_sha256: str
    """SHA-256 of the bundle's manifest, which names the SHA-256 of every other file."""
    params: dict[str, float | int | str | bool]
    rounds: int
    threads: int
    parts: dict[str, int]
    """Part (train, calibration, holdout) → rows."""
    boundaries: dict[str, datetime]
    """First event time of each part, UTC; empty for data without a time."""
    cross_validation: list[dict[str, float]]
    """One entry per fold: metric → value, and ``rows``."""
    out_of_fold: str = ""
    """Parquet file of what the folds predicted: ``row`` of the training set, ``predicted`` (not calibrated)."""
    importance: dict[str, float] = field(default_factory=dict)
    """Feature → share of total gain, 0..1, highest first."""
    trials: list[Trial] = field(default_factory=list)
    policy: str = ""
    """Which of several policies of training data it was made by; empty for the only one."""
    tried: list[Tried] = field(default_factory=list)
    """All of them, in the order of the spec."""
    judged_from: datetime | None = None
    """First moment of the part of the holdout that judges, UTC; what is before it chose. ``None``: all of it judges."""
    training_set_sha256: str = ""
    """Of the training set that it was trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Metrics of the holdout rows in which ``column`` has ``value``."""

    column: str
    value: str
    rows: int
    metrics: dict[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRate:
    """A rate of one group of people."""

    column: str
    group: str
    rate: Rate
    rows: int
    """Answers, or labelled positives or negatives, that it is of."""
    value: Interval | None
    """0..1; ``None`` where there are fewer rows than ``Fairness.min_group``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """How far apart the groups of one column are in one rate."""

    column: str
    rate: Rate
    highest: str
    lowest: str
    value: Interval
    """Highest minus lowest group, of those that are large enough. The interval is of these two."""
    limit: float

    @property
    def unfair(self) -> bool:
        """Whether the difference is beyond the limit, and chance does not explain it."""
        return self.value.low > self.limit

    def __str__(self) -> str:
        value, low, high = (100 * each for each in (self.value.value, self.value.low, self.value.high))
        return (
            f"{self.rate.replace('_', ' ')} by {self.column}: {self.highest} has {value:.1f} percentage points more "
            f"than {self.lowest} ({low:.1f} to {high:.1f}; {100 * self.limit:g} is the limit)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessReport:
    """How groups of people fare."""

    answers: int
    labelled: int
    without_group: int
    """Answers about entities that the validated table does not know."""
    rates: list[GroupRate]
    differences: list[GroupDifference]
    """One for each column and rate with two groups or more that are large enough."""

    @property
    def unfair(self) -> list[GroupDifference]:
        return [each for each in self.differences if each.unfair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Candidate and champion on the same rows that neither was trained nor calibrated on."""

    champion_version: int
    rows: int
    candidate: dict[str, float]
    champion: dict[str, float]
    difference: dict[str, Interval]
    """Candidate minus champion, paired bootstrap."""
    better: dict[str, float] = field(default_factory=dict)
    """Metric → share of the resamples in which the candidate is better than the champion, 0..1."""
    unit: str = "row"
    """What the bootstrap drew: a ``day``, or a ``row`` where there is no time or too few days."""
    problem: str | None = None
    """Why they can't be compared; the metrics are then empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a candidate shows on its holdout."""

    model: str
    rows: int
    positives: int
    threshold: float
    metrics: dict[str, Interval]
    baselines: dict[str, dict[str, float]]
    """Baseline (constant, rule, last_value) → metric → value, on the same rows."""
    slices: list[Slice]
    months: list[Slice]
    """Metrics by month. ``column`` is ``holdout``, or ``cross-validation`` for out-of-fold predictions, which are not
    calibrated; ``value`` is the month, ``2013-02``. Empty for data without a time."""
    importance: dict[str, float]
    """Feature → share of total gain, 0..1."""
    reliability: list[dict[str, float]]
    """One entry per bin: predicted, observed (with low and high), rows."""
    latency_ms: float
    bundle_mb: float
    versus_champion: Comparison | None = None
    plots: dict[str, str] = field(default_factory=dict)
    """Plot name → PNG path."""
    at_least: dict[str, float] = field(default_factory=dict)
    """Metric → floor that the run asked for, over the spec's."""
    at_most: dict[str, float] = field(default_factory=dict)
    """Metric → ceiling that the run asked for, under the spec's."""
    better_by: float = 0.0
    """How sure the run asked it to be that the candidate is better than the champion, 0..1."""
    fairness: FairnessReport | None = None
    """How the groups of protected columns fare on the holdout; ``None`` if there are none, or they are not known."""
    bundle_sha256: str = ""
    """Of the candidate that shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that the gate asked, with its evidence."""

    name: str
    passed: bool
    measured: float | None
    threshold: float | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gate's answer."""

    model: str
    passed: bool
    criteria: list[Criterion]

    @property
    def reasons(self) -> list[str]:
        """Messages of the criteria that were not met."""
        return [criterion.message for criterion in self.criteria if not criterion.passed]
