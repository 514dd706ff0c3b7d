"""Outcomes from a declared source: what its validated rows say of the entities that were predicted.

They become outcomes like those that applications tell: appended to ``outcomes/<model>`` once each, with the source as
their teller. What outcomes amount to is ``outcomes.py``'s to say; whether they are any good, ``label_quality.py``'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import msgspec
import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import CommitConflict, UnpublishedData
from pilotage.expressions import columns_of
from pilotage.monitoring.log_frames import DAY, entity_key
from pilotage.monitoring.predictions import read_log, read_outcomes
from pilotage.pseudonyms import Pseudonyms
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

SLACK = timedelta(days=2)
"""How far an answer's time may be off its prediction moment: a flight of tomorrow is asked about today."""
_TRIES = 5
_KEY = "_key_"
"""No declared name begins with an underscore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSource:
    """Where the truth of a model's entities is found, and how it is read."""

    source: str
    on: Mapping[str, str]
    """Entity column → column of the source."""
    expr: pl.Expr
    known_at: str
    no_label_reason: pl.Expr | None

    @property
    def teller(self) -> str:
        """Who tells these outcomes: the ``caller`` of their records."""
        return f"source:{self.source}"

    @property
    def table(self) -> str:
        return f"validated/{self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one look into the source brought."""

    source: str
    looked_up: int
    """Entities that were predicted, back to ``Outcomes.patience``."""
    found: int
    """Of them, those with a label in the source."""
    new: int
    """Outcomes that were not told before: the first of an entity, or another than before."""
    corrected: int
    """Of the new ones, those that say otherwise than the source said before."""
    lake_version: int | None
    """Of ``outcomes/<model>``; ``None`` if nothing was written."""


def label_source(spec: ModelSpec) -> LabelSource | None:
    """The source that holds a model's truth; ``None`` if only applications tell it."""
    told = spec.outcomes
    expr, known_at = (spec.label.expr, spec.label.known_at) if told.source is None else (told.expr, told.known_at)
    if expr is None or known_at is None:
        return None
    return LabelSource(
        source=told.source or spec.source,
        on={name: told.on.get(name, name) for name in spec.entity},
        expr=expr,
        known_at=known_at,
        no_label_reason=told.no_label_reason,
    )


def collect(
    spec: ModelSpec, *, settings: Settings, lake: Lake, now: datetime, received_at: datetime | None = None
) -> Collected | None:
    """Appends to ``outcomes/<model>`` what the source says and has not said before. Safe to repeat, and to run twice.

    Args:
        spec: The model.
        settings: Where the log is.
        lake: Where the source's validated rows and the outcomes are.
        now: Of the data (UTC): predictions that are older than the patience are not looked up.
        received_at: When this is (UTC); ``None`` for now by the wall clock.

    Returns:
        ``None`` for a model whose truth is in no source.

    Raises:
        CommitConflict: Others kept appending; nothing was lost, and nothing was written.
    """
    about = label_source(spec)
    if about is None:
        return None
    received_at = received_at or datetime.now(UTC)
    table, app = f"outcomes/{spec.name}", f"outcomes-of/{about.source}"
    for _ in range(_TRIES):
        before = lake.sequence(table, app)
        rows, collected = _news(spec, about, settings=settings, lake=lake, now=now, received_at=received_at)
        if rows.is_empty():
            return collected
        try:
            commit = lake.append(
                table,
                rows,
                note={"source": about.source, "new": str(rows.height)},
                app_id=app,
                sequence=0 if before is None else before + 1,
                after=before,
                by_day=True,
            )
        except CommitConflict:
            continue  # Another run told some of it: what is new is another question now.
        if commit.rows:  # None, where the other run was first with this very sequence.
            return replace(collected, lake_version=commit.version)
    raise CommitConflict(
        f"{table}: others kept appending outcomes of {about.source}.", fix="Run it again.", table=table
    )


def source_rows(
    entities: pl.Series,
    spec: ModelSpec,
    *,
    table: str,
    on: Mapping[str, str],
    columns: Mapping[str, pl.Expr],
    lake: Lake,
    settings: Settings,
    first: date | None = None,
) -> pl.DataFrame:
    """What the lake's rows say of logged entities.

    Args:
        entities: As the log has them, with pseudonyms for personal fields.
        spec: Says which fields are personal.
        table: Of the lake.
        on: Entity column → column of the table.
        columns: Name → expression over the table's columns.
        lake: Where the table is.
        settings: Where the key of the pseudonyms is.
        first: Leaves out earlier days of a daily table.

    Returns:
        One row per entity that the table knows: ``entity`` and ``columns``; nothing, if there is no such table.

    Raises:
        UnpublishedData: The table lacks a column.
    """
    nothing = pl.DataFrame(schema={"entity": pl.String()})
    wanted = entities.drop_nulls().unique().sort()
    if wanted.is_empty() or not lake.exists(table):
        return nothing
    schema = lake.schema(table)
    needed = {*on.values(), *(name for expr in columns.values() for name in columns_of(expr))}
    if missing := sorted(needed - set(schema)):
        raise UnpublishedData(
            f"{table} has no column {missing[0]}, which {spec.name} needs of what it predicted.",
            fix="Correct the spec, or the source's prepare.",
            table=table,
            columns=missing,
        )
    rows = lake.scan(table, first=first if DAY in schema else None).select(
        **columns, **{_key(name): pl.col(column) for name, column in on.items()}
    )
    if personal := [field.name for field in spec.request if field.personal and field.name in on]:
        found = _hidden(rows, on, personal, settings)
    else:
        types = {_key(name): schema[column] for name, column in on.items()}
        found = rows.join(_decoded(wanted, types).lazy(), on=list(types), how="inner").collect()
    named = found.filter(pl.col("entity").is_in(wanted.implode()))
    return named.select("entity", *columns).unique("entity", keep="last", maintain_order=True)


def _news(
    spec: ModelSpec, about: LabelSource, *, settings: Settings, lake: Lake, now: datetime, received_at: datetime
) -> tuple[pl.DataFrame, Collected]:
    """Outcome rows that the log does not have yet, and what was looked at."""
    asked = _asked(spec, settings, lake, now)
    first = asked["_asked_at"].min()
    rows = source_rows(
        asked["entity"],
        spec,
        table=about.table,
        on=about.on,
        columns={"label": about.expr, "known_at": pl.col(about.known_at)},
        lake=lake,
        settings=settings,
        first=first.date() - timedelta(days=1) if isinstance(first, datetime) else None,
    )
    looked_up = asked["entity"].n_unique()
    if rows.is_empty():
        collected = Collected(source=about.source, looked_up=looked_up, found=0, new=0, corrected=0, lake_version=None)
        return pl.DataFrame(), collected
    known = rows.filter(pl.col("label").is_not_null() & pl.col("known_at").is_not_null()).with_columns(
        pl.col("known_at").dt.cast_time_unit("us").dt.convert_time_zone("UTC")
    )
    # Outcomes of entities that were asked about since then were received since then.
    before = read_outcomes(settings, spec.name, lake=lake, since=now - spec.outcomes.patience - SLACK)
    before = before.filter(pl.col("caller") == about.teller)
    last = before.group_by("entity", maintain_order=True).agg(
        pl.col("label", "known_at").last(), pl.len().cast(pl.Int64).alias("told")
    )
    # What it said last, said again, is nothing new.
    new = known.join(last, on=["entity", "label", "known_at"], how="anti").sort("entity")
    new = new.join(last.select("entity", "told"), on="entity", how="left", maintain_order="left")
    collected = Collected(
        source=about.source,
        looked_up=looked_up,
        found=known.height,
        new=new.height,
        corrected=new.height - new["told"].null_count(),
        lake_version=None,
    )
    said = new.select("entity", "label", "known_at", pl.col("told").fill_null(0)).iter_rows()
    return (
        new.select(
            pl.Series("outcome_id", [_outcome_id(spec.name, about.teller, *each) for each in said], dtype=pl.String()),
            pl.lit(spec.name).alias("model"),
            pl.lit(None, dtype=pl.String()).alias("prediction_id"),
            "entity",
            "label",
            "known_at",
            pl.lit(received_at).cast(pl.Datetime("us", "UTC")).alias("received_at"),
            pl.lit(about.teller).alias("caller"),
            pl.lit(received_at.astimezone(UTC).date()).alias(DAY),
        ),
        collected,
    )


def _outcome_id(model: str, teller: str, entity: str, label: bool, known_at: datetime, told: int) -> str:
    """The same for the same word, whoever collects it; the source that changes its mind and back says three."""
    said = msgspec.json.encode([model, teller, entity, label, known_at, told])
    return f"s-{hashlib.sha256(said).hexdigest()[:32]}"


def _asked(spec: ModelSpec, settings: Settings, lake: Lake, now: datetime) -> pl.DataFrame:
    """Entities that were predicted within the patience, and when."""
    since = now - spec.outcomes.patience
    log = read_log(settings, spec.name, lake=lake, columns=("entity", "moment", "at"), since=since - SLACK)
    asked_at = pl.coalesce("moment", "at").alias("_asked_at")
    return log.with_columns(asked_at).filter(pl.col("entity").is_not_null() & (pl.col("_asked_at") >= since))


def _hidden(rows: pl.LazyFrame, on: Mapping[str, str], personal: list[str], settings: Settings) -> pl.DataFrame:
    """Rows with ``entity`` as the log has it: pseudonyms can't be turned back, so each row is turned into its own."""
    pseudonyms = Pseudonyms.of(settings)
    frame = rows.collect()
    keys = frame.select(_key(name) for name in on).rows()
    texts = [entity_key(pseudonyms.hide(dict(zip(on, key, strict=True)), personal)) for key in keys]
    return frame.with_columns(pl.Series("entity", texts, dtype=pl.String()))


def _decoded(entities: pl.Series, types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Logged entities with their columns, in the types of the lake; one whose value has another type is not in it."""
    struct = pl.Struct({name.removeprefix(_KEY): _json_type(dtype) for name, dtype in types.items()})
    fields = entities.str.json_decode(struct).struct.unnest()
    return pl.DataFrame({"entity": entities}).with_columns(
        _as_type(fields[name.removeprefix(_KEY)], dtype).alias(name) for name, dtype in types.items()
    )


def _json_type(dtype: pl.DataType) -> pl.DataType:
    return dtype if dtype.is_integer() or dtype in (pl.Float64(), pl.Boolean()) else pl.String()


def _as_type(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    if values.dtype == dtype:
        return values
    if dtype == pl.Datetime("us", "UTC"):
        return values.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    return values.cast(dtype, strict=False)


def _key(name: str) -> str:
    return f"{_KEY}{name}"
