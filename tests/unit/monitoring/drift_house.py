"""A champion, the days that it learned from and what came after, for looks at its drift.

Times are those of ``tiny_spec``; the reference is ``REFERENCE`` days from ``FIRST`` on, and a window has ``WINDOW``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.data.lake import Lake
from pilotage.features.state import microseconds
from pilotage.monitoring.drift import DriftReport, watch
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.answer import OutcomeRecord
from pilotage.settings import Settings
from pilotage.spec import Drift, ModelSpec
from pilotage.testing.bundles import make_bundle, tiny_rows, tiny_spec
from tests.unit.monitoring.logs import prediction, write_segment
from tests.unit.release.lives import draft, registered

FIRST = date(2024, 1, 1)
REFERENCE, WINDOW, ROWS = 42, 3, 60
POLICY = Drift(window=timedelta(days=WINDOW), block_days=3, multivariate=False)
Rows = Callable[[pl.DataFrame], pl.DataFrame]


def day_of(number: int) -> date:
    return FIRST + timedelta(days=number)


def night_of(number: int) -> datetime:
    """When the schedule looks: a quarter to four in the morning."""
    return datetime.combine(day_of(number), datetime.min.time(), UTC) + timedelta(hours=3, minutes=45)


class House:
    """A champion, the days that it learned from, and what came after."""

    def __init__(self, home: Path, *, released: bool = True, **changes: Any) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.lake = Lake(self.settings.lake)
        self.spec: ModelSpec = tiny_spec(with_state=True, **{"drift": POLICY, **changes})
        if released:
            self._release(home)

    def _release(self, home: Path) -> None:
        training = {
            "first": day_of(0).isoformat(),
            "last": day_of(REFERENCE - 1).isoformat(),
            "boundaries": {"calibration": f"{day_of(10)}T00:00:00+00:00"},
        }
        bundle = home / "bundle"
        sha256 = make_bundle(bundle, spec=self.spec, training=training)
        ledger = SqlLedger(self.settings.ledger)
        ledger.append(registered("tiny", 1, bundle=str(bundle), sha256=sha256))
        ledger.append(draft("promoted", 1, model="tiny"))
        ledger.close()

    def rows(self, number: int, change: Rows = lambda rows: rows) -> pl.DataFrame:
        made = tiny_rows(self.spec, rows=ROWS, seed=number)
        return change(made).with_columns(day=pl.lit(day_of(number)))

    def publish(self, numbers: range, change: Rows = lambda rows: rows) -> None:
        frame = pl.concat([self.rows(number, change) for number in numbers])
        self.lake.replace_days("features/tiny", frame, [day_of(number) for number in numbers], note={})

    def log(self, number: int, rows: int, change: Rows = lambda rows: rows, *, outcomes: bool = True) -> None:
        """Predictions of one day's moments, all answered on 1 June, and their outcomes a day later."""
        records: list[Any] = []
        made = change(tiny_rows(self.spec, rows=rows, seed=1000 + number))
        features = [feature.name for feature in self.spec.features]
        for place, row in enumerate(made.iter_rows(named=True)):
            moment = datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)
            identity = f"d{number}-{place}"
            record = prediction(
                place,
                prediction_id=identity,
                at=microseconds(datetime(2024, 6, 1, tzinfo=UTC)) + 1000 * number + place,
                moment=microseconds(moment),
                probability=0.3 + 0.4 * (row["amount"] > 500),
                features={name: row[name] for name in features},
            )
            records.append(record)
            if outcomes:
                known = microseconds(moment + timedelta(days=1))
                records.append(
                    OutcomeRecord(
                        outcome_id=f"o{identity}",
                        model="tiny",
                        prediction_id=identity,
                        entity=None,
                        label=bool(row["label"]),
                        known_at=known,
                        received_at=known,
                        caller="",
                    )
                )
        write_segment(self.settings.prediction_log, records, number=number + 1)

    def watch(self, last: int | None = None, *, now: datetime | None = None) -> DriftReport:
        day = None if last is None else day_of(last)
        return watch(self.spec, settings=self.settings, lake=self.lake, last=day, now=now)


def dearer(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("amount") * 3, pl.col("per_item") * 3)
