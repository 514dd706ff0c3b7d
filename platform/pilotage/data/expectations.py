"""Judges batches with Great Expectations, over the small table of their numbers and bands.

DuckDB has aggregated the rows already (``profile.py``); Great Expectations sees one row a batch, so a year takes as
long as a day. What it says is what is reported, and an expectation that it can't evaluate is an error, never "not met".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.data.bands import Band, Measured
from pilotage.data.report import ExpectationResult
from pilotage.data.source import Expectation, SourceSpec
from pilotage.errors import ExpectationFailed

if TYPE_CHECKING:
    import pandas as pd

_ROWS = "rows_judged"


def judge(
    spec: SourceSpec,
    batches: Sequence[Measured],
    bands: Sequence[dict[str, Band]],
    *,
    docs: Path | None = None,
    run_id: str = "",
) -> list[ExpectationResult]:
    """Asks Great Expectations whether every number of every batch lies in its band.

    Args:
        batches: What was measured.
        bands: The band of each number, for each batch in the same order.
        docs: Folder that the Data Docs go to; it must not exist. ``None`` builds none.
        run_id: Named in the Data Docs.

    Returns:
        One result for each number and batch, by batch and then as declared.

    Raises:
        ExpectationFailed: Great Expectations could not evaluate an expectation.
    """
    if not spec.expectations or not batches:
        return []
    # What Great Expectations and pandas say of each other's deprecations is not ours to mend, nor our users'.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        failing = _run(spec, _numbers(spec, batches, bands), docs, run_id)
    return [
        _result(item, batch, own[item.name], met=(item.name, batch_name(batch.day)) not in failing)
        for batch, own in zip(batches, bands, strict=True)
        for item in spec.expectations
        if item.name in own
    ]


def batch_name(day: date | None) -> str:
    """A batch as people see it."""
    return str(day) if day else "the whole table"


def _run(spec: SourceSpec, frame: pd.DataFrame, docs: Path | None, run_id: str) -> set[tuple[str, str]]:
    """(expectation, batch) of everything that Great Expectations finds not met."""
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            data_docs_sites={"pilotage": site} if docs else {},
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    suite = gx.ExpectationSuite(
        name=spec.name, expectations=[each for item in spec.expectations for each in _expectations(item, frame)]
    )
    data = context.data_sources.add_pandas(spec.name).add_dataframe_asset(spec.name)
    definition = gx.ValidationDefinition(
        name=spec.name,
        data=data.add_batch_definition_whole_dataframe("batches"),
        suite=context.suites.add(suite),
    )
    outcome = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame},
        # COMPLETE, since the summary names twenty failing batches at most.
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["batch"]},
        run_id=RunIdentifier(run_name=run_id or spec.name),
    )
    failing = _failing(spec, outcome)
    if docs:
        context.build_data_docs()
    return failing


def _numbers(spec: SourceSpec, batches: Sequence[Measured], bands: Sequence[dict[str, Band]]) -> pd.DataFrame:
    """One row a batch: each number, with the low and the high end of its band beside it."""
    import pandas as pd

    columns: dict[str, list[Any]] = {
        "batch": [batch_name(batch.day) for batch in batches],
        # A batch without rows has values for a part of the numbers only; the others are not missing, but not asked.
        _ROWS: [int(len(batch.values) == len(spec.expectations)) for batch in batches],
    }
    for item in spec.expectations:
        own = [each.get(item.name) for each in bands]
        columns[item.name] = [batch.values.get(item.name) for batch in batches]
        columns[f"{item.name} low"] = [band.low if band else None for band in own]
        columns[f"{item.name} high"] = [band.high if band else None for band in own]
    numbers = [name for name in columns if name != "batch"]
    return pd.DataFrame(columns).astype(dict.fromkeys(numbers, "float64"))


def _expectations(item: Expectation, frame: pd.DataFrame) -> Iterator[Any]:
    """The Great Expectations of one of ours: there is a number, and it lies in the band."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    common = {
        "meta": {"name": item.name},
        "notes": item.why,
        "severity": "critical" if item.severity == "block" else "warning",
    }
    yield gxe.ExpectColumnValuesToNotBeNull(column=item.name, row_condition=Column(_ROWS) > 0, **common)
    low, high = f"{item.name} low", f"{item.name} high"
    for bound, greater, lesser in ((low, item.name, low), (high, high, item.name)):
        if frame[bound].notna().any():
            yield gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=greater, column_B=lesser, or_equal=True, ignore_row_if="either_value_is_missing", **common
            )


def _failing(spec: SourceSpec, outcome: Any) -> set[tuple[str, str]]:
    """(expectation, batch) of everything that was not met."""
    failing = set()
    for result in outcome.results:
        name = result.expectation_config.meta["name"]
        if message := _exception(result.exception_info):
            raise ExpectationFailed(
                f"Expectation {name} of {spec.name} can't be evaluated: {message}",
                fix="This is no verdict on the data. Look at the message, and run the validation again.",
                source=spec.name,
                expectation=name,
            )
        failing |= {(name, row["batch"]) for row in result.result.get("unexpected_index_list") or []}
    return failing


def _exception(info: Any) -> str | None:
    """The message of an expectation that raised. (It does not raise to us, and otherwise reads as "not met".)"""
    entries = [info] if "raised_exception" in info else list(info.values())
    return next((str(entry["exception_message"]) for entry in entries if entry["raised_exception"]), None)


def _result(item: Expectation, batch: Measured, band: Band, *, met: bool) -> ExpectationResult:
    value = batch.values[item.name]
    where = f"{item.name} of {batch_name(batch.day)}"
    source = f"learned from {band.learned_from} earlier days" if band.learned_from else "as declared"
    if item.name in batch.not_finite:
        message = f"{where} can't be measured: its SQL gives NaN or infinity, as a division by zero does. {item.why}"
    elif value is None:
        message = f"{where} can't be measured: there is no value in any row. {item.why}"
    elif met:
        message = f"{where} is {value:.4g}."
    elif band.low is not None and value < band.low:
        message = f"{where} is {value:.4g}, below {band.low:.4g} ({source}). {item.why}"
    else:
        message = f"{where} is {value:.4g}, above {band.high:.4g} ({source}). {item.why}"
    return ExpectationResult(
        name=item.name,
        batch=batch.day,
        severity=item.severity,
        value=value,
        low=band.low,
        high=band.high,
        met=met,
        message=message,
    )
