"""``pilotage retrain``: asks for a retraining, or takes a request back; and what ``pilotage status`` tells of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pilotage.cli.actor import actor_of
from pilotage.cli.console import say
from pilotage.cli.decisions import MODEL, recorded

if TYPE_CHECKING:
    from pilotage.release.retraining.records import Request
    from pilotage.release.stages import ModelState


@click.command(short_help="Ask for a retraining, which the platform carries out.")
@MODEL
@click.option("--withdraw", is_flag=True, help="Take the open request back instead; an attempt that runs is let go.")
@recorded
def retrain(model: str, withdraw: bool, why: str, actor: str | None) -> None:
    """Ask for a retraining of MODEL. What asks before it begins becomes one request, carried out once.

    Dagster starts its run when it is due: one at a time, at most so many within a time, and again if a run fails. To
    train now and here: pilotage train MODEL.
    """
    from pilotage.cli import declared
    from pilotage.release.retraining import requests
    from pilotage.settings import Settings

    spec, settings = declared.model(model), Settings.load()
    by: dict[str, Any] = {"settings": settings, "actor": actor_of(actor), "why": why}
    if withdraw:
        closed = requests.withdraw(model, **by)
        say(f"Request {closed.number} of {model} is withdrawn.")
        return
    request = requests.request(model, "manual", {}, **by)
    say(_told(model, request, spec, settings))


def _told(model: str, request: Request | None, spec: Any, settings: Any) -> str:
    from pilotage.release.champions import states
    from pilotage.release.retraining.due import due

    if request is None:
        return f"An attempt runs: {model} is retrained again after it."
    wanted = due(spec.retraining, states(settings=settings)[model].retraining, datetime.now(UTC))
    joined = f", with {len(request.asks) - 1} asked before" if len(request.asks) > 1 else ""
    return f"Request {request.number} of {model} is open{joined}. {wanted.why} pilotage status {model} tells more."


def retraining_of(spec: Any, state: ModelState | None) -> dict[str, Any] | None:
    """What is known of a model's retraining, as JSON values; ``None`` if nobody ever asked."""
    known = state.retraining if state is not None else None
    if known is None or (known.open is None and not known.closed and not known.calls):
        return None
    from pilotage.release.retraining.due import due

    return {
        "open": None if known.open is None else _request(known.open),
        "waiting": len(known.queued),
        "next": due(spec.retraining, known, datetime.now(UTC)).why if spec is not None else None,
        "last": None if known.last is None else _request(known.last),
        "needs_a_person": [
            {"about": call.about, "why": call.why, "since": call.at.isoformat(timespec="seconds")}
            for call in known.calls
        ],
    }


def words(retraining: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """The same as rows for people: name, words, style."""
    if retraining is None:
        return []
    rows = []
    if (current := retraining["open"]) is not None:
        rows.append(
            ("retraining", f"request {current['number']} ({', '.join(current['causes'])}): {retraining['next']}", "")
        )
    elif (last := retraining["last"]) is not None:
        came = f"version {last['version']}" if last["version"] else str(last["outcome"]).replace("_", " ")
        rows.append(("retraining", f"request {last['number']} ({', '.join(last['causes'])}) ended: {came}", ""))
        if last["outcome"] == "gave_up":
            rows.append(("needs a person", last["why"], "bold red"))
    rows += [("needs a person", call["why"], "bold red") for call in retraining["needs_a_person"]]
    return rows


def _request(request: Request) -> dict[str, Any]:
    return {
        "number": request.number,
        "causes": list(request.causes),
        "asked": [
            {"cause": ask.cause, "why": ask.why, "by": ask.actor, "at": ask.at.isoformat()} for ask in request.asks
        ],
        "attempts": [
            {"number": each.number, "run": each.run, "began": each.began.isoformat(), "failure": each.failure}
            for each in request.attempts
        ],
        "outcome": request.outcome,
        "version": request.version,
        "why": request.why,
    }
