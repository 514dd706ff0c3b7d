"""The prediction service of every declared model: ``bentoml serve serving.service:PredictionService``."""

from pathlib import Path

import assets.models
from pilotage.discovery import load_declarations
from pilotage.spec import ModelSpec
from serving.build import build

PredictionService = build(
    load_declarations("assets.models", "MODEL", ModelSpec, folder=Path(assets.models.__file__).parent)
)
