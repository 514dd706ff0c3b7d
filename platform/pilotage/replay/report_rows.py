"""The rows of a replay's report, from what it wrote down, the ledger and the book of alarms. No HTML, no pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.release.state import fold_model
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.training.metrics import all_metrics

if TYPE_CHECKING:
    from pilotage.release.events import Event


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


def measure(spec: ModelSpec, answers: pl.DataFrame) -> dict[str, float]:
    """The metrics of labelled answers, and how many; only the number where there are too few."""
    told = answers.filter(pl.col("label").is_not_null() & pl.col("probability").is_not_null())
    rows = float(told.height)
    if told.is_empty():
        return {"rows": rows}
    found = all_metrics(told["label"].to_numpy(), told["probability"].to_numpy(), spec.kpi.cost)
    late = float(np.mean(told["label"].to_numpy()))
    return {"rows": rows, "rate": late, **{str(name): value for name, value in found.items()}}


def performance_rows(periods: Sequence[tuple[date, date, dict[str, float]]]) -> list[dict[str, str]]:
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


def release_rows(events: Iterable[Event], nights: Nights) -> list[dict[str, str]]:
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
            "why": _short(event.cause),
        }
        for event in told
    ]


def retraining_rows(
    events: Sequence[Event], nights: Nights, answers: pl.DataFrame, settings: Settings, spec: ModelSpec
) -> list[dict[str, str]]:
    state = fold_model(spec.name, events)
    return [
        {
            "replayed day": str(request.asks[-1].evidence.get("night") or nights.words(request.opened)),
            "request": str(request.number),
            "asked by": ", ".join(request.causes),
            "attempts": str(len(request.attempts)),
            "ended as": str(request.outcome or "open").replace("_", " "),
            "version": str(request.version or ""),
            "what it said": "It passed its gate." if request.outcome == "registered" else _short(request.why),
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
    """The champion that a promotion replaced: not always the one promoted before, which may have been taken back."""
    state = fold_model(promoted.model, (event for event in events if event.sequence < promoted.sequence))
    return state.champion.version if state.champion is not None else None


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


def alarm_rows(settings: Settings, model: str, nights: Nights) -> list[dict[str, str]]:
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
            "what": _short(alarm.alert.summary),
        }
        for alarm in alarms
        # What is for information is in the tables of retrainings and releases.
        if alarm.alert.model in (model, None) and alarm.alert.tier != "information"
    ]


def service_rows(answers: pl.DataFrame) -> list[dict[str, str]]:
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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _short(sentence: str) -> str:
    return shorten(sentence, 300, placeholder=" …")
