"""The drift report as a page to look at: our numbers on top, Evidently's pictures of every feature below.

Evidently's own verdicts count for nothing (see ``drift/bins.py`` for why); its pictures are of a bounded sample, since
a million rows would take it a minute and 2 GB.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import pandas as pd

    from pilotage.monitoring.drift import ColumnDrift, DriftReport

MAX_ROWS = 5_000
"""Rows that are drawn of each sample."""


def write_html(report: DriftReport, path: Path) -> int:
    """Writes one self-contained page; a reader sees the old page or the new one, never half of it.

    Args:
        report: The numbers, with the samples to draw.
        path: File to write; its folder is made.

    Returns:
        Rows that were drawn of the window.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        drawn = _draw(report.current, report.reference, drawing)
        page = drawing.read_text(encoding="utf-8") if drawn else "<!doctype html><html><body></body></html>"
        head, body, rest = page.partition("<body>")
        drawing.write_text(head + body + _summary(report, drawn) + rest, encoding="utf-8")
        drawing.replace(path)
    finally:
        drawing.unlink(missing_ok=True)
    return min(MAX_ROWS, report.current.height)


def _draw(current: pl.DataFrame, reference: pl.DataFrame, path: Path) -> list[str]:
    """Draws what Evidently can draw: it raises on a column without a single value. Returns the columns drawn."""
    names = [name for name in current.columns if _has_values(current[name]) and _has_values(reference[name])]
    if not names:
        return []
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in names if reference[name].dtype.is_numeric()]
    others = [name for name in names if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers or None, categorical_columns=others or None)
    # Methods are named, because the defaults change with the number of rows.
    preset = DataDriftPreset(columns=names, num_method="wasserstein", cat_method="jensenshannon")
    snapshot = Report([preset]).run(
        Dataset.from_pandas(_sampled(current, numbers, others), definition),
        Dataset.from_pandas(_sampled(reference, numbers, others), definition),
    )
    snapshot.save_html(str(path))
    return names


def _has_values(series: pl.Series) -> bool:
    return bool(series.fill_nan(None).is_not_null().any() if series.dtype.is_float() else series.is_not_null().any())


def _sampled(frame: pl.DataFrame, numbers: list[str], others: list[str]) -> pd.DataFrame:
    few = frame.sample(min(MAX_ROWS, frame.height), seed=0)
    return few.select(
        *[pl.col(name).cast(pl.Float64) for name in numbers],
        # Evidently writes values into its scripts as they are, where one could end the script and begin another.
        *[pl.col(name).cast(pl.String).str.replace_all("<", "‹", literal=True) for name in others],
    ).to_pandas()


def _summary(report: DriftReport, drawn: list[str]) -> str:
    verdict = report.verdict
    window = f"{verdict.first} … {verdict.last}" if verdict.last else "rows without days"
    below = (
        f"Below, Evidently's pictures of {len(drawn)} features, from {min(MAX_ROWS, report.current.height):,} rows of "
        f"the window and {min(MAX_ROWS, report.reference.height):,} of the champion's reference sample. Its own "
        "verdicts use other limits and are not what Pilotage acts on."
        if drawn
        else "No feature has values in both samples, so there is nothing to draw."
    )
    return f"""
<style>
  .pilotage {{ font: 14px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
  .pilotage table {{ border-collapse: collapse; width: 100%; }}
  .pilotage th, .pilotage td {{ border-bottom: 1px solid #ddd; padding: .25rem .5rem; text-align: right; }}
  .pilotage th:first-child, .pilotage td:first-child {{ text-align: left; }}
  .pilotage small {{ color: #7b8794; }}
  .pilotage .drifted {{ background: #fff1e5; }}
</style>
<section class="pilotage">
<h1>Drift of {escape(verdict.model)}</h1>
<p><strong>{"Alarm. " if verdict.alarm else ""}{escape(verdict.why)}</strong></p>
<p>Version {verdict.version}; {window}; {verdict.rows:,} rows now ({escape(report.why_source)}),
{verdict.reference_rows:,} in the reference; {len(verdict.drifted)} of {len(verdict.columns)} columns drifted.
{escape(report.thresholds.why)} Declared: {report.thresholds.false_alarms_a_year:g} false alarms a year.</p>
<table>
<tr><th>column</th><th>of the gain</th><th>PSI</th><th>KS</th><th>Wasserstein</th><th>Jensen-Shannon</th>
<th>null</th><th>null in reference</th><th></th></tr>
{"".join(_row(each) for each in verdict.columns)}
</table>
<p><small>Small: the threshold.</small> {below}</p>
</section>
"""


def _row(each: ColumnDrift) -> str:
    def cell(name: str) -> str:
        measured = each.measures.get(name)
        if measured is None or measured.value is None:
            return "<td></td>"
        limit = f" <small>{measured.threshold:.3g}</small>" if measured.threshold is not None else ""
        return f"<td>{measured.value:.3f}{limit}</td>"

    share = f"{each.importance:.1%}" if each.importance is not None else ""
    cells = "".join(cell(name) for name in ("psi", "ks", "wasserstein", "js"))
    state = "drifted" if each.drifted else "still raised" if each.raised else ""
    return (
        f"<tr{' class=drifted' if each.raised else ''}><td>{escape(each.column)}</td><td>{share}</td>{cells}"
        f"<td>{each.null_rate:.1%}</td><td>{each.reference_null_rate:.1%}</td><td>{state}</td></tr>"
    )
