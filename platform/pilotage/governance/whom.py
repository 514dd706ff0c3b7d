"""Whom an erasure is about: the values that identify a person, and how each table of the lake has them.

A person is some columns of a model's entity, or request fields that the contract calls personal, each with a value. A
row is theirs if it has all of them. What is done with such rows is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from pilotage.data.cells import UNPARSED
from pilotage.data.contract import prepared_rows
from pilotage.data.erasing import Whose
from pilotage.data.lake_commits import DAY
from pilotage.data.raw import raw_name
from pilotage.data.source import SourceSpec
from pilotage.errors import ConfigError
from pilotage.monitoring.labels import label_source
from pilotage.monitoring.log_frames import request_column
from pilotage.pseudonyms import Pseudonyms
from pilotage.spec import ModelSpec

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who is to be erased, as one model knows them."""

    model: str
    key: Mapping[str, Any]
    """Column of the entity, or personal request field → value."""
    pseudonym: str
    """Names them in the ledger, which forgets nothing."""

    @classmethod
    def of(cls, spec: ModelSpec, given: Mapping[str, str], *, pseudonyms: Pseudonyms) -> Person:
        """Reads ``KEY=VALUE`` as it was typed.

        Raises:
            ConfigError: Nothing was given, a key identifies nobody, or a value is none of its type.
        """
        allowed = identifying(spec)
        for name in given:
            if name not in allowed:
                raise ConfigError(
                    f"{name!r} identifies nobody to {spec.name}.",
                    fix=f"Give KEY=VALUE for one or more of: {', '.join(allowed)}.",
                    key=name,
                )
        if not given:
            raise ConfigError("Nobody is named.", fix=f"Give KEY=VALUE for one or more of: {', '.join(allowed)}.")
        key = {name: _typed(name, text, allowed[name]) for name, text in sorted(given.items())}
        said = [[column, str(value)] for column, value in key.items()]
        return cls(model=spec.name, key=key, pseudonym=str(pseudonyms.apply(f"person of {spec.name}", said)))


def identifying(spec: ModelSpec) -> dict[str, pl.DataType]:
    """The columns by which a model knows a person, with their types; text where the request does not say."""
    types = spec.request_types()
    personal = [field.name for field in spec.request if field.personal]
    return {name: types.get(name, pl.String()) for name in dict.fromkeys([*spec.entity, *personal])}


def in_sources(spec: ModelSpec, key: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The sources that have rows about whom a key names: source, and key → its column there.

    A source that is joined by other columns than these says nothing about a person.
    """
    yield spec.source, {name: name for name in key}
    told = label_source(spec)
    joined = [(item.source, item.on) for item in spec.asof]
    for source, on in [*joined, *([(told.source, told.on)] if told is not None else [])]:
        if set(key) <= set(on) and source != spec.source:
            yield source, {name: on[name] for name in key}


def by_columns(values: Mapping[str, Any]) -> Whose:
    """Rows whose columns have these values. A frame without one of the columns has no such row."""

    def whose(rows: pl.DataFrame) -> pl.Series:
        if not set(values) <= set(rows.columns):
            return _none(rows)
        return _each(rows, [_is(rows, name, value) for name, value in values.items()])

    return whose


def as_delivered(spec: SourceSpec, values: Mapping[str, Any]) -> Whose:
    """Raw rows of which ``prepare`` makes rows with these values."""
    matches = by_columns(values)
    declared = {raw_name(name): dtype for name, dtype in spec.columns.items()} | {
        DAY: pl.Date(),
        UNPARSED: pl.List(pl.String()),
    }

    def whose(rows: pl.DataFrame) -> pl.Series:
        # Older files may have been written by another declaration.
        alike = rows.with_columns(_as(rows, name, dtype) for name, dtype in declared.items())
        return matches(prepared_rows(spec, alike))

    return whose


def as_logged(key: Mapping[str, Any], *, pseudonyms: Pseudonyms) -> Whose:
    """Rows of predictions or outcomes whose entity or request has these values, or the pseudonyms of them: what is
    personal today may not have been when they were logged, and the other way round."""

    def whose(rows: pl.DataFrame) -> pl.Series:
        found = []
        for name, value in key.items():
            values = [value, pseudonyms.apply(name, value)]
            plain = request_column(name)
            columns = [column for column in rows.columns if column == plain or column.startswith(f"{plain}__")]
            ways = [_is(rows, column, each) for column in columns for each in values]
            if "entity" in rows.columns:
                told = rows.select(pl.col("entity").str.json_path_match(f"$.{name}").alias("entity"))
                ways += [_is(told, "entity", each) for each in values]
            if not ways:
                return _none(rows)
            found.append(pl.DataFrame(ways).select(pl.any_horizontal(pl.all())).to_series())
        return _each(rows, found)

    return whose


@dataclass(slots=True)
class Known:
    """By what else the records of a person are found: a shadow names a prediction, and an outcome may name an entity,
    which says nothing of a personal field."""

    predictions: set[str] = field(default_factory=set)
    """Ids."""
    entities: set[str] = field(default_factory=set)
    """As the log writes them."""

    def add(self, predictions: pl.DataFrame) -> None:
        """Takes over what is told by rows of the log that are theirs."""
        self.predictions |= set(predictions["prediction_id"])
        self.entities |= set(predictions["entity"])

    def or_by(self, whose: Whose) -> Whose:
        """Rows that are theirs by what is known, or by another way."""

        def known(rows: pl.DataFrame) -> pl.Series:
            theirs = whose(rows)
            for column, texts in (("prediction_id", self.predictions), ("entity", self.entities)):
                if column in rows.columns:
                    theirs = theirs | rows[column].is_in(list(texts)).fill_null(value=False)
            return theirs

        return known


def _as(rows: pl.DataFrame, name: str, dtype: pl.DataType) -> pl.Series:
    """A column as it is declared now; what can't be that is null, as is a column that was not there yet."""
    if rows.schema.get(name) == dtype:
        return rows[name]
    try:
        return rows[name].cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.repeat(None, rows.height, dtype=dtype, eager=True).alias(name)


def _is(rows: pl.DataFrame, column: str, value: Any) -> pl.Series:
    """Where a column has a value, whatever type the file has it in."""
    dtype, found = rows.schema[column], pl.col(column)
    if dtype.is_nested() or dtype == pl.Null:
        return _none(rows)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if numeric and dtype == pl.Boolean:
        return _none(rows)
    if numeric and dtype.is_numeric():
        same = found == value
    elif dtype == pl.String and isinstance(value, datetime):
        same = found.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False) == value
    elif dtype == pl.String or numeric:
        same = found.cast(pl.String, strict=False) == _text(value)
        if numeric:
            same = same | (found.cast(pl.Float64, strict=False) == float(value))
    elif isinstance(value, str):
        same = found.cast(pl.String, strict=False) == value
    elif (dtype == pl.Boolean) == isinstance(value, bool) and dtype.is_temporal() == isinstance(value, datetime):
        same = found == value
    else:
        return _none(rows)
    return rows.select(same.fill_null(value=False).alias(f"{column} {value!r}")).to_series()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _each(rows: pl.DataFrame, found: list[pl.Series]) -> pl.Series:
    theirs = ~_none(rows)
    for one in found:
        theirs = theirs & one
    return theirs


def _none(rows: pl.DataFrame) -> pl.Series:
    return pl.repeat(value=False, n=rows.height, dtype=pl.Boolean, eager=True)


def _typed(name: str, text: str, dtype: pl.DataType) -> Any:
    try:
        return _READ.get(type(dtype), str)(text)
    except ValueError:
        raise ConfigError(
            f"{name}={text!r} is no {dtype}.", fix="Give the value as it is in a request.", key=name
        ) from None


def _flag(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(text)
    return text.lower() in _TRUE


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


_READ: Mapping[type, Callable[[str], Any]] = {
    pl.Int64: int,
    pl.Float64: float,
    pl.Boolean: _flag,
    pl.Datetime: _moment,
}
