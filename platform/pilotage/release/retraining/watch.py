"""The loop closed backwards: a champion that does worse than the one before it is taken back, and one that is too bad
to be heard gives way to the fallback.

For a declared time after a promotion the champion before goes on predicting unheard, on the same requests. Once labels
are there, both have lost something on each, and a bet that may be looked at always (``sequential.py``) says whether the
champion loses more. Weeks are stages of one capital: what a good first week lost, a bad second one need not win back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import NotApproved, NotReleasable
from pilotage.policy import Guardrail, Limit, Watch
from pilotage.release import commands
from pilotage.release.decide import decide, drafted, undisturbed
from pilotage.release.evidence import Evidence, Stage, answers_since, first_answers, paired
from pilotage.release.guardrails import estimate, games_of, told, totals
from pilotage.release.ledger import Ledger, opened
from pilotage.release.losses import loss
from pilotage.release.retraining.book import state_of
from pilotage.release.retraining.requests import call_a_person
from pilotage.release.sequential import Game, Paired, Side, log_evidence
from pilotage.release.stages import ModelState, Release
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

ACTOR = "watch"
"""Who decides here, for the record."""
BLOCK = timedelta(days=7)
YEAR = 52
"""Blocks among which the capital of the limit is divided; later ones belong to the last."""
_FEW = 100
"""Answers whose middle says when they begin or end."""

Did = Literal["nothing", "held", "rolled_back", "killed", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What one look came to."""

    model: str
    did: Did
    why: str
    state: ModelState
    evidence: dict[str, Any] = field(default_factory=dict)
    """What it was decided by: JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bet:
    """One sequential test, and what it is about."""

    metric: str
    against: int | None
    """The version that the champion is compared with; ``None`` for the limit."""
    bound: float
    """Difference, or mean loss, that is tolerated, 0..1."""
    alpha: float
    observations: int
    champion_mean: float | None
    other_mean: float | None
    difference: float | None
    """Champion minus the other one, or its mean loss."""
    log_e: float

    @property
    def refuted(self) -> bool:
        """Whether it is established that the champion is worse than tolerated."""
        return self.log_e >= -math.log(self.alpha)

    @property
    def message(self) -> str:
        if self.champion_mean is None:
            return f"{self.metric}: nothing to compare yet."
        other = f"version {self.against}'s {self.other_mean:.4f}" if self.against else f"the limit of {self.bound:g}"
        e_value = f"e-value {told(self.log_e):.3g}, {1 / self.alpha:.3g} is proof"
        return (
            f"{self.metric.replace('_', ' ')}: {self.champion_mean:.4f} against {other} on {self.observations:,} "
            f"labelled answers ({e_value})."
        )

    def payload(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "metric": self.metric,
            "against": self.against,
            "bound": self.bound,
            "alpha": self.alpha,
            "observations": self.observations,
            "champion_mean": self.champion_mean,
            "other_mean": self.other_mean,
            "difference": self.difference,
            "e_value": told(self.log_e),
            "refuted": self.refuted,
            "message": self.message,
        }


def to_do(spec: ModelSpec, state: ModelState) -> str | None:
    """What a look would be for, in words; ``None`` if there is nothing to look at."""
    if state.killed is not None or state.champion is None:
        return None
    if state.watch is not None:
        return f"version {state.champion.version} is held against version {state.watch.version}"
    if spec.retraining.limit is not None:
        return f"version {state.champion.version} is held against its limit"
    return None


def look(
    spec: ModelSpec, *, settings: Settings, lake: Lake, now: datetime, ledger: Ledger | None = None, run: str = ""
) -> Looked:
    """Looks once at a champion, and takes it back or lets the fallback take over if the evidence says so; again, if
    somebody decides meanwhile.

    Args:
        spec: The model.
        settings: Where everything is.
        lake: Where predictions and outcomes are.
        now: UTC.
        ledger: Another ledger than the settings'.
        run: The Dagster run that looks, for the evidence.

    Raises:
        LedgerConflict: Others went on deciding about the model while the evidence was weighed; the next look sees it.
    """
    with opened(settings, ledger) as book:
        return undisturbed(lambda: _look(spec, settings, lake, now, book, run))


def _look(spec: ModelSpec, settings: Settings, lake: Lake, now: datetime, book: Ledger, run: str) -> Looked:
    from pilotage.monitoring.label_doubts import doubts

    state = state_of(spec.name, book)
    champion = state.champion
    if to_do(spec, state) is None or champion is None:
        return Looked(model=spec.name, did="nothing", why="There is nothing to compare.", state=state)
    answers = answers_since(spec, champion.promoted_at, settings, lake, champion=champion)
    against = versus_previous(spec, state, answers, settings, lake)
    limit = versus_limit(spec, champion, answers, since=state.resumed_at)
    tests = [*against, *([limit] if limit else [])]
    evidence: dict[str, Any] = {"champion": champion.version, "tests": [test.payload() for test in tests]}
    evidence |= {"run": run} if run else {}
    evidence |= {"doubts": found} if (found := doubts(answers)) else {}
    over = state.watch is not None and (
        now - state.paused(state.watch.since, now) >= state.watch.until
        or _span(answers) >= state.watch.until - state.watch.since
    )
    return _act(spec, state, against, limit, evidence, settings=settings, book=book, over=over)


def _act(
    spec: ModelSpec,
    state: ModelState,
    against: Sequence[Bet],
    limit: Bet | None,
    evidence: dict[str, Any],
    *,
    settings: Settings,
    book: Ledger,
    over: bool,
) -> Looked:
    model, watch = spec.name, state.watch
    by: dict[str, Any] = {"settings": settings, "actor": ACTOR, "ledger": book}
    worse = [test for test in against if test.refuted]
    reason = ""
    if worse and watch is not None:
        why = f"Worse than version {watch.version} before it: " + " ".join(test.message for test in worse)
        try:
            after = commands.rollback(
                model, watch.version, why=why, spec=spec, seen=state.sequence, evidence=evidence, **by
            )
            return Looked(model=model, did="rolled_back", why=why, state=after, evidence=evidence)
        except (NotReleasable, NotApproved) as error:
            reason = f"{why} It could not be taken back: {error.message} "
            call_a_person(model, "rollback", why=reason, evidence=evidence, **by)
    if limit is not None and limit.refuted:
        why = f"{reason}Above its limit, and no better version is there. {limit.message}"
        after = commands.kill(model, why=why, seen=state.sequence, **by)
        call = f"The fallback answers for {model}. {why}"
        call_a_person(model, "limit", why=call, evidence=evidence, since=state.resumed_at, **by)
        return Looked(model=model, did="killed", why=why, state=after, evidence=evidence)
    messages = [test.message for test in against] or ([limit.message] if limit else [])
    told_so_far = reason or " ".join([*messages, *evidence.get("doubts", ())])
    if watch is not None and over:
        draft = drafted(
            model,
            "watch_ended",
            watch.version,
            ACTOR,
            f"Not found to be worse than version {watch.version}: {told_so_far}",
            {"evidence": evidence},
        )
        after = decide(model, lambda _: draft, settings=settings, ledger=book, seen=state.sequence)
        return Looked(model=model, did="ended", why=told_so_far, state=after, evidence=evidence)
    return Looked(model=model, did="held", why=told_so_far, state=state, evidence=evidence)


def versus_previous(
    spec: ModelSpec, state: ModelState, answers: pl.DataFrame, settings: Settings, lake: Lake
) -> list[Bet]:
    """The champion against the one before it, on the requests that both predicted; one test a metric."""
    from pilotage.monitoring.predictions import read_shadows

    watch, policy, champion = state.watch, spec.retraining.watch or Watch(), state.champion
    if watch is None or champion is None:
        return []
    shadows = read_shadows(settings, spec.name, lake=lake, since=watch.since, version=watch.version)
    weeks = max(1, math.ceil((watch.until - watch.since) / BLOCK))
    whole = Evidence(
        model=spec.name,
        version=watch.version,
        champion=champion.version,
        stages=(Stage(kind="shadow", sequence=champion.sequence, since=watch.since),),
        planned=weeks,
        predictions=answers,
        shadows=shadows,
    )
    pairs = first_answers(paired(whole))
    alpha = policy.alpha / len(policy.metrics)
    tests = []
    for metric in policy.metrics:
        guardrail = Guardrail(metric=metric, tolerance=policy.tolerance)
        blocks = [games_of(whole, [rows], guardrail, spec.kpi.cost)[0] for rows in _blocks(pairs, at_most=weeks)]
        # As games have it, the version before is the challenger: the champion loses more where it loses less.
        tests.append(
            _test(metric, blocks, against=watch.version, bound=policy.tolerance, alpha=alpha, of=weeks, side="below")
        )
    return tests


def versus_limit(
    spec: ModelSpec, champion: Release, answers: pl.DataFrame, *, since: datetime | None = None
) -> Bet | None:
    """The champion's own labelled answers against the limit that the spec sets.

    Args:
        spec: The model.
        champion: The version in production.
        answers: All, as ``answers_since`` gives them.
        since: When the model was last resumed: whoever did that knows what was before.
    """
    limit: Limit | None = spec.retraining.limit
    if limit is None:
        return None
    own = (pl.col("version") == champion.version) & (pl.col("answered_by") == "model")
    if since is not None:
        own &= pl.col("at") >= since
    rows = first_answers(answers.filter(own)).with_columns(loss(limit.metric, cost=spec.kpi.cost, limit_ms=1.0))
    blocks: list[list[Game]] = []
    for block in _blocks(rows.drop_nulls("loss"), at_most=YEAR):
        losses = block["loss"].to_numpy()
        blocks.append([Paired().add(losses, losses * 0)])
    return _test(limit.metric, blocks, against=None, bound=limit.at, alpha=limit.alpha, of=YEAR, side="above")


def _test(
    metric: str, blocks: Sequence[list[Game]], *, against: int | None, bound: float, alpha: float, of: int, side: Side
) -> Bet:
    everything = [game for games in blocks for game in games]
    one, other = totals(everything)
    if side == "below":
        one, other = other, one
    difference = estimate(everything)
    return Bet(
        metric=metric,
        against=against,
        bound=bound,
        alpha=alpha,
        observations=one.n,
        champion_mean=one.mean,
        other_mean=other.mean,
        difference=None if difference is None else -difference if side == "below" else difference,
        log_e=log_evidence(blocks, -bound if side == "below" else bound, of=of, side=side),
    )


def _blocks(rows: pl.DataFrame, *, at_most: int) -> list[pl.DataFrame]:
    """Rows by week since the first one, in order; what is later belongs to the last week. At least one, perhaps empty.

    Weeks of the data: those of a history that is replayed pass in minutes.
    """
    timed = rows.sort("at", maintain_order=True).with_columns(_when().alias("_when"))
    since = pl.col("_when") - pl.col("_when").first()
    week = (since.dt.total_seconds() // int(BLOCK.total_seconds())).clip(0, at_most - 1)
    marked = timed.with_columns(week.alias("_week"))
    last = marked["_week"].max()
    count = 1 if last is None else int(str(last)) + 1
    return [marked.filter(pl.col("_week") == number) for number in range(count)]


def _span(answers: pl.DataFrame) -> timedelta:
    """How much time of the data answers cover; a few that ask about another time altogether do not count."""
    moments = answers.sort("at").select(_when())[:, 0]
    first, last = (part.median() for part in (moments.head(_FEW), moments.tail(_FEW)))
    return last - first if isinstance(first, datetime) and isinstance(last, datetime) else timedelta(0)


def _when() -> pl.Expr:
    return pl.coalesce("moment", "at")
