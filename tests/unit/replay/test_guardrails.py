"""What a replay makes of a shadow's answers is what the platform would."""

from __future__ import annotations

import numpy as np
import pytest

from pilotage.policy import Guardrail, GuardrailMetric, Rollout
from pilotage.replay.guardrails import Answers, breached
from pilotage.testing.bundles import tiny_spec

ROWS = 2_000


@pytest.mark.parametrize("metric", ["probability", "certainty"])
@pytest.mark.parametrize(("ours", "theirs"), [(0.5, 0.95), (0.95, 0.5)])
def test_what_is_about_the_distribution_of_answers_is_breached_by_less_as_by_more(
    metric: GuardrailMetric, ours: float, theirs: float
) -> None:
    spec = tiny_spec(rollout=Rollout(guardrails=(Guardrail(metric=metric, tolerance=0.1),)))
    answers = Answers(
        ours=np.full(ROWS, ours), theirs=np.full(ROWS, theirs), labels=np.zeros(ROWS, bool), known=np.ones(ROWS, bool)
    )
    assert breached(spec, answers) == [f"{metric} is worse by more than 0.1"]
