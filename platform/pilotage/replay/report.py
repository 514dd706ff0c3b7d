"""What a real replay came to, as one HTML page: performance and cost over time, alarms, retrainings, releases, speed.

Everything is read from what the replay wrote down and from the ledger; a report can be made again at any time, also of
a replay that was stopped half way. It loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pilotage.replay.progress import Progress
from pilotage.replay.report_rows import (
    Nights,
    alarm_rows,
    measure,
    performance_rows,
    release_rows,
    retraining_rows,
    service_rows,
)
from pilotage.replay.spent import by_run, by_step
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from pilotage.release.events import Event

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #d8dee4;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}h2{margin-top:2.2rem}
td:first-child{white-space:nowrap}.quiet{color:#59636e}"""
_MARKS = {
    "promoted": ("tab:green", "-"),
    "rolled_back": ("tab:red", "-"),
    "refused": ("0.5", ":"),
    "rejected": ("0.5", ":"),
}


def write_report(spec: ModelSpec, *, settings: Settings, progress: Progress, first: date, last: date) -> Path:
    """Writes ``<reports>/replay/<model>/<name>.html`` and returns its path.

    Args:
        spec: The model.
        settings: Which home.
        progress: Of the replay.
        first: Its first day.
        last: Its last day, whether it got there or not.
    """
    answers = progress.answers()
    events = _events(spec.name, settings)
    done = {day: (at, facts) for day, step, at, facts in progress.facts() if step == "reacted"}
    nights = Nights(began=progress.began, done=done)
    periods = _by(spec, answers, list(nights.done))
    folder = settings.reports / "replay" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{progress.name}.html"
    parts = [
        f"<h1>Replay of {html.escape(spec.title[0].lower() + spec.title[1:])}</h1>",
        f"<p>{first} to {last}: {len(nights.done)} days are over, {answers.height:,} requests were answered, "
        f"{answers['label'].count():,} outcomes told.</p>",
        "<h2>Performance and cost</h2>",
        _picture(spec, periods, events, nights),
        _table(performance_rows(periods), numbers=slice(1, None)),
        "<h2>Alarms</h2>",
        _table(alarm_rows(settings, spec.name, nights), empty="No alarm was raised."),
        "<h2>Retrainings</h2>",
        _table(retraining_rows(events, nights, answers, settings, spec), empty="None."),
        "<h2>Releases and rollbacks</h2>",
        _table(release_rows(events, nights), empty="None."),
        "<h2>The service</h2>",
        _table(service_rows(answers), numbers=slice(1, None)),
        "<h2>Where the time went</h2>",
        _table(by_step(progress.facts()), numbers=slice(1, None)),
        _table(by_run(progress.facts()), numbers=slice(1, None), empty=""),
        f'<p class="quiet">Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {html.escape(str(progress.path))} and the '
        "ledger.</p>",
    ]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Replay of {spec.name}</title>"
    path.write_text(f"{page}<style>{_STYLE}</style>{''.join(parts)}</html>", encoding="utf-8")
    return path


def _by(spec: ModelSpec, answers: pl.DataFrame, days: Sequence[date]) -> list[tuple[date, date, dict[str, float]]]:
    """Metrics by day, or by week when there are more than 60 days."""
    if not days:
        return []
    step = timedelta(days=1 if len(days) <= 60 else 7)
    found, begin = [], min(days)
    while begin <= max(days):
        end = begin + step - timedelta(days=1)
        inside = answers.filter(pl.col("day").is_between(pl.lit(str(begin)), pl.lit(str(end))))
        found.append((begin, end, measure(spec, inside)))
        begin += step
    return [*found, (min(days), max(days), measure(spec, answers))]


def _picture(
    spec: ModelSpec,
    periods: Sequence[tuple[date, date, dict[str, float]]],
    events: Sequence[Event],
    nights: Nights,
) -> str:
    """Log loss and cost over the days, with the releases."""
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [(first, found) for first, _, found in periods[:-1] if "log_loss" in found]
    if not shown:
        return "<p>Nothing has an outcome yet.</p>"
    figure, axes = plt.subplots(2, 1, figsize=(10, 6), sharex=True, constrained_layout=True)
    days = [first for first, _ in shown]
    for axis, name, scale, told in (
        (axes[0], "log_loss", 1, "log loss"),
        (axes[1], "expected_cost", 1000, f"{spec.kpi.unit.split()[0]} a 1,000 predictions"),
    ):
        axis.plot(days, [found[name] * scale for _, found in shown], marker="o", markersize=3)
        axis.set_ylabel(told)
        axis.grid(alpha=0.3)
        for event in events:
            day = nights.of(event)
            if event.kind in _MARKS and day is not None:
                colour, style = _MARKS[event.kind]
                axis.axvline(day, color=colour, linestyle=style, alpha=0.6)
    axes[0].set_title("Green: a promotion. Red: a rollback. Grey: a candidate that was refused.", fontsize=9)
    axes[1].yaxis.set_major_formatter("{x:,.0f}")
    axes[1].set_xticks(days[:: -(-len(days) // 12)], [f"{day:%-d %b}" for day in days[:: -(-len(days) // 12)]])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return f'<img alt="Log loss and cost" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _events(model: str, settings: Settings) -> list[Event]:
    from pilotage.release.ledger import SqlLedger

    book = SqlLedger.to_read(settings)
    try:
        return [event for event in book.events() if event.model == model]
    finally:
        book.close()


def _table(rows: Sequence[dict[str, str]], *, numbers: slice = slice(0, 0), empty: str = "Nothing yet.") -> str:
    if not rows:
        return f"<p>{empty}</p>"
    names = list(rows[0])
    right = set(names[numbers])
    mark = {name: ' class="n"' if name in right else "" for name in names}
    head = "".join(f"<th{mark[name]}>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{mark[name]}>{html.escape(row[name])}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
