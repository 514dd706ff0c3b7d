"""``pilotage replay``: history once more, day by day, through the running platform."""

from __future__ import annotations

import signal
from datetime import date
from pathlib import Path
from types import FrameType

import click

from pilotage.cli import declared
from pilotage.cli.console import out
from pilotage.errors import ConfigError
from pilotage.settings import Settings

STOPPED = 130


class Orders:
    """Counts orders to stop: the first lets what is under way end, the second stops at once."""

    def __init__(self) -> None:
        self.given = False

    def __call__(self) -> bool:
        return self.given

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.given:
            raise KeyboardInterrupt
        self.given = True


def replay(
    settings: Settings,
    name: str,
    *,
    first: date,
    last: date,
    speed: float | None,
    at_once: int,
    label: str,
    api_key: str | None,
) -> int:
    """Replays days, and writes the report.

    Returns:
        Exit code: 0 at the end, 130 when it was stopped.

    Raises:
        PilotageError: Something does not run, or did not do its part.
    """
    from pilotage.data.lake import Lake
    from pilotage.replay.dagster_link import Dagster
    from pilotage.replay.drive import Drive
    from pilotage.replay.landing import archive_of
    from pilotage.replay.live import Display
    from pilotage.replay.progress import Progress
    from pilotage.replay.reaction import Platform
    from pilotage.replay.report import write_report
    from pilotage.replay.runs import Runs
    from pilotage.replay.sender import Sender
    from pilotage.replay.spent import in_a_line

    if first > last:
        raise ConfigError(f"--from {first} is after --to {last}.", fix="Swap them.")
    if speed is not None and not speed > 0:
        raise ConfigError(f"--speed {speed:g} is no speed.", fix="Give a number above 0, or leave it out.")
    if not label or Path(label).name != label:
        raise ConfigError(f"--name {label!r} can't name a file.", fix="Use letters, digits and dashes.")
    spec, sources = declared.model(name), declared.sources()
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    platform = Platform(
        settings=settings,
        spec=spec,
        sources=sources,
        lake=Lake(settings.lake),
        runs=Runs(dagster=Dagster(settings.dagster_ui)),
        headers=headers,
    )
    archive = archive_of(spec, sources)
    archive.require(first, last)
    platform.require()
    progress = Progress(progress_file(settings, name, label), model=name, first=first, last=last)
    orders = Orders()
    orders.install()
    display = Display(
        out(),
        model=name,
        first=first,
        last=last,
        progress=progress,
        state=platform.state,
        alarms=lambda: open_alarms(settings, name),
    )
    try:
        with display:
            drive = Drive(
                spec=spec,
                archive=archive,
                platform=platform,
                sender=Sender(settings.service, name, at_once=at_once, api_key=api_key),
                progress=progress,
                first=first,
                last=last,
                speed=speed,
                tell=display.tell,
                stop=orders,
            )
            finished = drive.run()
        spent = in_a_line(progress.facts())
        path = write_report(spec, settings=settings, progress=progress, first=first, last=last)
    finally:
        progress.close()
    if not finished:
        click.echo("Stopped. The same command goes on from here.", err=True)
    if spent:
        click.echo(spent)
    click.echo(f"Report: {path}")
    return 0 if finished else STOPPED


def progress_file(settings: Settings, model: str, label: str) -> Path:
    """Where a replay remembers what it has done."""
    return settings.home / "replay" / model / f"{label}.db"


def open_alarms(settings: Settings, model: str) -> list[str]:
    """Alarms that are open about a model, or about no model in particular, in a few words each."""
    from pilotage.monitoring.alerts.book import AlertBook

    with AlertBook.of(settings) as book:
        return [
            f"{alarm.alert.tier}: {alarm.alert.summary}"
            for alarm in book.alarms()
            if alarm.alert.model in (model, None)
        ]
