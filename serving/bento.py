"""The prediction service of a bento: the models and bundles that came with it. Elsewhere there is nothing to serve."""

from pathlib import Path

import assets.models
from pilotage.runtime.baked import Baked
from serving.build import build

PredictionService = build(assets.models.load_models(), baked=Baked(Path(__file__).resolve().parents[1] / "baked"))
