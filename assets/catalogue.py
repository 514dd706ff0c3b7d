"""Every asset, made from the declarations."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from assets.alerts import alerts_asset
from assets.ingestion import source_assets
from assets.ledger import ledger_asset
from assets.lineage import model_assets
from assets.monitoring import monitoring_assets
from assets.performance import performance_assets
from assets.predictions import log_assets
from assets.scoring import scoring_assets
from assets.skew import skew_assets
from pilotage.data.source import SourceSpec
from pilotage.errors import DeclarationError
from pilotage.monitoring.labels import label_source
from pilotage.spec import ModelSpec


def all_assets(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> list[dg.AssetsDefinition]:
    """Assets of all sources and models.

    Raises:
        DeclarationError: A model reads a source that no file declares.
    """
    for model in models.values():
        if missing := sorted({*model.sources, *_label_sources(model)} - set(sources)):
            raise DeclarationError(
                f"assets/models/{model.name}.py reads the source {missing[0]!r}, which no file declares.",
                fix=f"Add assets/sources/{missing[0]}.py, or use one of: {', '.join(sources)}.",
                model=model.name,
                source=missing[0],
            )
    made = [asset for spec in sources.values() for asset in source_assets(spec)]
    for spec in models.values():
        made += model_assets(spec, sources)
        made += monitoring_assets(spec)
        made += skew_assets(spec)
        made += performance_assets(spec)
        made += scoring_assets(spec, sources)
    return [*made, *log_assets(models), ledger_asset(), alerts_asset()]


def _label_sources(model: ModelSpec) -> set[str]:
    about = label_source(model)
    return set() if about is None else {about.source}
