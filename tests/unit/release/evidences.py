"""Logs of rollouts as frames, made up: what the log of a real service would hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from pilotage.monitoring.log_frames import empty_frame
from pilotage.release.evidence import COLUMNS, Evidence, Stage
from pilotage.runtime.answer import PredictionRecord, ShadowRecord

START = datetime(2024, 3, 1, tzinfo=UTC)
CHAMPION, CHALLENGER = 1, 2
STEP = Stage(kind="canary", sequence=10, since=START, share=0.25, salt="s")
SHADOW = Stage(kind="shadow", sequence=5, since=START)

_SCHEMA = {
    **{name: dtype for name, dtype in empty_frame(PredictionRecord).schema.items() if name in COLUMNS},
    "label": pl.Boolean(),
    "label_received_at": pl.Datetime("us", "UTC"),
}


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A plain answer of the champion to the n-th entity."""
    return {
        "prediction_id": f"p{number:06}",
        "entity": f'{{"id":{number}}}',
        "at": START + timedelta(seconds=number + 1),
        "version": CHAMPION,
        "routed_version": CHAMPION,
        "drawn_by": STEP.sequence,
        "answered_by": "model",
        "probability": 0.2,
        "decision": False,
        "referred": False,
        "latency_us": 900,
        "label": None,
        "label_received_at": None,
    } | changes


def canary(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A plain answer of the canary."""
    return row(number, **({"version": CHALLENGER, "routed_version": CHALLENGER} | changes))


def failed(number: int = 0, **changes: Any) -> dict[str, Any]:
    """The canary's turn; it failed, and the champion answered."""
    return row(number, **({"routed_version": CHALLENGER} | changes))


def shadow_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """What the shadow would have answered to the n-th."""
    return {
        "prediction_id": f"p{number:06}",
        "model": "tiny",
        "version": CHALLENGER,
        "at": START + timedelta(seconds=number + 1),
        "probability": 0.2,
        "decision": False,
        "referred": False,
        "error": None,
        "latency_us": 300,
    } | changes


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=_SCHEMA)


def evidence(
    rows: Sequence[dict[str, Any]] = (),
    shadows: Sequence[dict[str, Any]] = (),
    *,
    stages: tuple[Stage, ...] = (STEP,),
    planned: int = 3,
) -> Evidence:
    return Evidence(
        model="tiny",
        version=CHALLENGER,
        champion=CHAMPION,
        stages=stages,
        planned=planned,
        predictions=frame(rows),
        shadows=pl.DataFrame(list(shadows), schema=empty_frame(ShadowRecord).drop("day").schema),
    )


def traffic(
    n: int, *, fails: float = 0.0, worse: float = 0.0, seed: int = 0, stage: Stage = STEP, first: int = 0
) -> list[dict[str, Any]]:
    """Traffic of a canary's step with outcomes: a share of its own answers fails, its probabilities are off by some."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + n):
        truth = float(random.beta(2, 6))
        mine = random.random() < (stage.share or 0)
        make = row if not mine else failed if random.random() < fails else canary
        probability = min(truth + (worse if make is canary else 0.0), 1.0)
        rows.append(
            make(
                number,
                drawn_by=stage.sequence,
                probability=probability,
                decision=probability >= 0.25,
                label=bool(random.random() < truth),
                label_received_at=START + timedelta(days=1),
            )
        )
    return rows
