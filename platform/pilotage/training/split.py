"""Which rows train, calibrate and judge. Knows times, keys and shares; nothing of features or models.

A split by time never leaks: whatever an earlier part learns from had been known before the first prediction of the
next part was made, and lies an embargo before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.build import EVENT_TIME, LABEL, LABEL_KNOWN_AT
from pilotage.spec import HashSplit, ModelSpec, TimeSplit
from pilotage.training.config import SplitConfig

_NEVER = np.iinfo(np.int64).max
PARTS = ("train", "calibration", "holdout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Row numbers of a training set by part; rows that were purged, or lie in an embargo, are in none."""

    rows: dict[str, np.ndarray]
    """Part → ascending row numbers."""
    begins: dict[str, datetime] = field(default_factory=dict)
    """First moment of each part, UTC; empty for data without a time."""
    purged: int = 0
    """Rows left out because their label came too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One fold of a cross-validation: row numbers to train on, and to predict."""

    train: np.ndarray
    test: np.ndarray


def effective_split(spec: ModelSpec, config: SplitConfig) -> TimeSplit | HashSplit:
    """The spec's split with one run's lengths in it."""
    given = {
        "calibration": config.calibration_days,
        "holdout": config.holdout_days,
        "embargo": config.embargo_days,
    }
    changes: dict[str, Any] = {} if config.folds is None else {"folds": config.folds}
    if isinstance(spec.split, TimeSplit):
        changes |= {name: timedelta(days=days) for name, days in given.items() if days is not None}
    return spec.split.model_copy(update=changes)


def split(spec: ModelSpec, frame: pl.DataFrame, how: TimeSplit | HashSplit, *, calibrated: bool = True) -> Parts:
    """Divides a training set.

    Args:
        spec: The model; its times and its entity are read.
        frame: Rows of a training set.
        how: See ``effective_split``.
        calibrated: Whether a calibration part is wanted; without one its rows train.

    Returns:
        The parts. Those of a split by time begin at local midnights.

    Raises:
        TrainingError: The data is too short for the parts, or a part has one class only.
    """
    if isinstance(how, TimeSplit):
        parts = _by_time(spec, frame, how, calibrated)
    else:
        parts = _by_hash(spec, frame, how, calibrated)
    _refuse_one_class(spec, frame, parts, PARTS if calibrated else ("train", "holdout"))
    return parts


def hash_parts(frame: pl.DataFrame, entity: tuple[str, ...], how: HashSplit) -> np.ndarray:
    """The part of each row (0 train, 1 calibration, 2 holdout): the same on any machine, in any version, in any set.

    BLAKE2b of salt and entity, as a number in 0..1: below ``holdout`` the row is in the holdout, calibration is next.
    """
    unit = hash_unit(frame, entity, how.salt)
    return np.where(unit < how.holdout, 2, np.where(unit < how.holdout + how.calibration, 1, 0))


def hash_unit(frame: pl.DataFrame, entity: tuple[str, ...], salt: str) -> np.ndarray:
    """A number in 0..1 for each row, from its entity and a salt; shape (rows,)."""
    texts = [pl.col(column).cast(pl.String) for column in entity]
    keys = frame.select(pl.concat_str(texts, separator="\x1f")).to_series()
    if keys.null_count():
        raise TrainingError(
            f"{keys.null_count()} rows have no {' or '.join(entity)}.", fix="Give entity columns that are never null."
        )
    digests = (hashlib.blake2b(f"{salt}\x1f{key}".encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.float64) / 2.0**64


def folds(
    spec: ModelSpec, frame: pl.DataFrame, rows: np.ndarray, how: TimeSplit | HashSplit, *, count: int
) -> list[Fold]:
    """Cross-validation folds within one part.

    By time: rolling origin. The part's days are cut into ``count + 1`` equal blocks; each block but the first is
    predicted from everything an embargo before it. By hash: each row is predicted once, by the others.

    Args:
        spec: The model.
        frame: Rows of a training set.
        rows: Row numbers of the part.
        how: The split; its embargo or its salt is used.
        count: How many.

    Raises:
        TrainingError: A fold would have no row, or one class only, to train on or to predict.
    """
    if isinstance(how, TimeSplit):
        made = _rolling(_Times(spec, frame, rows), how, count)
    else:
        made = _k_fold(spec, frame, rows, how, count)
    labels = frame[LABEL].to_numpy()
    for number, fold in enumerate(made, start=1):
        for name, part in (("trains on", fold.train), ("predicts", fold.test)):
            if len(part) == 0 or labels[part].all() or not labels[part].any():
                raise TrainingError(
                    f"Cross-validation fold {number} of {count} {name} {len(part)} rows of {spec.name} "
                    f"with {int(labels[part].sum())} positives: there is nothing to learn from that.",
                    fix="Give more data, or ask for fewer folds (split.folds).",
                    fold=number,
                )
    return made


def _by_time(spec: ModelSpec, frame: pl.DataFrame, how: TimeSplit, calibrated: bool) -> Parts:
    times = _Times(spec, frame)
    end = times.midnight(times.last_day, days=1)
    holdout = times.before(end, how.holdout)
    ends = {"holdout": end}
    begins = {"holdout": holdout}
    edge = holdout
    if calibrated:
        ends["calibration"] = holdout - how.embargo
        begins["calibration"] = edge = times.before(ends["calibration"], how.calibration)
    ends["train"] = edge - how.embargo
    begins["train"] = times.midnight(times.first_day)
    if begins["train"] >= ends["train"]:
        needed = how.holdout + how.embargo + (how.calibration + how.embargo if calibrated else timedelta(0))
        have = (times.last_day - times.first_day).days + 1
        raise TrainingError(
            f"{spec.name} has {have} days of labelled data ({times.first_day} to {times.last_day}), but holdout, "
            f"calibration and embargoes alone take {needed.total_seconds() / 86400:g}.",
            fix="Give more days, or shorter parts (split.holdout_days, split.calibration_days).",
            days=have,
        )
    rows: dict[str, np.ndarray] = {}
    purged = 0
    nxt: np.ndarray | None = None
    for name in ("holdout", "calibration", "train"):
        if name not in begins:
            rows[name] = np.empty(0, dtype=np.int64)
            continue
        inside = times.between(begins[name], ends[name])
        kept = inside if nxt is None else times.known_before(inside, nxt)
        purged += len(inside) - len(kept)
        rows[name] = kept
        # A part that is empty can't purge; the emptiness itself is refused by the caller.
        nxt = kept if len(kept) else nxt
    return Parts(
        rows={name: rows[name] for name in PARTS},
        begins={name: begins[name] for name in PARTS if name in begins},
        purged=purged,
    )


def _by_hash(spec: ModelSpec, frame: pl.DataFrame, how: HashSplit, calibrated: bool) -> Parts:
    part = hash_parts(frame, spec.entity, how)
    if not calibrated:
        part = np.where(part == 1, 0, part)
    return Parts(rows={name: np.flatnonzero(part == number) for number, name in enumerate(PARTS)})


def _rolling(times: _Times, how: TimeSplit, count: int) -> list[Fold]:
    first = times.midnight(times.first_day)
    end = times.midnight(times.last_day, days=1)
    width = (end - first) / (count + 1)
    made = []
    for number in range(1, count + 1):
        begin = first + width * number
        test = times.between(begin, first + width * (number + 1) if number < count else end)
        train = times.between(first, begin - how.embargo)
        made.append(Fold(train=times.known_before(train, test) if len(test) else train, test=test))
    return made


def _k_fold(spec: ModelSpec, frame: pl.DataFrame, rows: np.ndarray, how: HashSplit, count: int) -> list[Fold]:
    # Another salt than the parts': within a part their hashes are not spread evenly over 0..1.
    unit = hash_unit(frame[rows], spec.entity, f"{how.salt}/folds")
    labels = frame[LABEL].to_numpy()[rows]
    fold = np.empty(len(rows), dtype=np.int64)
    for value in (False, True):
        # Dealt out like cards within each class, so that every fold has its share of both.
        members = np.flatnonzero(labels == value)
        fold[members[np.argsort(unit[members], kind="stable")]] = np.arange(len(members)) % count
    return [Fold(train=rows[fold != number], test=rows[fold == number]) for number in range(count)]


def _refuse_one_class(spec: ModelSpec, frame: pl.DataFrame, parts: Parts, wanted: tuple[str, ...]) -> None:
    labels = frame[LABEL].to_numpy()
    for name in wanted:
        rows = parts.rows[name]
        positives = int(labels[rows].sum())
        if positives in (0, len(rows)):
            sizes = ", ".join(f"{part} {len(numbers):,}" for part, numbers in parts.rows.items())
            raise TrainingError(
                f"The {name} part of {spec.name} has {len(rows):,} rows with {positives:,} positives; it needs both "
                f"classes (rows: {sizes}; purged {parts.purged:,}).",
                fix="Give more data, or other parts (split in run.yaml, or in the model's file).",
                part=name,
            )


class _Times:
    """The times of a training set, or of some of its rows: event, label known, prediction."""

    def __init__(self, spec: ModelSpec, frame: pl.DataFrame, rows: np.ndarray | None = None) -> None:
        if spec.event_time is None or spec.predicts_at is None:
            raise TrainingError(f"{spec.name} has no event time to split by.", fix="Use HashSplit.")
        self._zone = ZoneInfo(spec.time_zone)
        self._rows = np.arange(frame.height) if rows is None else rows
        if len(self._rows) == 0:
            raise TrainingError(f"{spec.name} has no row to split.", fix="Give more data.")
        times = frame[self._rows].select(
            event=pl.col(EVENT_TIME).cast(pl.Datetime("us", "UTC")).dt.timestamp("us"),
            # A label that nobody can date was never known in time.
            known=pl.col(LABEL_KNOWN_AT).cast(pl.Datetime("us", "UTC")).dt.timestamp("us").fill_null(_NEVER),
            prediction=spec.predicts_at.cast(pl.Datetime("us", "UTC")).dt.timestamp("us"),
            day=pl.col(EVENT_TIME).dt.convert_time_zone(spec.time_zone).dt.date().to_physical(),
        )
        for column in ("event", "prediction"):
            if times[column].null_count():
                raise TrainingError(
                    f"{times[column].null_count()} rows of {spec.name} have no {column} time.",
                    fix=f"Let the contract of {spec.source} refuse a null {spec.event_time}.",
                )
        self._event, self._known, self._at = (times[column].to_numpy() for column in ("event", "known", "prediction"))
        self._local_day, self._coverage = times["day"].to_numpy(), spec.outcomes.coverage
        self.first_day = self._day(int(self._event.min()))
        self.last_day = self._day(int(self._event.max()))

    def midnight(self, day: date, *, days: int = 0) -> datetime:
        """When a local day, or one some days from it, begins; UTC."""
        return datetime.combine(day + timedelta(days=days), clock.min, self._zone).astimezone(UTC)

    def before(self, moment: datetime, length: timedelta) -> datetime:
        """A local calendar length before a moment, so that whole days begin at midnight in summer and winter."""
        return (moment.astimezone(self._zone) - length).astimezone(UTC)

    def between(self, begin: datetime, end: datetime) -> np.ndarray:
        """Rows whose event lies in ``begin <= event < end``."""
        low, high = _micros(begin), _micros(end)
        inside: np.ndarray = self._rows[(self._event >= low) & (self._event < high)]
        return inside

    def known_before(self, rows: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Of ``rows``, those whose label was known before the first prediction of ``later`` was made.

        Where one of the two labels is known sooner, those that are known of a new day are not like its others: a day of
        which fewer than ``outcomes.coverage`` were known is left out.
        """
        first, places = self._at[np.searchsorted(self._rows, later)].min(), np.searchsorted(self._rows, rows)
        known = self._known[places] < first
        _, day = np.unique(self._local_day[places], return_inverse=True)
        enough = np.bincount(day, weights=known) >= self._coverage * np.bincount(day)
        kept: np.ndarray = rows[known & enough[day]]
        return kept

    def _day(self, micros: int) -> date:
        return datetime.fromtimestamp(micros / 1e6, self._zone).date()


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
