"""``pilotage evidence`` and ``pilotage ab report``: what the log says so far. They read; they decide nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pilotage.cli.console import percent, print_json, say

if TYPE_CHECKING:
    from pilotage.policy import GuardrailMetric


@click.command(short_help="Show what the log says of a version in its rollout.")
@click.argument("model")
@click.option(
    "--version", type=click.IntRange(min=1), default=None, help="Default: the one that is decided about next."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON: what the ledger would record.")
def evidence(model: str, version: int | None, as_json: bool) -> None:
    """Show every guardrail of MODEL's rollout, and what would be decided now. Nothing is decided by looking."""
    from datetime import UTC, datetime

    from pilotage.cli import declared, status
    from pilotage.data.lake import Lake
    from pilotage.release.rollout import assess, gather
    from pilotage.release.stages import ModelState
    from pilotage.settings import Settings

    settings, spec = Settings.load(), declared.model(model)
    state = status.states(settings).get(model, ModelState(model=model))
    found = gather(spec, state, settings, Lake(settings.lake), version=version)
    decision = assess(spec, state, found, datetime.now(UTC))
    if as_json:
        print_json({"decision": decision.kind, "why": decision.why, **decision.payload})
        return
    about = found.stage
    share = f" at {percent(about.share)}" if about.share is not None else ""
    say(f"{model} version {found.version} against {found.champion}, {about.kind}{share}:")
    for guardrail in decision.payload["guardrails"]:
        say(f"  {'!' if guardrail['breached'] else ' '} {guardrail['message']}")
    say(f"{decision.kind.replace('_', ' ').capitalize()}: {decision.why}")


@click.command("report", short_help="Show what an A/B test says so far.")
@click.argument("model")
@click.option("--metric", default="cost", show_default=True, help="What to compare: choose it once, before you look.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def ab_report(model: str, metric: GuardrailMetric, as_json: bool) -> None:
    """Show the effect of MODEL's A/B test, the running or the last one, with an interval that holds at every look."""
    from pilotage.cli import declared
    from pilotage.data.lake import Lake
    from pilotage.release.abtest import report
    from pilotage.settings import Settings

    settings = Settings.load()
    told = report(declared.model(model), settings, Lake(settings.lake), metric=metric)
    if as_json:
        print_json(told.payload())
    else:
        say(told.message)
