"""What to do next with a version in its rollout, and why. Decides from evidence; ``commands.py`` carries it out.

The order of the questions: is the model killed, is a guardrail breached, is the lot fair, has the stage seen what it
waits for, is its time up. A breach therefore never waits, and nothing advances on an experiment that is not sound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from pilotage.durations import in_words
from pilotage.policy import CanaryStep, Rollout, ShadowStage
from pilotage.release.evidence import Evidence, gather
from pilotage.release.guardrails import GuardrailVerdict, Split, judge, payload, split
from pilotage.release.stages import ApprovalRule, ModelState
from pilotage.spec import ModelSpec

__all__ = ["Decision", "Evidence", "Kind", "assess", "gather"]

Kind = Literal["hold", "advance", "promote", "roll_back", "reject", "request_approval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with a version now."""

    kind: Kind
    """``advance``: to the first or next canary step; ``promote``: to champion; ``reject``: out of its shadow stage;
    ``roll_back``: out of its canary; ``request_approval``: it could advance, and somebody has to approve first."""
    model: str
    version: int
    why: str
    """In words, with the numbers."""
    stuck: bool = False
    """Of ``hold``: whether nothing goes on until a person decides."""
    step: int | None = None
    """Of ``advance``: index into ``spec.rollout.canary`` of the step to begin."""
    payload: dict[str, Any] = field(default_factory=dict)
    """What it was decided by, as JSON values: every guardrail's observations, means, interval, e-value and alpha."""


def assess(spec: ModelSpec, state: ModelState, evidence: Evidence, now: datetime) -> Decision:
    """Decides what to do with a version now.

    Args:
        spec: The model, with its rollout.
        state: What was decided about it so far.
        evidence: Of the version; see ``gather``.
        now: The time, UTC.
    """
    verdicts, draw = judge(spec, evidence), split(evidence)
    wanted = _declared(spec.rollout, state, evidence)
    answers = evidence.answers
    seen = _Seen(predictions=answers.height, outcomes=int(answers["label"].count()))
    kind, why, step = _decide(spec, state, evidence, verdicts, draw, wanted, seen, now)
    return Decision(
        kind="hold" if kind == "stuck" else kind,
        stuck=kind == "stuck",
        model=spec.name,
        version=evidence.version,
        why=why,
        step=step,
        payload=_payload(spec, evidence, verdicts, draw, wanted, seen, state.paused(evidence.stage.since, now)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The version's own answers in its stage."""

    predictions: int
    outcomes: int


_Answer = tuple[Kind | Literal["stuck"], str, int | None]


def _decide(
    spec: ModelSpec,
    state: ModelState,
    evidence: Evidence,
    verdicts: tuple[GuardrailVerdict, ...],
    draw: Split | None,
    wanted: ShadowStage | CanaryStep | None,
    seen: _Seen,
    now: datetime,
) -> _Answer:
    back: Kind = "reject" if evidence.stage.kind == "shadow" else "roll_back"
    if state.killed is not None:
        return "hold", f"{spec.name} is killed: {state.killed.why}", None
    if breached := [verdict.message for verdict in verdicts if verdict.breached]:
        return back, " ".join(f"{message[0].upper()}{message[1:]}" for message in breached), None
    if draw is not None and not draw.sound:
        return "stuck", f"{draw.message} Somebody has to find out why.", None
    if wanted is None:
        return "stuck", "The spec declares no such stage; somebody has to decide.", None
    missing = _missing(wanted, seen)
    fine = f"{seen.predictions:,} answers, {seen.outcomes:,} with their outcome; no guardrail is breached."
    fine = " ".join([fine, *evidence.doubts])
    if missing is None:
        return _onward(spec, state, evidence, fine)
    # While the model is killed nobody answers, so that time is none of the stage.
    if now - evidence.stage.since - state.paused(evidence.stage.since, now) < wanted.at_most:
        return "hold", f"Waits for {missing}. {fine}", None
    late = f"The stage has lasted its longest ({in_words(wanted.at_most)}), and waits for {missing}."
    if spec.rollout.when_time_is_up == "advance":
        return _onward(spec, state, evidence, f"{late} The spec says to go on then. {fine}")
    if spec.rollout.when_time_is_up == "reject":
        return back, f"{late} The spec says to take it back then.", None
    return "stuck", f"{late} Somebody has to decide. {fine}", None


def _onward(spec: ModelSpec, state: ModelState, evidence: Evidence, why: str) -> _Answer:
    """To the next stage, if nobody is there and everybody who must has approved."""
    steps, running = spec.rollout.canary, state.challenger
    if running is not None and running.version != evidence.version:
        return "hold", f"Version {running.version} has a share of the traffic; one after the other. {why}", None
    step = running.step + 1 if running is not None else 0
    rule, known = ApprovalRule.of(spec), state.versions[evidence.version]
    if (have := len(known.approved_by(rule))) < rule.needed:
        who = rule.who(known.trained_by)
        return "request_approval", f"{rule.needed - have} more must approve it ({who}). {why}", None
    return ("advance", why, step) if step < len(steps) else ("promote", why, None)


def _declared(rollout: Rollout, state: ModelState, evidence: Evidence) -> ShadowStage | CanaryStep | None:
    """What the spec says about the stage under way."""
    if evidence.stage.kind == "shadow":
        return rollout.shadow
    step = state.canary.step if state.canary is not None else 0
    return rollout.canary[min(step, len(rollout.canary) - 1)] if rollout.canary else None


def _missing(wanted: ShadowStage | CanaryStep, seen: _Seen) -> str | None:
    """What a stage still waits for, in words; ``None`` for nothing."""
    lacks = []
    if (more := wanted.predictions - seen.predictions) > 0:
        lacks.append(f"{more:,} more of {wanted.predictions:,} answers")
    if (more := wanted.outcomes - seen.outcomes) > 0:
        lacks.append(f"{more:,} more of {wanted.outcomes:,} outcomes")
    return " and ".join(lacks) or None


def _payload(
    spec: ModelSpec,
    evidence: Evidence,
    verdicts: tuple[GuardrailVerdict, ...],
    draw: Split | None,
    wanted: ShadowStage | CanaryStep | None,
    seen: _Seen,
    paused: timedelta,
) -> dict[str, Any]:
    stage = evidence.stage
    return {
        "version": evidence.version,
        "champion": evidence.champion,
        "alpha": spec.rollout.alpha,
        "stage": {
            "kind": stage.kind,
            "sequence": stage.sequence,
            "since": stage.since.isoformat(),
            "share": stage.share,
            "predictions": seen.predictions,
            "outcomes": seen.outcomes,
            "waits_for": {"predictions": wanted.predictions, "outcomes": wanted.outcomes} if wanted else None,
            "until": (stage.since + wanted.at_most + paused).isoformat() if wanted else None,
        },
        "guardrails": payload(verdicts),
        "draw": asdict(draw) if draw is not None else None,
        **({"doubts": list(evidence.doubts)} if evidence.doubts else {}),
    }
