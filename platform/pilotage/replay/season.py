"""One policy through a stretch of history: predictions at their moments, labels when they were known, a night a day.

Only the clock lives here. What is decided in a night is the policy's business; how well it went is ``score.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal, Protocol

import numpy as np
import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.build import LABEL
from pilotage.replay.history import History
from pilotage.replay.nights import days, night
from pilotage.replay.workshop import Trained, Workshop
from pilotage.training.config import TrainConfig
from pilotage.training.records import Evaluation, Verdict

Did = Literal["trained", "passed", "refused", "rejected", "promoted", "rolled_back", "alarm"]
"""``refused``: by the gate. ``rejected``: in shadow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was decided in a night."""

    day: date
    """The night's day."""
    did: Did
    version: int | None
    replaced: int | None = None
    """For promotions and rollbacks: the version that answered until then."""
    why: str = ""


@dataclass(slots=True)
class Night:
    """What a policy may look at in a night, and what it may do. Nothing here knows more than was known then."""

    day: date
    moment: datetime
    season: Season

    @property
    def champion(self) -> Trained:
        """The version that answers."""
        return self.season.champion

    @property
    def history(self) -> History:
        return self.season.history

    @property
    def known(self) -> np.ndarray:
        """Shape (rows of history,), Boolean: the label was known by now."""
        return self.history.known(self.moment)

    def inputs(self, first: date) -> pl.DataFrame:
        """Rows that were predicted from a day to this one, whether their label is known or not; without the label."""
        return self.history.rows[self.history.between(first, self.day)].drop(LABEL)

    def outcomes(self, first: date) -> pl.DataFrame:
        """Predictions since a replayed day whose outcome is known by now.

        Returns:
            The history's columns, with ``probability`` and ``version``: what was answered, and by whom.
        """
        rows = self.history.between(first, self.day)
        rows = rows[self.known[rows] & (self.season.versions[rows] > 0)]
        answered = [
            pl.Series("probability", self.season.probabilities[rows]),
            pl.Series("version", self.season.versions[rows]),
        ]
        found: pl.DataFrame = self.history.rows[rows]
        return found.hstack(answered)

    def train(self, why: str, *, config: TrainConfig) -> Trained:
        """Trains a version on what is known by now."""
        return self.season.train(self, why, config=config)

    def fit_all(self, why: str, *, config: TrainConfig) -> Trained:
        """Trains a version that nobody will judge: on every row that is known by now."""
        return self.season.fit_all(self, why, config=config)

    def judge(self, version: Trained) -> tuple[Evaluation, Verdict]:
        """What the platform's gate says to a version, beside the champion."""
        return self.season.workshop.judge(version, self.champion)

    def refit(self, version: Trained) -> Trained:
        """A version that was judged, fitted on its holdout too: what is released. It keeps its number."""
        return self.season.refit(version)

    def promote(self, version: Trained, why: str) -> None:
        """Makes a version the champion, from now on."""
        self.season.put(self, version, "promoted", why)

    def roll_back(self, version: Trained, why: str) -> None:
        """Makes an earlier version the champion again."""
        self.season.put(self, version, "rolled_back", why)

    def note(self, did: Did, version: Trained | None, why: str) -> None:
        """Records what changes nothing: a refusal, an alarm."""
        number = None if version is None else version.number
        self.season.events.append(Event(day=self.day, did=did, version=number, why=why))


class Policy(Protocol):
    """A way of looking after a model."""

    name: str

    def decide(self, night: Night) -> None:
        """Decides in one night: trains, promotes, rolls back, or does nothing."""


@dataclass(slots=True)
class Season:
    """One policy's run through history."""

    history: History
    workshop: Workshop
    policy: Policy
    config: TrainConfig
    """Of the first champion."""
    versions: np.ndarray = field(init=False)
    """Version that answered each row of the history; 0 where none was asked."""
    probabilities: np.ndarray = field(init=False)
    """What it answered; NaN where none was asked."""
    events: list[Event] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    champion: Trained = field(init=False)

    def __post_init__(self) -> None:
        rows = self.history.rows.height
        self.versions = np.zeros(rows, dtype=np.int32)
        self.probabilities = np.full(rows, np.nan)

    def run(
        self, first: date, last: date, *, champion: Trained | None = None, tell: Callable[[date], None] = lambda _: None
    ) -> Season:
        """Goes through the days.

        Args:
            first: First day.
            last: Last day.
            champion: The first champion; ``None`` to train one in the night before the first day.
            tell: Called with each day that is over.

        Raises:
            TrainingError: A version could not be trained.
        """
        eve = first - timedelta(days=1)
        opening = Night(day=eve, moment=night(self.history.spec, eve), season=self)
        if champion is not None:
            self.champion = champion
            self.trained.append(champion)
        else:
            self.champion = opening.train("The first champion.", config=self.config)
        for day in days(first, last):
            self._answer(day)
            self.policy.decide(Night(day=day, moment=night(self.history.spec, day), season=self))
            tell(day)
        return self

    def train(self, when: Night, why: str, *, config: TrainConfig) -> Trained:
        """See ``Night.train``."""
        made = self.workshop.train(len(self.trained) + 1, why, moment=when.moment, day=when.day, config=config)
        self.trained.append(made)
        self.events.append(Event(day=when.day, did="trained", version=made.number, why=why))
        return made

    def fit_all(self, when: Night, why: str, *, config: TrainConfig) -> Trained:
        """See ``Night.fit_all``."""
        first = self.trained[0]
        recipe = self.workshop.train(0, why, moment=first.moment, day=first.day, config=config)
        made = self.workshop.again(recipe, len(self.trained) + 1, why, moment=when.moment, day=when.day)
        self.trained.append(made)
        self.events.append(Event(day=when.day, did="trained", version=made.number, why=why))
        return made

    def refit(self, version: Trained) -> Trained:
        """See ``Night.refit``."""
        made = self.workshop.refit(version)
        self.trained[version.number - 1] = made
        return made

    def put(self, when: Night, version: Trained, did: Literal["promoted", "rolled_back"], why: str) -> None:
        """See ``Night.promote``."""
        replaced = self.champion
        if replaced.number == version.number:
            raise TrainingError(f"Version {version.number} answers already.", fix="Promote another one.")
        self.champion = version
        self.events.append(Event(day=when.day, did=did, version=version.number, replaced=replaced.number, why=why))

    def _answer(self, day: date) -> None:
        rows = self.history.of_replay_day(day)
        if len(rows):
            self.probabilities[rows] = self.champion.bundle.score(self.history.rows[rows])
            self.versions[rows] = self.champion.number
