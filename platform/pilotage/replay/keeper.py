"""Pilotage's own way of looking after a model, night by night, by the functions that the running platform calls too.

1. *When*: on the nights of the spec's schedule. (Alarms are monitoring's, which does not run here.)
2. *On what*: everything that is known, judged on the newest days, which the candidate did not see.
3. *Which evidence*: the platform's gate, on those of these days that the champion did not see either: the candidate
   must be better, and as surely as the spec asks, not only new.
4. *What is released*: the judged recipe fitted once more on everything, if the spec says so (``training/refit.py``).
5. *How*: it predicts unheard first; the guardrails of the rollout may refuse it. Canaries need traffic to draw from,
   and are left to the real replay.
6. *And back*: the champion before goes on predicting unheard; if the new one is worse, it is taken back.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, timedelta

import numpy as np

from pilotage.errors import ConfigError
from pilotage.release.retraining.plan import training_of
from pilotage.release.retraining.records import Ask, Request
from pilotage.replay.guardrails import Answers, breached, worse
from pilotage.replay.nights import scheduled
from pilotage.replay.season import Night
from pilotage.replay.workshop import Trained
from pilotage.spec import ModelSpec
from pilotage.training.config import TrainConfig

_WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A version that is compared, and since which day."""

    version: Trained
    since: date
    """First replayed day of the comparison."""


class Pilotage:
    """The platform's policy, as a spec declares it."""

    name = "pilotage"

    def __init__(self, spec: ModelSpec, *, alarms: Collection[date] = ()) -> None:
        """Prepares it.

        Args:
            spec: The model, with its policy.
            alarms: Days in whose night an alarm of the running platform asked for a retraining, as its ledger has it.
                Monitoring does not run here.

        Raises:
            ConfigError: The spec needs a service.
        """
        if spec.rollout.canary:
            raise ConfigError(
                f"{spec.name} declares a canary, which needs a service to draw from.",
                fix="Replay a spec whose rollout has a shadow stage at most.",
            )
        self._spec, self._alarms = spec, frozenset(alarms)
        self._shadow: _Trial | None = None
        self._before: _Trial | None = None

    def decide(self, night: Night) -> None:
        """Looks at what is on trial, then asks whether to retrain; on most nights nothing comes of either."""
        self._look_back(night)
        self._look_at_shadow(night)
        if self._shadow is not None:
            return
        if night.day in self._alarms:
            self._retrain(night, "An alarm asked for it.")
        elif scheduled(self._spec.retraining.schedule, night.day + timedelta(days=1)):
            self._retrain(night, f"The schedule {self._spec.retraining.schedule}.")

    def _retrain(self, night: Night, why: str) -> None:
        version = night.train(why, config=self._training(night))
        _, verdict = night.judge(version)
        if not verdict.passed:
            night.note("refused", version, " ".join(verdict.reasons))
            return
        if self._spec.retraining.refit:
            version = night.refit(version)
        told = next((item.message for item in verdict.criteria if item.name == "helps"), "It passed its gate.")
        night.note("passed", version, told)
        if self._spec.rollout.shadow is None:
            self._promote(night, version, told)
        else:
            self._shadow = _Trial(version=version, since=night.day + timedelta(days=1))

    def _training(self, night: Night) -> TrainConfig:
        """As a request of this night would be carried out. Cross-validation changes no model, and is left out."""
        ask = Ask(cause="nightly", why="", actor="replay", at=night.moment, sequence=0)
        values = training_of(
            self._spec, Request(number=0, asks=(ask,), opened=night.moment), now=night.moment.astimezone(UTC)
        )
        return TrainConfig.from_values({**values, "split": {"folds": 0}})

    def _look_at_shadow(self, night: Night) -> None:
        stage, trial = self._spec.rollout.shadow, self._shadow
        if trial is None or stage is None:
            return
        answers = self._answers(night, trial, night.champion, trial.since, night.day)
        if refused := breached(self._spec, answers):
            night.note("rejected", trial.version, f"In shadow: {'; '.join(refused)}.")
            self._shadow = None
        elif len(answers.ours) >= stage.predictions and int(answers.known.sum()) >= stage.outcomes:
            self._shadow = None
            self._promote(night, trial.version, f"{len(answers.ours):,} predictions in shadow, no guardrail breached.")

    def _promote(self, night: Night, version: Trained, why: str) -> None:
        self._before = _Trial(version=night.champion, since=night.day + timedelta(days=1))
        night.promote(version, why)

    def _look_back(self, night: Night) -> None:
        trial, watch = self._before, self._spec.retraining.watch
        if trial is None or watch is None:
            return
        stages, first = [], trial.since
        while first <= night.day:
            last = min(first + _WEEK - timedelta(days=1), night.day)
            theirs = self._answers(night, trial, night.champion, first, last)
            stages.append(Answers(ours=theirs.theirs, theirs=theirs.ours, labels=theirs.labels, known=theirs.known))
            first += _WEEK
        if found := worse(self._spec, stages, of=math.ceil(watch.lasts / _WEEK)):
            self._before = None
            night.roll_back(trial.version, f"Version {night.champion.number}: {'; '.join(found)}.")
        elif night.day - trial.since >= watch.lasts:
            self._before = None

    def _answers(self, night: Night, trial: _Trial, champion: Trained, first: date, last: date) -> Answers:
        """What the version on trial (ours) and the champion (theirs) say to the requests of some days."""
        history = night.history
        rows = history.between(first, last)
        frame = history.rows[rows]
        return Answers(
            ours=trial.version.bundle.score(frame),
            theirs=champion.bundle.score(frame),
            labels=history.labels[rows],
            known=np.asarray(night.known[rows]),
        )
