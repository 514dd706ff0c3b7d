"""A home with its Dagster in which retrainings are asked for, launched and carried out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from definitions import build_defs
from jobs.retraining import wish
from pilotage.release.champions import states
from pilotage.release.events import Draft, Event
from pilotage.release.ledger import SqlLedger
from pilotage.release.stages import ModelState
from pilotage.run_tags import MODEL
from pilotage.settings import Settings
from resources.platform_home import PlatformHome
from resources.records import RecordIOManager
from sensors.retraining import retraining_sensor

MODEL_NAME = "loan_approval"


class House:
    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.instance = instance
        self.platform = PlatformHome(home=str(home))

    @cached_property
    def defs(self) -> dg.Definitions:
        return build_defs({"platform": self.platform, "io_manager": RecordIOManager(platform=self.platform)})

    @cached_property
    def spec(self) -> Any:
        from assets.models import load_models

        return load_models()[MODEL_NAME]

    def run(self, job: str, *, raises: bool = True, **how: Any) -> dg.ExecuteInProcessResult:
        return self.defs.resolve_job_def(job).execute_in_process(instance=self.instance, raise_on_error=raises, **how)

    def asks(self, **values: Any) -> dg.ExecuteInProcessResult:
        config = wish(MODEL_NAME, **{"why": "to see", "actor": "ada", **values})
        return self.run(f"retrain_{MODEL_NAME}", run_config=config)

    def tick(self, sensor: dg.SensorDefinition) -> Any:
        # Closed at once: its end brings back the instance before it, which must not be one that is gone by then.
        with dg.build_sensor_context(instance=self.instance, resources={"platform": self.platform}) as context:
            answer: Any = sensor(context)
        return answer

    def said(self, sensor: dg.SensorDefinition) -> str:
        reason: str = self.tick(sensor).skip_reason.skip_message
        return reason

    def requested(self) -> dg.RunRequest:
        [request] = self.tick(retraining_sensor(self.spec)).run_requests
        return request

    def launched(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """A run as the daemon would have made it, in some state."""
        tags = {**request.tags, MODEL: MODEL_NAME}
        return self.instance.create_run_for_job(
            self.defs.resolve_job_def(f"train_{MODEL_NAME}"), tags=tags, status=status
        )

    def happens(self, *drafts: Draft) -> None:
        ledger = SqlLedger.of(self.settings)
        for each in drafts:
            ledger.append(each)
        ledger.close()

    @property
    def events(self) -> list[Event]:
        return SqlLedger(self.settings.ledger).events()

    @property
    def state(self) -> ModelState:
        return states(settings=self.settings).get(MODEL_NAME, ModelState(model=MODEL_NAME))
