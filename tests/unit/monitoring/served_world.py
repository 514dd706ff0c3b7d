"""A model with state, its lake, its online store, and predictions that its own predictor made and logged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from pilotage.data.lake import Lake
from pilotage.features.online import build_online
from pilotage.features.state import microseconds
from pilotage.pseudonyms import Pseudonyms
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.runtime.predictor import Predictor, Scored
from pilotage.runtime.state import OnlineState
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import START, make_bundle, tiny_rows, tiny_spec
from tests.unit.monitoring.logs import prediction, write_segment

STOCK = {"shop": pl.String(), "level": pl.Int64(), "known_at": pl.Datetime("us", "UTC")}


def stock(hours: int, *, level: int = 0) -> pl.DataFrame:
    """Levels of both shops, every hour."""
    rows = [
        {"shop": shop, "level": (7 * hour + place) % 50 + level, "known_at": START + timedelta(hours=hour)}
        for hour in range(hours)
        for place, shop in enumerate(("north", "south"))
    ]
    return pl.DataFrame(rows, schema=STOCK)


class World:
    """What there is on one machine, made step by step."""

    def __init__(self, home: Path, *, personal: tuple[str, ...] = (), with_state: bool = True) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.lake = Lake(self.settings.lake)
        declared = tiny_spec(with_state=with_state)
        fields = tuple(field.model_copy(update={"personal": field.name in personal}) for field in declared.request)
        self.spec: ModelSpec = declared.model_copy(update={"request": fields})
        self.personal = personal
        self.orders = tiny_rows(self.spec, rows=60).select(self.spec.request_types().keys())
        self.lake.replace("validated/orders", self.orders, note={})
        folder = home / "bundle"
        sha256 = make_bundle(folder, spec=self.spec)
        self.bundle: Bundle = read_bundle(folder, sha256=sha256)
        self.predictor = Predictor(self.bundle, 1)
        if with_state:
            self.publish(stock(80))

    def publish(self, levels: pl.DataFrame) -> None:
        """New levels in the lake, and the state that is made of them."""
        self.lake.replace("validated/stock", levels, note={})
        build_online(self.spec, lake=self.lake, path=self.store, run_id="test")

    @property
    def store(self) -> Path:
        return self.settings.online / f"{self.spec.name}.db"

    def serve(self, numbers: range, *, segment: int = 1, **skewed: Any) -> list[Scored]:
        """Answers the orders with these numbers and logs them, with the features in ``skewed`` served as that."""
        state = OnlineState(self.store) if self.spec.asof else None
        pseudonyms = Pseudonyms.of(self.settings)
        records: list[Any] = [state.record()] if state else []
        answers = []
        for number in numbers:
            order = self.orders.row(number, named=True)
            sent = {**order, "ordered_at": f"{order['ordered_at']:%Y-%m-%dT%H:%M:%SZ}"}
            scored = self.predictor.score_one(sent, state)
            answers.append(scored)
            records.append(self.record(number, scored, pseudonyms, skewed))
        if state:
            state.close()
        write_segment(self.settings.prediction_log, records, number=segment)
        return answers

    def record(self, number: int, scored: Scored, pseudonyms: Pseudonyms, skewed: dict[str, Any]) -> PredictionRecord:
        seen = scored.prepared
        request, features = pseudonyms.hide(seen.request, self.personal), seen.features
        telling = [f for f in features if f in self.personal and isinstance(features[f], str)]
        return prediction(
            number,
            entity={name: request[name] for name in self.spec.entity},
            moment=seen.moment,
            at=microseconds(datetime(2024, 1, 5, tzinfo=UTC) + timedelta(seconds=number)),
            probability=scored.probability,
            decision=scored.decision,
            referred=scored.referred,
            request=msgspec.to_builtins(request),
            features={**pseudonyms.hide(features, telling), **skewed},
            state=seen.state,
        )
