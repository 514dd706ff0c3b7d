"""What can be wrong with labels, and from when on it is. Judges frames and rates; reads no tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal

import polars as pl

from pilotage.monitoring.answers import REASON
from pilotage.monitoring.label_rates import RateOfDays
from pilotage.spec import ModelSpec
from pilotage.training.metrics import Resamples, all_metrics, with_intervals
from pilotage.training.records import Interval

NEWEST = 7
"""Days in which a label rate counts as sudden."""
FEWEST = 50
"""Predictions below which no share is judged."""
DISAGREE = 0.01
"""Share of the labelled predictions that may be contested."""
UNLABELLED_LIMIT = 0.25
"""Share of a day's predictions with a reason to have no label, from which the rest is no fair picture of the day."""
INVERTED = 0.45
"""An AUC that is below, with its whole interval, says that labels mean the opposite."""
INVERTED_DAYS = (3, 7)
"""Lengths of the windows in which labels may contradict what a model ranks."""

Kind = Literal["label_rate", "late_labels", "disagreement", "unlabelled", "inverted_labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDefect:
    """Something that is wrong with labels."""

    kind: Kind
    model: str
    what: str
    """In a sentence, with the numbers."""
    first: date
    last: date
    """The days that it is about."""
    measured: float
    limit: float
    blocks: bool
    """Whether nothing should be trained until it is cleared up."""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """As JSON values, for the record of what it kept from being trained."""
        days = {"first": self.first.isoformat(), "last": self.last.isoformat()}
        return {"kind": self.kind, "why": self.what, "measured": self.measured, "limit": self.limit, **days}


def find_defects(
    spec: ModelSpec, answers: pl.DataFrame, *, told: pl.DataFrame, days: pl.DataFrame, rates: Sequence[RateOfDays]
) -> list[LabelDefect]:
    """Every defect, those that block retraining first.

    Args:
        spec: The model.
        answers: From ``read_answers``.
        told: Those that were given, with ``_age``: how old they are.
        days: As in ``LabelReport``.
        rates: From ``judge_rates``.
    """
    found = [
        *_rate_defects(spec, rates, days),
        *_inverted(spec, answers),
        *_disagreement(spec, told),
        *_late(spec, told),
        *_unlabelled(spec, days),
    ]
    return sorted(found, key=lambda defect: not defect.blocks)


def _rate_defects(spec: ModelSpec, rates: Sequence[RateOfDays], days: pl.DataFrame) -> list[LabelDefect]:
    """The farthest of the windows that are not normal: one defect, with the others in its evidence."""
    wrong = [found for found in rates if not found.normal_enough]
    if not wrong:
        return []
    worst = max(wrong, key=lambda found: abs(found.deviations))
    predicted = days.filter(pl.col("day").is_between(worst.last - timedelta(days=worst.days - 1), worst.last))
    return [
        LabelDefect(
            kind="label_rate",
            model=spec.name,
            what=(
                f"{worst.rate:.1%} of {worst.labels:,} labels are true in the {worst.days} day(s) to {worst.last}; the "
                f"{worst.reference_days} sound days before had {worst.normal:.1%}, and {worst.low:.1%} to "
                f"{worst.high:.1%} would be normal."
            ),
            first=min(found.last - timedelta(days=found.days - 1) for found in wrong),
            last=max(found.last for found in wrong),
            measured=worst.rate,
            limit=worst.high if worst.deviations > 0 else worst.low,
            blocks=True,
            evidence={
                "windows": [
                    {
                        "last": str(w.last),
                        "days": w.days,
                        "rate": round(w.rate, 4),
                        "deviations": round(w.deviations, 2),
                    }
                    for w in wrong
                ],
                "predictions": int(predicted["predictions"].sum()),
            },
        )
    ]


def _inverted(spec: ModelSpec, answers: pl.DataFrame) -> list[LabelDefect]:
    """Labels of the newest days that contradict what the model ranks: swapped, more likely than a world turned over."""
    usable = answers.filter(
        pl.col("label").is_not_null()
        & pl.col("probability").is_not_null()
        & pl.col("stage").is_in(["champion", "canary"])
    )
    for length in INVERTED_DAYS:
        newest = usable["day"].unique().sort().tail(length)
        rows = usable.filter(pl.col("day").is_in(newest.implode()))
        if len(newest) == length and (auc := contradicted(spec, rows)) is not None:
            return [
                LabelDefect(
                    kind="inverted_labels",
                    model=spec.name,
                    what=(
                        f"Labels of the last {length} days contradict the model: AUC {auc.value:.2f} ({auc.low:.2f} to "
                        f"{auc.high:.2f}) on {rows.height:,} answers. Are true and false swapped?"
                    ),
                    first=newest[0],
                    last=newest[-1],
                    measured=auc.value,
                    limit=INVERTED,
                    blocks=True,
                    evidence={"answers": rows.height, "auc_low": auc.low, "auc_high": auc.high},
                )
            ]
    return []


def contradicted(spec: ModelSpec, rows: pl.DataFrame) -> Interval | None:
    """The AUC of answers that their labels contradict beyond doubt; ``None`` where they don't, or are few.

    Args:
        spec: The model.
        rows: ``day``, ``label`` and ``probability``, none of them null.
    """
    if rows.height < FEWEST or rows["label"].n_unique() < 2:
        return None
    labels, predicted = rows["label"].to_numpy(), rows["probability"].to_numpy()
    if all_metrics(labels, predicted, spec.kpi.cost)["auc"] >= INVERTED:
        return None
    drawn = Resamples.draw(rows["day"].to_physical().to_numpy(), rows.height, count=200, seed=0)
    auc = with_intervals(labels, predicted, spec.kpi.cost, drawn, confidence=0.99)["auc"]
    return auc if auc.high < INVERTED else None


def _disagreement(spec: ModelSpec, told: pl.DataFrame) -> list[LabelDefect]:
    disputed = told.filter("contested")
    known = told["label"].count() + disputed.height
    if known < FEWEST or disputed.height / known <= DISAGREE:
        return []
    return [
        LabelDefect(
            kind="disagreement",
            model=spec.name,
            what=(
                f"Tellers disagree about {disputed.height:,} of {known:,} predictions with a truth; {DISAGREE:.0%} "
                f"is put up with. Both values are in quarantine/{spec.name}_outcomes."
            ),
            first=disputed["day"].min(),  # type: ignore[arg-type]
            last=disputed["day"].max(),  # type: ignore[arg-type]
            measured=disputed.height / known,
            limit=DISAGREE,
            blocks=True,
            evidence={"examples": disputed["prediction_id"].head(10).to_list()},
        )
    ]


def _late(spec: ModelSpec, told: pl.DataFrame) -> list[LabelDefect]:
    """Too few of the predictions that should have their label have it; of those that are not much older."""
    within, least = spec.outcomes.within, spec.outcomes.coverage
    due = told.filter(pl.col("_age").is_between(within, within + timedelta(days=NEWEST)) & pl.col(REASON).is_null())
    if due.height < FEWEST:
        return []
    share = 1 - due.filter(~pl.col("contested"))["label"].null_count() / due.height
    if share >= least:
        return []
    return [
        LabelDefect(
            kind="late_labels",
            model=spec.name,
            what=(
                f"{share:.1%} of {due.height:,} predictions have a label that should be there after {within}; at least "
                f"{least:.0%} should."
            ),
            first=due["day"].min(),  # type: ignore[arg-type]
            last=due["day"].max(),  # type: ignore[arg-type]
            measured=share,
            limit=least,
            # The labels that are there may be of another kind than those that are not.
            blocks=True,
            evidence={"due": due.height, "within_h": within.total_seconds() / 3600},
        )
    ]


def _unlabelled(spec: ModelSpec, days: pl.DataFrame) -> list[LabelDefect]:
    """Days of which many will never have a label. It blocks nothing: what the rest says is true, if not the whole."""
    share = pl.col("unlabelled") / pl.col("predictions")
    many = days.filter((pl.col("predictions") >= FEWEST) & (share > UNLABELLED_LIMIT)).with_columns(share=share)
    if many.is_empty():
        return []
    worst = many.sort("share").row(-1, named=True)
    return [
        LabelDefect(
            kind="unlabelled",
            model=spec.name,
            what=(
                f"{worst['share']:.1%} of the predictions of {worst['day']} will never have a label; from "
                f"{UNLABELLED_LIMIT:.0%} on, the others are no fair picture of the day."
            ),
            first=many["day"].min(),  # type: ignore[arg-type]
            last=many["day"].max(),  # type: ignore[arg-type]
            measured=worst["share"],
            limit=UNLABELLED_LIMIT,
            blocks=False,
            evidence={"days": [f"{day}: {share:.1%}" for day, share in many.select("day", "share").iter_rows()]},
        )
    ]
