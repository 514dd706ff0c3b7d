"""``pilotage sql``: DuckDB over the lake, as a table (too wide a one as a list of fields a row), CSV or JSON."""

from __future__ import annotations

import sys
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Any

from pilotage.cli.console import err, one_line_json, out, print_json
from pilotage.errors import ConfigError
from pilotage.settings import Settings

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

ANY_WIDTH = 100_000
"""Characters; to learn how wide a table would like to be."""


def show(settings: Settings, query: str, *, form: str, limit: int) -> None:
    """Runs a query and prints its rows.

    Raises:
        ConfigError: The query is wrong, or its answer holds what can't be printed, such as the date ``infinity``.
    """
    import polars as pl

    from pilotage.data.lake import Lake
    from pilotage.data.query import query as run

    rows = run(Lake(settings.lake), query)
    try:
        _show(rows, form, limit)
    except pl.exceptions.PanicException as error:
        raise ConfigError(
            f"The answer holds a value that can't be shown: {error}.",
            fix="Cast dates and times that may be infinite to VARCHAR.",
        ) from None


def _show(rows: pl.DataFrame, form: str, limit: int) -> None:
    match form:
        case "csv":
            sys.stdout.write(_flat(rows).write_csv())
        case "json":
            print_json([{name: _plain(value) for name, value in row.items()} for row in rows.iter_rows(named=True)])
        case _:
            _table(rows, limit)


def _flat(rows: pl.DataFrame) -> pl.DataFrame:
    """What CSV can hold: values of several parts are JSON, bytes are text."""
    import polars as pl

    def text(value: Any) -> str | None:
        plain = _plain(value)
        return plain if plain is None or isinstance(plain, str) else one_line_json(plain)

    odd = [name for name, dtype in rows.schema.items() if dtype.is_nested() or dtype == pl.Binary]
    return rows.with_columns(
        pl.Series(name, [text(value) for value in rows[name].to_list()], dtype=pl.String) for name in odd
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NaN or infinity, which are null; bytes as text; sums of integers are numbers."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        return int(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _table(rows: pl.DataFrame, limit: int) -> None:
    cells = [[_cell(value) for value in row] for row in rows.head(limit).iter_rows()]
    console = out()
    table = _grid(rows.schema, cells)
    # A table that is squeezed into the terminal breaks within words, and nobody can read it.
    if console.measure(table, options=console.options.update(max_width=ANY_WIDTH)).maximum <= console.width:
        console.print(table)
    else:
        _records(console, rows.columns, cells)
    left = [f"{rows.height:,} {'row' if rows.height == 1 else 'rows'}"]
    left += [f"{limit} shown, see --limit"] if rows.height > limit else []
    err().print("; ".join(left), style="dim")


def _grid(schema: pl.Schema, cells: list[list[Text]]) -> Table:
    from rich.table import Table

    table = Table(header_style="bold", show_edge=False)
    for name, dtype in schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    return table


def _records(console: Console, names: list[str], cells: list[list[Text]]) -> None:
    """Each row as a list of its fields."""
    from rich.rule import Rule
    from rich.table import Table

    for number, row in enumerate(cells, start=1):
        console.print(Rule(f"row {number}", align="left", style="dim"))
        record = Table.grid(padding=(0, 2))
        record.add_column(style="bold", no_wrap=True)
        record.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            record.add_row(name, cell)
        console.print(record)


def _cell(value: object) -> Text:
    from rich.text import Text

    if value is None:
        return Text("null", style="dim")
    return Text(f"{value:.6g}" if isinstance(value, float) else str(value))
