"""The capital of a test after each observation of many runs at once: what looking often does, simulated."""

from __future__ import annotations

import math

import numpy as np

from pilotage.release.sequential import FRACTIONS, Floats

_CEILING = 600.0
"""Capital beyond e^600 is told as that: it would overflow, and decides nothing more."""


def running_log_wealth(observations: Floats, difference: float, *, floor: float) -> Floats:
    """``log_wealth`` after each observation.

    Args:
        observations: Runs × observations, in their order.
        difference: The hypothesis.
        floor: The least that an observation can be.

    Returns:
        Log capital, runs × observations.
    """
    gains = (observations - floor) / (difference - floor) - 1
    total, capital = np.zeros(observations.shape), np.empty(observations.shape)
    for fraction in FRACTIONS:
        np.log1p(fraction * gains, out=capital)
        np.cumsum(capital, axis=-1, out=capital)
        total += np.exp(np.minimum(capital, _CEILING, out=capital))
    logs: Floats = np.log(np.maximum(total, 1e-300)) - math.log(len(FRACTIONS))
    return logs
