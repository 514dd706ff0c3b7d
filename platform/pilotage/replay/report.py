"""What a real replay came to, as one HTML page: performance and cost over time, alarms, retrainings, releases, speed.

Everything is read from what the replay wrote down and from the ledger; a report can be made again at any time, also of
a replay that was stopped half way. It loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.release.stages import ModelState
from pilotage.release.state import fold
from pilotage.replay.progress import Progress
from pilotage.replay.spent import by_run, by_step
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.training.metrics import all_metrics

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Nights:
    """The replayed days that are over."""

    began: datetime
    """When the replay did."""
    done: dict[date, tuple[datetime, dict[str, Any]]]
    """Day → when its night's work was over, and its facts."""

    def of(self, event: Event) -> date | None:
        """The replayed day in whose night something happened; ``None`` for what was before the replay, or is after."""
        return self.at(event.at)

    def at(self, moment: datetime) -> date | None:
        """The replayed day that a moment of the clock on the wall (UTC) was part of."""
        after = [day for day, (at, _) in self.done.items() if at >= moment]
        return min(after, default=None) if moment >= self.began else None

    def words(self, moment: datetime) -> str:
        """The same for a table."""
        if moment < self.began:
            return "before"
        day = self.at(moment)
        return "not over yet" if day is None else str(day)


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
        _table(_performance_rows(periods), numbers=slice(1, None)),
        "<h2>Alarms</h2>",
        _table(_alarm_rows(settings, spec.name, nights), empty="No alarm was raised."),
        "<h2>Retrainings</h2>",
        _table(_retraining_rows(events, nights, answers, settings, spec), empty="None."),
        "<h2>Releases and rollbacks</h2>",
        _table(_release_rows(events, nights), empty="None."),
        "<h2>The service</h2>",
        _table(_service_rows(answers), numbers=slice(1, None)),
        "<h2>Where the time went</h2>",
        _table(by_step(progress.facts()), numbers=slice(1, None)),
        _table(by_run(progress.facts()), numbers=slice(1, None), empty=""),
        f'<p class="quiet">Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {html.escape(str(progress.path))} and the '
        "ledger.</p>",
    ]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Replay of {spec.name}</title>"
    path.write_text(f"{page}<style>{_STYLE}</style>{''.join(parts)}</html>", encoding="utf-8")
    return path


def measure(spec: ModelSpec, answers: pl.DataFrame) -> dict[str, float]:
    """The metrics of labelled answers, and how many; only the number where there are too few."""
    told = answers.filter(pl.col("label").is_not_null() & pl.col("probability").is_not_null())
    rows = float(told.height)
    if told.is_empty():
        return {"rows": rows}
    found = all_metrics(told["label"].to_numpy(), told["probability"].to_numpy(), spec.kpi.cost)
    late = float(np.mean(told["label"].to_numpy()))
    return {"rows": rows, "rate": late, **{str(name): value for name, value in found.items()}}


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


def _performance_rows(periods: Sequence[tuple[date, date, dict[str, float]]]) -> list[dict[str, str]]:
    return [
        {
            "days": str(first) if first == last else f"{first} … {last}",
            "outcomes": f"{found['rows']:,.0f}",
            "true": _share(found.get("rate")),
            "log loss": _number(found.get("log_loss")),
            "Brier": _number(found.get("brier")),
            "AUC": _number(found.get("auc")),
            "cost a 1,000": f"{found['expected_cost'] * 1000:,.0f}" if "expected_cost" in found else "",
        }
        for first, last, found in periods
    ]


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

    book = SqlLedger(settings.ledger)
    try:
        return [event for event in book.events() if event.model == model]
    finally:
        book.close()


def _release_rows(events: Iterable[Event], nights: Nights) -> list[dict[str, str]]:
    shown = {
        "registered", "shadow_started", "canary_started", "promoted", "rolled_back", "rejected", "killed", "resumed",
    }  # fmt: skip
    told = [event for event in events if event.kind in shown or (event.version is not None and event.kind != "refused")]
    return [
        {
            "replayed day": nights.words(event.at),
            "event": event.kind.replace("_", " "),
            "version": "" if event.version is None else str(event.version),
            "by": event.actor,
            "why": event.cause[:300],
        }
        for event in told
    ]


def _retraining_rows(
    events: Sequence[Event], nights: Nights, answers: pl.DataFrame, settings: Settings, spec: ModelSpec
) -> list[dict[str, str]]:
    state = fold(events).get(spec.name, ModelState(model=spec.name))
    return [
        {
            "replayed day": str(request.asks[-1].evidence.get("night") or nights.words(request.opened)),
            "request": str(request.number),
            "asked by": ", ".join(request.causes),
            "attempts": str(len(request.attempts)),
            "ended as": str(request.outcome or "open").replace("_", " "),
            "version": str(request.version or ""),
            "what it said": request.why[:300],
            "did it help": _helped(request.version, events, nights, answers, settings, spec),
        }
        for request in sorted(state.retraining.requests(), key=lambda each: each.number)
        if request.opened >= nights.began
    ]


def _helped(
    version: int | None,
    events: Sequence[Event],
    nights: Nights,
    answers: pl.DataFrame,
    settings: Settings,
    spec: ModelSpec,
) -> str:
    """What became of a version that a retraining made, in words."""
    if version is None:
        return "no version: the champion stayed"
    fate = [event for event in events if event.version == version and event.kind not in ("registered",)]
    promoted = next((event for event in fate if event.kind == "promoted"), None)
    if promoted is None:
        return fate[-1].kind.replace("_", " ") if fate else "waits"
    day = nights.of(promoted)
    if day is None:
        return "promoted"
    previous = _before(promoted, events)
    if previous is None:
        return f"promoted on {day}"
    return f"promoted on {day}; {_against(previous, promoted, answers, settings, spec)}"


def _before(promoted: Event, events: Sequence[Event]) -> int | None:
    """The champion that a promotion replaced."""
    earlier = [event for event in events if event.kind in ("promoted", "rolled_back") and event.at < promoted.at]
    return earlier[-1].version if earlier else None


def _against(previous: int, promoted: Event, answers: pl.DataFrame, settings: Settings, spec: ModelSpec) -> str:
    """A new champion beside the one before, which goes on predicting unheard, on the same requests; in words."""
    from pilotage.monitoring.predictions import read_shadows

    shadows = read_shadows(settings, spec.name, lake=Lake(settings.lake), since=promoted.at, version=previous)
    if shadows.is_empty():
        return f"version {previous} was not asked any more"
    theirs = shadows.select("prediction_id", pl.col("probability").alias("theirs"))
    both = answers.filter(pl.col("version") == promoted.version).join(theirs, on="prediction_id").drop_nulls("label")
    if both.is_empty():
        return "no outcome yet"
    ours, before = (
        measure(spec, both.with_columns(pl.col(name).alias("probability"))) for name in ("probability", "theirs")
    )
    gap, cost = ours["log_loss"] - before["log_loss"], (ours["expected_cost"] - before["expected_cost"]) * 1000
    word = "it helped" if gap < 0 else "it did not help"
    return (
        f"{word}: on {both.height:,} requests that both answered, log loss {gap:+.4f} and cost {cost:+,.0f} a 1,000 "
        f"against version {previous}"
    )


def _alarm_rows(settings: Settings, model: str, nights: Nights) -> list[dict[str, str]]:
    from pilotage.monitoring.alerts.book import AlertBook

    with AlertBook.of(settings) as book:
        alarms = book.alarms(open_only=False)
    return [
        {
            "replayed day": nights.words(alarm.opened_at),
            "tier": alarm.alert.tier,
            "kind": alarm.alert.kind,
            "about": alarm.alert.subject or alarm.alert.model or "the platform",
            "status": alarm.status,
            "raised": "once" if alarm.count == 1 else f"{alarm.count} times",
            "what": alarm.alert.summary[:300],
        }
        for alarm in alarms
        if alarm.alert.model in (model, None)
    ]


def _service_rows(answers: pl.DataFrame) -> list[dict[str, str]]:
    if answers.is_empty():
        return []
    latency = answers["latency_ms"]
    quantiles = [latency.quantile(part) or 0.0 for part in (0.5, 0.9, 0.99)]
    by = dict(answers["answered_by"].value_counts().iter_rows())
    return [
        {"what": "requests", "value": f"{answers.height:,}"},
        *({"what": f"answered by {name.replace('_', ' ')}", "value": f"{count:,}"} for name, count in by.items()),
        {"what": "sent more than once", "value": f"{answers.filter(pl.col('attempts') > 1).height:,}"},
        *(
            {"what": f"latency, {part}", "value": f"{value:.1f} ms"}
            for part, value in zip(("median", "90 %", "99 %"), quantiles, strict=True)
        ),
    ]


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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
