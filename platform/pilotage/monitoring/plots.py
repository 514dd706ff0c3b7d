"""The pictures of monitoring, as PNG bytes. Draws what was measured; measures nothing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl

from pilotage.monitoring.label_quality import LabelReport
from pilotage.monitoring.label_rates import RateOfDays
from pilotage.spec import Metric, ModelSpec
from pilotage.training.gate import NAMES
from pilotage.training.plots import BLUE, INK, MUTED, ORANGE, new_figure, set_title

GREEN = "#3a7d44"
_DPI = 110
_METRICS: tuple[Metric, ...] = ("log_loss", "auc", "expected_cost")
_COLORS = {"champion": BLUE, "canary": ORANGE, "shadow": GREEN, "rule": MUTED}


def draw_performance(spec: ModelSpec, table: pl.DataFrame) -> bytes:
    """Each stage's single days with intervals, and what was expected of the champion before the truth was known.

    Args:
        spec: The model.
        table: Rows of ``performance/<model>``.
    """
    days = table.filter((pl.col("days") == 1) & pl.col("slice_column").is_null()).sort("day")
    figure, axes = new_figure(8.4, 7.4, rows=len(_METRICS), sharex=True)
    for axis, metric in zip(axes, _METRICS, strict=True):
        rows = days.filter(pl.col("metric") == metric)
        for stage, color in _COLORS.items():
            _line(axis, rows.filter((pl.col("stage") == stage) & pl.col("value").is_not_null()), stage, color)
        expected = rows.filter((pl.col("stage") == "champion") & pl.col("estimated").is_not_null())
        if expected.height:
            axis.plot(
                expected["day"].to_numpy(), expected["estimated"].to_numpy(), color=INK, linewidth=1.1, linestyle=":",
                label="champion, estimated without labels",
            )  # fmt: skip
        axis.set_ylabel(NAMES[metric], fontsize=9)
    _date_axis(axes)
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, words in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(words, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    set_title(
        axes[0], f"{spec.title}: day by day", "By day of the prediction moment; bars are 95 % of that day's hours"
    )
    return _png(figure)


def draw_labels(spec: ModelSpec, report: LabelReport) -> bytes:
    """Coverage by age, what came of each day's predictions, and the label rate with what was normal."""
    figure, axes = new_figure(8.4, 8.6, rows=3)
    ages, counts, rate = axes
    _ages(spec, report, ages)
    days = report.days["day"].to_numpy()
    floor = np.zeros(len(days))
    waiting = (
        report.days["predictions"]
        - report.days.select(pl.sum_horizontal("labelled", "contested", "unlabelled")).to_series()
    )
    parts = (("labelled", BLUE), ("will have none", MUTED), ("contested", ORANGE), ("waited for", "#c9d3de"))
    values = (report.days["labelled"], report.days["unlabelled"], report.days["contested"], waiting)
    for (words, color), height in zip(parts, values, strict=True):
        counts.bar(days, height.to_numpy(), bottom=floor, color=color, label=words, width=0.8)
        floor = floor + height.to_numpy()
    counts.set_ylabel("predictions", fontsize=9)
    if len(days):
        counts.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _rates(rate, report.days, [found for found in report.rates if found.days == 1])
    for axis in (counts, rate):
        _date_ticks(axis)
    return _png(figure)


def _ages(spec: ModelSpec, report: LabelReport, axis: Any) -> None:
    axis.plot(
        [at.hours for at in report.coverage],
        [at.labelled for at in report.coverage],
        color=BLUE,
        marker="o",
        markersize=4,
    )
    due = spec.outcomes.within.total_seconds() / 3600
    axis.axvline(due, color=MUTED, linestyle="--", linewidth=1)
    axis.axhline(spec.outcomes.coverage, color=MUTED, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    ticks = [1, 3, 6, 12, 24, 48, 168, 720]
    axis.set_xticks(ticks, [str(hour) for hour in ticks])
    axis.minorticks_off()
    axis.set_ylim(0, 1.03)
    axis.set_xlabel("hours after the prediction moment", fontsize=9)
    axis.set_ylabel("share labelled", fontsize=9)
    set_title(
        axis,
        f"{spec.title}: labels",
        f"Of predictions so old, but those that will have none; {spec.outcomes.coverage:.0%} at {due:.0f} h is due",
    )


def _rates(axis: Any, days: pl.DataFrame, judged: list[RateOfDays]) -> None:
    known = days.filter(pl.col("labelled") > 0)
    axis.plot(known["day"].to_numpy(), known["rate"].to_numpy(), color=BLUE, marker="o", markersize=3, linewidth=1)
    if judged:
        when = np.array([found.last for found in judged], dtype="datetime64[D]")
        axis.fill_between(
            when, [found.low for found in judged], [found.high for found in judged], color=MUTED, alpha=0.2, linewidth=0
        )
        wrong = [found for found in judged if not found.normal_enough]
        axis.plot(
            np.array([found.last for found in wrong], dtype="datetime64[D]"),
            [found.rate for found in wrong], "x", color=ORANGE, markersize=9, markeredgewidth=2,
        )  # fmt: skip
    axis.set_ylim(0, 1)
    axis.set_ylabel("label rate", fontsize=9)


def _line(axis: Any, rows: pl.DataFrame, stage: str, color: str) -> None:
    """One line for all versions of a stage: of a day with two, the one that answered more."""
    if rows.is_empty():
        return
    told = rows.sort("day", "answers").unique("day", keep="last", maintain_order=True)
    bounded = told.filter(pl.col("low").is_not_null() & pl.col("high").is_not_null())
    axis.vlines(
        bounded["day"].to_numpy(),
        bounded["low"].to_numpy(),
        bounded["high"].to_numpy(),
        color=color,
        alpha=0.35,
        linewidth=3,
    )
    axis.plot(
        told["day"].to_numpy(),
        told["value"].to_numpy(),
        color=color,
        marker="o",
        markersize=4,
        linewidth=1.2,
        label=stage,
    )


def _date_axis(axes: list[Any]) -> None:
    for axis in axes[:-1]:
        axis.tick_params(axis="x", length=0)
    _date_ticks(axes[-1])


def _date_ticks(axis: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if not axis.has_data():
        return
    locator = AutoDateLocator(maxticks=9)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    # Fixed metadata, so that the same numbers give the same bytes.
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()
