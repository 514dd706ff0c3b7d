"""What outcomes amount to, when they come late, twice, too early or against each other. Pure functions on frames.

An outcome with a prediction's id is about that prediction; one with an entity is about every prediction of that entity
whose moment is not after it became known. Of the outcomes about one prediction, the first that became known counts, and
none is thrown away: what the others are is told by their status. That is what rollouts go by, whose labels must never
change. What measures a model goes by what is known best: the last words of all who told it (``agreed``); where these
differ, the prediction is contested. Where outcomes come from is not known here.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

PATIENCE = timedelta(days=30)
"""How long an outcome waits for its prediction before it is reported as unknown."""
STATUSES = ("counts", "repeated", "conflicting", "waiting", "unknown")
"""``counts``: the label of at least one prediction. ``repeated``: says again what counts. ``conflicting``: says
otherwise than what counts. ``waiting``: came before its prediction. ``unknown``: still has none after ``PATIENCE``."""
_FIRST = ("known_at", "received_at", "outcome_id")
"""The order in which outcomes count; the id decides between equals, so that no order of reading does."""


def label(predictions: pl.DataFrame, outcomes: pl.DataFrame, *, known_by: datetime | None = None) -> pl.DataFrame:
    """The predictions whose truth is known, with it, ordered by when it became known.

    Args:
        predictions: One row per prediction: ``prediction_id``, ``entity`` and ``moment``; others are carried along.
        outcomes: One row per outcome, as logged.
        known_by: Leaves out what became known later (UTC).

    Returns:
        The predictions with ``label``, ``label_known_at``, ``label_received_at`` and ``outcome_id``.
    """
    told = _distinct(outcomes)
    if known_by is not None:
        told = told.filter(pl.col("known_at") <= known_by)
    first = _pairs(predictions, told).unique("prediction_id", keep="first", maintain_order=True)
    truth = first.select(
        "prediction_id",
        "label",
        "outcome_id",
        pl.col("known_at").alias("label_known_at"),
        pl.col("received_at").alias("label_received_at"),
    )
    return predictions.join(truth, on="prediction_id", how="inner").sort("label_known_at", "prediction_id")


def resolve(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, now: datetime, patience: timedelta = PATIENCE
) -> pl.DataFrame:
    """What each outcome is: one row per outcome, in the order in which they became known.

    Args:
        predictions: One row per prediction: ``prediction_id``, ``entity`` and ``moment``.
        outcomes: One row per outcome, as logged.
        now: When this is asked (UTC).
        patience: How long an outcome waits for its prediction.

    Returns:
        The outcomes with ``status`` (see ``STATUSES``), ``predictions`` (how many it is about) and ``against``: the
        outcome that counts instead, where they conflict.
    """
    told = _distinct(outcomes)
    pairs = _pairs(predictions, told).with_columns(
        pl.col("label").first().over("prediction_id").alias("_label"),
        pl.col("outcome_id").first().over("prediction_id").alias("_first"),
    )
    otherwise = pl.col("label") != pl.col("_label")
    found = pairs.group_by("outcome_id").agg(
        pl.len().cast(pl.Int64).alias("predictions"),
        pl.col("_first").filter(otherwise).first().alias("against"),
        (pl.col("outcome_id") == pl.col("_first")).any().alias("_counts"),
    )
    status = (
        pl.when(pl.col("predictions") == 0)
        .then(pl.when(now - pl.col("received_at") < patience).then(pl.lit("waiting")).otherwise(pl.lit("unknown")))
        .when(pl.col("against").is_not_null())
        .then(pl.lit("conflicting"))
        .when(pl.col("_counts"))
        .then(pl.lit("counts"))
        .otherwise(pl.lit("repeated"))
    )
    return (
        told.join(found, on="outcome_id", how="left")
        .with_columns(pl.col("predictions").fill_null(0))
        .with_columns(status.alias("status"))
        .drop("_counts")
        .sort(_FIRST)
    )


def agreed(predictions: pl.DataFrame, outcomes: pl.DataFrame, *, known_by: datetime | None = None) -> pl.DataFrame:
    """What all who told it say by now of each prediction: their last words, in the order in which they were received.

    A teller is who told it: an API key, or a source. One that corrects itself is taken at its last word.

    Args:
        predictions: As for ``label``.
        outcomes: As for ``label``.
        known_by: Leaves out what became known later (UTC).

    Returns:
        One row per prediction that something was told about: ``prediction_id``, ``contested`` (tellers differ),
        ``label`` (null where contested) and ``label_known_at`` (when it first became known that it is so).
    """
    pairs = _told(predictions, outcomes, known_by)
    words = pairs.unique(["prediction_id", "caller"], keep="last", maintain_order=True)
    verdict = words.group_by("prediction_id", maintain_order=True).agg(
        (pl.col("label").n_unique() > 1).alias("contested"), pl.col("label").first().alias("_agreed")
    )
    same = pairs.join(verdict, on="prediction_id", how="inner").filter(pl.col("label") == pl.col("_agreed"))
    first = same.group_by("prediction_id").agg(pl.col("known_at").min().alias("label_known_at"))
    settled = pl.col("contested").not_()
    return verdict.join(first, on="prediction_id", how="left", maintain_order="left").select(
        "prediction_id",
        "contested",
        pl.when(settled).then("_agreed").alias("label"),
        pl.when(settled).then("label_known_at").alias("label_known_at"),
    )


def contested(predictions: pl.DataFrame, outcomes: pl.DataFrame, *, known_by: datetime | None = None) -> pl.DataFrame:
    """Everything that was told about the predictions that are contested. Arguments as for ``agreed``.

    Returns:
        One row per prediction and outcome about it, in the order in which they were received: ``prediction_id``,
        ``entity``, ``outcome_id``, ``caller``, ``label``, ``known_at``, ``received_at`` and ``last_word``.
    """
    place = pl.int_range(pl.len()).over("prediction_id", "caller")
    pairs = _told(predictions, outcomes, known_by).with_columns(
        (place == pl.len().over("prediction_id", "caller") - 1).alias("last_word")
    )
    differ = pl.col("label").filter("last_word").n_unique().over("prediction_id") > 1
    entities = predictions.select("prediction_id", "entity").unique("prediction_id", keep="first")
    return (
        pairs.filter(differ)
        .join(entities, on="prediction_id", how="left", maintain_order="left")
        .select("prediction_id", "entity", "outcome_id", "caller", "label", "known_at", "received_at", "last_word")
        .sort("prediction_id", maintain_order=True)
    )


def _told(predictions: pl.DataFrame, outcomes: pl.DataFrame, known_by: datetime | None) -> pl.DataFrame:
    """Each prediction with each outcome about it and its teller, in the order in which they were received."""
    # Not each outcome once: who says again what another one said, or it said itself before it erred, has the last word.
    told = outcomes.unique(["outcome_id", "caller", "received_at"], keep="first", maintain_order=True)
    if known_by is not None:
        told = told.filter(pl.col("known_at") <= known_by)
    return _pairs(predictions, told).sort("received_at", "known_at", "outcome_id", "prediction_id")


def _distinct(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Each outcome once, as it was first received: told again, or read twice, it is nothing new."""
    first = outcomes.sort("received_at", maintain_order=True)
    return first.unique("outcome_id", keep="first", maintain_order=True)


def _pairs(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Each prediction with each outcome about it, the one that counts first."""
    asked = predictions.select("prediction_id", "entity", "moment").unique("prediction_id", keep="first")
    told = outcomes.select(*_FIRST, "caller", "label", "prediction_id", "entity")
    by_id = told.drop("entity").join(asked.select("prediction_id"), on="prediction_id", how="inner")
    by_entity = (
        told.filter(pl.col("prediction_id").is_null())
        .drop("prediction_id")
        .join(asked, on="entity", how="inner")
        # What was known before a prediction was made can't be the truth that it waits for.
        .filter(pl.col("moment").is_null() | (pl.col("known_at") >= pl.col("moment")))
    )
    columns = [*_FIRST, "caller", "label", "prediction_id"]
    return pl.concat([by_id.select(columns), by_entity.select(columns)]).sort(_FIRST, maintain_order=True)
