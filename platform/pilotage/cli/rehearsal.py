"""Declarations carried out on tables without rows: what constructing them can't tell, before any data have landed.

Nothing here has a rule of its own. What ingestion, validation, features and training would refuse is refused by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from pilotage.data.cells import UNPARSED
from pilotage.data.contract import check_rows
from pilotage.data.lake import Lake
from pilotage.data.lake_types import storable
from pilotage.data.profile import measure
from pilotage.data.raw import raw_rows
from pilotage.data.source import SourceSpec
from pilotage.data.validate import as_published
from pilotage.errors import DeclarationError, InvalidRequest
from pilotage.expressions import columns_of
from pilotage.features.build import population_fingerprint, rows_to_predict
from pilotage.features.plain import plain
from pilotage.features.rows import evaluate
from pilotage.features.timeline import MOMENT
from pilotage.features.view import FeatureView
from pilotage.monitoring.answers import read_answers
from pilotage.monitoring.kpi import kpi_values
from pilotage.monitoring.labels import label_source
from pilotage.monitoring.log_frames import declared_types
from pilotage.runtime.contract import Contract
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.training.fit import main_names

DAY = date(2026, 1, 1)
"""Any day: nothing is of it."""


def published(spec: SourceSpec) -> pl.DataFrame:
    """The validated table of a source, without rows: prepared, checked and measured as its rows will be.

    Raises:
        PilotageError: Some of it can't be carried out, whatever the data.
    """
    delivered = pl.DataFrame(schema={**spec.columns, UNPARSED: pl.List(pl.String)})
    raw = raw_rows(spec, delivered, name="", sha256="", day=DAY if spec.daily else None)
    checked = check_rows(spec, storable(raw, f"raw/{spec.name}"))
    measure(spec, checked.rows, checked.batch, [None])
    return storable(as_published(spec, checked), f"validated/{spec.name}")


def sources_of(spec: ModelSpec) -> tuple[str, ...]:
    """Names of every source that a model reads, that of its outcomes too."""
    about = label_source(spec)
    return tuple(dict.fromkeys([*spec.sources, *([about.source] if about else [])]))


def rehearse(spec: ModelSpec, validated: Mapping[str, pl.DataFrame]) -> None:
    """Goes through what a model reads and asks: as-of features, label, features, rule, outcomes, parameters, KPI.

    Args:
        spec: The model.
        validated: From ``published``, for each of ``sources_of``.

    Raises:
        PilotageError: Some of it can't be carried out, whatever the data.
    """
    view = FeatureView(spec)
    for timeline in view.timelines.values():
        timeline.build(validated[timeline.source])
    population = rows_to_predict(spec, validated[spec.source].lazy())
    population_fingerprint(spec)
    view.offline(population, lambda source, _since, _until: validated[source].lazy())
    _typed(spec, population)
    if lost := sorted(set(spec.protected) - set(validated[spec.source].columns)):
        raise DeclarationError(
            f"ModelSpec({spec.name!r}): protected names {lost[0]}, which {spec.source} has not.",
            fix=f"Use one of: {', '.join(validated[spec.source].columns)}.",
        )
    _asked(spec)
    _outcomes(spec, validated)
    main_names(spec.trainer.params, where="trainer.params")
    with TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        answers = read_answers(
            spec, settings=settings, lake=Lake(settings.lake), first=DAY, last=DAY, everything=True, reasons=False
        )
        # A log without rows has no columns of requests and features.
        logged = [pl.lit(None, dtype).alias(column) for column, dtype in declared_types(spec).items()]
        kpi_values(answers.with_columns(logged), spec, days=[DAY])


def _asked(spec: ModelSpec) -> None:
    """Refuses examples that the service would refuse, a rule that is no probability for them, and a first segment that
    is no yes or no. No history is known: a rule has to answer when there is none.
    """
    try:
        request = Contract(spec.request).frame([{field.name: field.example for field in spec.request}])
    except InvalidRequest as error:
        raise DeclarationError(
            f"ModelSpec({spec.name!r}): by its own examples, {error.message}", fix=f"Correct request. {error.fix}"
        ) from error
    rows = request.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in spec.state_types().items())
    for name, rule in (("fallback.rule", spec.fallback.rule), ("last_value", spec.last_value)):
        if rule is None:
            continue
        value = evaluate(rows, plain({name: rule.cast(pl.Float64)}))[name].item()
        if value is None or not 0 <= value <= 1:
            raise DeclarationError(
                f"ModelSpec({spec.name!r}): {name} answers {value} for the examples of request, without history.",
                fix="Make it a probability for every row: .fill_null(…) and .clip(0.01, 0.99).",
            )
    if (first := spec.rollout.first_segment) is not None:
        found = evaluate(request, plain({"rollout.first_segment": first}))["rollout.first_segment"].dtype
        if found != pl.Boolean():
            raise DeclarationError(
                f"ModelSpec({spec.name!r}): rollout.first_segment is {found}, not Boolean.", fix="Make it a condition."
            )


def _outcomes(spec: ModelSpec, validated: Mapping[str, pl.DataFrame]) -> None:
    """Refuses outcomes that could not be looked up in their source, or would not be found there."""
    if (about := label_source(spec)) is None:
        return
    table, said = validated[about.source], {"expr": about.expr, "known_at": pl.col(about.known_at)}
    wanted = {"expr": pl.Boolean(), "known_at": MOMENT}
    if about.no_label_reason is not None:
        said["no_label_reason"], wanted["no_label_reason"] = about.no_label_reason, pl.String()
    for name, column in about.on.items():
        said[f"on[{name!r}]"], wanted[f"on[{name!r}]"] = pl.col(column), validated[spec.source].schema[name]
    for field, expr in said.items():
        if missing := sorted(columns_of(expr) - set(table.columns)):
            raise DeclarationError(
                f"ModelSpec({spec.name!r}): outcomes.{field} reads {missing[0]}, which {about.source} has not.",
                fix=f"Use one of: {', '.join(table.columns)}.",
            )
        if (found := table.select(value=expr).schema["value"]) not in (wanted[field], pl.Null()):
            raise DeclarationError(
                f"ModelSpec({spec.name!r}): outcomes.{field} is {found}, not {wanted[field]}.",
                fix=f"Correct outcomes.{field}, or what prepare of {about.source} gives.",
            )


def _typed(spec: ModelSpec, population: pl.DataFrame) -> None:
    """Refuses a label that is no yes or no, and times that are no times."""
    wanted: dict[str, pl.DataType] = {"label": pl.Boolean()}
    if spec.event_time is not None:
        wanted |= {"event_time": MOMENT, "label_known_at": MOMENT}
    for column, dtype in wanted.items():
        if (found := population.schema[column]) != dtype:
            field = {"label": "label.expr", "label_known_at": "label.known_at"}.get(column, column)
            raise DeclarationError(
                f"ModelSpec({spec.name!r}): {field} is {found}, not {dtype}.",
                fix=f"Correct {field}, or what prepare of {spec.source} gives.",
            )
