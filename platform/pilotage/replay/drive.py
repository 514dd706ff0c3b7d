"""The real replay: history through the running platform, a day at a time; each step waits for what the last one left.

A replayed day: land what was known → the platform takes it up (files ingested, features built, state moved on) → send
the day's requests at their own prediction moments → tell the outcomes that became known by its night → the nightly
work (monitoring, rollout, retraining if its schedule or an alarm says so) → the next day. Each step is written down,
and done once; a replay that is stopped goes on where it was.

The *granularity* is a day: a day's files are landed before its requests are sent. That gives nothing away. The service
looks every request's state up as of the request's own prediction moment, in timelines that know when each fact became
known; what became known later is in the store and is not seen (``tests/integration/test_replay.py`` holds the answers
of the service to the features that training sees).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

import polars as pl

from pilotage.errors import ConfigError
from pilotage.replay.landing import Archive
from pilotage.replay.nights import days, night, replay_day, scheduled
from pilotage.replay.progress import Answer, Progress
from pilotage.replay.sender import Sender, Sent
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

LATE_DAYS = 3
"""Days after its own on which an event may still become known: the longest delay and flight together stay below two."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the display is told."""

    day: date
    doing: str
    """In words, what the replay does or waits for now."""
    requests: int = 0
    """Of this day: answered."""
    of: int = 0
    latency_ms: float | None = None
    """Of the newest answer."""


Tell = Callable[[Told], None]


class Reacting(Protocol):
    """The platform under replay: the running one (``reaction.Platform``), or one that a test carries out itself."""

    @property
    def settings(self) -> Settings: ...

    def taken_up(self, day: date, *, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Waits until what has landed can be asked about; how far the state knows, or ``None`` if told to stop."""

    def night(
        self, day: date, *, retraining_due: bool, said: Callable[[str], None], stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Waits for the nightly work; what came of it as JSON values, or ``None`` if told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One replay."""

    spec: ModelSpec
    archive: Archive
    platform: Reacting
    sender: Sender
    progress: Progress
    first: date
    last: date
    speed: float | None = None
    """Replayed seconds a second while requests are sent; ``None`` for as fast as it goes."""
    tell: Tell = lambda _: None
    stop: Callable[[], bool] = lambda: False

    def run(self) -> bool:
        """Goes through the days.

        Returns:
            Whether it came to the end; false if it was told to stop.

        Raises:
            PilotageError: The platform or the service did not do its part; the replay goes on there when it is started
                again.
        """
        for day in days(self.first, self.last):
            for step, work in (
                ("landed", self._land),
                ("answered", self._ask),
                ("told", self._tell_outcomes),
                ("reacted", self._react),
            ):
                if self.stop():
                    return False
                if not self.progress.done(day, step):
                    began = time.monotonic()
                    facts = work(day)
                    if facts is None:
                        return False
                    self.progress.finish(day, step, seconds=round(time.monotonic() - began, 1), **facts)
        return True

    def _land(self, day: date) -> dict[str, Any] | None:
        known_by = night(self.spec, day)
        self.tell(Told(day=day, doing="lands its files"))
        written = self.archive.land(self.platform.settings.landing, day, known_by=known_by)
        for before in range(1, LATE_DAYS + 1):
            earlier = day - timedelta(days=before)
            # What the platform has of before the replay is what it began with.
            if earlier >= self.first:
                written += self.archive.land(self.platform.settings.landing, earlier, known_by=known_by)
        self.tell(Told(day=day, doing=f"waits for the platform to take up {written} files"))
        taken = self.platform.taken_up(day, stop=self.stop)
        return None if taken is None else {"files": written, **taken}

    def _ask(self, day: date) -> dict[str, Any] | None:
        requests = self._requests(day)
        have = self.progress.answered(day)
        left = [each for each in requests if each[0] not in have]
        count = len(have)
        kept: list[Answer] = []
        moments = [moment for _, moment, _ in left]

        def answered(sent: Sent) -> None:
            nonlocal count
            count += 1
            moment = at[sent.key]
            kept.append(_answer(sent, day, moment))
            if len(kept) >= 50:
                self.progress.keep(kept)
                kept.clear()
            self.tell(
                Told(day=day, doing="sends requests", requests=count, of=len(requests), latency_ms=sent.latency_ms)
            )

        def pace(position: int) -> float:
            if self.speed is None or position == 0:
                return 0.0
            return (moments[position] - moments[position - 1]) / 1e6 / self.speed

        at = {key: moment for key, moment, _ in left}
        try:
            self.sender.predict(
                [(key, self.progress.request_id(key), body) for key, _, body in left],
                answered=answered,
                stop=self.stop,
                pace=pace,
            )
        finally:
            self.progress.keep(kept)
        if len(self.progress.answered(day)) < len(requests):
            return None
        return {"requests": len(requests)}

    def _tell_outcomes(self, day: date) -> dict[str, Any] | None:
        known_by = night(self.spec, day)
        self.tell(Told(day=day, doing="tells the outcomes that became known"))
        truth = pl.concat(
            [self._truth(day - timedelta(days=before)) for before in range(-1, LATE_DAYS + 1)], how="vertical"
        ).filter(pl.col("known_at") <= known_by)
        by_entity = {entity: (label, known) for entity, label, known in truth.iter_rows()}
        untold = self.progress.untold(by_entity)
        self.sender.tell(
            [
                {"prediction_id": prediction, "label": by_entity[entity][0], "known_at": _iso(by_entity[entity][1])}
                for entity, prediction in untold
            ]
        )
        self.progress.told(day, [(entity, by_entity[entity][0], _micros(by_entity[entity][1])) for entity, _ in untold])
        return {"outcomes": len(untold)}

    def _react(self, day: date) -> dict[str, Any] | None:
        due = scheduled(self.spec.retraining.schedule, day + timedelta(days=1))
        return self.platform.night(
            day, retraining_due=due, said=lambda doing: self.tell(Told(day=day, doing=doing)), stop=self.stop
        )

    def _requests(self, day: date) -> list[tuple[str, int, dict[str, Any]]]:
        """A replayed day's requests in their order: entity as JSON, moment in microseconds, body."""
        if self.spec.predicts_at is None:
            raise ConfigError(
                f"{self.spec.name} has no prediction moment to replay.", fix="Replay a model with a time."
            )
        rows = pl.concat([self.archive.events(day), self.archive.events(day + timedelta(days=1))], how="vertical")
        moment = self.spec.predicts_at
        fields = {field.name: field.dtype for field in self.spec.request}
        chosen = (
            rows.with_columns(moment.alias("_moment"))
            .filter(replay_day(self.spec, pl.col("_moment")) == day)
            .sort("_moment", *self.spec.entity)
        )
        texts = [
            pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ") if dtype.is_temporal() else pl.col(name)
            for name, dtype in fields.items()
        ]
        bodies = chosen.select(texts).to_dicts()
        return [
            (_entity(self.spec, row), _micros(at), body)
            for row, at, body in zip(chosen.to_dicts(), chosen["_moment"].to_list(), bodies, strict=True)
        ]

    def _truth(self, day: date) -> pl.DataFrame:
        """What became of a day's events, where it is known: entity as JSON, label, when it became known (UTC)."""
        known_at = pl.col(self.spec.label.known_at or "")
        rows = (
            self.archive.events(day)
            .with_columns(self.spec.label.expr.alias("_label"), known_at.alias("_known_at"))
            .filter(pl.col("_label").is_not_null() & pl.col("_known_at").is_not_null())
        )
        entities = [_entity(self.spec, row) for row in rows.select(self.spec.entity).to_dicts()]
        return pl.DataFrame(
            {"entity": entities, "label": rows["_label"], "known_at": rows["_known_at"]},
            schema={"entity": pl.String, "label": pl.Boolean, "known_at": pl.Datetime("us", "UTC")},
        )


def _entity(spec: ModelSpec, row: Mapping[str, Any]) -> str:
    return json.dumps({name: row[name] for name in spec.entity}, sort_keys=True, default=str)


def _answer(sent: Sent, day: date, moment: int) -> Answer:
    answer = sent.answer
    return Answer(
        entity=sent.key,
        day=str(day),
        moment=moment,
        prediction_id=answer["prediction_id"],
        version=answer.get("version"),
        stage=answer.get("stage"),
        answered_by=answer["answered_by"],
        probability=answer.get("probability"),
        decision=answer.get("decision"),
        latency_ms=sent.latency_ms,
        attempts=sent.attempts,
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
