"""A shop whose model looks up prices, sales and farms."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.features.view import FeatureView
from pilotage.spec import Latest, Window
from tests.unit.features.test_build_features import UTC_TIME, spec

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
SHOP = spec(
    name="shop",
    source="sales",
    asof=(
        Latest(name="last", source="sales", on={"farm": "farm"}, known_at="sold_at", columns={"price": pl.Int64}),
        Window(name="sold_2h", source="sales", on={"farm": "farm"}, known_at="sold_at", over=timedelta(hours=2),
               aggregate="sum", value=pl.col("price")),
        Latest(name="info", source="farms", on={"farm": "farm"}, columns={"cows": pl.Int64}),
    ),
    features=({"name": "price", "expr": pl.col("last_price"), "description": "Price"},),
)  # fmt: skip
VIEW = FeatureView(SHOP)
LAST, SOLD, INFO = (lookup.timeline.name for lookup in VIEW.lookups)


def sales(*facts: tuple[float, str, int]) -> pl.DataFrame:
    """Hours from noon at which it was known, farm, and price."""
    return pl.DataFrame(
        [(NOON + timedelta(hours=hour), farm, price, date(2013, 6, 1)) for hour, farm, price in facts],
        schema={"sold_at": UTC_TIME, "farm": pl.String, "price": pl.Int64, "day": pl.Date},
        orient="row",
    )


def publish(lake: Lake, *facts: tuple[float, str, int]) -> None:
    lake.replace_days("validated/sales", sales(*facts), [date(2013, 6, 1)], note={})


def request(*farms: str | None, at: datetime = NOON) -> pl.DataFrame:
    """Requests whose prediction moment, an hour before filling, is ``at``."""
    rows = [(number, farm, at + timedelta(hours=1)) for number, farm in enumerate(farms)]
    return pl.DataFrame(rows, schema=VIEW.request_types, orient="row")
