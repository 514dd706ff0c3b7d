"""How a model stands in a worker, as people and probes are told. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pilotage.errors import PilotageError
from pilotage.runtime.board import Board


def standing(board: Board | None) -> dict[str, object]:
    """What a board has, by name; JSON values and times.

    Args:
        board: ``None`` before the first promotion.
    """
    if board is None:
        return {"version": None}
    found: dict[str, object] = {
        "version": None,
        "killed": board.killed,
        "canary": {"version": board.canary.loaded.version, "share": board.canary.share} if board.canary else None,
        "previous": board.previous.version if board.previous else None,
        "shadows": [each.version for each in board.shadows],
        "sequence": board.plan.sequence,
    }
    champion, wanted = board.champion, board.plan.champion
    if champion is None:
        return found
    bundle = champion.predictor.bundle
    # While another one can't be had, the champion of before answers: what the plan says is not about it.
    current = wanted if wanted is not None and wanted.bundle_sha256 == bundle.sha256 else None
    return found | {
        "version": champion.version,
        "promoted_at": current.since if current else None,
        "trained_at": current.trained_at if current else None,
        "loaded_at": champion.loaded_at,
        "bundle_sha256": bundle.sha256,
        "label": bundle.label,
        "threshold": bundle.threshold,
        "state_through": state_through(board),
        "breaker_open": champion.breaker.open,
        "left_to_lightgbm": bundle.scorer.left_to_lightgbm or None,
    }


def changes(before: Board | None, board: Board) -> Iterator[str]:
    """What is another than before, in sentences."""
    was, now = (each.champion.version if each and each.champion else None for each in (before, board))
    if now is not None and now != was:
        yield f"{board.model} is served by version {now}"
    if board.killed != (before.killed if before else None):
        yield f"{board.model} {f'was killed: {board.killed}' if board.killed else 'was resumed'}"


def misunderstood(board: Board | None) -> str | None:
    """What the ledger says of a model that can't be understood; what is served is from before it."""
    return board.plan.problem if board is not None else None


def state_through(board: Board) -> datetime | None:
    """How far the history knows that the champion goes by (UTC); ``None`` if there is none."""
    if board.champion is None or not board.champion.predictor.bundle.asof:
        return None
    try:
        return board.state.through
    except PilotageError:
        return None
