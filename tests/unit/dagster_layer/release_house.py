"""A home with its Dagster instance, for tests of the jobs that decide."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_run

from definitions import build_defs
from pilotage.release.champions import states
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.release.state import ModelState
from pilotage.settings import Settings
from resources.failures import what_failed
from resources.platform_home import PlatformHome
from resources.records import RecordIOManager
from tests.unit.release.lives import registered

MODEL_NAME = "flight_delay"


class House:
    """A home with its Dagster instance, in which jobs run in this process."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, bundle: tuple[Path, str]) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.instance = instance
        self.bundle = bundle
        self.platform = PlatformHome(home=str(home))

    def happens(self, *drafts: Draft) -> None:
        ledger = SqlLedger.of(self.settings)
        for each in drafts:
            ledger.append(each)
        ledger.close()

    def versions(self, *numbers: int) -> None:
        folder, sha256 = self.bundle
        self.happens(*(registered(MODEL_NAME, number, bundle=str(folder), sha256=sha256) for number in numbers))

    @cached_property
    def defs(self) -> dg.Definitions:
        return build_defs({"platform": self.platform, "io_manager": RecordIOManager(platform=self.platform)})

    @property
    def state(self) -> ModelState:
        return states(settings=self.settings)[MODEL_NAME]

    def run(self, job: str, *, raises: bool = True, **config: Any) -> dg.ExecuteInProcessResult:
        run_config = {"ops": {f"decide_{job}": {"config": config}}} if config else None
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config=run_config, raise_on_error=raises
        )

    def launch(
        self, job: str, *, again: dg.DagsterRun | None = None, tags: Mapping[str, str] | None = None, **config: Any
    ) -> dg.DagsterRun:
        """A run that is to start: from the launchpad, or again, as the UI and Dagster repeat one."""
        step = f"ask_for_{job}" if job.startswith("retrain_") else f"decide_{job}"
        run = self.instance.create_run_for_job(
            self.defs.resolve_job_def(job),
            run_config={"ops": {step: {"config": config}}} if again is None else again.run_config,
            status=dg.DagsterRunStatus.NOT_STARTED,
            root_run_id=again and (again.root_run_id or again.run_id),
            parent_run_id=again and again.run_id,
            tags=tags,
        )
        event = DagsterEvent(event_type_value=dg.DagsterEventType.PIPELINE_STARTING.value, job_name=job)
        self.instance.report_dagster_event(event, run_id=run.run_id)
        return run

    def carry_out(self, run: dg.DagsterRun) -> str:
        """What a run that was launched comes to: the error that it ends with, or nothing."""
        job = InMemoryJob(self.defs.resolve_job_def(run.job_name))
        done = execute_run(job, run, self.instance, raise_on_error=False)
        return "" if done.success else what_failed(self.instance, run.run_id)

    def decided(self) -> list[tuple[str, int | None, str]]:
        """Kind, version and actor of each event, without registrations."""
        events = SqlLedger(self.settings.ledger).events()
        return [(each.kind, each.version, each.actor) for each in events if each.kind != "registered"]


def failure(result: dg.ExecuteInProcessResult) -> str:
    return str(next(event for event in result.all_events if event.is_step_failure).step_failure_data.error)
