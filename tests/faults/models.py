"""The models of the service that is broken: one of minimal risk, one of high risk, and one with as-of features."""

from __future__ import annotations

from pilotage.testing.bundles import tiny_spec

SPECS = {
    spec.name: spec
    for spec in (
        tiny_spec("tiny"),
        # It refuses what can't be logged.
        tiny_spec("tiny_high", risk="high"),
        tiny_spec("tiny_state", with_state=True),
    )
}
