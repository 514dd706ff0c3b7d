"""The pictures of an evaluation, as PNG. Draws what was measured; measures nothing but the histograms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pilotage.spec import Metric, ModelSpec
from pilotage.training.gate import NAMES
from pilotage.training.records import Evaluation, Slice

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE = "#2563a8", "#d9730d"
_FEATURES = 20
_DPI = 120


def draw_plots(
    spec: ModelSpec, evaluation: Evaluation, labels: np.ndarray, predicted: np.ndarray, *, directory: Path
) -> dict[str, str]:
    """Draws every picture that the evaluation has numbers for.

    Args:
        spec: The model; its words stand on the axes.
        evaluation: What was measured.
        labels: Of the holdout; shape (rows,), Boolean.
        predicted: Of the holdout; shape (rows,).
        directory: Folder for the files; made if missing.

    Returns:
        Plot name → path of its PNG.
    """
    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "reliability": _reliability(spec, evaluation, predicted),
        "scores": _scores(spec, evaluation, labels, predicted),
        "importance": _importance(spec, evaluation),
    }
    if evaluation.months:
        figures["months"] = _months(evaluation)
    paths = {}
    for name, figure in figures.items():
        path = directory / f"{name}.png"
        # Fixed metadata, so that the same numbers give the same bytes.
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
        paths[name] = str(path)
    return paths


def new_figure(width: float, height: float, rows: int = 1, **layout: Any) -> tuple[Any, list[Any]]:
    """A figure that belongs to nobody: pyplot keeps a list of its own, and is not safe in threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    made = figure.subplots(rows, 1, squeeze=False, **layout)
    axes = [row[0] for row in made]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(MUTED)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def set_title(axis: Any, title: str, subtitle: str) -> None:
    """A title, and under it what one needs to know to read the picture."""
    axis.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=22)
    axis.text(0, 1.02, subtitle, transform=axis.transAxes, fontsize=9, color=MUTED, va="bottom")


def _reliability(spec: ModelSpec, evaluation: Evaluation, predicted: np.ndarray) -> Any:
    figure, axes = new_figure(6.4, 6.6, rows=2, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    curve, counts = axes
    bins = evaluation.reliability
    told = np.array([part["predicted"] for part in bins])
    seen = np.array([part["observed"] for part in bins])
    low = np.array([part["low"] for part in bins])
    high = np.array([part["high"] for part in bins])
    known = np.isfinite(low) & np.isfinite(high)
    limit = min(1.02, 1.08 * max(told.max(), seen.max(), high[known].max(initial=0.0)))
    curve.plot([0, limit], [0, limit], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="as predicted")
    curve.vlines(told[known], low[known], high[known], color=BLUE, alpha=0.45, linewidth=4)
    curve.plot(told, seen, color=BLUE, marker="o", markersize=6, linewidth=1.6, label="observed, with interval")
    curve.set(xlim=(0, limit), ylim=(0, limit), ylabel="observed rate")
    curve.legend(frameon=False, fontsize=9, loc="upper left")
    error = evaluation.metrics["calibration_error"]
    set_title(curve, f"When {spec.name} says p, how often is it so?", f"Calibration error {_span(error)}")
    counts.hist(predicted, bins=np.linspace(0, limit, 61), color=BLUE, alpha=0.6)
    counts.set(xlabel=f"predicted probability of {spec.label.name}", ylabel="rows")
    counts.grid(visible=False, axis="x")
    return figure


def _scores(spec: ModelSpec, evaluation: Evaluation, labels: np.ndarray, predicted: np.ndarray) -> Any:
    figure, (axis,) = new_figure(7.2, 4.2)
    edges = np.linspace(0, max(float(predicted.max()), 1e-6), 41)
    if predicted.max() > 0.5:
        edges = np.linspace(0, 1, 41)
    for value, color, words in ((False, BLUE, f"not {spec.label.name}"), (True, ORANGE, spec.label.name)):
        share = np.histogram(predicted[labels == value], bins=edges)[0] / max(1, int((labels == value).sum()))
        rows = int((labels == value).sum())
        axis.stairs(share, edges, fill=True, color=color, alpha=0.35)
        axis.stairs(share, edges, color=color, linewidth=1.6, label=f"{words} ({rows:,} rows)")
    axis.axvline(evaluation.threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    axis.annotate(
        f"acts from {evaluation.threshold:.2f}",
        (evaluation.threshold, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if evaluation.threshold > 0.6 * edges[-1] else 6, 0),
        textcoords="offset points",
        ha="right" if evaluation.threshold > 0.6 * edges[-1] else "left",
        va="top",
        fontsize=9,
        color=INK,
    )
    axis.set(
        xlim=(0, edges[-1]),
        xlabel=f"predicted probability of {spec.label.name}",
        ylabel="share of the rows with that truth",
    )
    axis.set_ylim(bottom=0)
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    set_title(axis, f"How far {spec.name} tells the two apart", f"AUC {_span(evaluation.metrics['auc'])}")
    return figure


def _importance(spec: ModelSpec, evaluation: Evaluation) -> Any:
    shown = sorted(evaluation.importance.items(), key=lambda item: item[1])[-_FEATURES:]
    figure, (axis,) = new_figure(7.6, 1.5 + 0.27 * len(shown))
    axis.barh([name for name, _ in shown], [share for _, share in shown], color=BLUE, alpha=0.85, height=0.7)
    for row, (_, share) in enumerate(shown):
        axis.text(share, row, f" {share:.1%}", va="center", fontsize=8, color=INK)
    axis.set_xlim(0, 1.12 * shown[-1][1])
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axis.set_xlabel("share of the gain of all splits")
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    hidden = len(evaluation.importance) - len(shown)
    rest = f"{len(shown)} of {len(evaluation.importance)} features" if hidden else f"All {len(shown)} features"
    set_title(axis, f"What {spec.name} looks at", rest)
    return figure


def _months(evaluation: Evaluation) -> Any:
    metrics: tuple[Metric, ...] = ("auc", "log_loss", "brier")
    figure, axes = new_figure(8.0, 6.4, rows=len(metrics), sharex=True)
    months = sorted({part.value for part in evaluation.months})
    kinds = (
        ("cross-validation", "cross-validation, not calibrated", BLUE, -0.06),
        ("holdout", "holdout", ORANGE, 0.06),
    )
    for axis, metric in zip(axes, metrics, strict=True):
        if axis is not axes[-1]:
            axis.tick_params(axis="x", length=0)
        for column, words, color, shift in kinds:
            parts = [part for part in evaluation.months if part.column == column and metric in part.metrics]
            _points(axis, parts, metric, months, color=color, shift=shift, label=words)
        axis.set_ylabel(NAMES[metric], fontsize=9)
        axis.grid(visible=False, axis="x")
    axes[-1].set_xticks(range(len(months)), months, rotation=0 if len(months) < 9 else 45)
    axes[-1].set_xlim(-0.5, len(months) - 0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    set_title(axes[0], "Month by month", "On rows that the model at hand had not seen; days resampled")
    return figure


def _points(
    axis: Any, parts: list[Slice], metric: str, months: list[str], *, color: str, shift: float, label: str
) -> None:
    if not parts:
        return
    places = np.array([months.index(part.value) + shift for part in parts])
    values = [part.metrics[metric] for part in parts]
    known = np.array([np.isfinite(value.low) and np.isfinite(value.high) for value in values])
    axis.vlines(
        places[known],
        np.array([value.low for value in values])[known],
        np.array([value.high for value in values])[known],
        color=color,
        alpha=0.45,
        linewidth=4,
    )
    axis.plot(
        places, [value.value for value in values], color=color, marker="o", markersize=6, linewidth=1.2, label=label
    )


def _span(interval: Any) -> str:
    if not np.isfinite(interval.low):
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
