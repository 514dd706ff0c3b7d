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
from pilotage.errors import DeclarationError
from pilotage.features.build import population_fingerprint, rows_to_predict
from pilotage.features.timeline import MOMENT
from pilotage.features.view import FeatureView
from pilotage.monitoring.answers import read_answers
from pilotage.monitoring.kpi import kpi_values
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


def rehearse(spec: ModelSpec, validated: Mapping[str, pl.DataFrame]) -> None:
    """Goes through what a model reads and asks: as-of features, label, features, parameters, the KPI's SQL.

    Args:
        spec: The model.
        validated: From ``published``, for each of its sources.

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
    main_names(spec.trainer.params, where="trainer.params")
    with TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        answers = read_answers(
            spec, settings=settings, lake=Lake(settings.lake), first=DAY, last=DAY, everything=True, reasons=False
        )
        kpi_values(answers, spec, days=[DAY])


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
