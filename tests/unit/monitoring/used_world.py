"""A model in use: days of logged predictions, with probabilities that are calibrated, and orders that tell the truth.

Times are those of ``tiny_spec``: an order's prediction moment is its order time, and whether it came late is known when
it was delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.features.state import microseconds
from pilotage.monitoring.predictions import move_log
from pilotage.runtime.answer import Record
from pilotage.settings import Settings
from pilotage.spec import ModelSpec, Outcomes
from pilotage.testing.bundles import tiny_spec
from tests.unit.monitoring.logs import prediction, shadow, write_segment

FIRST = datetime(2024, 2, 1, tzinfo=UTC)
TOOK = timedelta(hours=5)
"""From an order to its delivery."""


def used_spec(**changes: Any) -> ModelSpec:
    told: dict[str, Any] = {
        "slices": ("shop",),
        "outcomes": Outcomes(no_label_reason=pl.when(pl.col("cancelled")).then(pl.lit("cancelled"))),
    }
    return tiny_spec(with_state=True, **(told | changes))


class Used:
    """Days of orders: ``orders`` has one row each, with the probability that its label was drawn with."""

    def __init__(
        self,
        home: Path,
        *,
        days: int,
        a_day: int = 60,
        seed: int = 1,
        spec: ModelSpec | None = None,
        took: timedelta = TOOK,
    ) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.lake = Lake(self.settings.lake)
        self.spec = spec or used_spec()
        random = np.random.default_rng(seed)
        rows = days * a_day
        number = np.arange(rows)
        shock = np.repeat(random.normal(0, 0.3, days), a_day)
        score = random.normal(-1.0, 1.2, rows) + shock
        chance = 1 / (1 + np.exp(-score))
        ordered = [FIRST + timedelta(days=int(n // a_day), minutes=int(n % a_day) * 20 + 1) for n in number]
        self.orders = pl.DataFrame(
            {
                "order_id": [f"A-{n}" for n in number],
                "shop": random.choice(["north", "south"], rows),
                "probability": chance,
                "is_late": random.random(rows) < chance,
                "cancelled": random.random(rows) < 0.02,
                "ordered_at": pl.Series(ordered, dtype=pl.Datetime("us", "UTC")),
                "delivered_at": pl.Series([moment + took for moment in ordered], dtype=pl.Datetime("us", "UTC")),
                "day": pl.Series([moment.date() for moment in ordered], dtype=pl.Date()),
            }
        ).with_columns(is_late=pl.when(~pl.col("cancelled")).then("is_late"))
        self.segments = 0

    @property
    def now(self) -> datetime:
        """The end of the last day, when all of it is delivered."""
        return datetime.combine(self.orders["day"].max(), datetime.min.time(), UTC) + timedelta(days=1, hours=6)  # type: ignore[arg-type]

    def day(self, number: int) -> date:
        return (FIRST + timedelta(days=number)).date()

    def tell(self, orders: pl.DataFrame | None = None) -> None:
        """Publishes what became of orders (all of them) in the lake."""
        told = (self.orders if orders is None else orders).drop("probability")
        self.lake.replace_days("validated/orders", told, sorted(set(told["day"])), note={})

    def serve(self, orders: pl.DataFrame | None = None, *, shadow_too: bool = False, **changes: Any) -> None:
        """Logs an answer to each order (to all of them), and moves the log into the lake."""
        records: list[Record] = []
        for number, order in enumerate((self.orders if orders is None else orders).iter_rows(named=True)):
            moment = microseconds(order["ordered_at"])
            common = {"prediction_id": f"p-{order['order_id']}", "at": moment + 1000}
            records.append(
                prediction(
                    number,
                    **common
                    | {
                        "entity": {"order_id": order["order_id"]},
                        "moment": moment,
                        "probability": order["probability"],
                        "decision": order["probability"] >= self.spec.kpi.cost.threshold,
                        "request": {"order_id": order["order_id"], "shop": order["shop"]},
                    }
                    | changes,
                )
            )
            if shadow_too:
                records.append(shadow(number, **common, probability=0.3, decision=False))
        self.log(records)

    def log(self, records: Sequence[Record]) -> None:
        self.segments += 1
        write_segment(self.settings.prediction_log, records, number=self.segments)
        move_log(self.settings, self.lake, models={self.spec.name: self.spec}, quiet_s=0)
