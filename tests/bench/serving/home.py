"""A home with a real champion of ``flight_delay``: January and February 2013 through the engine, without Dagster."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.settings import Settings

FIRST, LAST = date(2013, 1, 1), date(2013, 2, 28)
ROWS = 12_000
"""Different requests that are sent: in turn, more than the service remembers answers of."""
_FROM = date(2013, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the servers serve, and what they are asked."""

    settings: Settings
    bundle: Path
    requests: list[dict[str, Any]]
    """As an application sends them to Pilotage."""
    features: list[dict[str, Any]]
    """The same flights as finished features: what the other servers are sent, who compute none."""


def prepare(home: Path) -> Prepared:
    """Makes it; about a minute. A home that was made before is used again."""
    from assets.models.flight_delay import MODEL
    from assets.sources import airports, flights, planes, weather
    from pilotage.data import sample
    from pilotage.data.ingest import ingest
    from pilotage.data.lake import Lake
    from pilotage.data.validate import validate
    from pilotage.features.build import build_features
    from pilotage.features.online import build_online
    from pilotage.testing.service import release_bundle
    from pilotage.training.config import TrainConfig
    from pilotage.training.dataset import assemble
    from pilotage.training.train import train

    settings = Settings(home=home)
    lake = Lake(settings.lake)
    done = home / "prepared.json"
    if not done.exists():
        sample.publish_flights(settings.landing, first=FIRST, last=LAST)
        sample.publish_weather(settings.landing, first=FIRST, last=LAST)
        sample.publish_reference(settings.landing)
        for module in (flights, weather, planes, airports):
            source = module.SOURCE.model_copy(update={"expectations": ()})
            ingest(source, lake=lake, settings=settings, days=None, run_id="bench")
            validate(source, lake=lake, reports=settings.reports, days=None, run_id="bench")
        build_features(MODEL, lake=lake, days=None, run_id="bench")
        build_online(MODEL, lake=lake, path=settings.online / f"{MODEL.name}.db", run_id="bench")
        config = TrainConfig.from_values({})
        work = settings.candidates / MODEL.name / "bench"
        training_set = assemble(MODEL, lake=lake, config=config, directory=work)
        candidate = train(MODEL, training_set, config=config, directory=work, threads=2)
        release_bundle(settings, MODEL.name, Path(candidate.bundle), candidate.bundle_sha256, version=1)
        done.write_text(json.dumps({"bundle": candidate.bundle}))
    rows = lake.scan(f"features/{MODEL.name}", first=_FROM).collect().sample(ROWS, seed=1)
    request = rows.select(pl.col(field.name) for field in MODEL.request).with_columns(
        pl.col(field.name).dt.strftime("%Y-%m-%dT%H:%M:%SZ") for field in MODEL.request if field.dtype.is_temporal()
    )
    return Prepared(
        settings=settings,
        bundle=Path(json.loads(done.read_text())["bundle"]),
        requests=request.to_dicts(),
        features=rows.select(feature.name for feature in MODEL.features).to_dicts(),
    )
