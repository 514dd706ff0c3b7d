"""Drift of a model's inputs: what comes in now, against the reference sample of the champion's bundle.

Measured feature by feature; nothing here decides to retrain. The picture for people is ``evidently_report.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pilotage.errors import DataError
from pilotage.monitoring.psi import noise, psi
from pilotage.spec import ModelSpec

ALERT_PSI = 0.25
"""Used where the spec declares no drift: the customary limit of "has shifted" (Siddiqi 2006)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """One feature, now against the reference."""

    feature: str
    psi: float
    """Population stability index over fixed reference bins, null among them; 0 or more."""
    noise: float
    """The index that samples of this size exceed in one of a thousand cases without any drift."""
    null_rate: float
    """Share of rows without a value (null or NaN), 0..1."""
    reference_null_rate: float
    drifted: bool
    """The index reaches the alert threshold, and is more than noise."""

    @property
    def null_rate_difference(self) -> float:
        """Null rate now minus in the reference, -1..1."""
        return self.null_rate - self.reference_null_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """How far a model's inputs have moved. Grain of ``features``: one entry per feature, the largest index first."""

    model: str
    rows: int
    reference_rows: int
    alert_psi: float
    features: list[FeatureDrift]
    html: str | None
    """Path of the report to look at; ``None`` if none was asked for."""

    @property
    def drifted(self) -> list[str]:
        """Names of the features that drifted, the largest index first."""
        return [one.feature for one in self.features if one.drifted]


def drift_report(
    spec: ModelSpec, *, current: pl.DataFrame, reference: pl.DataFrame, reports: Path, html: bool = True
) -> DriftReport:
    """Compares feature rows with the champion's reference sample.

    Args:
        spec: The model, for its features and its alert threshold.
        current: One row per prediction, with the model's feature columns; others are ignored.
        reference: The bundle's reference sample, with the same columns.
        reports: Folder of HTML reports; writes ``<model>/drift.html`` in it.
        html: Whether to draw the report; it takes Evidently seconds, the numbers take milliseconds.

    Raises:
        DataError: A sample has no rows, lacks a feature, or has it as another kind of value.
    """
    names = [feature.name for feature in spec.features]
    for sample, frame in (("current", current), ("reference", reference)):
        if missing := [name for name in names if name not in frame.columns]:
            raise DataError(
                f"{spec.name}: the {sample} sample has no column {missing[0]}.",
                fix="Compare with a bundle that was trained on the same features.",
                model=spec.name,
                missing=missing,
            )
        if frame.is_empty():
            raise DataError(
                f"{spec.name}: the {sample} sample has no rows.", fix="Choose days that have rows.", model=spec.name
            )
    alert = spec.drift.alert_psi if spec.drift else ALERT_PSI
    features = [_compared(reference[name], current[name], alert) for name in names]
    features.sort(key=lambda one: (-one.psi, one.feature))
    report = DriftReport(
        model=spec.name,
        rows=current.height,
        reference_rows=reference.height,
        alert_psi=alert,
        features=features,
        html=str(reports / spec.name / "drift.html") if html else None,
    )
    if report.html is not None:
        from pilotage.monitoring.evidently_report import write_html

        write_html(report, current=current.select(names), reference=reference.select(names), path=Path(report.html))
    return report


def _compared(reference: pl.Series, current: pl.Series, alert: float) -> FeatureDrift:
    measured = psi(reference, current)
    limit = noise(measured.bins, reference.len(), current.len())
    return FeatureDrift(
        feature=current.name,
        psi=measured.value,
        noise=limit,
        null_rate=_null_rate(current),
        reference_null_rate=_null_rate(reference),
        drifted=measured.value >= max(alert, limit),
    )


def _null_rate(series: pl.Series) -> float:
    nan = int(series.is_nan().sum()) if series.dtype.is_float() else 0
    return (series.null_count() + nan) / series.len()
