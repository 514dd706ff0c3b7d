"""A/B tests: what a version does to one metric, beside the champion, with an interval that may be looked at always.

The lot is drawn by entity, so that one customer does not flip between versions. Nothing here stops a test: a person
does, whenever they like, and the interval holds also then (``sequential.py``). Choose the metric before you look; to
watch ten of them and report the best one is the one way left to fool oneself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

from pilotage.data.lake import Lake
from pilotage.errors import ConfigError, ReleaseError
from pilotage.policy import Guardrail, GuardrailMetric
from pilotage.release.evidence import REFERENCE, Evidence, Stage, answers_since, observations, share_of
from pilotage.release.guardrails import Split, drawn_games, estimate, split, totals
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.losses import CLIP, METRICS, span
from pilotage.release.sequential import Game, bound
from pilotage.release.stages import ModelState
from pilotage.release.state import fold, fold_model
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

LOSSES = tuple(name for name, metric in METRICS.items() if not metric.both_ways)
"""What can be compared. A mean probability is neither better nor worse when it is lower."""

Verdict = Literal["better", "worse", "undecided so far"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ABTest:
    """An A/B test, running or ended."""

    model: str
    version: int
    champion: int
    since: datetime
    until: datetime | None
    """``None`` while it runs."""
    stages: tuple[Stage, ...]
    """One; more if its share was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an A/B test says so far. Grain: one per test and metric."""

    model: str
    version: int
    champion: int
    metric: GuardrailMetric
    unit: str
    """Of the means and the effect."""
    since: datetime
    until: datetime | None
    share: float
    """Of the entities that the version gets, 0..1."""
    alpha: float
    entities: int
    """Entities of the version that were observed."""
    champion_entities: int
    mean: float | None
    """Of the version's losses; ``None`` before the first."""
    champion_mean: float | None
    effect: float | None
    """Estimated difference, version less champion; below 0 the version is better."""
    low: float
    """The effect is between ``low`` and ``high``, at all times at once, with probability 1 - alpha."""
    high: float
    verdict: Verdict
    split: Split | None
    """Whether the lot was fair; if not, there is no verdict."""

    @property
    def message(self) -> str:
        """The report in words."""
        if self.split is not None and not self.split.sound:
            return self.split.message
        if self.mean is None or self.champion_mean is None or self.effect is None:
            return f"Version {self.version} against {self.champion}: nothing to compare yet."
        judged = f"is {self.verdict} than" if self.verdict != "undecided so far" else "is undecided so far against"
        return (
            f"Version {self.version} {judged} {self.champion} in {self.metric.replace('_', ' ')}: {self.effect:+.4g}"
            f" {self.unit}, between {self.low:+.4g} and {self.high:+.4g} ({self.entities:,} and"
            f" {self.champion_entities:,} entities)."
        )

    def payload(self) -> dict[str, Any]:
        """As JSON values."""
        times = {"since": self.since.isoformat(), "until": self.until.isoformat() if self.until else None}
        return {**asdict(self), **times, "message": self.message}


def ab_tests(model: str, *, settings: Settings, ledger: Ledger | None = None) -> tuple[ABTest, ...]:
    """Every A/B test of a model, the oldest first."""
    found: list[ABTest] = []
    states: dict[str, ModelState] = {}
    for event in (ledger or SqlLedger.to_read(settings)).events():
        if event.model != model:
            continue
        before = states[model].ab_test if model in states else None
        states = fold([event], states)
        now = states[model].ab_test
        if before is not None and now is None:
            found[-1] = replace(found[-1], until=event.at)
        elif now is not None and event.kind == "ab_started":
            stage = share_of(event)
            if before is not None:
                found[-1] = replace(found[-1], stages=(*found[-1].stages, stage))
            else:
                found.append(
                    ABTest(
                        model=model,
                        version=now.version,
                        champion=now.against,
                        since=event.at,
                        until=None,
                        stages=(stage,),
                    )
                )
    return tuple(found)


def report(
    spec: ModelSpec,
    settings: Settings,
    lake: Lake,
    *,
    metric: GuardrailMetric = "cost",
    alpha: float = 0.05,
    limit_ms: float = 50.0,
    test: ABTest | None = None,
    ledger: Ledger | None = None,
) -> Report:
    """What an A/B test says so far.

    Args:
        spec: The model.
        settings: Where the log is.
        lake: Where the moved log is.
        metric: What to compare; less is better. One of ``LOSSES``.
        alpha: Chance that the interval is ever wrong.
        limit_ms: For ``slow_answers``.
        test: A test of ``ab_tests``; ``None`` for the one that runs, else the last one.
        ledger: Another ledger than the settings'.

    Raises:
        ReleaseError: There never was one.
        ConfigError: The metric is not a loss.
    """
    from pilotage.monitoring.log_frames import empty_frame
    from pilotage.runtime.answer import ShadowRecord

    about = test or next(reversed(ab_tests(spec.name, settings=settings, ledger=ledger)), None)
    if about is None:
        raise ReleaseError(
            f"There is no A/B test of {spec.name}.", fix="Begin one: docs/how-to/run-an-ab-test.md.", model=spec.name
        )
    events = (ledger or SqlLedger.to_read(settings)).events()
    current = fold_model(spec.name, events).champion
    evidence = Evidence(
        model=spec.name,
        version=about.version,
        champion=about.champion,
        stages=about.stages,
        planned=1,
        predictions=answers_since(spec, about.since - REFERENCE, settings, lake, champion=current),
        shadows=empty_frame(ShadowRecord),
    )
    return weigh(spec, evidence, about, metric=metric, alpha=alpha, limit_ms=limit_ms)


def weigh(
    spec: ModelSpec,
    evidence: Evidence,
    test: ABTest,
    *,
    metric: GuardrailMetric = "cost",
    alpha: float = 0.05,
    limit_ms: float = 50.0,
) -> Report:
    """What some evidence says of a test. Arguments and errors as in ``report``."""
    if metric not in LOSSES:
        raise ConfigError(f"{metric} is no metric of which less is better.", fix=f"Choose one of: {', '.join(LOSSES)}.")
    compared = Guardrail(metric=metric, tolerance=0, limit_ms=limit_ms)
    games: list[Game] = []
    for stage in evidence.stages:
        games += drawn_games(evidence, stage, observations(evidence, stage), compared, spec.kpi.cost)
    low = bound([games], alpha / 2, of=1, side="lower")
    high = bound([games], alpha / 2, of=1, side="upper")
    ours, theirs = totals(games)
    draw = split(evidence)
    verdict: Verdict = "undecided so far"
    if draw is None or draw.sound:
        verdict = "better" if high < 0 else "worse" if low > 0 else verdict
    scale, least, unit = _unit(spec, metric)

    def told(value: float | None, offset: float = 0.0) -> float | None:
        return None if value is None else value * scale + offset

    return Report(
        model=spec.name,
        version=test.version,
        champion=test.champion,
        metric=metric,
        unit=unit,
        since=test.since,
        until=test.until,
        share=evidence.stage.share or 0.0,
        alpha=alpha,
        entities=ours.n,
        champion_entities=theirs.n,
        mean=told(ours.mean, least),
        champion_mean=told(theirs.mean, least),
        effect=told(estimate(games)),
        low=low * scale,
        high=high * scale,
        verdict=verdict,
        split=draw,
    )


def _unit(spec: ModelSpec, metric: GuardrailMetric) -> tuple[float, float, str]:
    """How a loss of 0..1 is told: times this, plus that, in this unit."""
    if metric == "cost":
        matrix = spec.kpi.cost
        least = min(matrix.true_positive, matrix.false_positive, matrix.true_negative, matrix.false_negative)
        return span(matrix), least, spec.kpi.unit
    if metric == "log_loss":
        return CLIP, 0.0, "nats"
    return 1.0, 0.0, "squared error" if metric == "brier" else "of the answers"
