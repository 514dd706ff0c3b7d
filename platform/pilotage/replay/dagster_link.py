"""What a replay asks of the running Dagster, over its GraphQL: launch a job, see how runs end. Imports no Dagster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from pilotage.errors import ConfigError, PilotageError, ReleaseError

LOOK_S = 0.5
"""Seconds between two looks at a run: a read of one row."""
_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
_LOCATION = "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename "
_LOCATION += "... on RepositoryLocation { repositories { name jobs { name } } } } } } } }"
_LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_RUNS = """query($f: RunsFilter!, $n: Int!) { runsOrError(filter: $f, limit: $n) { __typename
  ... on Runs { results { runId jobName status creationTime startTime endTime tags { key value } } } } }"""
_LOOK = """mutation($s: SensorSelector!) { sensorDryRun(selectorData: $s, cursor: null) { __typename
  ... on PythonError { message } ... on SensorNotFoundError { message }
  ... on DryRunInstigationTick { evaluationResult { skipReason error { message }
    runRequests { jobName runConfigYaml tags { key value } } } } } }"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of Dagster's."""

    id: str
    job: str
    status: str
    tags: dict[str, str]
    created: float | None = None
    """Seconds since 1970 UTC at which it was asked for."""
    started: float | None = None
    """... at which its process began to work; ``None`` before."""
    over: float | None = None
    """... at which it ended; ``None`` before."""

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    def facts(self) -> dict[str, Any]:
        """For the record, as JSON values: which run, how it ended, and what of its time was start and work."""
        start = None if self.created is None or self.started is None else round(self.started - self.created, 1)
        work = None if self.started is None or self.over is None else round(self.over - self.started, 1)
        return {"run": self.id, "job": self.job, "status": self.status, "start_s": start, "work_s": work}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A run that a sensor would ask for."""

    job: str
    config: dict[str, Any]
    tags: dict[str, str]


class Dagster:
    """A client of one web server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(timeout=60)
        self._place: tuple[str, str] | None = None
        self.jobs: frozenset[str] = frozenset()
        """Names of the jobs there are; after ``connect``."""

    def connect(self) -> None:
        """Finds the project's jobs.

        Raises:
            ConfigError: Nobody answers there, or the project does not load.
        """
        entries = self._ask(_LOCATION, {})["workspaceOrError"]["locationEntries"]
        for entry in entries:
            for repository in (entry["locationOrLoadError"] or {}).get("repositories", []):
                self._place = (entry["name"], repository["name"])
                self.jobs = frozenset(job["name"] for job in repository["jobs"])
                return
        raise ConfigError(
            f"Dagster at {self.url} has not loaded the project.", fix="See the log of its code location.", url=self.url
        )

    def launch(
        self,
        job: str,
        *,
        tags: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Launches a job; the id of its run.

        Raises:
            ReleaseError: It was not launched.
        """
        location, repository = self._at()
        params = {
            "selector": {"repositoryLocationName": location, "repositoryName": repository, "jobName": job},
            "runConfigData": dict(config or {}),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self._ask(_LAUNCH, {"p": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise ReleaseError(f"Dagster did not launch {job}: {answer}.", fix="See its web UI.", job=job)
        return str(answer["run"]["runId"])

    def runs(self, *, limit: int = 50, **filter_by: Any) -> list[Run]:
        """Runs, the newest first; ``tags``, ``statuses``, ``pipelineName`` and ``runIds`` filter."""
        if isinstance(filter_by.get("tags"), Mapping):
            filter_by["tags"] = [{"key": key, "value": value} for key, value in filter_by["tags"].items()]
        found = self._ask(_RUNS, {"f": filter_by, "n": limit})["runsOrError"]["results"]
        return [
            Run(
                id=each["runId"],
                job=each["jobName"],
                status=each["status"],
                tags={tag["key"]: tag["value"] for tag in each["tags"]},
                created=each["creationTime"],
                started=each["startTime"],
                over=each["endTime"],
            )
            for each in found
        ]

    def wait(self, run_ids: Sequence[str], *, within_s: float, stop: Callable[[], bool] = lambda: False) -> list[Run]:
        """Waits until runs have ended.

        Args:
            run_ids: Which.
            within_s: Seconds after which it is given up.
            stop: Asked at each look; what has not ended by then goes on without us.

        Raises:
            ReleaseError: They have not.
        """
        deadline = time.monotonic() + within_s
        while True:
            found = self.runs(runIds=list(run_ids), limit=len(run_ids))
            if stop() or (len(found) == len(run_ids) and all(run.ended for run in found)):
                return found
            if time.monotonic() > deadline:
                late = [run.id[:8] for run in found if not run.ended]
                raise ReleaseError(
                    f"Runs {', '.join(late)} did not end within {within_s:.0f} s.", fix=f"Look at {self.url}/runs."
                )
            time.sleep(LOOK_S)

    def look(self, sensor: str) -> list[Wanted]:
        """What a sensor would ask for now: it looks without waiting for its next tick, and launches nothing.

        Raises:
            ReleaseError: It can't be asked, or fails.
        """
        import yaml

        location, repository = self._at()
        selector = {"repositoryLocationName": location, "repositoryName": repository, "sensorName": sensor}
        answer = self._ask(_LOOK, {"s": selector})["sensorDryRun"]
        told = answer.get("evaluationResult") or {}
        if answer["__typename"] != "DryRunInstigationTick" or told.get("error"):
            why = (told.get("error") or answer).get("message")
            raise ReleaseError(f"The sensor {sensor} could not look: {why}.", fix="See Dagster's web UI.")
        return [
            Wanted(
                job=each["jobName"],
                config=yaml.safe_load(each["runConfigYaml"]) or {},
                tags={tag["key"]: tag["value"] for tag in each["tags"]},
            )
            for each in told["runRequests"] or []
        ]

    def run_url(self, run_id: str) -> str:
        """Page of a run."""
        return f"{self.url}/runs/{run_id}"

    def close(self) -> None:
        self._client.close()

    def _at(self) -> tuple[str, str]:
        if self._place is None:
            self.connect()
        return self._place or ("", "")

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        told: object = None
        for _ in range(5):
            try:
                answer = self._client.post(f"{self.url}/graphql", json={"query": query, "variables": variables})
                if answer.status_code >= 400:
                    # It says what went wrong: in the data, or as plain text.
                    told = f"{answer.status_code} {answer.text[:500]}"
                    time.sleep(LOOK_S)
                    continue
                content = answer.json()
            except (httpx.HTTPError, ValueError) as error:
                told = error
                time.sleep(LOOK_S)
                continue
            if content.get("errors"):
                raise PilotageError(
                    f"Dagster refused a query: {content['errors'][0]['message']}", fix="Update Pilotage."
                )
            data: dict[str, Any] = content["data"]
            return data
        raise ConfigError(f"Dagster does not answer at {self.url}: {told}.", fix="Start it: pilotage up.", url=self.url)
