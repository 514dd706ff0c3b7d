"""Rows of a model as drift sees them: its features, what it said, what was true. One day at a time.

From the features table, where the champion's answers are computed, or from the log of what was served.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import DataError
from pilotage.features.build import DAY, LABEL
from pilotage.monitoring.drift.bins import Bins, Role, concept_bins, concept_column, fit_bins
from pilotage.monitoring.drift.expected import expected_cost
from pilotage.monitoring.log_frames import feature_column
from pilotage.monitoring.outcomes import label as with_label
from pilotage.monitoring.predictions import read_log, read_outcomes
from pilotage.runtime.bundle import Bundle
from pilotage.settings import Settings
from pilotage.spec import CostMatrix, ModelSpec, TimeSplit, Window

PREDICTION, CONCEPT = "prediction", "label_given_prediction"
"""Columns beside the features. A feature with such a name is told apart by ``(prediction)``."""
ANSWERED = ("model", "previous_champion", "cached_answer")
"""Answers of a model."""
LEAST_LOGGED = 200
"""Logged predictions of a window below which the features table says more."""
READ_ROWS = 500_000
"""Rows of the log that are held at once, unless one day has more."""
_DAY = timedelta(days=1)

Frames = Iterator[tuple[date, pl.DataFrame]]


class Observer:
    """Makes rows of one champion.

    Args:
        bundle: The champion's.
        cost: What each outcome costs.
    """

    def __init__(self, bundle: Bundle, cost: CostMatrix) -> None:
        self.bundle, self.cost = bundle, cost
        self.features = list(bundle.view.schema)
        # The log holds pseudonyms of what identifies a person: their levels are nobody's, and nothing to compare.
        personal = {field.name for field in bundle.request if field.personal}
        self.compared = [name for name in self.features if name not in personal]
        taken = set(self.features)
        self.prediction, self.label, self.concept = (
            f"({name})" if name in taken else name for name in (PREDICTION, LABEL, CONCEPT)
        )

    def roles(self) -> dict[str, Role]:
        """Columns that are counted as they are."""
        roles: dict[str, Role] = dict.fromkeys(self.compared, "input")
        return roles | {self.prediction: "prediction", self.label: "label"}

    def fit(self, rows: pl.DataFrame) -> list[Bins]:
        """The bins of every column, by the reference's rows (from ``of_features`` or ``of_log``)."""
        bins = fit_bins(rows.lazy(), self.roles())
        if not rows[self.label].count():
            return [each for each in bins if each.name != self.label]
        return [*bins, concept_bins(self.concept)]

    def of_features(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the features table, with what the champion says to them."""
        if missing := [name for name in self.features if name not in rows.columns]:
            raise DataError(
                f"{self.bundle.model}: the features have no column {missing[0]}, which the champion reads.",
                fix="Compare with a bundle that was trained on the same features.",
                model=self.bundle.model,
                missing=missing,
            )
        said = pl.Series(self.prediction, self.bundle.scorer.score(rows) if rows.height else [], dtype=pl.Float64)
        truth = rows[LABEL] if LABEL in rows.columns else pl.Series(LABEL, [None] * rows.height, dtype=pl.Boolean)
        return self._complete(rows.select(self.features).with_columns(said, truth.alias(self.label)))

    def of_log(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the prediction log (with ``label``)."""
        features = [pl.col(feature_column(name)).alias(name) for name in self.features]
        return self._complete(
            rows.select(*features, pl.col("probability").alias(self.prediction), pl.col("label").alias(self.label))
        )

    def _complete(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(expected_cost(self.prediction, self.cost))

    def counted(self, frames: Frames, bins: Sequence[Bins]) -> Frames:
        """The same rows with the column of the concept, where it has bins."""
        names = {each.name for each in bins}
        cut = next(each for each in bins if each.name == self.prediction)
        for day, rows in frames:
            yield (
                day,
                rows.with_columns(concept_column(self.concept, cut, self.label)) if self.concept in names else rows,
            )


def feature_frames(observer: Observer, lake: Lake, days: Sequence[date]) -> Frames:
    """Days of the features table, as the champion sees them."""
    table = f"features/{observer.bundle.model}"
    there = set(lake.days(table))
    for day in sorted(set(days) & there):
        rows = lake.scan(table, first=day, last=day)
        names = set(rows.collect_schema().names())
        wanted = [name for name in dict.fromkeys([*observer.features, LABEL]) if name in names]
        yield day, observer.of_features(rows.select(wanted).collect())


class Log:
    """What was served, by days of the prediction moment.

    Args:
        spec: The model.
        observer: Its champion.
        settings: Where the log is.
        lake: Where the moved part of it is.
    """

    def __init__(self, spec: ModelSpec, observer: Observer, *, settings: Settings, lake: Lake) -> None:
        self._spec, self._observer, self._settings, self._lake = spec, observer, settings, lake
        asked = read_log(
            settings, spec.name, lake=lake, columns=("prediction_id", "moment", "at", "answered_by", "version")
        )
        moment = pl.coalesce("moment", "at").dt.convert_time_zone(spec.time_zone).dt.date()
        self._asked = asked.filter(pl.col("answered_by").is_in(ANSWERED), pl.col("version").is_not_null()).select(
            "prediction_id", moment.alias(DAY)
        )

    def rows_of_days(self) -> dict[date, int]:
        """Day → predictions of a model."""
        return dict(self._asked.group_by(DAY).len().sort(DAY).iter_rows())

    def frames(self, days: Sequence[date]) -> Frames:
        """Days of the log; a day that has none is left out."""
        outcomes = read_outcomes(self._settings, self._spec.name, lake=self._lake)
        columns = [feature_column(name) for name in self._observer.features]
        there = self.rows_of_days()
        for part in _parts([day for day in sorted(days) if day in there], there):
            asked = self._asked.filter(pl.col(DAY).is_in(part))
            read = read_log(
                self._settings, self._spec.name, lake=self._lake, only=asked["prediction_id"], spec=self._spec
            )
            known = with_label(read, outcomes).select("prediction_id", "label")
            read = read.join(known, on="prediction_id", how="left", maintain_order="left")
            # A feature that was null in every answer so far has no column.
            read = read.with_columns(pl.lit(None).alias(name) for name in columns if name not in read.columns)
            read = read.join(asked, on="prediction_id", how="inner", maintain_order="left")
            for day in part:
                yield day, self._observer.of_log(read.filter(pl.col(DAY) == day))


def _parts(days: Sequence[date], rows: Mapping[date, int]) -> Iterator[list[date]]:
    """Runs of days that are read together: the log is not read once a day, and not all of it is held."""
    part: list[date] = []
    held = 0
    for day in days:
        if part and held + rows[day] > READ_ROWS:
            yield part
            part, held = [], 0
        part.append(day)
        held += rows[day]
    if part:
        yield part


def label_delay(spec: ModelSpec) -> timedelta:
    """How long the labels of a day take, at most; whole days, since the day's last row waits longest."""
    embargo = spec.split.embargo if isinstance(spec.split, TimeSplit) else timedelta(0)
    return _DAY * math.ceil(embargo / _DAY)


def block_days(spec: ModelSpec) -> int:
    """Days that hang together: a mean over 28 days is nearly the same on the next one."""
    reach = max((item.over for item in spec.asof if isinstance(item, Window)), default=timedelta(0))
    return max(7, math.ceil(reach / _DAY))


def last_days(last: date, count: int) -> list[date]:
    """The days up to a day, oldest first."""
    return [last - _DAY * back for back in range(count - 1, -1, -1)]
