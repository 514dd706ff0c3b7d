"""What each feature matters to a released model, read from the model itself. Works for every version there ever was."""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.errors import BundleCorrupt


def gain_shares(model_text: str, features: Sequence[str]) -> dict[str, float]:
    """Feature → share of the total gain of its splits, 0..1, the highest first.

    Args:
        model_text: LightGBM's native text, verified.
        features: The model's features in its order.

    Raises:
        BundleCorrupt: A tree has splits without gains, or of features that there aren't.
    """
    gains = [0.0] * len(features)
    split: list[int] = []
    for line in model_text.splitlines():
        key, _, values = line.partition("=")
        if key == "split_feature":
            split = [int(value) for value in values.split()]
        elif key == "split_gain":
            told = [float(value) for value in values.split()]
            if len(told) != len(split) or any(not 0 <= feature < len(features) for feature in split):
                raise BundleCorrupt(
                    "The model's text has splits that don't fit its features.", fix="Restore the bundle from a backup."
                )
            for feature, gain in zip(split, told, strict=True):
                gains[feature] += gain
    total = sum(gains) or 1.0
    return dict(sorted(((name, gain / total) for name, gain in zip(features, gains, strict=True)), key=lambda x: -x[1]))
