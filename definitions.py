"""The composition root: the one module that knows every folder. It declares nothing itself."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.catalogue import all_assets
from assets.models import load_models
from assets.sources import load_sources
from jobs.catalogue import all_jobs
from jobs.nightly import all_schedules
from resources import default_resources
from sensors.catalogue import all_sensors


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Everything that Dagster sees, from the files in ``assets/sources`` and ``assets/models``.

    Args:
        resource_overrides: Resources that stand in for the real ones, by key; the one seam that tests use.

    Raises:
        DeclarationError: A declaration is wrong; names its file.
    """
    sources, models = load_sources(), load_models()
    return dg.Definitions(
        assets=all_assets(sources, models),
        jobs=all_jobs(sources, models),
        schedules=list(all_schedules(sources, models)),
        sensors=list(all_sensors(sources, models)),
        resources={**default_resources(), **(resource_overrides or {})},
        # Step processes cost more than the steps: everything heavy shares one process a run (see docs/adr/0005).
        executor=dg.in_process_executor,
    )


defs = build_defs()
