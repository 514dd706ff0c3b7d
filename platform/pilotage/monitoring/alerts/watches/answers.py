"""Who answers, and how fast, by what the service's workers have just written: their log's newest records and their own
word on how they are. Reads a bounded number of bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pilotage.features.state import microseconds
from pilotage.monitoring.alerts.alarm import Alarm
from pilotage.monitoring.alerts.alert import Alert, Key
from pilotage.monitoring.alerts.watches.look import Look, Watch
from pilotage.runtime.log import lines, segments
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

RECENT = timedelta(minutes=5)
"""Answers that are looked at. Segments wait so long before they are moved."""
MOST_BYTES = 16 * 2**20
"""Bytes of segments that one look reads: some ten thousand records, in a tenth of a second."""
FEWEST = 20
"""Answers below which their shares say nothing."""
FALLBACK_SHARE = 0.05
SLOW_SHARE = 0.05
SLOW_MS = 50.0
"""Where a model declares no ``slow_answers``."""
HEEDED = timedelta(seconds=2)
"""After which every worker answers as a ``resume`` says."""
SILENT = timedelta(seconds=60)
"""A worker says how it is each second or so; one that ends in order takes its word back."""
FORGOTTEN = timedelta(days=1)
"""After which a worker that fell silent is no news; nor is it a sign that the service lives."""


class _Answered(msgspec.Struct, frozen=True, tag_field="kind", tag="prediction"):
    """What is needed of a prediction's record; the rest is not decoded."""

    model: str
    at: int
    answered_by: str
    latency_us: int

    @property
    def answers(self) -> int:
        return 1


class _AnsweredBatch(_Answered, frozen=True, tag_field="kind", tag="predictions"):
    """The same of the predictions that share a record."""

    rows: list[msgspec.Raw]

    @property
    def answers(self) -> int:
        return len(self.rows)


_KINDS = (b'{"kind":"prediction"', b'{"kind":"predictions"')


@dataclass(slots=True)
class _Seen:
    by: Counter[str] = field(default_factory=Counter)
    slow: int = 0

    @property
    def answers(self) -> int:
        return self.by.total()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersWatch:
    """Looks at the service."""

    settings: Settings
    models: Mapping[str, ModelSpec]
    now: datetime
    opened: Callable[[], Iterable[Alarm]] = tuple
    """Gives the alarms that are open: what ends one depends on who told of it."""

    def watches(self) -> list[Watch]:
        """Who answers; and whether anybody is there."""
        return [
            Watch(name="answers", kinds=frozenset({"service_on_fallback", "latency"}), look=self.answers),
            Watch(name="workers", kinds=frozenset({"service_down"}), look=self.workers),
        ]

    def answers(self) -> Look:
        """The shares of fallbacks and of slow answers, of each model."""
        served = self._served()
        seen = self._read(served)
        trouble = {model: problem for model, problem in self._trouble().items() if model in served}
        usable = self._usable_again()
        alerts: list[Alert] = []
        unknown: set[Key] = set()
        for model in self.models:
            found = seen.get(model, _Seen())
            if found.answers < FEWEST:
                # Silence is no sign of health: what answers showed stays open until answers show otherwise.
                unknown.add(Key("latency", model, ""))
                if model not in usable:
                    unknown.add(Key("service_on_fallback", model, ""))
            fallbacks = found.answers - found.by["model"]
            if model in served:
                if found.answers >= FEWEST and fallbacks > FALLBACK_SHARE * found.answers:
                    alerts.append(self._fallback(model, found, fallbacks))
                elif model in trouble:
                    alerts.append(_unready(model, trouble[model]))
            if found.answers >= FEWEST and found.slow > SLOW_SHARE * found.answers:
                alerts.append(self._slow(model, found))
        told = ", ".join(
            f"{model} {found.answers} ({found.answers - found.by['model']} by a fallback)"
            for model, found in sorted(seen.items())
        )
        words = f"answers of the last {RECENT.total_seconds() / 60:.0f} minutes: {told or 'none'}"
        return Look(alerts=tuple(alerts), unknown=frozenset(unknown), words=words)

    def workers(self) -> Look:
        """Whether workers of the service have died and none is left."""
        fresh, silent = self._heartbeats()
        words = f"{len(fresh)} workers of the service live"
        if fresh or not silent:
            return Look(words=words)
        recent = [each for each in silent if time.time() - float(each["at"]) <= FORGOTTEN.total_seconds()]
        if not recent:
            return Look(unknown=frozenset({Key("service_down", "", "")}), words=words)
        since = max(float(each["at"]) for each in recent)
        alert = Alert.of(
            "service_down",
            f"The prediction service was not stopped, and has had no worker for {time.time() - since:.0f} s.",
            evidence={"workers": [each["worker"] for each in recent], "last_at_s": since},
        )
        return Look(alerts=(alert,), words=words)

    def _read(self, served: Mapping[str, datetime | None]) -> dict[str, _Seen]:
        """The newest records, the newest segments first; of a model that was resumed those since then."""
        recent = self.now - RECENT
        resumed = {model: microseconds(at + HEEDED) for model, at in served.items() if at is not None and at > recent}
        since = microseconds(recent)
        decode = msgspec.json.Decoder(_Answered | _AnsweredBatch).decode
        seen: dict[str, _Seen] = {}
        for line in self._lines():
            if not line.startswith(_KINDS):
                continue
            record = decode(line)
            if record.at >= resumed.get(record.model, since):
                found = seen.setdefault(record.model, _Seen())
                found.by[record.answered_by] += record.answers
                found.slow += record.answers * (record.latency_us > 1000 * self._limit(record.model))
        return seen

    def _lines(self) -> Iterator[bytes]:
        left = MOST_BYTES
        oldest = (self.now - RECENT).timestamp()
        for segment in sorted(segments(self.settings.prediction_log), key=lambda each: each.began, reverse=True):
            if segment.modified < oldest:
                continue
            left -= segment.bytes
            # Moved since it was listed, perhaps.
            with suppress(FileNotFoundError):
                yield from lines(segment.path, damage=lambda _: None)
            if left <= 0:
                return

    def _served(self) -> dict[str, datetime | None]:
        """Models that have a champion and are not killed, and when each was resumed last: only of these, and only since
        then, it is news that a fallback answers."""
        from pilotage.release.champions import states

        known = states(settings=self.settings)
        return {name: state.resumed_at for name, state in known.items() if state.champion and state.killed is None}

    def _limit(self, model: str) -> float:
        spec = self.models.get(model)
        rails = spec.rollout.guardrails if spec is not None else ()
        return next((rail.limit_ms for rail in rails if rail.metric == "slow_answers"), SLOW_MS)

    def _heartbeats(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What living workers say, and what those said that fell silent."""
        fresh, silent = [], []
        for path in sorted(self.settings.heartbeats.glob("*.json")):
            try:
                told = msgspec.json.decode(path.read_bytes())
                age = time.time() - float(told["at"])
            except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError):
                continue  # It is just being replaced, or its worker has ended.
            if age <= SILENT.total_seconds():
                fresh.append(told)
            else:
                silent.append(told)
        return fresh, silent

    def _trouble(self) -> dict[str, str]:
        """Model → why a worker can't serve it as it should."""
        found: dict[str, str] = {}
        for worker in self._heartbeats()[0]:
            for told in worker.get("models", []):
                if not told.get("ready") and told.get("problem"):
                    found.setdefault(told["model"], str(told["problem"]))
        return found

    def _usable_again(self) -> set[str]:
        """Models whose trouble workers told of, and which every worker that lives says now it can serve."""
        told = {
            alarm.key.model for alarm in self.opened() if alarm.key.kind == "service_on_fallback" and _by_word(alarm)
        }
        words = [each for worker in self._heartbeats()[0] for each in worker.get("models", [])] if told else []
        return told & {each["model"] for each in words} - {each["model"] for each in words if not each.get("ready")}

    def _fallback(self, model: str, found: _Seen, fallbacks: int) -> Alert:
        share = fallbacks / found.answers
        return Alert.of(
            "service_on_fallback",
            f"{share:.0%} of the last {found.answers} answers of {model} are not its model's own.",
            model=model,
            evidence={"answers": found.answers, "share": share, "answered_by": dict(found.by)},
        )

    def _slow(self, model: str, found: _Seen) -> Alert:
        share, limit = found.slow / found.answers, self._limit(model)
        return Alert.of(
            "latency",
            f"{share:.0%} of the last {found.answers} answers of {model} took more than {limit:g} ms.",
            model=model,
            evidence={"answers": found.answers, "slow_share": share, "limit_ms": limit},
        )


def _by_word(alarm: Alarm) -> bool:
    """Whether an alarm was raised last by a worker's word, not by answers."""
    return "problem" in alarm.alert.evidence


def _unready(model: str, problem: str) -> Alert:
    return Alert.of(
        "service_on_fallback",
        f"The service can't use the champion of {model}: {problem}",
        model=model,
        evidence={"problem": problem},
    )
