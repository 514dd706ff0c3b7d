"""A search for hyper-parameters: optuna's TPE, seeded, judged by cross-validated log loss.

The first trial is what the spec and the run say, so the search can't end below where it began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pilotage.errors import TrainingError
from pilotage.spec import Scalar
from pilotage.training.config import Choices, Space, TuningConfig
from pilotage.training.records import Trial


def tune(
    config: TuningConfig,
    *,
    start: Mapping[str, Scalar],
    seed: int,
    objective: Callable[[dict[str, Scalar]], float],
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Scalar], list[Trial]]:
    """Searches.

    Args:
        config: Trials, time and space; the space by LightGBM's main names.
        start: Parameters of the first trial, which may lie outside the space.
        seed: Of the sampler. The same seed makes the same trials, unless the time runs out.
        objective: Parameters in the space → cross-validated log loss.
        progress: Called once a trial.

    Returns:
        The best parameters, and every trial that could be trained, in order.

    Raises:
        TrainingError: None could.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))
    space = {name: _distribution(part) for name, part in sorted(config.space.items())}
    deadline = time.monotonic() + config.timeout_seconds if config.timeout_seconds else float("inf")
    trials: list[Trial] = []
    failures: list[str] = []
    for number in range(config.trials):
        if number and time.monotonic() >= deadline:
            progress(f"The time for tuning ran out after {number} trials of {config.trials}")
            break
        asked = study.ask(space) if number else None
        params = dict(asked.params) if asked else {name: start[name] for name in space if name in start}
        began = time.monotonic()
        try:
            loss = objective(params)
        except TrainingError as error:
            # A corner of the space in which nothing can be learned is an answer too; when all fail it is an error.
            failures.append(error.message)
            progress(f"Trial {number + 1} of {config.trials} failed: {error.message}")
            if asked:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            continue
        trials.append(Trial(number=number, params=params, log_loss=loss, seconds=time.monotonic() - began))
        if asked:
            study.tell(asked, loss)
        elif _inside(config.space, params):
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=loss))
        best = min(found.log_loss for found in trials)
        progress(f"Trial {number + 1} of {config.trials}: log loss {loss:.5f}, best {best:.5f}; {_told(params)}")
    if not trials:
        raise TrainingError(
            f"None of {len(failures)} tuning trials could be trained; the last said: {failures[-1]}",
            fix="Narrow tuning.space, or give more data.",
        )
    winner = min(trials, key=lambda found: (found.log_loss, found.number))
    return dict(winner.params), trials


def _distribution(space: Space) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(space, Choices):
        return CategoricalDistribution(space.choices)
    if space.integer:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _inside(spaces: Mapping[str, Space], params: Mapping[str, Scalar]) -> bool:
    """Whether the sampler may learn from these: every parameter is given, and lies where it looks."""
    for name, space in spaces.items():
        value = params.get(name)
        if isinstance(space, Choices):
            if value not in space.choices:
                return False
        elif not isinstance(value, (int, float)) or not space.low <= value <= space.high:
            return False
    return True


def _told(params: Mapping[str, Scalar]) -> str:
    words = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in params.values())
    return ", ".join(f"{name} {word}" for name, word in zip(params, words, strict=True))
