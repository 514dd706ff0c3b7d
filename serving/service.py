"""The prediction service of every declared model: ``bentoml serve serving.service:PredictionService``."""

import assets.models
from serving.build import build

PredictionService = build(assets.models.load_models())
