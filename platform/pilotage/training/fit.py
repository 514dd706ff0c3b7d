"""One LightGBM fit, deterministic: the same rows, parameters and seed give the same bytes on one machine type.

Nothing here splits, calibrates or judges.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pilotage.errors import ConfigError, TrainingError
from pilotage.runtime.scorer import encode
from pilotage.spec import ModelSpec, Scalar
from pilotage.training.config import RESERVED, TrainConfig

_QUIET_SECONDS = 5.0
_ROWS_A_THREAD = 25_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A fitted Booster as text, with what encodes its rows."""

    text: str
    categories: dict[str, list[str]]
    rounds: int
    gain: dict[str, float]
    """Feature → total gain of its splits."""


def lightgbm() -> Any:
    """LightGBM, loaded so that its threads sleep while they wait.

    By default they spin, and a platform is never alone on its machine: beside other work 28,000 rows took 6 to 12 s
    even with a short spin, 1.5 to 5 s asleep. What the operator has set stays. It must be set before the library loads,
    and only this process is meant, so it is no setting of the platform's.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import lightgbm

    return lightgbm


def merged_params(spec: ModelSpec, config: TrainConfig, extra: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """The spec's parameters, the run's over them, a trial's over those; by LightGBM's main names.

    Raises:
        ConfigError: A parameter is the platform's, or LightGBM has none of that name (it would ignore it in silence).
    """
    merged: dict[str, Scalar] = {}
    declared, tried = (spec.trainer.params, f"the file of {spec.name}"), (extra or {}, "tuning.space")
    for params, where in (declared, (config.params, "params"), tried):
        names = main_names(params, where=where)
        merged |= {names[name]: value for name, value in params.items()}
    return dict(sorted(merged.items()))


def check_params(spec: ModelSpec, config: TrainConfig) -> None:
    """Whether LightGBM has every parameter that a run gives or searches, takes its value, and a run may set it.

    Loads LightGBM, and has it begin with a few rows of numbers.

    Raises:
        ConfigError: As ``main_names``, or LightGBM refuses a value.
    """
    params = merged_params(spec, config)
    if config.tuning is not None:
        main_names(config.tuning.space, where="tuning.space")
    lgb = lightgbm()
    full = {**params, "objective": "binary", "num_threads": 1, "verbosity": -1}
    rows = np.tile(np.arange(8.0)[:, None], len(spec.features))
    try:
        lgb.Booster(full, lgb.Dataset(rows, np.arange(8) % 2, params=full))
    except lgb.basic.LightGBMError as error:
        raise ConfigError(
            f"LightGBM refuses {_given(config.params or params)} (params): {_said(error)}.",
            fix="See LightGBM's list of parameters for the values that it takes.",
        ) from error


def main_names(params: Iterable[str], *, where: str) -> dict[str, str]:
    """Parameter as given → LightGBM's main name for it.

    Raises:
        ConfigError: As ``merged_params``, or two of them are the same parameter.
    """
    # Private, but the one table there is; a test of ours notices when it moves.
    aliases: dict[str, list[str]] = lightgbm().basic._ConfigAliases._get_all_param_aliases()
    main = {alias: name for name, others in aliases.items() for alias in [name, *others]}
    found: dict[str, str] = {}
    for name in params:
        if name not in main:
            near = difflib.get_close_matches(name, main, n=1)
            raise ConfigError(
                f"LightGBM has no parameter {name} ({where}).",
                fix=f"Did you mean {main[near[0]]}?" if near else "See LightGBM's list of parameters.",
                parameter=name,
            )
        if main[name] in RESERVED:
            raise ConfigError(
                f"The parameter {name} ({where}) is the platform's: with it a run could not be repeated.",
                fix="Leave it out; rounds, seed and threads are fields of run.yaml.",
                parameter=name,
            )
        if main[name] in found.values():
            raise ConfigError(f"{name} ({where}) is given under another name too.", fix="Keep one.", parameter=name)
        found[name] = main[name]
    return found


def levels(spec: ModelSpec, train: pl.DataFrame) -> dict[str, list[str]]:
    """Categorical (String) feature → its levels in the training rows, sorted."""
    return {
        feature.name: train[feature.name].drop_nulls().unique().sort().to_list()
        for feature in spec.features
        if train.schema[feature.name] == pl.String
    }


def fit(
    spec: ModelSpec,
    train: pl.DataFrame,
    labels: np.ndarray,
    *,
    params: Mapping[str, Scalar],
    rounds: int,
    seed: int,
    threads: int,
    weights: np.ndarray | None = None,
    valid: tuple[pl.DataFrame, np.ndarray] | None = None,
    patience: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Trains one Booster.

    Args:
        spec: The model; its features, in its order.
        train: Rows with the feature columns.
        labels: Shape (rows,), Boolean.
        params: From ``merged_params``.
        rounds: Boosting rounds; with ``patience`` the limit.
        seed: For everything that LightGBM draws.
        threads: OpenMP threads; they do not change the bytes.
        weights: How much each row counts; shape (rows,). Default: all the same.
        valid: Rows and labels that early stopping watches.
        patience: Rounds without a better log loss on ``valid`` before it stops.
        progress: Called every few seconds.

    Raises:
        TrainingError: LightGBM refuses, or learns nothing.
    """
    lgb = lightgbm()
    columns = [feature.name for feature in spec.features]
    categories = levels(spec, train)
    full = {
        **params,
        "objective": "binary",
        "metric": "binary_logloss" if valid else "None",
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "num_threads": _useful_threads(threads, len(labels)),
        "verbosity": -1,
        # With it, rows of small sets would be thrown away by feature before training.
        "feature_pre_filter": False,
    }
    data = lgb.Dataset(
        encode(train, columns, categories),
        labels.astype(np.float64),
        weight=weights,
        feature_name=columns,
        categorical_feature=[name for name in columns if name in categories],
        params=full,
    )
    callbacks = [_teller(progress, rounds)]
    watched = []
    if valid is not None and patience is not None:
        watched = [data.create_valid(encode(valid[0], columns, categories), valid[1].astype(np.float64))]
        callbacks.append(lgb.early_stopping(patience, verbose=False))
    try:
        booster = lgb.train(full, data, rounds, valid_sets=watched, callbacks=callbacks)
    except lgb.basic.LightGBMError as error:
        raise TrainingError(
            f"LightGBM can't train {spec.name} on {len(labels):,} rows with {_given(params)}: {_said(error)}.",
            fix=f"Correct params in assets/models/{spec.name}.py, or those that the run was given.",
        ) from error
    gain = booster.feature_importance("gain")
    if not gain.any():
        raise TrainingError(
            f"LightGBM learned nothing about {spec.name} from {len(labels):,} rows: no split was worth making.",
            fix="Give more data, or lower params.min_data_in_leaf.",
            rows=len(labels),
        )
    best = booster.best_iteration if booster.best_iteration > 0 else rounds
    return Fitted(
        text=_without_threads(booster.model_to_string(num_iteration=best)),
        categories=categories,
        rounds=best,
        gain={name: float(value) for name, value in zip(columns, gain, strict=True)},
    )


def _given(params: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


def _said(error: Exception) -> str:
    """What LightGBM says, without the place in its own source."""
    return str(error).partition(" at /")[0].rstrip(" .\n")


def _useful_threads(threads: int, rows: int) -> int:
    """Threads that have something to do: waking a second one for few rows costs more than it brings."""
    return max(1, min(threads, rows // _ROWS_A_THREAD))


def _without_threads(text: str) -> str:
    """The text without its one line that depends on the machine: the trees are the same for 1, 2 and 4 threads."""
    return re.sub(r"^\[num_threads: \d+\]$", "[num_threads: 1]", text, count=1, flags=re.MULTILINE)


def _teller(progress: Callable[[str], None], rounds: int) -> Callable[[Any], None]:
    """A LightGBM callback that says where a long fit is."""
    told = time.monotonic()

    def tell(env: Any) -> None:
        nonlocal told
        if time.monotonic() - told >= _QUIET_SECONDS:
            told = time.monotonic()
            progress(f"Round {env.iteration + 1} of {rounds}")

    tell.order = 30  # type: ignore[attr-defined]
    return tell
