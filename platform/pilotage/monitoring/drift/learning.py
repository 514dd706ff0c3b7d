"""What is much: thresholds from past windows of the same model, compared with each other. Knows no present window.

A year is simulated by drawing blocks of past days, with all columns of a day together. In each year a reference and
365 windows are drawn, and the largest effect of the year is kept. Thresholds are such that a stated share of the
simulated years has any alarm at all: the false-alarm rate is set, not guessed, for all windows of a year and all
columns together. Blocks keep what hangs together from day to day (Künsch 1989).

Columns are put on one scale, the Gumbel variate of their yearly maximum, and compared by it; the level is then taken
from the joint distribution of the simulated years (Westfall and Young 1993), so it holds however the columns hang
together, and however badly a Gumbel distribution fits. Weights as in Genovese, Roeder and Wasserman (2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta

import msgspec
import numpy as np
import numpy.typing as npt

from pilotage.monitoring.drift.bins import Bins
from pilotage.monitoring.drift.counting import Days
from pilotage.monitoring.drift.measures import MEASURES, Floats, effects
from pilotage.monitoring.drift.records import ALWAYS, ColumnNull, Learned, Null, Thresholds

YEARS = 200
"""Simulated years. The level is a quantile near 0.8 of them, which is then off by 0.03 at most."""
WINDOWS = 365
"""Windows of a year: one a day."""
AT_LEAST = 3
"""Windows, one after another, that the history must have room for."""
PLENTY = 4
"""Windows, one after another, from which on what was learned stands alone. Fewer have not seen enough of the world, so
the declared threshold holds where it is the larger one."""
A_YEAR = 365
"""Days of history from which seasons are told apart."""
SEASON = 30
"""Days of the year on either side that count as the same season."""
LIGHTEST = 0.1
"""Weight of a feature that the model hardly uses."""
_EULER = 0.5772156649015329
_CHUNK = 25
"""Years at once; about 60 MB."""

Ints = npt.NDArray[np.int64]


def learn(
    days: Days,
    bins: Sequence[Bins],
    *,
    model: str,
    version: int,
    window_days: int,
    block_days: int = 7,
    false_alarms_a_year: float,
    importance: Mapping[str, float],
    declared: Mapping[str, float],
    left_out: Iterable[date] = (),
    sources: Mapping[str, int] | None = None,
    seed: int = 0,
    years: int = YEARS,
) -> Thresholds:
    """Learns what ordinary windows of a model look like.

    Args:
        days: Counts of past days, the reference among them. A column without rows on a day (all zero) wasn't there.
        bins: Their bins.
        model: The model.
        version: The version whose reference it is.
        window_days: Length of a window, days.
        block_days: Days that are drawn together, so that what lasts, lasts; a third of the days at most.
        false_alarms_a_year: Alarms that may be expected in a year without drift, all columns together.
        importance: Feature → share of the model's gain, 0..1.
        declared: Measure → threshold to use if there is too little history.
        left_out: Days that were incidents; not learned from.
        sources: Lake table → Delta version, for the record.
        seed: The same seed and days give the same thresholds.
        years: Years to simulate.
    """
    omitted = tuple(sorted(set(left_out) & set(days.days)))
    used = days.without(omitted)
    rows = used.rows
    per_window = float(np.median(rows) * window_days) if len(rows) else 0.0
    learned = Learned(
        first=used.days[0] if used.days else None,
        last=used.days[-1] if used.days else None,
        days=len(used.days),
        left_out=omitted,
        rows_a_window=per_window,
        sources=dict(sources or {}),
    )
    weights = column_weights(bins, importance)
    shortest = AT_LEAST * window_days
    present = {each.name: np.flatnonzero(used.counts[each.name].sum(axis=1)) for each in bins}
    able = [each for each in bins if len(present[each.name]) >= shortest]
    seasonal = bool(used.days) and (used.days[-1] - used.days[0]).days + 1 >= A_YEAR
    nulls: dict[str, ColumnNull] = {}
    joint: dict[str, list[float]] = {}
    means: dict[str, Null] = {}
    random = np.random.default_rng(seed)
    by_days: dict[tuple[int, ...], list[Bins]] = {}
    for each in able:
        by_days.setdefault(tuple(present[each.name].tolist()), []).append(each)
    for places, group in by_days.items():
        seen = used.only(used.days[place] for place in places)
        drawn = _Years.draw(seen.days, window_days, block_days, years, seasonal, random)
        for each in group:
            null, largest = _column(each, seen.counts[each.name], drawn, weights[each.name])
            null = msgspec.structs.replace(null, scarce=len(places) < PLENTY * window_days)
            nulls[each.name], joint[each.name] = null, largest
        if any(each.role == "prediction" for each in group):
            means |= {name: _mean(sums, drawn) for name, sums in seen.sums.items()}
    enough = bool(able)
    short = [each.name for each in bins if each.name not in nulls]
    if not enough:
        why = (
            f"{len(used.days)} days of history are too few to learn from ({shortest} are needed); "
            "declared thresholds hold."
        )
    else:
        why = (
            f"Learned from {len(used.days)} days by comparing past windows of {window_days} days, in {years} simulated "
            f"years{', each month by itself' if seasonal else '; a year of history would tell seasons apart'}."
        )
        if scarce := [name for name, null in nulls.items() if null.scarce]:
            why += (
                f" Fewer than {PLENTY * window_days} days have {_names(scarce, len(bins))}: declared thresholds hold "
                "there where they are larger."
            )
        if short:
            why += f" Declared thresholds hold for {', '.join(short)}: fewer than {shortest} days have them."
    return Thresholds(
        model=model,
        version=version,
        window_days=window_days,
        block_days=block_days,
        false_alarms_a_year=false_alarms_a_year,
        enough=enough,
        why=why,
        learned=learned,
        columns=nulls,
        joint=joint,
        declared=dict(declared),
        expected_cost=means.get("expected_cost"),
        seasonal=seasonal,
    )


def column_weights(bins: Sequence[Bins], importance: Mapping[str, float]) -> dict[str, float]:
    """Column → weight, 1 on average. Predictions and labels weigh as much as the heaviest feature."""
    features = max(1, sum(each.role == "input" for each in bins))
    raw = {
        each.name: max(LIGHTEST, importance.get(each.name, 0.0) * features) if importance else 1.0
        for each in bins
        if each.role == "input"
    }
    heaviest = max(raw.values(), default=1.0)
    raw |= {each.name: heaviest for each in bins if each.role != "input"}
    mean = sum(raw.values()) / len(raw)
    return {name: weight / mean for name, weight in raw.items()}


def score(null: ColumnNull, season: int, values: Mapping[str, float | None]) -> float:
    """How surprising a column is, by its most surprising measure; −∞ if nothing of it can be compared."""
    known = null.seasons.get(season) or null.seasons[min(null.seasons)]
    scores = [
        (value - known[name].location) / known[name].scale
        for name, value in values.items()
        if value is not None and name in known and value >= MEASURES[name].smallest
    ]
    return max(scores, default=-math.inf) + math.log(null.weight)


def level(thresholds: Thresholds, columns: Iterable[str] | None = None) -> float:
    """The score that a stated share of ordinary years reaches in any of these columns (all, by default)."""
    names = list(thresholds.joint if columns is None else columns)
    if not names:
        return math.inf
    largest = np.max([thresholds.joint[name] for name in names], axis=0)
    return float(np.quantile(largest, math.exp(-thresholds.false_alarms_a_year), method="higher"))


def lower_level(thresholds: Thresholds) -> float:
    """The score that nine of ten ordinary years reach: below it an alarm may be cleared."""
    if not thresholds.joint:
        return math.inf
    return float(np.quantile(np.max(list(thresholds.joint.values()), axis=0), 0.1, method="lower"))


def threshold(thresholds: Thresholds, column: str, measure: str, season: int, reach: float) -> float:
    """The value at which a measure of a column reaches a score."""
    null = thresholds.columns.get(column)
    if null is None:
        return thresholds.declared[measure]
    known = (null.seasons.get(season) or null.seasons[min(null.seasons)])[measure]
    learned = max(MEASURES[measure].smallest, known.location + known.scale * (reach - math.log(null.weight)))
    return max(learned, thresholds.declared[measure]) if null.scarce else learned


def _names(names: Sequence[str], of: int) -> str:
    return "any column" if len(names) == of else ", ".join(names)


class _Years:
    """Which past days simulated years are made of; shape (years, days) and (years, reference days)."""

    def __init__(self, days: Ints, reference: Ints, months: Ints, window: int, inflate: float) -> None:
        self.days, self.reference, self.months, self.window, self.inflate = days, reference, months, window, inflate

    @classmethod
    def draw(
        cls, days: Sequence[date], window: int, block: int, years: int, seasonal: bool, random: np.random.Generator
    ) -> _Years:
        count, length = len(days), WINDOWS + window - 1
        # Of a few blocks no year can be made that differs from another.
        block = min(block, max(window, count // AT_LEAST))
        blocks = math.ceil(length / block)
        if seasonal:
            # The block at a day of the simulated year begins near that day of some past year.
            of_year = np.array([day.timetuple().tm_yday for day in days])
            wanted = (np.arange(blocks) * block) % A_YEAR + 1
            starts = np.empty((years, blocks), dtype=np.int64)
            for place, day in enumerate(wanted):
                apart = np.abs(of_year - day)
                near = np.flatnonzero(np.minimum(apart, A_YEAR - apart) <= SEASON)
                starts[:, place] = random.choice(near if len(near) else np.arange(count), years)
            first = date(2001, 1, 1)
            months = np.array([(first + timedelta(days=k)).month for k in range(length)])[window - 1 :]
        else:
            starts = random.integers(0, count, (years, blocks))
            months = np.full(WINDOWS, ALWAYS)
        step = np.arange(block)
        drawn = ((starts[..., None] + step) % count).reshape(years, -1)[:, :length]
        again = random.integers(0, count, (years, math.ceil(count / block)))
        reference = ((again[..., None] + step) % count).reshape(years, -1)[:, :count]
        if seasonal:
            reference = np.tile(np.arange(count), (years, 1))
        # Days drawn from a few windows vary less than the days of the world do (as s² with n and with n − 1).
        windows = max(2.0, count / max(window, block))
        return cls(drawn, reference, months, window, math.sqrt(windows / (windows - 1)))

    def effects(self, table: Floats, compare: Callable[[Floats, Floats], dict[str, Floats]]) -> dict[str, Floats]:
        """Measure → shape (years, seasons): the largest effect of each season of each year.

        Args:
            table: One row a past day; shape (days, values).
            compare: (reference sums, window sums) → effects.
        """
        found: dict[str, list[Floats]] = {}
        seasons = np.unique(self.months)
        for begin in range(0, len(self.days), _CHUNK):
            drawn = table[self.days[begin : begin + _CHUNK]]
            running = np.cumsum(drawn, axis=1)
            windows = running[:, self.window - 1 :].copy()
            windows[:, 1:] -= running[:, : -self.window]
            before = table[self.reference[begin : begin + _CHUNK]].sum(axis=1)[:, None]
            for name, values in compare(before, windows).items():
                worst = [np.max(np.nan_to_num(values[:, self.months == each], nan=0.0), axis=1) for each in seasons]
                found.setdefault(name, []).append(np.stack(worst, axis=1))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def _column(bins: Bins, counts: npt.NDArray[np.int64], years: _Years, weight: float) -> tuple[ColumnNull, list[float]]:
    largest = years.effects(counts.astype(np.float64), lambda before, now: effects(bins, before, now))
    seasons = [int(each) for each in np.unique(years.months)]
    nulls = {
        season: {
            name: _gumbel(each[:, place], MEASURES[name].smallest, years.inflate) for name, each in largest.items()
        }
        for place, season in enumerate(seasons)
    }
    null = ColumnNull(role=bins.role, weight=weight, seasons=nulls)
    joint = [
        max(
            score(null, season, {name: float(each[year, place]) for name, each in largest.items()})
            for place, season in enumerate(seasons)
        )
        for year in range(len(years.days))
    ]
    # A year in which nothing of the column was worth a look reaches no level.
    return null, [value if math.isfinite(value) else -100.0 for value in joint]


def _mean(sums: Floats, years: _Years) -> Null:
    """How far the mean of a window rises above the reference's in an ordinary year."""

    def rise(before: Floats, now: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"rise": now[..., 0] / now[..., 1] - before[..., 0] / before[..., 1]}

    return _gumbel(years.effects(sums, rise)["rise"].max(axis=1), 0.0, years.inflate)


def _gumbel(largest: Floats, smallest: float, inflate: float) -> Null:
    """By the method of moments. What never varied gets the scale of the smallest effect that means something."""
    scale = max(float(largest.std()) * math.sqrt(6) / math.pi * inflate, smallest / 10, 1e-12)
    return Null(location=float(largest.mean()) - _EULER * scale, scale=scale)
