"""What a request's run is to do: the spec's policies of training data, as the configuration of a training run."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from pilotage.release.retraining.records import Request
from pilotage.spec import ModelSpec, TimeSplit, TrainOn

SHORTEST = timedelta(days=1)
"""Since a change, if the spec says nothing else."""


def training_of(spec: ModelSpec, request: Request, *, now: datetime) -> dict[str, Any]:
    """The ``run.yaml`` of a request, as plain values.

    With one policy it is the run's; with several each is a variant. One that can't be followed, such as since a change
    that nobody dates, is left out.

    Args:
        spec: The model.
        request: The open request; its evidence may date a change.
        now: UTC; tells how long the change has lasted.
    """
    policy = spec.retraining
    values: dict[str, Any] = {}
    if policy.better_by > 0:
        values["evaluation"] = {"better_by": policy.better_by}
    if not isinstance(spec.split, TimeSplit):
        return values
    since = changed_on(request)
    variants = [found for each in policy.data if (found := _variant(each, since, now)) is not None]
    if len(variants) == 1:
        values["data"] = {name: value for name, value in variants[0].items() if name != "name"}
    elif variants:
        values["variants"] = variants
        values["choose_on"] = policy.choose_on
    return values


def changed_on(request: Request) -> date | None:
    """The newest day that an alarm of a request dates a change to; ``None`` if none does."""
    dated = [date.fromisoformat(str(ask.evidence["since"])[:10]) for ask in request.asks if ask.evidence.get("since")]
    return max(dated, default=None)


def _variant(policy: TrainOn, since: date | None, now: datetime) -> dict[str, Any] | None:
    match policy.policy:
        case "sliding":
            return {"name": policy.name, "window_days": _days(policy.length)}
        case "weighted":
            return {"name": policy.name, "half_life_days": _days(policy.length)}
        case "since_change":
            lasted = None if since is None else timedelta(days=(now.date() - since).days)
            if since is None or lasted is None or lasted < (policy.length or SHORTEST):
                return None
            return {"name": f"since {since.isoformat()}", "learn_from": since.isoformat()}
    return {"name": policy.name}


def _days(length: timedelta | None) -> float:
    return (length or timedelta(0)) / timedelta(days=1)
