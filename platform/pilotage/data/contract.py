"""Row contracts: which prepared rows break which rule, and why, in words. Nothing is written or published here.

A source declares its rules as a pandera schema. Four more hold for every source: text where a number must be, NaN or
infinity, a row of another day than its file, and a key that is repeated within its day (or table).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pilotage.data.columns import joined
from pilotage.data.report import RuleResult
from pilotage.data.source import SourceSpec
from pilotage.errors import DeclarationError

if TYPE_CHECKING:
    import pandera.polars as pa

TECHNICAL = ("source_file", "source_sha256", "unparsed")
"""Columns that ingestion adds to the delivered ones. They go to quarantine with a row, but are never published."""
EXAMPLES = 10
_ROW = "_row"
_PRESENT, _UNIQUE = "not_nullable", "field_uniqueness"
"""What pandera calls its own checks of a column."""
_NONE = pl.DataFrame(schema={_ROW: pl.UInt32, "reason": pl.String})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule with the rows that break it."""

    rule: str
    column: str | None
    failing: pl.DataFrame
    """``_row`` (position) and ``reason`` (a sentence for this row)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRows:
    """Prepared rows with what is wrong with each."""

    rows: pl.DataFrame
    """The prepared columns, one row for each delivered one, in their order."""
    batch: pl.Series
    """Day of each row's batch (Date); all null where the batch is the whole table."""
    reasons: pl.Series
    """List[String] a row; null for a row that passes."""
    rules: list[RuleResult]


def check_rows(spec: SourceSpec, delivered: pl.DataFrame) -> CheckedRows:
    """Prepares delivered rows and checks each against the contract.

    Args:
        spec: The source.
        delivered: Rows of ``raw/<source>``, with the columns that ingestion adds.

    Raises:
        DeclarationError: ``prepare`` or a check of the contract can't be carried out, whatever the data: the fault is
            in the source's file, not in the rows.
    """
    rows = prepared_rows(spec, delivered).select(pl.exclude(TECHNICAL))
    batch = delivered["day"] if spec.daily else pl.repeat(None, rows.height, dtype=pl.Date, eager=True)
    findings = [
        *_unparsed(spec, delivered),
        *_not_finite(rows),
        *_other_day(spec, rows, batch),
        *_contract(spec, rows),
    ]
    findings.append(_repeated(spec, rows, batch, broken=_reasons(findings, rows.height).is_not_null()))
    return CheckedRows(
        rows=rows,
        batch=batch.alias("batch"),
        reasons=_reasons(findings, rows.height),
        rules=[_result(finding, rows) for finding in findings],
    )


def holds(condition: pl.Expr, *, otherwise: str) -> pa.Check:
    """A rule over several columns, for the ``checks`` of a contract. Null counts as holding.

    Args:
        condition: Boolean expression over the prepared columns.
        otherwise: The reason that a row gets for which it is false.
    """
    import pandera.polars as pa

    return pa.Check(lambda data: data.lazyframe.select(condition), error=otherwise)


def prepared_rows(spec: SourceSpec, delivered: pl.DataFrame) -> pl.DataFrame:
    """What ``prepare`` makes of raw rows, one row for each, in their order.

    Raises:
        DeclarationError: It fails, drops or adds rows, or lacks a column that key or daily names.
    """
    where = f"assets/sources/{spec.name}.py"
    try:
        prepared = spec.prepare(delivered.lazy()).collect()
    except pl.exceptions.PolarsError as error:
        unknown = isinstance(error, pl.exceptions.ColumnNotFoundError)
        # What follows is Polars' plan of the query.
        message = str(error).partition("\n\nResolved plan")[0].replace("\n\n", "; ")
        raise DeclarationError(
            f"{where}: prepare fails: {message}.",
            fix="Correct the name in prepare, or declare it in columns."
            if unknown
            else "Make it yield null for a value that it can't read; the contract then names the row.",
            source=spec.name,
        ) from error
    if prepared.height != delivered.height:
        raise DeclarationError(
            f"{where}: prepare made {prepared.height:,} rows of {delivered.height:,}.",
            fix="Derive columns only; leave dropping rows to the contract, which keeps them with a reason.",
            source=spec.name,
        )
    if missing := sorted({*spec.key, *([spec.daily.column] if spec.daily else [])} - set(prepared.columns)):
        raise DeclarationError(
            f"{where}: prepare does not give {missing[0]}, which key or daily names.",
            fix=f"Give the column {missing[0]}, or correct key and daily.",
            source=spec.name,
        )
    own = "day" in prepared.columns and (spec.daily is None or spec.daily.column != "day")
    if own and not ("day" in delivered.columns and prepared["day"].equals(delivered["day"])):
        raise DeclarationError(
            f"{where}: prepare gives a column day, which is the platform's own, of sources with days.",
            fix="Give it another name, or name it in daily, if it is the day of the file.",
            source=spec.name,
        )
    if spec.daily is not None and (found := prepared.schema[spec.daily.column]) != pl.Date:
        raise DeclarationError(
            f"{where}: prepare gives {spec.daily.column}, which daily names, as {found}, not Date.",
            fix="Name the column of the date, or derive it (.dt.date() of a time).",
            source=spec.name,
        )
    return prepared


def _unparsed(spec: SourceSpec, delivered: pl.DataFrame) -> Iterator[Finding]:
    """Cells that ingestion could not read as the column's type; it notes them as ``column=text``."""
    if "unparsed" not in delivered.columns:
        return
    cell = pl.col("unparsed").str.splitn("=", 2).struct
    types = {name: str(dtype) for name, dtype in spec.columns.items()}
    kind = cell.field("field_0").replace_strict(types, default="value", return_dtype=pl.String)
    failing = (
        delivered.lazy()
        .select(pl.int_range(pl.len(), dtype=pl.UInt32).alias(_ROW), "unparsed")
        .filter(pl.col("unparsed").list.len() > 0)
        .explode("unparsed")
        .select(_ROW, _sentence(cell.field("field_0"), ": ", cell.field("field_1"), " is no ", kind).alias("reason"))
        .collect()
    )
    yield Finding(rule="readable as its type", column=None, failing=failing)


def _not_finite(rows: pl.DataFrame) -> Iterator[Finding]:
    for column, dtype in rows.schema.items():
        if dtype.is_float():
            broken = pl.col(column).is_nan() | pl.col(column).is_infinite()
            yield Finding(
                rule="a finite number",
                column=column,
                failing=_failing(rows, broken, _sentence(f"{column}: ", _shown(column, dtype), " is no number")),
            )


def _other_day(spec: SourceSpec, rows: pl.DataFrame, batch: pl.Series) -> Iterator[Finding]:
    if spec.daily is None:
        return
    column = spec.daily.column
    frame = rows.select(pl.col(column), batch.alias("_file"))
    reason = _sentence(f"{column}: ", pl.col(column), " is not the day of its file, ", pl.col("_file"))
    yield Finding(
        rule="the day of its file", column=column, failing=_failing(frame, pl.col(column) != pl.col("_file"), reason)
    )


def _contract(spec: SourceSpec, rows: pl.DataFrame) -> Iterator[Finding]:
    """Every rule of the pandera schema, with or without failures."""
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors

    schema = spec.contract()
    _carried_out(spec, schema)
    errors: list[Any] = []
    try:
        # Collected and eager: on a LazyFrame pandera looks at the schema only, and every bad row passes.
        with config_context(validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            schema.validate(rows, lazy=True)
    except SchemaErrors as error:
        errors = error.schema_errors
    broken: dict[tuple[str | None, str, int | None], pl.Series] = {}
    for found in errors:
        column = found.schema.name if found.schema is not schema else None
        if found.check_output is None:
            raise _undecidable(spec, column, found)
        fails = ~found.check_output.to_series().fill_null(True)
        key = (column, _kind(found.check), found.check_index)
        broken[key] = broken[key] | fails if key in broken else fails
    nothing = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
    for column, check, index in _rules(schema):
        failing = broken.pop((column, _kind(check), index), nothing)
        rule, reason = _words(column, check, rows.schema)
        yield Finding(rule=rule, column=column, failing=_failing(rows, failing, reason))
    for (column, _, _), failing in broken.items():  # Of a kind that pandera may add one day.
        reason = pl.lit(f"{column}: is not as the schema says")
        yield Finding(rule="as the schema says", column=column, failing=_failing(rows, failing, reason))


def _carried_out(spec: SourceSpec, schema: pa.DataFrameSchema) -> None:
    """Refuses the forms of a schema for which pandera does not say which rows fail."""
    where = f"assets/sources/{spec.name}.py: the contract"
    if schema.unique:
        raise DeclarationError(
            f"{where} has unique={schema.unique} of several columns, for which rows can't be told apart.",
            fix="Name these columns in `key` of the source, or give unique=True to the one column that is.",
            source=spec.name,
        )
    hidden = {
        "drop_invalid_rows=True": schema.drop_invalid_rows,
        "add_missing_columns=True": schema.add_missing_columns,
    }
    for name, column in schema.columns.items():
        hidden |= {
            f"drop_invalid_rows=True of {name}": column.drop_invalid_rows,
            f"default={column.default!r} of {name}": column.default is not None,
            f"required=False of {name}": not column.required,
        }
    checks = [*schema.checks, *(check for column in schema.columns.values() for check in column.checks)]
    hidden["raise_warning=True of a check"] = any(check.raise_warning for check in checks)
    if told := next((what for what, there in hidden.items() if there), None):
        raise DeclarationError(
            f"{where} has {told}, by which rows that break it would pass.",
            fix="Leave it out: rows are put aside with their reasons. What may be missing, prepare fills in; what is "
            "only to be told, an expectation tells.",
            source=spec.name,
        )
    for name, column in schema.columns.items():
        if column.regex:
            raise DeclarationError(
                f"{where} has the column {name} with regex=True, which stands for columns without names.",
                fix="Name each column, as in {name: pa.Column(…) for name in (…)}.",
                source=spec.name,
                column=name,
            )


def _rules(schema: pa.DataFrameSchema) -> Iterator[tuple[str | None, Any, int | None]]:
    """(column, check, its number); pandera's own checks by their names."""
    for name, column in schema.columns.items():
        if not column.nullable:
            yield name, _PRESENT, None
        if column.unique:
            yield name, _UNIQUE, None
        yield from ((name, check, number) for number, check in enumerate(column.checks))
    yield from ((None, check, number) for number, check in enumerate(schema.checks))


def _kind(check: Any) -> str:
    """What tells the checks of a column apart, beside their numbers: pandera's own have a name and no number."""
    return check if isinstance(check, str) else "check"


def _words(column: str | None, check: Any, types: pl.Schema) -> tuple[str, pl.Expr]:
    """A rule as words, and the sentence for a row that breaks it."""
    if check == _PRESENT:
        return "present", pl.lit(f"{column}: is missing")
    if column is None:
        rule, _ = _phrase(check)
        return rule, pl.lit(rule)
    shown = _shown(column, types[column])
    if check == _UNIQUE:
        return "unique", _sentence(f"{column}: ", shown, " is in more than one row")
    rule, own = _phrase(check)
    return rule, _sentence(f"{column}: ", shown, f" {rule}" if own else f" is not {rule}")


def _sentence(*parts: pl.Expr | str) -> pl.Expr:
    """A sentence of words and values."""
    return joined(*(pl.lit(part) if isinstance(part, str) else part for part in parts))


def _phrase(check: Any) -> tuple[str, bool]:
    """Words of a pandera check, and whether its author wrote them."""
    if check.error and not check.error.startswith(f"{check.name}("):
        return check.error, True
    known = check.statistics or {}
    low, high = (_plain(known.get(end)) for end in ("min_value", "max_value"))
    left = "[" if known.get("include_min", True) else "("
    right = "]" if known.get("include_max", True) else ")"
    words = {
        "in_range": f"in {left}{low}, {high}{right}",
        "isin": f"one of {_listed(known.get('allowed_values'))}",
        "notin": f"other than {_listed(known.get('forbidden_values'))}",
        "greater_than_or_equal_to": f"at least {low}",
        "greater_than": f"above {low}",
        "less_than_or_equal_to": f"at most {high}",
        "less_than": f"below {high}",
        "str_matches": f"like {known.get('pattern')}",
    }
    return words.get(check.name, str(check.error or check.name)), False


def _listed(values: Iterable[object] | None) -> str:
    return ", ".join(_plain(value) for value in values or ())


def _plain(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _undecidable(spec: SourceSpec, column: str | None, found: Any) -> DeclarationError:
    """A schema error that is about the schema itself: a column of another type, or a check that raises."""
    detail = str(found.failure_cases).splitlines()[0]
    if found.check == "column_in_dataframe":
        return DeclarationError(
            f"assets/sources/{spec.name}.py: the contract names the column {detail}, which prepare does not give.",
            fix=f"Correct the name, or give {detail} in prepare.",
            source=spec.name,
            column=detail,
        )
    what = f"column {column}" if column else "the rows"
    return DeclarationError(
        f"assets/sources/{spec.name}.py: the contract can't check {what}: {found.check}: {detail}.",
        fix="Make prepare give the type that the contract names, and the check accept that type "
        "(float literals for a float column).",
        source=spec.name,
        column=column,
    )


def _repeated(spec: SourceSpec, rows: pl.DataFrame, batch: pl.Series, *, broken: pl.Series) -> Finding:
    """Later rows of a batch with the key of an earlier one that is in order. The first stays. Batches are not compared
    with each other."""
    key = list(spec.key)
    name = ", ".join(key)
    later = (
        rows.lazy()
        .select(
            *key, batch.alias("_batch"), pl.int_range(pl.len(), dtype=pl.UInt32).alias(_ROW), broken.alias("_broken")
        )
        .filter(~pl.col("_broken"))
        .filter(pl.int_range(pl.len()).over("_batch", *key) > 0)
        .select(_ROW, reason=pl.lit(f"{name}: repeats the key of an earlier row"))
        .collect()
    )
    return Finding(rule="unique", column=name, failing=later)


def _failing(rows: pl.DataFrame, broken: pl.Series | pl.Expr, reason: pl.Expr) -> pl.DataFrame:
    return (
        rows.lazy()
        .with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).alias(_ROW))
        .filter(broken)
        .select(_ROW, reason.alias("reason"))
        .collect()
    )


def _shown(column: str, dtype: pl.DataType) -> pl.Expr:
    value = pl.col(column)
    text = value.round_sig_figs(6).cast(pl.String).str.strip_suffix(".0") if dtype.is_float() else value.cast(pl.String)
    return text.fill_null("null")


def _reasons(findings: list[Finding], height: int) -> pl.Series:
    """Every reason of each row, in the order of the rules; null for a row without any."""
    collected = (
        pl.concat([_NONE, *(finding.failing for finding in findings)])
        .group_by(_ROW, maintain_order=True)
        .agg(pl.col("reason").unique(maintain_order=True).alias("reasons"))
    )
    rows = pl.select(pl.int_range(height, dtype=pl.UInt32).alias(_ROW))
    return rows.join(collected, on=_ROW, how="left", maintain_order="left")["reasons"]


def _result(finding: Finding, rows: pl.DataFrame) -> RuleResult:
    failing = finding.failing[_ROW].unique(maintain_order=True)
    return RuleResult(
        rule=finding.rule,
        column=finding.column,
        failures=failing.len(),
        share=failing.len() / rows.height if rows.height else 0.0,
        examples=rows[failing.head(EXAMPLES)].to_dicts(),
    )
