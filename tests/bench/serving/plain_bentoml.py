"""What BentoML's own pages show: a typed endpoint around a Booster. It is sent finished features and keeps no log."""

import json
import os
from pathlib import Path

import bentoml
import lightgbm
import numpy as np
from pydantic import BaseModel, create_model

_BUNDLE = Path(os.environ["BUNDLE"])
_NAMES = [word["name"] for word in json.loads((_BUNDLE / "features.json").read_text())["words"]]
_LEVELS = json.loads((_BUNDLE / "categories.json").read_text())
Features = create_model(
    "Features", **{name: (str | None if name in _LEVELS else float | None, None) for name in _NAMES}
)  # type: ignore[call-overload]


class Answer(BaseModel):
    """A probability."""

    probability: float


@bentoml.service(workers=1)
class Plain:
    """Predicts."""

    def __init__(self) -> None:
        self.booster = lightgbm.Booster(model_str=(_BUNDLE / "model.txt").read_text())
        self.codes = {name: {level: float(at) for at, level in enumerate(all_)} for name, all_ in _LEVELS.items()}

    @bentoml.api
    def predict(self, features: Features) -> Answer:  # type: ignore[valid-type]
        values = features.model_dump()
        row = [
            self.codes[name].get(value, np.nan) if name in self.codes else np.nan if value is None else value
            for name, value in values.items()
        ]
        probability = self.booster.predict(np.array([row], dtype=np.float64), num_threads=1)[0]
        return Answer(probability=float(probability))
