"""What happened: every row of a model's feature table, and what of it was known at a moment. No decisions.

The table is point-in-time by construction: each row holds what was known at its own prediction moment. Only the label
came later, at ``label_known_at``; everything here that gives labels takes the moment at which they are asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import UnpublishedData
from pilotage.features.build import EVENT_TIME, LABEL, LABEL_KNOWN_AT, features_fingerprint
from pilotage.features.view import FeatureView
from pilotage.replay.nights import replay_day
from pilotage.spec import ModelSpec
from pilotage.training.dataset import set_columns
from pilotage.training.fairness import groups_of

DAY = "day"
"""Day of the event, in the model's time zone."""
REPLAY_DAY = "replay_day"
"""Day whose night comes next after the prediction; see ``nights.replay_day``."""
MOMENT = "moment"
"""Prediction moment, UTC."""


@dataclass(frozen=True, kw_only=True)
class History:
    """All of it. Grain of ``rows``: one row per thing to predict, in the order of event time and entity."""

    spec: ModelSpec
    rows: pl.DataFrame
    version: int
    """Delta version of the feature table."""
    fingerprint: str
    """Of the feature view that made it."""
    groups: pl.DataFrame | None = None
    """See ``groups_of``; for models that name protected columns."""

    @classmethod
    def read(cls, spec: ModelSpec, lake: Lake, *, last: date | None = None) -> History:
        """Reads the whole feature table.

        Args:
            spec: A model with a time.
            lake: Where ``features/<model>`` is.
            last: Newest day that may be looked at; ``None`` for all. What lies beyond is not even read.

        Raises:
            UnpublishedData: There are no features, or they were made by another definition than the spec's.
        """
        table = f"features/{spec.name}"
        built = features_fingerprint(lake, spec.name)
        ours = FeatureView(spec).fingerprint
        if built != ours or spec.event_time is None or spec.predicts_at is None:
            raise UnpublishedData(
                f"{table} was not built by the features that {spec.name} declares now, or has no time.",
                fix="Build the features again; only models with a time can be replayed.",
                table=table,
            )
        version = lake.version(table)
        rows = lake.scan(table, last=last, version=version).sort(EVENT_TIME, *spec.entity).collect()
        local = pl.col(EVENT_TIME).dt.convert_time_zone(spec.time_zone).dt.date()
        rows = rows.with_columns(local.alias(DAY), spec.predicts_at.alias(MOMENT))
        rows = rows.with_columns(replay_day(spec, pl.col(MOMENT)).alias(REPLAY_DAY))
        return cls(spec=spec, rows=rows, version=version, fingerprint=ours, groups=groups_of(spec, lake))

    @cached_property
    def labels(self) -> np.ndarray:
        """Shape (rows,), Boolean; false where there is none, see ``known``."""
        found: np.ndarray = self.rows[LABEL].fill_null(value=False).to_numpy()
        return found

    @cached_property
    def known_at(self) -> np.ndarray:
        """Microseconds (UTC) at which each label became known; the largest integer where it never did."""
        never = np.iinfo(np.int64).max
        micros = pl.when(pl.col(LABEL).is_not_null()).then(pl.col(LABEL_KNOWN_AT).dt.timestamp("us"))
        found: np.ndarray = self.rows.select(micros.fill_null(never)).to_series().to_numpy()
        return found

    @cached_property
    def replay_days(self) -> np.ndarray:
        """Replayed day of each row, days since 1970."""
        found: np.ndarray = self.rows[REPLAY_DAY].to_physical().to_numpy()
        return found

    @cached_property
    def event_days(self) -> np.ndarray:
        """Day of each row's event, days since 1970."""
        found: np.ndarray = self.rows[DAY].to_physical().to_numpy()
        return found

    def known(self, moment: datetime) -> np.ndarray:
        """Which rows have a label that was known at a moment; shape (rows,), Boolean."""
        return self.known_at <= _micros(moment)

    def of_replay_day(self, day: date) -> np.ndarray:
        """Row numbers of the predictions of a replayed day."""
        return np.flatnonzero(self.replay_days == ordinal(day))

    def between(self, first: date, last: date) -> np.ndarray:
        """Row numbers of the predictions of some replayed days, both included."""
        return np.flatnonzero((self.replay_days >= ordinal(first)) & (self.replay_days <= ordinal(last)))

    def training_rows(self, moment: datetime, *, first: date | None, last: date) -> pl.DataFrame:
        """What a training may see at a moment: the rows whose label was known by then.

        Args:
            moment: UTC.
            first: First day of events; ``None`` for all.
            last: Last day of events.

        Returns:
            Rows with the columns of a training set, in its order.
        """
        chosen = self.known(moment) & (self.event_days <= ordinal(last))
        if first is not None:
            chosen &= self.event_days >= ordinal(first)
        return self.rows[np.flatnonzero(chosen)].select(set_columns(self.spec))


def digest(frame: pl.DataFrame) -> str:
    """SHA-256 over the rows of a frame, in their order; the same in every process of one version of Polars."""
    schema = json.dumps({name: str(dtype) for name, dtype in frame.schema.items()})
    return hashlib.sha256(schema.encode() + frame.hash_rows(seed=1).to_numpy().tobytes()).hexdigest()


def ordinal(day: date) -> int:
    """Days since 1970."""
    return (day - date(1970, 1, 1)).days


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)
