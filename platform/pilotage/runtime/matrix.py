"""Columns of features as the matrix that LightGBM reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pilotage.features.columns import Column

_MISSING = float("nan")


class MatrixEncoder:
    """``scorer.encode`` of columns: the same doubles."""

    def __init__(self, columns: Sequence[str], categories: Mapping[str, Sequence[str]]) -> None:
        self._levels = [
            {level: float(code) for code, level in enumerate(categories[name])} if name in categories else None
            for name in columns
        ]

    def __call__(self, features: Sequence[Column]) -> np.ndarray:
        """Encodes features in the model's order.

        Returns:
            Shape (rows, features), float64, C order.
        """
        matrix = np.empty((len(features[0]), len(features)))
        for position, (feature, levels) in enumerate(zip(features, self._levels, strict=True)):
            if levels is None:
                matrix[:, position] = feature.numbers
            else:
                matrix[:, position] = [levels.get(value, _MISSING) for value in feature.values]
        return matrix
