"""One training run's configuration: the ``run.yaml``. What a model *is* stands in its spec; what one run *tries* here.

Nothing here trains. A mistake is a ``ConfigError`` with file, line, field and fix, before any work starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from pilotage.errors import ConfigError
from pilotage.spec import Metric, ModelSpec, Scalar, TimeSplit
from pilotage.training.yaml_lines import line_of, read_yaml

_FIXED = (
    "objective metric num_class num_iterations early_stopping_round num_threads device_type deterministic "
    "force_row_wise force_col_wise verbosity categorical_feature task data config seed data_random_seed "
    "feature_fraction_seed bagging_seed extra_seed drop_seed objective_seed"
)
RESERVED = frozenset(_FIXED.split())
"""LightGBM parameters (main names) that the platform sets: with them a run could not be repeated bit for bit."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Part):
    """Which rows are read."""

    first: date | None = None
    """First day: of the source's days or, where it has none, of event time in the model's time zone. Default: the
    spec's retraining window, or all there is."""
    last: date | None = None
    """Last day. Default: the newest day with features."""
    version: Annotated[int, Field(ge=0)] | None = None
    """Delta version of ``features/<model>``. Default: the newest."""
    learn_from: date | None = None
    """First day of event time that is trained on; calibration and holdout stay as they are. Default: the first read."""
    window_days: Annotated[float, Field(gt=0, le=36_600)] | None = None
    """Trains only on rows this young, days before the newest row. Default: any age."""
    half_life_days: Annotated[float, Field(gt=0, le=36_600)] | None = None
    """Age in days at which a row that is trained on counts half. Default: all count the same."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.first and self.last and self.first > self.last:
            raise ValueError(f"first ({self.first}) is after last ({self.last})")
        return self


class SplitConfig(_Part):
    """Other lengths than the spec's, for one run. Only for models with a time."""

    calibration_days: Annotated[float, Field(gt=0, le=3660)] | None = None
    """Days of the calibration part."""
    holdout_days: Annotated[float, Field(gt=0, le=3660)] | None = None
    """Days of the holdout."""
    embargo_days: Annotated[float, Field(ge=0, le=366)] | None = None
    """Gap before each later part, days; no shorter than the spec's."""
    folds: Annotated[int, Field(ge=0, le=20)] | None = None
    """Cross-validation folds; 0 for none. Also for models without a time."""


class Range(_Part):
    """Search space of one number."""

    low: float
    high: float
    log: bool = False
    """Search the logarithm: for parameters whose order of magnitude matters."""
    integer: bool = False

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, not {self.low}")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("integer needs whole numbers as low and high")
        return self


class Choices(_Part):
    """Search space of a parameter with few values."""

    choices: Annotated[list[Scalar], Field(min_length=2)]


def _space_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "choices" if "choices" in given else "range"


Space = Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_space_kind)]

DEFAULT_SPACE: dict[str, Space] = {
    "learning_rate": Range(low=0.01, high=0.2, log=True),
    "num_leaves": Range(low=7, high=127, log=True, integer=True),
    "min_data_in_leaf": Range(low=20, high=500, log=True, integer=True),
    "feature_fraction": Range(low=0.5, high=1.0),
    "lambda_l2": Range(low=0.1, high=50.0, log=True),
}


class TuningConfig(_Part):
    """A search for hyper-parameters by optuna's TPE, seeded. The first trial is what the spec and ``params`` say."""

    trials: Annotated[int, Field(ge=1, le=10_000)]
    """How many; each trains the cross-validation's folds."""
    timeout_seconds: Annotated[float, Field(gt=0)] | None = None
    """No new trial starts after this. A run that it stops can't be repeated exactly; its trials are on record."""
    space: dict[str, Space] = DEFAULT_SPACE
    """LightGBM parameter → where to look."""


class EvaluationConfig(_Part):
    """How a candidate is judged, beyond its spec."""

    resamples: Annotated[int, Field(ge=50, le=20_000)] = 300
    """Bootstrap resamples behind each interval."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Share of resamples that an interval holds."""
    min_slice_rows: Annotated[int, Field(ge=10)] = 100
    """Values of a slice with fewer rows than this are reported together, as ``other``."""
    at_least: dict[Metric, float] = {}
    """Metric → floor, for this run; may only be higher than the spec's."""
    at_most: dict[Metric, float] = {}
    """Metric → ceiling, for this run; may only be lower than the spec's."""
    better_by: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How sure it must be, by resampled days, that the candidate is better than the champion; 0: it need not be."""


class VariantConfig(_Part):
    """What one of several candidates of a run learns from; see ``DataConfig``."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    """What reports call it."""
    learn_from: date | None = None
    """First day that is trained on."""
    window_days: Annotated[float, Field(gt=0, le=36_600)] | None = None
    """Age in days up to which rows are trained on."""
    half_life_days: Annotated[float, Field(gt=0, le=36_600)] | None = None
    """Age in days at which a row counts half."""


class TrainConfig(_Part):
    """One training run. Every field has a default, so an empty file trains what the spec says."""

    data: DataConfig = DataConfig()
    """Which rows are read."""
    split: SplitConfig = SplitConfig()
    """Other lengths of calibration and holdout than the spec's."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Boosting rounds. Default: the spec's."""
    early_stopping_rounds: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Stop when this many rounds bring nothing on the newest cross-validation fold; ``rounds`` is then the limit."""
    params: dict[str, Scalar] = {}
    """LightGBM parameters, over the spec's."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads of this training. Default: ``PILOTAGE_THREADS``."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    """Of everything that is drawn: the same seed, rows and parameters give the same model."""
    calibration: Literal["isotonic", "sigmoid", "none"] | None = None
    """Default: the spec's. ``none`` needs no calibration part: its rows train."""
    tuning: TuningConfig | None = None
    """Search for hyper-parameters before training. Default: no."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the candidate is judged, beyond its spec."""
    variants: list[VariantConfig] = []
    """Trains a candidate for each, chooses one on the older part of the holdout, and judges it on the rest."""
    choose_on: Annotated[float, Field(gt=0, lt=0.9)] = 0.4
    """With variants: share of the holdout's days, the older ones, that choose."""

    @classmethod
    def from_file(cls, path: Path) -> TrainConfig:
        """Reads a ``run.yaml``.

        Raises:
            ConfigError: The file can't be read, is no YAML mapping, or a field is unknown or does not fit; with the
                file's name and the line.
        """
        data, tree = read_yaml(path)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explain(error, f"{path.name}:", lambda loc: line_of(tree, loc)) from None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The same from plain values, as a launchpad or a stored run gives them.

        Raises:
            ConfigError: A field is unknown or does not fit.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _explain(error, "run configuration: ", lambda _: None) from None

    def check(self, spec: ModelSpec) -> None:
        """Whether this run may be asked of this model.

        Raises:
            ConfigError: It weakens the gate or the embargo, or sets days for a model without a time.
        """
        timed = isinstance(spec.split, TimeSplit)
        lengths = ("calibration_days", "holdout_days", "embargo_days")
        given = [f"split.{name}" for name in lengths if getattr(self.split, name)]
        given += [
            f"data.{name}"
            for name in ("first", "last", "learn_from", "window_days", "half_life_days")
            if getattr(self.data, name)
        ]
        given += ["variants"] if self.variants else []
        if not timed and given:
            raise ConfigError(f"{spec.name} has no event time, so {given[0]} means nothing.", fix="Leave it out.")
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise ConfigError("Two variants have one name.", fix="Rename one of them.")
        if isinstance(spec.split, TimeSplit) and self.split.embargo_days is not None:
            least = spec.split.embargo.total_seconds() / 86400
            if self.split.embargo_days < least:
                raise ConfigError(
                    f"split.embargo_days={self.split.embargo_days:g} is shorter than the {least:g} of {spec.name}.",
                    fix=f"Give at least {least:g}: labels of {spec.name} take that long.",
                )
        for metric, floor in self.evaluation.at_least.items():
            if floor < spec.gate.at_least.get(metric, float("-inf")):
                raise _weaker(spec, f"at_least.{metric}", floor, spec.gate.at_least[metric], "at least")
        for metric, ceiling in self.evaluation.at_most.items():
            if ceiling > spec.gate.at_most.get(metric, float("inf")):
                raise _weaker(spec, f"at_most.{metric}", ceiling, spec.gate.at_most[metric], "at most")


def _weaker(spec: ModelSpec, field: str, asked: float, declared: float, bound: str) -> ConfigError:
    return ConfigError(
        f"evaluation.{field}={asked:g} is weaker than the gate of {spec.name} ({declared:g}).",
        fix=f"Give {bound} {declared:g}, or change the gate in the model's file, where it is reviewed.",
    )


def _explain(error: ValidationError, where: str, line: Any) -> ConfigError:
    first = error.errors(include_url=False)[0]
    # A union adds the name of the member it tried to the place.
    loc = tuple(part for part in first["loc"] if part not in ("range", "str", "int", "float", "bool"))
    loc = loc[:3] + loc[4:] if loc[:2] == ("tuning", "space") and loc[3:4] == ("choices",) else loc
    field = ".".join(str(part) for part in loc) or "the file"
    number = line(loc)
    place = f"{where}{number}: " if number is not None else f"{where.rstrip(': ')}: "
    match first["type"]:
        case "extra_forbidden":
            known = _known(loc)
            message, fix = f"{place}there is no field {field}.", f"Use one of: {', '.join(known)}."
        case "missing":
            message, fix = f"{place}{field} is missing.", f"Give {field}."
        case _:
            message, fix = f"{place}{field}={first['input']!r} does not fit.", f"{first['msg']}."
    return ConfigError(message, fix=fix, field=field, line=number)


def _known(loc: tuple[int | str, ...]) -> list[str]:
    """The fields that may stand where an unknown one does."""
    kind: type[BaseModel] = TrainConfig
    parts: dict[str, type[BaseModel]] = {
        "data": DataConfig, "split": SplitConfig, "tuning": TuningConfig, "evaluation": EvaluationConfig,
        "variants": VariantConfig,
    }  # fmt: skip
    if len(loc) > 1:
        kind = parts.get(str(loc[0]), TrainConfig)
    if len(loc) > 3 and loc[0] == "tuning":
        return [*Range.model_fields, *Choices.model_fields]
    return list(kind.model_fields)
