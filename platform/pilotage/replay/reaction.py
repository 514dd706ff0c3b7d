"""Waits for the running platform, by what it leaves behind: lake, ledger, Dagster's runs, the service's own word.

Nothing is decided here, and nothing is done that the platform's schedules and sensors would not do: in a replay a night
is over in seconds, so what a schedule starts once a night is started here, through the same jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import httpx

from pilotage.data.lake import Lake
from pilotage.data.source import SourceSpec
from pilotage.errors import ConfigError, ReleaseError, StateUnavailable
from pilotage.release.stages import ModelState
from pilotage.replay.retrainings import Retrainings, without_page
from pilotage.replay.runs import PATIENCE_S, Runs, Stop
from pilotage.run_tags import ATTEMPT, CAUSE, NIGHT
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

LOOK_S = 0.5
ROLLOUT_LOOKS = 6
"""Looks of the rollout in a night at most: begin, a few stages, done."""
_SUNDAY = 6
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The running platform, as far as a replay waits for it."""

    settings: Settings
    spec: ModelSpec
    sources: Mapping[str, SourceSpec]
    lake: Lake
    runs: Runs
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10))
    headers: Mapping[str, str] = field(default_factory=dict)

    def require(self) -> ModelState:
        """The model's state, if everything is there that a replay needs.

        Raises:
            ConfigError: Something does not run, or the model has no champion.
        """
        self.runs.dagster.connect()
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

    def taken_up(self, day: date, *, stop: Stop) -> dict[str, Any] | None:
        """Waits until what has landed is in the lake, features are built of it, and the service has its state.

        Returns:
            How far the service's state knows (``state_through``, ISO 8601), and the platform's runs; ``None`` if it
            was told to stop.

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

        through = self._until(there, stop, lambda: waiting)
        if through is None:
            return None
        self.runs.note_those(since.timestamp(), tags={CAUSE: "new_data"})
        return {"state_through": through, "runs": self.runs.taken()}

    def night(
        self, day: date, *, retraining_due: bool, said: Callable[[str], None], stop: Stop
    ) -> dict[str, Any] | None:
        """The nightly work, in the order in which it is decided: monitoring, champion, rollout, retraining.

        Args:
            day: The replayed day.
            retraining_due: Whether the retraining's schedule has this night.
            said: Called with what is being waited for.
            stop: Asked while it waits.

        Returns:
            Runs, and what the ledger says now; ``None`` if it was told to stop.
        """
        said("monitors the day")
        if not self._monitored(day, stop):
            return None
        said("lets the rollout look")
        if not self._rolled_out(day, stop):
            return None
        retrainings = Retrainings(settings=self.settings, spec=self.spec, runs=self.runs, state=self.state)
        closed = retrainings.done_in(day, scheduled=retraining_due, said=said, stop=stop)
        if closed is None:
            return None
        # A version that was registered just now begins its rollout, where that is automatic.
        if self.state().under_way is None and not self._rolled_out(day, stop):
            return None
        if not self._follows(self.state(), stop):
            return None
        state = self.state()
        return {
            "champion": state.champion.version if state.champion else None,
            "sequence": state.sequence,
            "retrainings": closed,
            "runs": self.runs.taken(),
        }

    def _monitored(self, day: date, stop: Stop) -> bool:
        """Monitors a day, and beside it holds the champion against the one before; false if it was told to stop. What
        fails is an alarm, not the replay's end."""
        from pilotage.release.retraining.watch import to_do

        tags = {NIGHT: str(day), CAUSE: "nightly"}
        # Once a week there is a page to read.
        jobs = {f"monitor_{self.spec.name}": {} if day.weekday() == _SUNDAY else without_page(self.spec)}
        if to_do(self.spec, self.state()) is not None:
            jobs[f"watch_{self.spec.name}"] = {}
        begun = [
            (job, self.runs.once(job, tags, config=config))
            for job, config in jobs.items()
            if job in self.runs.dagster.jobs
        ]
        return all(self.runs.ended(run, job, stop=stop, must=False) is not None for job, run in begun)

    def _rolled_out(self, day: date, stop: Stop) -> bool:
        """Lets the rollout look until it waits for more; false if it was told to stop."""
        for _ in range(ROLLOUT_LOOKS):
            before = self.state()
            if not _on_its_way(self.spec, before):
                break
            if self.runs.job(f"rollout_{self.spec.name}", {NIGHT: str(day)}, stop=stop) is None:
                return False
            if self.state().sequence == before.sequence:
                break
        return True

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
        return bool(self.runs.dagster.runs(tags={tag: value}, statuses=under_way, limit=1))

    def _require_no_failure(self, since: datetime) -> None:
        """Raises when a run that takes up new data was given up since a moment."""
        failed = self.runs.dagster.runs(tags={CAUSE: "new_data"}, statuses=["FAILURE"], limit=5)
        late = [run for run in failed if run.started is not None and run.started > since.timestamp()]
        if late and int(late[0].tags.get(ATTEMPT, "1")) >= 3:
            url = self.runs.dagster.run_url(late[0].id)
            raise ReleaseError("The platform gave up on landed files.", fix=f"See {url}.", run=late[0].id)

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
                    fix=f"See {self.runs.dagster.url}/runs; the replay goes on there when it is started again.",
                )
            time.sleep(LOOK_S)
        return None


def _on_its_way(spec: ModelSpec, state: ModelState) -> bool:
    from pilotage.release.tick import to_do

    return to_do(spec, state) is not None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
