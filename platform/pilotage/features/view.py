"""The feature view of a model: one definition, used offline for training and online for serving.

Offline joins timelines read from the lake, online looks the same timelines up in the online store; the row features are
the same expressions. Where the rows come from and where the results go is up to the callers.
"""

from __future__ import annotations

from functools import cached_property

import polars as pl

from pilotage.errors import DataError, DeclarationError, SchemaChanged
from pilotage.features.asof import Lookup, Reader, attach, read_timelines, resolve
from pilotage.features.compiled import CompiledRow
from pilotage.features.definition import Definition
from pilotage.features.plain import plain
from pilotage.features.rows import POLARS_FAILS, RowFeatures, evaluate, require_row_wise
from pilotage.features.state import StateLookup, answer
from pilotage.features.timeline import MOMENT, Timeline
from pilotage.spec import ModelSpec, Window


class FeatureView:
    """Computes the as-of columns and the features of a model."""

    def __init__(self, spec: ModelSpec | Definition) -> None:
        """Resolves a spec, or the definition that a bundle holds.

        Raises:
            DeclarationError: A feature can't be computed on the declared columns, looks at other rows, or holds code.
        """
        self.definition = spec if isinstance(spec, Definition) else Definition.of(spec)
        request, asof = self.definition.request, self.definition.asof
        self.request_types: dict[str, pl.DataType] = dict(request)
        """Request columns with their types."""
        self.state_types: dict[str, pl.DataType] = {c: t for item in asof for c, t in item.outputs().items()}
        """As-of columns with their types."""
        self.lookups: tuple[Lookup, ...] = resolve(asof, request)
        for item in asof:
            if isinstance(item, Window):
                for expr in (item.value, item.where):
                    if expr is not None:
                        require_row_wise(f"as-of feature {item.name}", expr)
        self.rows = RowFeatures(self.definition.features, {**self.request_types, **self.state_types})
        """The row features alone, for callers that look up state by ``with_state``."""
        self.schema: dict[str, pl.DataType] = self.rows.schema
        """Features with their types, in the order of declaration."""
        self._check_moment()
        at = self.definition.predicts_at
        self._moment = plain({} if at is None else {"predicts_at": at})

    @classmethod
    def from_json(cls, text: str) -> FeatureView:
        """Reads what ``to_json`` wrote, without the spec.

        Raises:
            DeclarationError: The text is no definition, or holds code.
        """
        return cls(Definition.from_json(text))

    def to_json(self) -> str:
        """The whole definition as canonical JSON."""
        return self.definition.to_json()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides a feature's value; the same in every process."""
        return self.definition.fingerprint

    @cached_property
    def compiled(self) -> CompiledRow:
        """The row features for one row at a time, over request and as-of columns in that order."""
        return CompiledRow(self.rows.expressions, {**self.request_types, **self.state_types})

    @property
    def timelines(self) -> dict[str, Timeline]:
        """The timelines it asks, by name."""
        return {lookup.timeline.name: lookup.timeline for lookup in self.lookups}

    def moments(self, frame: pl.DataFrame) -> pl.Series | None:
        """The prediction moment of each row (UTC); ``None`` for data without a time.

        Raises:
            SchemaChanged: A request column is missing or has another type.
            DataError: A row has no prediction moment.
        """
        schema = frame.schema
        for name, dtype in self.request_types.items():
            if schema.get(name) != dtype:
                found = schema.get(name, "missing")
                raise SchemaChanged(
                    f"Request column {name} is {found}, not {dtype}.", fix="Publish it as declared.", column=name
                )
        if self.definition.predicts_at is None:
            return None
        moments = evaluate(frame, self._moment).get_column("predicts_at")
        if moments.null_count():
            row = moments.is_null().arg_max()
            raise DataError(
                f"{moments.null_count()} of {frame.height} rows have no prediction moment; the first is row {row}.",
                fix="Require the columns of predicts_at in the source's contract and in the request.",
                row=row,
            )
        return moments

    def offline(self, population: pl.DataFrame, read: Reader) -> pl.DataFrame:
        """Computes features of many rows, each as known at its own prediction moment.

        Args:
            population: One row per thing to predict, with the request columns; other columns are carried along.
            read: Gives the validated rows of a source that became known in a range of time; may give more.

        Returns:
            The population in its order, with as-of columns and features.

        Raises:
            DataError: A source or the population is not as declared.
        """
        moments = self.moments(population)
        if self.lookups and moments is not None:
            if population.is_empty():
                population = population.with_columns(
                    pl.lit(None, dtype).alias(c) for c, dtype in self.state_types.items()
                )
            else:
                first, last = moments.dt.min(), moments.dt.max()
                timelines = read_timelines(self.lookups, read, first=first, last=last)  # type: ignore[arg-type]
                population = attach(population, moments, self.lookups, timelines)
        return self.rows.compute(population)

    def online(self, requests: pl.DataFrame, store: StateLookup | None) -> pl.DataFrame:
        """Computes features of one or a few requests from the latest state.

        Args:
            requests: One row per request, with the request columns; other columns are carried along.
            store: Where to look up state; may be ``None`` for a view without as-of features.

        Returns:
            The requests in their order, with as-of columns and features.

        Raises:
            StateUnavailable: The store can't answer.
            DataError: The requests are not as declared.
        """
        return self.rows.compute(self.with_state(requests, store))

    def with_state(self, requests: pl.DataFrame, store: StateLookup | None) -> pl.DataFrame:
        """Adds the as-of columns alone: what a fallback rule needs. Arguments and errors as ``online``."""
        moments = self.moments(requests)
        if not self.lookups or moments is None:
            return requests
        if store is None:
            raise DeclarationError(
                "This view has as-of features, and no state to look them up in.", fix="Give the model's online store."
            )
        return requests.hstack(answer(requests, moments, self.lookups, store))

    def _check_moment(self) -> None:
        expr = self.definition.predicts_at
        if expr is None:
            return
        require_row_wise("predicts_at", expr)
        try:
            dtype = pl.DataFrame(schema=self.request_types).select(_at=expr).schema["_at"]
        except POLARS_FAILS as error:
            raise DeclarationError(f"predicts_at can't be computed: {error}.", fix="Correct its expression.") from error
        if dtype != MOMENT:
            raise DeclarationError(f"predicts_at is {dtype}, not {MOMENT}.", fix="Keep it in UTC, in microseconds.")
