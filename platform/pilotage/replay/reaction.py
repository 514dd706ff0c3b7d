"""Waits for the running platform, by what it leaves behind: lake, ledger, Dagster's runs, the service's own word.

Nothing is decided here, and nothing is done that the platform's schedules and sensors would not do: in a replay a night
is over in seconds, so what a schedule starts once a night is started here, through the same jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import httpx

from pilotage.data.lake import Lake
from pilotage.data.source import SourceSpec
from pilotage.errors import ConfigError, ReleaseError, StateUnavailable
from pilotage.release.retraining.due import due
from pilotage.release.retraining.plan import training_of
from pilotage.release.retraining.records import Request
from pilotage.release.stages import ModelState
from pilotage.replay.dagster_link import Dagster
from pilotage.replay.nights import night
from pilotage.run_tags import ACTOR, ATTEMPT, CAUSE, NIGHT, REQUEST
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

LOOK_S = 0.5
PATIENCE_S = 900.0
"""Longest wait for one reaction."""
ROLLOUT_LOOKS = 6
"""Looks of the rollout in a night at most: begin, a few stages, done."""
WHO = "replay"
Stop = Callable[[], bool]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The running platform, as far as a replay waits for it."""

    settings: Settings
    spec: ModelSpec
    sources: Mapping[str, SourceSpec]
    lake: Lake
    dagster: Dagster
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10))
    headers: Mapping[str, str] = field(default_factory=dict)

    def require(self) -> ModelState:
        """The model's state, if everything is there that a replay needs.

        Raises:
            ConfigError: Something does not run, or the model has no champion.
        """
        self.dagster.connect()
        state = self.state()
        if state.champion is None:
            raise ConfigError(
                f"{self.spec.name} has no champion, so nobody could answer.",
                fix="Release a first version: pilotage up makes one of the sample data.",
            )
        if self._served() is None:
            raise ConfigError(
                f"The service at {self.settings.service} does not serve {self.spec.name}.", fix="Start it: pilotage up."
            )
        return state

    def state(self) -> ModelState:
        """What the ledger says of the model."""
        from pilotage.release.champions import states

        return states(settings=self.settings).get(self.spec.name, ModelState(model=self.spec.name))

    def taken_up(self, day: date, *, stop: Stop) -> str | None:
        """Waits until what has landed is in the lake, features are built of it, and the service has its state.

        Returns:
            How far the service's state knows, ISO 8601; ``None`` if it was told to stop.

        Raises:
            ReleaseError: Dagster's runs fail, or it takes too long.
        """
        since = datetime.now(UTC)
        waiting = "the landed files to be ingested"

        def there() -> str | None:
            nonlocal waiting
            self._require_no_failure(since)
            if pending := self._pending():
                waiting = f"{len(pending)} files to be ingested ({pending[0]})"
                return None
            table = f"features/{self.spec.name}"
            if day not in self.lake.days(table):
                waiting = f"{table} of {day}"
                return None
            if self._busy(CAUSE, "new_data"):
                waiting = "runs that take up new data"
                return None
            through = self._state_through()
            if through is None:
                waiting = "the online state to be built"
                return None
            served = self._served() or {}
            waiting = "the service to take up the new state"
            told = served.get("state_through")
            return str(told) if told is not None and _moment(told) >= through else None

        return self._until(there, stop, lambda: waiting)

    def log_moved(self, *, day: date, stop: Stop) -> list[str] | None:
        """Has the sealed segments of the prediction log moved; what is still written to is read where it is.

        Returns:
            The run.
        """
        return self._job("move_prediction_log", {NIGHT: str(day)}, stop=stop)

    def night(
        self, day: date, *, retraining_due: bool, said: Callable[[str], None], stop: Stop
    ) -> dict[str, Any] | None:
        """The nightly work, in the order of the schedules: monitoring, retraining, rollout.

        Args:
            day: The replayed day.
            retraining_due: Whether the retraining's schedule has this night.
            said: Called with what is being waited for.
            stop: Asked while it waits.

        Returns:
            Runs by what they were for, and what the ledger says now; ``None`` if it was told to stop.
        """
        found: dict[str, Any] = {}
        said("monitors the day")
        for name, run in self._monitoring(day, stop):
            if run is None:
                return None
            found[name] = run
        if retraining_due and self.state().retraining.open is None:
            self._ask(day)
        if (request := self.state().retraining.open) is not None:
            said(f"retrains ({', '.join(request.causes)})")
            if (closed := self._carried_out(request, stop=stop)) is None:
                return None
            found["retraining"] = closed
        said("lets the rollout look")
        if not self._rolled_out(day, stop):
            return None
        state = self.state()
        found["champion"] = state.champion.version if state.champion else None
        found["sequence"] = state.sequence
        return found

    def _monitoring(self, day: date, stop: Stop) -> Iterator[tuple[str, list[str] | None]]:
        """What monitors a day, one after another, each with its run. What fails is an alarm, not the replay's end."""
        tags = {NIGHT: str(day), CAUSE: "nightly"}
        for job in (f"monitor_{self.spec.name}", f"watch_{self.spec.name}"):
            if job in self.dagster.jobs:
                yield job, self._job(job, tags, stop=stop, must=False)
        if self.spec.drift is not None:
            yield "drift_report", self._assets(["drift_report"], tags, stop=stop)

    def _rolled_out(self, day: date, stop: Stop) -> bool:
        """Lets the rollout look until it waits for more, and the service serve what came of it; false if stopped."""
        for _ in range(ROLLOUT_LOOKS):
            before = self.state()
            if not _on_its_way(self.spec, before):
                break
            if self._job(f"rollout_{self.spec.name}", {NIGHT: str(day)}, stop=stop) is None:
                return False
            if self.state().sequence == before.sequence:
                break
        return self._follows(self.state(), stop)

    def _ask(self, day: date) -> None:
        """What the nightly schedule asks of the ledger, for a night of the replay."""
        from pilotage.release.retraining.requests import request

        evidence = {"night": str(day), "as_of": night(self.spec, day).isoformat()}
        request(
            self.spec.name,
            "nightly",
            evidence,
            settings=self.settings,
            actor=WHO,
            why=f"The night after {day} of the replay.",
            once=f"replayed night {day}",
        )

    def _carried_out(self, request: Request, *, stop: Stop) -> dict[str, Any] | None:
        """Sees a request to its end: starts its attempts as the sensor would, without waiting for its next tick."""
        while not stop():
            state = self.state().retraining
            now = state.find(request.number)
            if now is None or now.outcome is not None:
                told = {"outcome": now.outcome, "version": now.version, "why": now.why} if now else {"outcome": "gone"}
                return {"request": request.number, **told}
            wanted = due(self.spec.retraining, state, datetime.now(UTC))
            number = len(now.attempts) + (0 if now.running else 1)
            runs = self.dagster.runs(tags={REQUEST: str(now.number), ATTEMPT: str(number)}, limit=1)
            if runs and not runs[0].ended:
                self.dagster.wait([runs[0].id], within_s=PATIENCE_S, stop=stop)
            elif runs or wanted.do == "give_up":
                # A run is over and the ledger doesn't know yet how.
                self._job("reconcile_retraining", {}, stop=stop)
            elif wanted.do == "begin":
                self._attempt(now, number)
            elif wanted.at is None:
                return {"request": now.number, "outcome": "waits", "version": None, "why": wanted.why}
            else:
                time.sleep(LOOK_S)
        return None

    def _attempt(self, request: Request, number: int) -> None:
        training = training_of(self.spec, request, now=datetime.now(UTC))
        self.dagster.launch(
            f"train_{self.spec.name}",
            tags={
                REQUEST: str(request.number),
                ATTEMPT: str(number),
                CAUSE: "+".join(request.causes),
                ACTOR: WHO,
                # A crashed run is tried again by its request, which counts; not by Dagster as well.
                "dagster/max_retries": "0",
            },
            config={"resources": {"training": {"config": training}}} if training else {},
        )

    def _job(self, job: str, tags: Mapping[str, str], *, stop: Stop, must: bool = True) -> list[str] | None:
        return self._ended(self.dagster.launch(job, tags=tags), job, stop, must=must)

    def _assets(self, steps: list[str], tags: Mapping[str, str], *, stop: Stop) -> list[str] | None:
        run = self.dagster.launch("__ASSET_JOB", tags=tags, assets=[[self.spec.name, step] for step in steps])
        return self._ended(run, " and ".join(steps), stop, must=False)

    def _ended(self, run: str, what: str, stop: Stop, *, must: bool) -> list[str] | None:
        ended = self.dagster.wait([run], within_s=PATIENCE_S, stop=stop)
        if stop():
            return None
        if ended[0].status != "SUCCESS" and must:
            raise ReleaseError(f"{what} failed.", fix=f"See {self.dagster.run_url(run)}.", run=run)
        return [run] if ended[0].status == "SUCCESS" else [f"{run} ({ended[0].status.lower()})"]

    def _follows(self, state: ModelState, stop: Stop) -> bool:
        """Waits until the service answers with the champion that the ledger names."""
        if state.champion is None:
            return True
        wanted = state.champion.version
        served = self._until(
            lambda: (self._served() or {}).get("version") == wanted or None,
            stop,
            lambda: f"the service to serve version {wanted}",
        )
        return served is not None

    def _pending(self) -> list[str]:
        from pilotage.data.ingest import landed
        from pilotage.data.pending import pending

        found = []
        for name in self.spec.sources:
            source = self.sources[name]
            if source.daily is not None:
                files = landed(source, self.settings)
                found += [each.name for each in pending(source, files, lake=self.lake, seen={})]
        return found

    def _busy(self, tag: str, value: str) -> bool:
        under_way = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED"]
        return bool(self.dagster.runs(tags={tag: value}, statuses=under_way, limit=1))

    def _require_no_failure(self, since: datetime) -> None:
        """Raises when a run that takes up new data was given up since a moment."""
        failed = self.dagster.runs(tags={CAUSE: "new_data"}, statuses=["FAILURE"], limit=5)
        late = [run for run in failed if run.started is not None and run.started > since.timestamp()]
        if late and int(late[0].tags.get(ATTEMPT, "1")) >= 3:
            raise ReleaseError(
                "The platform gave up on landed files.", fix=f"See {self.dagster.run_url(late[0].id)}.", run=late[0].id
            )

    def _state_through(self) -> datetime | None:
        """How far the online store knows, if it was built from the newest validated rows."""
        from pilotage.features.store import OnlineStore

        if not self.spec.asof:
            return datetime.min.replace(tzinfo=UTC)
        try:
            with OnlineStore.open(self.settings.online / f"{self.spec.name}.db") as store:
                meta = store.meta
        except StateUnavailable:
            return None
        daily = [f"validated/{name}" for name in self.spec.sources if self.sources[name].daily is not None]
        fresh = all(meta.versions.get(table, -1) >= self.lake.version(table) for table in daily)
        return meta.materialised_through if fresh else None

    def _served(self) -> dict[str, Any] | None:
        try:
            response = self.http.get(f"{self.settings.service}/models", headers=dict(self.headers))
            response.raise_for_status()
        except httpx.HTTPError:
            return None
        models: list[dict[str, Any]] = response.json()["models"]
        return next((each for each in models if each["model"] == self.spec.name), None)

    def _until(self, there: Callable[[], T | None], stop: Stop, waiting: Callable[[], str]) -> T | None:
        deadline = time.monotonic() + PATIENCE_S
        while not stop():
            try:
                found = there()
            except httpx.HTTPError:
                found = None
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"Waited {PATIENCE_S:.0f} s for {waiting()}.",
                    fix=f"See {self.dagster.url}/runs; the replay goes on there when it is started again.",
                )
            time.sleep(LOOK_S)
        return None


def _on_its_way(spec: ModelSpec, state: ModelState) -> bool:
    from pilotage.release.tick import to_do

    return to_do(spec, state) is not None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
