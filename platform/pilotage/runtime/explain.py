"""Why an answer is what it is: exact TreeSHAP contributions in the spec's own words, and reasons a person can act on.

Contributions are log-odds before calibration: with ``base_log_odds`` they add up to the model's own output. The base
rate is calibrated, as the answer is, so its log-odds are others.
Calibration is monotonic, so what pushed the model pushed the answer the same way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pilotage.errors import BundleCorrupt
from pilotage.runtime.answer import Contribution, Explanation
from pilotage.spec import Feature

if TYPE_CHECKING:
    from pilotage.runtime.bundle import Bundle
    from pilotage.runtime.prepared import Scored

MOST_REASONS = 4
"""Reasons of one decision; a statement of the principal ones, not a list of everything (as Regulation B, 12 CFR 1002.9,
has it for credit)."""
_NEGLIGIBLE = 0.01
"""Log-odds under which a contribution is no reason: it moves a probability by a quarter of a percentage point."""


class Explainer:
    """The explanations of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def explain(self, scored: Scored) -> Explanation:
        """Explains an answer; takes milliseconds for a large model.

        Reasons explain the decision that was made, whether the label is good news or bad: what spoke most for the label
        if the decision is positive, what spoke most against it if it is negative, or referred to a person. Only the
        latter come with the spec's advice, since they name what stands in the way of the label.

        Raises:
            BundleCorrupt: The model's output has no log-odds.
        """
        bundle = self._bundle
        seen = scored.prepared.features
        parts, expected = bundle.scorer.contributions(scored.prepared.key)
        scale = _log_odds_per_unit(bundle.scorer.objective)
        ordered = sorted(zip(bundle.features, parts, strict=True), key=lambda each: -abs(each[1]))
        contributions = tuple(
            Contribution(
                feature=feature.name,
                description=feature.description,
                value=seen[feature.name],
                unit=feature.unit,
                contribution=part * scale,
            )
            for feature, part in ordered
        )
        towards = scale if scored.decision else -scale
        spoke = [feature for feature, part in ordered if part * towards > _NEGLIGIBLE]
        reasons = tuple(
            _sentence(feature, seen[feature.name], "" if scored.decision else feature.advice)
            for feature in spoke[:MOST_REASONS]
        )
        return Explanation(
            base_rate=bundle.scorer.calibrator.apply_one(_probability(expected * scale)),
            base_log_odds=expected * scale,
            log_odds=math.fsum((expected, *parts)) * scale,
            contributions=contributions,
            reasons=reasons,
        )


def _sentence(feature: Feature, value: Any, advice: str) -> str:
    """``Housing expense of income: 45.2 percent. Lower the …``"""
    words = f"{feature.description}: {_shown(value)}"
    if feature.unit and value is not None:
        words += f" {feature.unit}"
    return f"{words}. {advice}" if advice else f"{words}."


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Four digits are more than anybody reads; nobody reads 1.276e+05.
        digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 0
        text = f"{value:,.{min(digits, 12)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:,}" if isinstance(value, int) else str(value)


def _log_odds_per_unit(objective: str) -> float:
    """The model's raw output in log-odds, from how LightGBM names its objective."""
    kind, *parameters = objective.split() or [""]
    if kind == "binary":
        return next((float(p.removeprefix("sigmoid:")) for p in parameters if p.startswith("sigmoid:")), 1.0)
    if kind == "cross_entropy":
        return 1.0
    raise BundleCorrupt(
        f"A model of the objective {kind!r} has no log-odds to explain.", fix="Train with LightGBM's binary objective."
    )


def _probability(log_odds: float) -> float:
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    odds = math.exp(log_odds)
    return odds / (1.0 + odds)
