"""Logged predictions as the requests that they were: typed rows that a bundle's own view can compute features of.

Personal fields are pseudonyms in the log. Their values are taken from the lake's row of the same entity, and only if
that row's value has the very pseudonym that was logged: then it is the value that was sent. What can't be had is named,
never guessed. What the features are compared with is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import UnpublishedData
from pilotage.expressions import columns_of
from pilotage.features.view import FeatureView
from pilotage.monitoring.log_frames import column_as, entity_key, request_column
from pilotage.pseudonyms import PREFIX, Pseudonyms
from pilotage.runtime.bundle import Bundle
from pilotage.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """The requests of some predictions of one version."""

    frame: pl.DataFrame
    """``prediction_id`` and the request columns, one row per prediction; null where a value can't be had."""
    missing: dict[str, frozenset[str]]
    """Prediction → request columns whose values can't be had."""
    why: dict[str, str]
    """Request column → why not."""


@dataclass(slots=True)
class _Missing:
    rows: dict[str, set[str]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def add(self, predictions: pl.Series, column: str, why: str) -> None:
        for prediction in predictions:
            self.rows.setdefault(prediction, set()).add(column)
            self.why[column] = why


def requests_of(
    rows: pl.DataFrame, bundle: Bundle, *, spec: ModelSpec, lake: Lake, pseudonyms: Pseudonyms | None
) -> Requests:
    """The requests that were logged, with the values that pseudonyms stand for.

    Args:
        rows: Predictions of this version, as ``read_log`` gives them.
        bundle: The version's.
        spec: Says where the entities' rows are.
        lake: Where ``validated/<source>`` is.
        pseudonyms: To tell whether a value of the lake is the one that was sent; ``None`` where there is no key.
    """
    missing = _Missing()
    columns = [rows["prediction_id"]]
    hidden: dict[str, pl.Series] = {}
    for each in bundle.request:
        logged = column_as(rows, request_column(each.name), pl.String())
        pseudonym = logged.str.starts_with(PREFIX).fill_null(value=False)
        column = column_as(rows, request_column(each.name), each.dtype)
        if pseudonym.any():
            hidden[each.name] = logged.set(~pseudonym, None)
            column = column.set(pseudonym, None) if each.dtype == pl.String() else column
        columns.append(column.alias(each.name))
        if not each.nullable and not pseudonym.all():
            absent = rows.filter(column.is_null() & ~pseudonym)["prediction_id"]
            missing.add(absent, each.name, f"{each.name} was not logged as {each.dtype}, which the contract says")
    frame = pl.DataFrame(columns)
    if hidden:
        frame = _uncovered(frame, rows, hidden, missing, spec=spec, lake=lake, pseudonyms=pseudonyms)
    return Requests(
        frame=frame, missing={key: frozenset(names) for key, names in missing.rows.items()}, why=missing.why
    )


def depending_on(view: FeatureView, columns: frozenset[str]) -> frozenset[str]:
    """The features that read some request or as-of columns, directly or through the state that these choose."""
    definition = view.definition
    moment = set() if definition.predicts_at is None else columns_of(definition.predicts_at)
    reached = set(columns)
    for item in definition.asof:
        if columns & ({*item.on} | moment):
            reached |= set(item.outputs())
    return frozenset(name for name, expr in definition.features.items() if columns_of(expr) & reached)


def _uncovered(
    frame: pl.DataFrame,
    rows: pl.DataFrame,
    hidden: Mapping[str, pl.Series],
    missing: _Missing,
    *,
    spec: ModelSpec,
    lake: Lake,
    pseudonyms: Pseudonyms | None,
) -> pl.DataFrame:
    """Puts the lake's values where pseudonyms were."""
    found = {} if pseudonyms is None else _lake_rows(rows, list(hidden), spec=spec, lake=lake, pseudonyms=pseudonyms)
    for name, logged in hidden.items():
        values: list[Any] = frame[name].to_list()
        lost: list[str] = []
        for index, (entity, pseudonym) in enumerate(zip(rows["entity"], logged, strict=True)):
            if pseudonym is None:
                continue
            value = found.get(entity, {}).get(name)
            if pseudonyms is not None and value is not None and pseudonyms.apply(name, value) == pseudonym:
                values[index] = value
            else:
                lost.append(rows["prediction_id"][index])
        frame = frame.with_columns(pl.Series(name, values, dtype=frame.schema[name]))
        if lost:
            why = (
                "there is no key to the pseudonyms here"
                if pseudonyms is None
                else f"no row of validated/{spec.source} has the value that was sent"
            )
            missing.add(pl.Series(lost), name, f"{name} is personal, and {why}")
    return frame


def _lake_rows(
    rows: pl.DataFrame, personal: list[str], *, spec: ModelSpec, lake: Lake, pseudonyms: Pseudonyms
) -> dict[str, dict[str, Any]]:
    """Entity, as the log has it → the lake's values of its personal fields."""
    table = f"validated/{spec.source}"
    try:
        population = lake.scan(table)
        there = population.collect_schema()
    except UnpublishedData:
        return {}
    entities: dict[str, dict[str, Any]] = {text: msgspec.json.decode(text) for text in rows["entity"].unique()}
    names = sorted({name for entity in entities.values() for name in entity})
    wanted = [name for name in dict.fromkeys([*names, *personal]) if name in there]
    if not names or any(name not in there for name in names):
        return {}
    plain = next((name for name in names if name not in personal), None)
    if plain is not None:  # The lake finds the rows; where all of the entity is personal, each row must be tried.
        values = pl.Series([entity.get(plain) for entity in entities.values()], strict=False)
        if values.dtype == there[plain]:
            population = population.filter(pl.col(plain).is_in(values.implode()))
    known = set(entities)
    found: dict[str, dict[str, Any]] = {}
    for row in population.select(wanted).unique().collect().iter_rows(named=True):
        key = entity_key(pseudonyms.hide({name: row[name] for name in names}, personal))
        if key in known:
            found[key] = row
    return found
