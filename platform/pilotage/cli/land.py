"""``pilotage land``: publishes more days of the sample data, as the airline's export job would."""

from __future__ import annotations

from datetime import date

import click

from pilotage.errors import ConfigError
from pilotage.settings import Settings

YEAR = 2013
"""The year of the sample data."""


def land(settings: Settings, source: str, first: date, last: date) -> None:
    """Publishes the daily files of a source.

    Raises:
        ConfigError: The days are in the wrong order, or not in the sample data.
    """
    if first > last:
        raise ConfigError(f"--from {first} is after --to {last}.", fix="Swap them.")
    if {first.year, last.year} != {YEAR}:
        raise ConfigError(f"The sample data has no days from {first} to {last}.", fix=f"Use days of {YEAR}.")
    from pilotage.cli import home
    from pilotage.data.sample import publish_flights, publish_weather

    home.make(settings)
    publish = publish_flights if source == "flights" else publish_weather
    count = publish(settings.landing, first=first, last=last)
    asked = (last - first).days + 1
    click.echo(f"{count} of {asked} days of {source} are new in {settings.landing / source}.")
    click.echo("The new-file sensor of a running Pilotage ingests them within a minute.")
