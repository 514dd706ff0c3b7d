"""What answers when no version can: the spec's rule, and what is said of why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from pilotage.errors import InvalidRequest, ModelNotReady, PilotageError, StateUnavailable
from pilotage.features.plain import plain
from pilotage.features.rows import evaluate
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.contract import Contract
from pilotage.runtime.prepared import Prepared
from pilotage.spec import ModelSpec

WITHOUT_HISTORY = "the rule was computed without history, which is not available"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruled:
    """What the rule gave."""

    probability: float | None
    """0..1; ``None`` if the rule could not be computed either."""
    decision: bool | None
    referred: bool
    reasons: tuple[str, ...]
    prepared: Prepared | None
    """The request with its state, where there was a version to prepare it and state to look up."""
    by: Loaded | None
    """The version whose rule and contract it went by; ``None`` for the spec's."""


def rule_of(spec: ModelSpec, board: Board, request: Mapping[str, Any]) -> Ruled:
    """Answers by the rule, with as much history as there is.

    Args:
        spec: Its rule counts only where no version is loaded; a version brings its own.
        board: The versions; no model of theirs is asked.
        request: As sent.

    Raises:
        InvalidRequest: The request breaks the contract.
    """
    loaded = next(iter(board.loaded().values()), None)
    reasons: tuple[str, ...] = ()
    prepared: Prepared | None = None
    try:
        if loaded is None:
            probability, threshold, band = _declared(spec, request), spec.kpi.cost.threshold, spec.serving.refer_between
            words = spec.fallback.reason
            reasons = (WITHOUT_HISTORY,) if spec.asof else ()
        else:
            bundle = loaded.predictor.bundle
            threshold, band, words = bundle.threshold, bundle.refer_between, bundle.fallback_reason
            prepared = _prepared(loaded, board, request)
            reasons = (WITHOUT_HISTORY,) if prepared is None and bundle.asof else ()
            probability = loaded.predictor.rule(request if prepared is None else prepared)
    except InvalidRequest:
        raise
    except Exception as error:
        return Ruled(
            probability=None,
            decision=None,
            referred=True,
            reasons=(f"the rule failed: {told(error)}",),
            prepared=prepared,
            by=loaded,
        )
    referred = band is not None and band[0] <= probability < band[1]
    return Ruled(
        probability=probability,
        decision=None if referred else probability >= threshold,
        referred=referred,
        reasons=(f"answered by rule: {words}", *reasons),
        prepared=prepared,
        by=loaded,
    )


def told(error: Exception) -> str:
    """What may be written of a failure: our own words without a value that was sent, and of anything else not even the
    message."""
    if isinstance(error, InvalidRequest):
        return error.without_value
    return error.message if isinstance(error, PilotageError) else type(error).__name__


def _prepared(loaded: Loaded, board: Board, request: Mapping[str, Any]) -> Prepared | None:
    try:
        return loaded.predictor.prepare(request, board.state)
    except InvalidRequest:
        raise
    except (StateUnavailable, ModelNotReady):
        return None
    except Exception:
        # A version whose features can't be computed: the rule may not need them.
        return None


def _declared(spec: ModelSpec, request: Mapping[str, Any]) -> float:
    """The spec's own rule, over unknown state."""
    frame = Contract(spec.request).frame([request])
    state = [pl.lit(None, dtype).alias(name) for name, dtype in spec.state_types().items()]
    rule = plain({"fallback.rule": spec.fallback.rule.cast(pl.Float64)})
    probability = float(evaluate(frame.with_columns(state), rule)["fallback.rule"].item())
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"the rule gives {probability}")
    return probability
