"""What stands between a home and its first champions: read from the lake and the registry, never from marker files.

So a start that was interrupted anywhere goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from pilotage.cli import declared, sample
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.data.lake import Lake
    from pilotage.data.source import SourceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What is still to be done, in the order in which it must be."""

    champions: list[dict[str, Any]]
    """Model, version and detail of what is in production, of declared models."""
    models: list[str]
    """Sample models without a champion."""
    daily: list[str] = field(default_factory=list)
    """Those of them that need features by day before they train."""
    releasable: list[str] = field(default_factory=list)
    """Those that have a version which passed the gate: only its promotion is missing."""
    land: bool = False
    ingest: list[str] | None = None
    """First and last day to ingest, ISO; ``None`` when every landed day was judged."""
    tables: bool = False
    features: list[str] | None = None
    """First and last day to make features for, ISO."""


def find(settings: Settings) -> Missing:
    """Looks at the registry and, if a champion is missing, at the landing folder and the lake."""
    from pilotage.cli.status import in_production, newest_releasable, states

    specs = declared.models()
    known = states(settings)
    # Of a model whose file is gone nothing is served, and nobody should wait for it.
    champions = [in_production(state.champion) for name, state in known.items() if state.champion and name in specs]
    led = {entry["model"] for entry in champions}
    models = [name for name in sample.MODELS if name in specs and name not in led]
    if not models:
        return Missing(champions=champions, models=[])

    from pilotage.data.lake import Lake

    sources = declared.sources()
    needed = dict.fromkeys(source for name in models for source in specs[name].sources)
    # Every daily source is one job, and every table another, whichever of them a model reads.
    lake = Lake(settings.lake)
    daily = [name for name in models if sources[specs[name].source].daily is not None]
    landed = sample.landed(settings, sources)
    return Missing(
        champions=champions,
        models=models,
        daily=daily,
        releasable=[name for name in models if newest_releasable(known.get(name)) is not None],
        land=_to_land(landed),
        ingest=_unjudged(landed, lake) if daily else None,
        tables=any(not _published(lake, sources[name]) for name in needed if sources[name].daily is None),
        features=_without_features(daily, specs, lake),
    )


def _to_land(landed: dict[str, list[date]]) -> bool:
    asked = (sample.LAST - sample.FIRST).days + 1
    for name in sample.DAILY:
        if name in landed and sum(sample.FIRST <= day <= sample.LAST for day in landed[name]) < asked:
            return True
    return False


def _unjudged(landed: dict[str, list[date]], lake: Lake) -> list[str] | None:
    """The range from the first to the last landed day that no validation has judged yet."""
    open_days: set[date] = set()
    for name, days in landed.items():
        open_days |= set(days) - judged(lake, name)
    return [min(open_days).isoformat(), max(open_days).isoformat()] if open_days else None


def judged(lake: Lake, source: str) -> set[date]:
    """Days of a source that a validation has judged, whatever it said."""
    table = f"verdict/{source}"
    return set(lake.days(table)) if lake.exists(table) else set()


def _published(lake: Lake, spec: SourceSpec) -> bool:
    return lake.exists(f"validated/{spec.name}")


def _without_features(models: list[str], specs: Any, lake: Lake) -> list[str] | None:
    days: set[date] = set()
    for name in models:
        source, table = f"validated/{specs[name].source}", f"features/{name}"
        if lake.exists(source):
            made = set(lake.days(table)) if lake.exists(table) else set()
            days |= set(lake.days(source)) - made
    return [min(days).isoformat(), max(days).isoformat()] if days else None
