"""What outcomes amount to, when they come late, twice, too early or against each other. Pure functions on frames.

An outcome with a prediction's id is about that prediction; one with an entity is about every prediction of that entity
whose moment is not after it became known. Of the outcomes about one prediction, the first that became known counts, and
none is thrown away: what the others are is told by their status. Where tellers end up saying different things, a label
counts all the same, and is contested: rollouts need labels that never change, and what measures a model leaves such
predictions out. Where outcomes come from is not known here.
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


def contested(predictions: pl.DataFrame, outcomes: pl.DataFrame, *, known_by: datetime | None = None) -> pl.DataFrame:
    """What was told about the predictions whose truth is disputed: somebody's last word is not the label that counts.

    A teller is who told it: an API key, or a source. One that corrects itself disputes what it said first.

    Args:
        predictions: As for ``label``.
        outcomes: As for ``label``.
        known_by: Leaves out what became known later (UTC).

    Returns:
        One row per prediction and outcome about it, in the order in which they became known: ``prediction_id``,
        ``entity``, ``outcome_id``, ``caller``, ``label``, ``known_at``, ``received_at`` and ``counts``.
    """
    told = _distinct(outcomes)
    if known_by is not None:
        told = told.filter(pl.col("known_at") <= known_by)
    who = told.select("outcome_id", "caller")
    pairs = (
        _pairs(predictions, told)
        .join(who, on="outcome_id", how="left", maintain_order="left")
        .with_columns(
            (pl.col("outcome_id") == pl.col("outcome_id").first().over("prediction_id")).alias("counts"),
            pl.col("label").first().over("prediction_id").alias("_label"),
            pl.col("label").last().over("prediction_id", "caller").alias("_last_word"),
        )
    )
    disputed = (pl.col("_last_word") != pl.col("_label")).any().over("prediction_id")
    entities = predictions.select("prediction_id", "entity").unique("prediction_id", keep="first")
    return (
        pairs.filter(disputed)
        .join(entities, on="prediction_id", how="left", maintain_order="left")
        .select("prediction_id", "entity", "outcome_id", "caller", "label", "known_at", "received_at", "counts")
        .sort("prediction_id", *_FIRST, maintain_order=True)
    )


def _distinct(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Each outcome once: a log that was read twice tells nothing new."""
    return outcomes.unique("outcome_id", keep="first", maintain_order=True)


def _pairs(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Each prediction with each outcome about it, the one that counts first."""
    asked = predictions.select("prediction_id", "entity", "moment").unique("prediction_id", keep="first")
    told = outcomes.select(*_FIRST, "label", "prediction_id", "entity")
    by_id = told.drop("entity").join(asked.select("prediction_id"), on="prediction_id", how="inner")
    by_entity = (
        told.filter(pl.col("prediction_id").is_null())
        .drop("prediction_id")
        .join(asked, on="entity", how="inner")
        # What was known before a prediction was made can't be the truth that it waits for.
        .filter(pl.col("moment").is_null() | (pl.col("known_at") >= pl.col("moment")))
    )
    columns = [*_FIRST, "label", "prediction_id"]
    return pl.concat([by_id.select(columns), by_entity.select(columns)]).sort(_FIRST, maintain_order=True)
