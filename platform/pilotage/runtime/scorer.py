"""Features in, calibrated probability out. Nothing here reads files, and nothing here knows what a feature means."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from pilotage.errors import BundleCorrupt
from pilotage.runtime.booster import Booster
from pilotage.runtime.folder import RESTORE
from pilotage.runtime.forest import Forest, forest_of
from pilotage.runtime.trees import LeftToLightGBM

CalibratorKind = Literal["isotonic", "sigmoid", "none"]
_EDGE = 1e-12
_FEWEST = 6
"""Rows from which one call of LightGBM for all is quicker than one for each."""
_MANY_THREADS = 4
"""Of LightGBM's, which together are as quick as a forest's only one."""
_MISSING = float("nan")
_EXPONENT_LIMIT = 700.0
"""Above about 709.8 ``exp`` overflows, which NumPy warns of."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Turns the model's probability into one that can be taken at its word.

    ``isotonic``: linear between the knots ``x`` → ``y`` (both ascending), constant outside them.
    ``sigmoid``: ``1 / (1 + exp(-(a * logit(p) + b)))`` with ``x=[a]``, ``y=[b]`` (Platt 1999, on the logit).
    ``none``: as it is.
    """

    kind: CalibratorKind
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    _knots: tuple[np.ndarray, np.ndarray] = field(init=False, repr=False, compare=False)
    """``x`` and ``y`` as NumPy takes them; to make arrays of them takes longer than to calibrate."""

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise BundleCorrupt(f"The {self.kind} calibrator {problem}.", fix=RESTORE)
        object.__setattr__(self, "_knots", (np.array(self.x, dtype=np.float64), np.array(self.y, dtype=np.float64)))

    def apply(self, p: np.ndarray) -> np.ndarray:
        """Calibrates probabilities; same shape, 0..1."""
        if self.kind == "isotonic":
            interpolated: np.ndarray = np.interp(p, *self._knots)
            return interpolated
        if self.kind == "sigmoid":
            clipped = np.clip(p, _EDGE, 1 - _EDGE)
            logit = np.log(clipped) - np.log1p(-clipped)
            with np.errstate(over="ignore"):
                calibrated: np.ndarray = 1.0 / (1.0 + np.exp(-(self.x[0] * logit + self.y[0])))
            return calibrated
        return p

    def apply_one(self, p: float) -> float:
        """``apply`` of one probability, to the same bit."""
        if self.kind == "sigmoid":
            # NumPy's own logarithm and exponential: those of ``math`` differ in the last bit on some machines.
            clipped = min(max(p, _EDGE), 1 - _EDGE)
            exponent = -(self.x[0] * float(np.log(clipped) - np.log1p(-clipped)) + self.y[0])
            if exponent < _EXPONENT_LIMIT:
                return float(1.0 / (1.0 + np.exp(exponent)))
        if self.kind == "none":
            return p
        return float(self.apply(np.array([p]))[0])

    def _problem(self) -> str | None:
        if self.kind not in ("isotonic", "sigmoid", "none"):
            return "is of no known kind"
        if len(self.x) != len(self.y):
            return f"has {len(self.x)} x and {len(self.y)} y"
        if not np.isfinite([*self.x, *self.y]).all():
            return "holds a number that is not finite"
        if self.kind == "sigmoid" and len(self.x) != 1:
            return "does not have exactly one slope and one intercept"
        if self.kind == "isotonic" and (not self.x or np.any(np.diff(self.x) < 0) or np.any(np.diff(self.y) < 0)):
            return "has no ascending knots"
        return None


def encode(features: pl.DataFrame, columns: list[str], categories: dict[str, list[str]]) -> np.ndarray:
    """Writes features as the numbers that LightGBM reads. Training and serving both call this.

    Args:
        features: One row per thing to predict; other columns are ignored.
        columns: Features in the model's order.
        categories: Categorical feature → its levels; a level is encoded as its position.

    Returns:
        Shape (rows, columns), float64, C order. Null, and a level that was never seen, are NaN.
    """
    return _select(features, columns, _encoders(columns, categories), categories)


class RowEncoder:
    """``encode`` of one row: the same doubles, one after another."""

    def __init__(self, columns: list[str], categories: dict[str, list[str]]) -> None:
        self._pack = struct.Struct(f"{len(columns)}d").pack
        self._levels = [
            (columns.index(name), {level: float(code) for code, level in enumerate(levels)}.get)
            for name, levels in categories.items()
        ]

    def __call__(self, values: Sequence[Any]) -> bytes:
        """Encodes features in the model's order; missing is ``None``."""
        numbers = [_MISSING if value is None else value for value in values]
        for position, level in self._levels:
            numbers[position] = level(values[position], _MISSING)
        return self._pack(*numbers)


class Scorer:
    """A parsed model with its encoding and its calibrator. Safe to use from several threads."""

    def __init__(
        self,
        model_text: str,
        calibrator: Calibrator,
        categories: dict[str, list[str]],
        columns: list[str],
        *,
        threads: int = 1,
    ) -> None:
        """Parses the model. Only for verified bytes: a corrupt text may abort the process."""
        for name, levels in categories.items():
            if name not in columns or len(set(levels)) != len(levels):
                raise BundleCorrupt(
                    f"The categories of {name} name no feature, or a level twice.",
                    fix=RESTORE,
                )
        self.calibrator = calibrator
        self.categories = categories
        self.columns = columns
        self.threads = threads
        self._encoders = _encoders(columns, categories)
        self.encode_row = RowEncoder(columns, categories)
        """Features of one row in the model's order → the doubles of ``encode``, one after another."""
        self._booster = Booster(model_text)
        if self._booster.columns != len(columns):
            raise BundleCorrupt(
                f"The model reads {self._booster.columns} features, the bundle names {len(columns)}.",
                fix=RESTORE,
            )
        self.forest: Forest | None = None
        """What scores many rows at once, to the bits of LightGBM."""
        self.left_to_lightgbm = ""
        """Why there is no forest."""
        self._enough = sys.maxsize
        if threads < _MANY_THREADS:
            try:
                self.forest, self._enough = forest_of(model_text, self._booster)
            except LeftToLightGBM as why:
                self.left_to_lightgbm = str(why)
        else:
            self.left_to_lightgbm = f"its {threads} threads are as quick"

    @property
    def objective(self) -> str:
        """What the model was trained for, in LightGBM's words."""
        return self._booster.objective

    def encode(self, features: pl.DataFrame) -> np.ndarray:
        """See ``encode``."""
        return _select(features, self.columns, self._encoders, self.categories)

    def raw(self, features: pl.DataFrame) -> np.ndarray:
        """The model's probabilities before calibration; shape (rows,)."""
        return self._predict(self.encode(features))

    def score_row(self, row: bytes) -> float:
        """Calibrated probability of a row that ``encode_row`` made."""
        return self.calibrator.apply_one(self._booster.predict_row(row))

    def score_rows(self, rows: Sequence[bytes]) -> list[float]:
        """``score_row`` of several rows, at once where that is quicker."""
        return self.score_matrix(np.frombuffer(b"".join(rows)).reshape(len(rows), len(self.columns)))

    def score_matrix(self, matrix: np.ndarray) -> list[float]:
        """``score_rows`` of what ``encode`` gives for them: shape (rows, columns), float64, C order."""
        if len(matrix) < min(_FEWEST, self._enough):
            return [self.score_row(row.tobytes()) for row in matrix]
        scores: list[float] = self.calibrator.apply(self._predict(matrix)).tolist()
        return scores

    def contributions(self, row: bytes) -> tuple[list[float], float]:
        """What each feature adds to the model's raw output, and the output to expect; see ``Booster.contributions``."""
        *parts, expected = self._booster.contributions(np.frombuffer(row).reshape(1, -1))[0].tolist()
        return parts, expected

    def score(self, features: pl.DataFrame) -> np.ndarray:
        """Calibrated probabilities; shape (rows,)."""
        return self.calibrator.apply(self.raw(features))

    def _predict(self, matrix: np.ndarray) -> np.ndarray:
        if self.forest is not None and len(matrix) >= self._enough:
            return self.forest.predict(matrix)
        return self._booster.predict(matrix, threads=self.threads)


def _encoders(columns: list[str], categories: dict[str, list[str]]) -> list[pl.Expr]:
    return [
        pl.col(column).replace_strict(
            pl.Series(categories[column], dtype=pl.String),
            pl.Series(range(len(categories[column])), dtype=pl.Float64),
            default=None,
            return_dtype=pl.Float64,
        )
        if column in categories
        else pl.col(column).cast(pl.Float64)
        for column in columns
    ]


def _select(
    features: pl.DataFrame, columns: list[str], encoders: list[pl.Expr], categories: dict[str, list[str]]
) -> np.ndarray:
    schema = features.schema
    for column in columns:
        dtype = schema.get(column)
        wanted = dtype == pl.String if column in categories else dtype == pl.Boolean or (dtype and dtype.is_numeric())
        # An all-null frame has no better type.
        if not wanted and dtype != pl.Null:
            raise ValueError(f"feature {column} is {dtype}, but the model reads it as {_kind(column, categories)}")
    # One row per feature at once costs Polars 15 µs; a call for each feature would cost that each time.
    return np.ascontiguousarray(features.select(encoders).to_numpy())


def _kind(column: str, categories: dict[str, list[str]]) -> str:
    return "a category" if column in categories else "a number"
