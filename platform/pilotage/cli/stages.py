"""Where the versions of a model stand, and what its rollout waits for: as JSON values, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pilotage.cli.console import percent
from pilotage.durations import in_words

if TYPE_CHECKING:
    from pilotage.policy import CanaryStep, ShadowStage
    from pilotage.release.state import ModelState, Stage, Version
    from pilotage.spec import ModelSpec

_OUT: Mapping[Stage, str] = {
    "candidate": "passed over",
    "rejected": "rejected",
    "rolled_back": "rolled back",
    "retired": "retired",
}
"""Stages of versions that nothing goes on with, as people are told of them."""

_SHOWN = 10
"""Versions of a stage that nobody waits for that people are shown; JSON has all of them."""


def stages_of(spec: ModelSpec | None, state: ModelState | None) -> dict[str, Any]:
    """The part of a model's status that is about stages."""
    if state is None:
        return {"killed": None, "stages": {}, "challenger": None, "shadows": [], "approvals": [], "rollout": None}
    running = state.challenger
    return {
        "killed": None
        if state.killed is None
        else {"since": _iso(state.killed.at), "by": state.killed.actor, "why": state.killed.why},
        "stages": {str(number): known.stage for number, known in sorted(state.versions.items())},
        "challenger": None
        if running is None
        else {
            "version": running.version,
            "kind": running.kind,
            "share": running.share,
            "step": running.step + 1,
            "steps": len(spec.rollout.canary) if spec is not None and running.kind == "canary" else None,
            "first_segment_only": running.segment is not None,
            "since": _iso(running.since),
        },
        "shadows": [{"version": known.version, "since": _iso(known.since)} for known in state.shadows],
        "approvals": list(_approvals(spec, state)),
        "rollout": waits_for(spec, state),
    }


def _approvals(spec: ModelSpec | None, state: ModelState) -> Iterator[dict[str, Any]]:
    """Versions that somebody has to approve before they get traffic."""
    from pilotage.release.legality import missing_approvals
    from pilotage.release.state import ApprovalRule

    for known in state.versions.values():
        rule = ApprovalRule.of(spec) if spec is not None else known.rule
        newer = state.champion is None or known.version > state.champion.version
        awaited = known.stage in ("shadow", "canary") or (known.stage == "candidate" and newer)
        if awaited and (missing := missing_approvals(known, rule)):
            yield {
                "version": known.version,
                "missing": missing,
                "needed": rule.needed,
                "approved_by": list(known.approved_by(rule)),
                "may_approve": rule.who(known.trained_by),
                "asked_at": known.approval_asked_at and _iso(known.approval_asked_at),
            }


def waits_for(spec: ModelSpec | None, state: ModelState) -> str | None:
    """What has to happen before the version under way goes on, in words; ``None`` if none is under way."""
    if state.ab_test is not None:
        return f"version {state.ab_test.version}: the A/B test runs until pilotage ab end {state.model} --why …"
    version = state.under_way
    if version is None:
        waiting = state.waiting
        if spec is None or state.champion is None or waiting is None:
            return None
        if spec.rollout.automatic and state.killed is not None:
            return f"version {waiting.version}: nothing goes on while {state.model} is killed"
        begins = "begins by itself" if spec.rollout.automatic else f"pilotage shadow {state.model} {waiting.version}"
        return f"version {waiting.version}: its rollout {'' if spec.rollout.automatic else 'begins with '}{begins}"
    if state.killed is not None:
        return f"version {version.version}: nothing goes on while {state.model} is killed"
    if version.approval_asked_at is not None:
        return (
            f"version {version.version}: somebody's approval, pilotage approve {state.model} {version.version} --why …"
        )
    if version.needs_a_person is not None:
        return f"version {version.version}: a person's decision. {version.needs_a_person}"
    stage = _stage(spec, state, version)
    if stage is None:
        return f"version {version.version}: a decision, as its file declares no such stage"
    labelled = f" and {stage.outcomes:,} outcomes" if stage.outcomes else ""
    since = state.evidence_since(version.version)
    # While the model is killed nobody answers, so that time is none of the stage.
    until = (since + stage.at_most + state.paused(since, datetime.now(UTC))).astimezone()
    return (
        f"version {version.version}: {stage.predictions:,} predictions{labelled} in {version.stage} without a breach, "
        f"at most {in_words(stage.at_most)} (until {until:%Y-%m-%d %H:%M})"
    )


def _stage(spec: ModelSpec | None, state: ModelState, version: Version) -> ShadowStage | CanaryStep | None:
    if spec is None:
        return None
    if version.stage == "shadow" or state.canary is None:
        return spec.rollout.shadow
    steps = spec.rollout.canary
    return steps[min(state.canary.step, len(steps) - 1)] if steps else None


def rows(model: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, words and style of what people should see of a model's stages."""
    name = model["model"]
    if (killed := model["killed"]) is not None:
        yield (
            "KILLED",
            f"{killed['why']} ({killed['by']}). Its fallback answers until: pilotage resume {name} --why …",
            "bold red",
        )
    if (running := model["challenger"]) is not None:
        step = f", step {running['step']} of {running['steps']}" if running["steps"] else ""
        some = ", of the first segment" if running["first_segment_only"] else ""
        kind = "canary" if running["kind"] == "canary" else "A/B test"
        yield kind, f"version {running['version']}, {percent(running['share'])} of the entities{some}{step}", "cyan"
    if model["shadows"]:
        yield "shadow", f"version {', '.join(str(each['version']) for each in model['shadows'])}", "cyan"
    for stage, said in _OUT.items():
        there = [number for number, its in model["stages"].items() if its == stage]
        if there := [number for number in there if int(number) not in model["waiting_versions"]]:
            older = f" and {len(there) - _SHOWN} older" if len(there) > _SHOWN else ""
            yield said, f"version {', '.join(there[-_SHOWN:])}{older}", ""
    if model["rollout"]:
        yield "waits for", model["rollout"], ""
    for each in model["approvals"]:
        have = f" (has: {', '.join(each['approved_by'])})" if each["approved_by"] else ""
        yield (
            "to approve",
            f"version {each['version']}: {each['missing']} of {each['needed']}{have}, by {each['may_approve']}: "
            f"pilotage approve {name} {each['version']} --why …",
            "yellow",
        )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
