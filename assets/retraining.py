"""A training run as an attempt of a request: begun by its first step, held by every step, checked before each commit.

A run without a request, such as one that somebody launches by hand, has none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from pilotage.run_tags import REQUEST

if TYPE_CHECKING:
    from pilotage.release.retraining.lease import Lease
    from pilotage.settings import Settings
    from pilotage.spec import ModelSpec
    from pilotage.training.records import TrainingSet
    from resources.platform_home import PlatformHome

PARENT, RETRIED = "dagster/parent_run_id", "dagster/retry_number"


def request_of(run: dg.DagsterRun) -> int | None:
    """Number of the request that a run carries out. One that somebody repeats in the UI trains by hand."""
    number = run.tags.get(REQUEST, "")
    return int(number) if number.isdigit() and not repeated(run) else None


def repeated(run: dg.DagsterRun) -> bool:
    """Whether somebody repeats another run in the UI. One that crashed is tried again by Dagster itself."""
    return PARENT in run.tags and RETRIED not in run.tags


def begun(context: dg.AssetExecutionContext, spec: ModelSpec, settings: Settings) -> Lease | None:
    """Begins the run's attempt. ``None`` for a run without a request.

    Raises:
        LedgerConflict: Another attempt runs.
        NotReleasable: The request is over, or not due.
    """
    from pilotage.release.ledger import opened
    from pilotage.release.retraining import attempts

    number = request_of(context.run)
    if number is None:
        return None
    with opened(settings, None) as book:
        request, attempt = attempts.begin(spec.name, number, run=context.run.run_id, policy=spec.retraining, book=book)
    context.log.info(
        f"Attempt {attempt.number} of request {request.number} ({', '.join(request.causes)}), fence {attempt.fence}: "
        + " ".join(ask.why for ask in request.asks)
    )
    return held(context, spec, settings)


def held(context: dg.AssetExecutionContext, spec: ModelSpec, settings: Settings) -> Lease | None:
    """The lease of the run's attempt; ``None`` for a run without a request."""
    from pilotage.release.retraining.lease import held_by

    if request_of(context.run) is None:
        return None
    return held_by(spec.name, context.run.run_id, lasts=spec.retraining.lease, settings=settings)


@contextmanager
def keeping(lease: Lease | None, *, checked: bool = True) -> Iterator[None]:
    """Holds the lease while a step works; what the step made is handed on only if it is still held.

    Args:
        lease: ``None`` for a run without a request.
        checked: Whether to ask before and after; not for a step that itself ends the attempt by what it records.

    Raises:
        LedgerConflict: It is another attempt's.
    """
    if lease is None:
        yield
        return
    with lease.kept(checked=checked):
        yield


def refuse_bad_labels(
    context: dg.AssetExecutionContext,
    spec: ModelSpec,
    platform: PlatformHome,
    training_set: TrainingSet,
    lease: Lease | None,
) -> None:
    """Ends an attempt whose newest labels can hardly be what they are called; tells a training by hand.

    Looked at are the rates of the set itself, and what is wrong with the labels of what was predicted; of days that the
    champion was not trained on: with those, somebody let it pass.

    Raises:
        Failure: The attempt is over, and is not tried again.
    """
    from datetime import date

    from pilotage.features.build import EVENT_TIME, LABEL
    from pilotage.monitoring.label_quality import label_quality
    from pilotage.release.champions import champion
    from pilotage.release.ledger import opened
    from pilotage.release.retraining import attempts
    from pilotage.release.retraining.requests import call_a_person
    from pilotage.training.dataset import read_set
    from pilotage.training.label_check import label_jumps

    if spec.event_time is None:
        return
    settings = platform.settings
    release = champion(spec.name, settings=settings)
    last = release.facts.get("last") if release else None
    seen = date.fromisoformat(last) if last else None
    jumps = label_jumps(spec, read_set(training_set, [EVENT_TIME, LABEL]), accepted=seen)
    bad = [jump.payload() for jump in jumps]
    defects = label_quality(spec, settings=settings, lake=platform.lake)
    bad += [found.payload() for found in defects if found.blocks and (seen is None or found.last > seen)]
    if not bad:
        return
    why = " ".join(str(each["why"]) for each in bad[:3]) + (f" And {len(bad) - 3} more." if len(bad) > 3 else "")
    if lease is None:
        context.log.warning(f"Labels that can hardly be right are trained on, since somebody asked for it. {why}")
        return
    evidence = {"labels": bad}
    with opened(settings, None) as book:
        attempts.finish(spec.name, lease.fence, "blocked", why=why, book=book, evidence=evidence)
    call_a_person(
        spec.name,
        "labels",
        settings=settings,
        actor=attempts.ACTOR,
        why=f"Retraining is blocked: {why}",
        evidence=evidence,
    )
    raise dg.Failure(
        description=f"The labels may not be learned from. {why}",
        metadata={"defects": ", ".join(str(each["kind"]) for each in bad), "fix": "docs/runbooks/retraining.md"},
        allow_retries=False,
    )
