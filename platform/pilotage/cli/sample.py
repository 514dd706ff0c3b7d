"""The sample data: which models it is for, and its first part, landed as other systems would land it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import TYPE_CHECKING

from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.data.source import SourceSpec

MODELS = ("flight_delay", "loan_approval")
"""Models that the sample data is for; ``pilotage up`` releases the first champion of these, and of no other."""
FIRST, LAST = date(2013, 1, 1), date(2013, 2, 28)
"""The part of the year that a fresh home begins with. ``pilotage land`` publishes more."""
DAILY = ("flights", "weather")


def land(settings: Settings, *, progress: Callable[[str], None]) -> str:
    """Publishes what is missing of the sample data's first part; leaves what is there.

    Args:
        settings: Which home.
        progress: Called with what was published.

    Returns:
        All of it in a few words.
    """
    from pilotage.data.sample import publish_flights, publish_loans, publish_reference, publish_weather

    landing = settings.landing
    flights = publish_flights(landing, first=FIRST, last=LAST)
    progress(f"{flights} days of flights from {FIRST} to {LAST}")
    weather = publish_weather(landing, first=FIRST, last=LAST)
    progress(f"{weather} days of weather")
    tables = publish_reference(landing)
    progress(f"{tables} reference tables: aircraft, airports, airlines")
    rows = publish_loans(settings.loans)
    progress(f"{rows} loan applications in a SQL table")
    return f"{FIRST} to {LAST}: {flights + weather} files, {tables} tables, {rows} loans"


def landed(settings: Settings, sources: Mapping[str, SourceSpec]) -> dict[str, list[date]]:
    """Days that have landed, of every daily source of files."""
    from pilotage.data.ingest import landed as listing
    from pilotage.data.source import Files

    daily = {name: spec for name, spec in sources.items() if spec.daily is not None and isinstance(spec.read, Files)}
    found = {}
    for name, spec in daily.items():
        found[name] = sorted({file.day for file in listing(spec, settings) if file.day is not None})
    return found
