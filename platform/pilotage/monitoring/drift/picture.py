"""Reference and window of the columns that moved most, side by side, as PNG. Draws counts; measures nothing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from pilotage.monitoring.drift.bins import Bins

if TYPE_CHECKING:
    from pilotage.monitoring.drift.monitor import DriftReport

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE = "#2563a8", "#d9730d"
SHOWN = 6
"""Columns that are drawn."""
_LEVELS = 12


def draw(report: DriftReport) -> bytes:
    """The picture of the columns with the highest scores, those that are raised first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = sorted(report.verdict.columns, key=lambda each: not each.raised)[:SHOWN]
    bins = {each.name: each for each in report.bins}
    before, now = report.reference_counts.total(), report.window_counts.total()
    across = min(3, max(1, len(shown)))
    down = max(1, -(-len(shown) // across))
    # A figure that belongs to nobody: pyplot keeps a list of its own, and is not safe in threads.
    figure = Figure(figsize=(4.2 * across, 2.9 * down + 0.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, each in zip(axes, shown, strict=False):
        _one(axis, bins[each.column], before[each.column], now[each.column], raised=each.raised)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _one(axis: Any, bins: Bins, before: np.ndarray, now: np.ndarray, *, raised: bool) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=INK, labelsize=8)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title(bins.name, loc="left", fontsize=10, fontweight="bold", color=ORANGE if raised else INK)
    p, q = before / max(1, before.sum()), now / max(1, now.sum())
    if bins.numeric and bins.cuts:
        places = np.array([cut.at for cut in bins.cuts])
        axis.step(places, np.cumsum(p[:-1])[:-1], where="post", color=BLUE, linewidth=1.6, label="reference")
        axis.step(places, np.cumsum(q[:-1])[:-1], where="post", color=ORANGE, linewidth=1.6, label="window")
        inner = places[len(places) // 50 : -1] if len(places) > 4 else places
        seen = np.flatnonzero((p[:-1] + q[:-1])[1:-1] > 0) + 1 if len(places) > 2 else np.array([0])
        ends = places[[max(0, seen.min() - 1), min(len(places) - 1, seen.max())]] if len(seen) else inner[[0, -1]]
        if ends[0] < ends[1]:
            axis.set_xlim(ends[0], ends[1])
        axis.set_ylim(0, 1.02)
        axis.set_ylabel("share of rows up to", fontsize=8, color=MUTED)
    else:
        names = [*bins.levels, "other", "new", "null"] if not bins.numeric else ["values", "null"]
        order = np.argsort(-(p + q), kind="stable")[:_LEVELS]
        where = np.arange(len(order))
        axis.bar(where - 0.2, p[order], 0.4, color=BLUE, label="reference")
        axis.bar(where + 0.2, q[order], 0.4, color=ORANGE, label="window")
        axis.set_xticks(where, [names[place] for place in order], rotation=60, fontsize=7)
