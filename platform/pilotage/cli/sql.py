"""``pilotage sql``: DuckDB over the lake, as a table, CSV or JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pilotage.cli.console import err, out, print_json
from pilotage.settings import Settings

if TYPE_CHECKING:
    import polars as pl

COLUMNS_SHOWN = 16
"""Columns of a table on the terminal; more of them can't be read."""


def show(settings: Settings, query: str, *, form: str, limit: int) -> None:
    """Runs a query and prints its rows."""
    from pilotage.data.lake import Lake
    from pilotage.data.query import query as run

    rows = run(Lake(settings.lake), query)
    match form:
        case "csv":
            sys.stdout.write(rows.write_csv())
        case "json":
            print_json(rows.to_dicts())
        case _:
            _table(rows, limit)


def _table(rows: pl.DataFrame, limit: int) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", show_edge=False)
    shown = rows.columns[:COLUMNS_SHOWN]
    for name in shown:
        table.add_column(name, justify="right" if rows.schema[name].is_numeric() else "left", overflow="fold")
    for row in rows.head(limit).select(shown).iter_rows():
        table.add_row(*(Text("null", style="dim") if value is None else Text(_cell(value)) for value in row))
    out().print(table)
    left = [f"{rows.height:,} rows"]
    left += [f"{limit} shown, see --limit"] if rows.height > limit else []
    left += [f"{len(rows.columns) - len(shown)} columns left out"] if len(rows.columns) > len(shown) else []
    err().print("; ".join(left), style="dim")


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
