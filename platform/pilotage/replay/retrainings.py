"""What a replayed night does about retraining: asks as schedules and alarms would, and sees a request to its end.

Both are the platform's own: the schedule by its days, the alarms by the sensor that reads them, which is asked to look
now and not at its next tick. Every ask names the time of its night's data, so that the limit on retrainings counts
nights of the replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from pilotage.release.retraining.due import due
from pilotage.release.retraining.plan import training_of
from pilotage.release.retraining.records import Request
from pilotage.release.retraining.requests import request
from pilotage.release.stages import ModelState
from pilotage.replay.nights import night
from pilotage.replay.runs import Runs, Stop
from pilotage.run_tags import ACTOR, ATTEMPT, CAUSE, NIGHT, REQUEST
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

LOOK_S = 0.5
WHO = "replay"
_AGAIN = 6
"""Requests that a night carries out at most: what alarms ask for while one runs makes the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrainings:
    """The retraining of one model in replayed nights."""

    settings: Settings
    spec: ModelSpec
    runs: Runs
    state: Callable[[], ModelState]
    """By the ledger."""

    def done_in(
        self, day: date, *, scheduled: bool, said: Callable[[str], None], stop: Stop
    ) -> list[dict[str, Any]] | None:
        """Asks, and carries out what is asked for.

        Args:
            day: The replayed day.
            scheduled: Whether the schedule has this night.
            said: Called with what is being waited for.
            stop: Asked while it waits.

        Returns:
            What became of each request; ``None`` if it was told to stop.
        """
        found: list[dict[str, Any]] = []
        if not self._alarmed(day, stop):
            return None
        if scheduled and self.state().retraining.open is None:
            self._ask(day, "nightly", f"The night after {day} of the replay.", once=f"replayed night {day}")
        for _ in range(_AGAIN):
            asked = self.state().retraining.open
            if asked is None or any(each["request"] == asked.number for each in found):
                break
            if asked.as_of is None and asked.running is None:
                # The platform's own sensor was first; its ask is of today, and the data are of this night.
                why = f"Asked in the night after {day} of the replay."
                self._ask(day, asked.causes[0], why, once=f"replayed alarm {day}")
            said(f"retrains ({', '.join(asked.causes)})")
            if (closed := self._carried_out(asked, stop=stop)) is None:
                return None
            found.append(closed)
        return found

    def _alarmed(self, day: date, stop: Stop) -> bool:
        """Lets the sensor of the alarms look, and launches what it asks for; false if it was told to stop."""
        for wanted in self.runs.dagster.look(f"retraining_alarms_{self.spec.name}"):
            config = _dated(wanted.config, self._night(day))
            if self.runs.job(wanted.job, wanted.tags | {NIGHT: str(day)}, stop=stop, config=config) is None:
                return False
        return True

    def _night(self, day: date) -> dict[str, str]:
        return {"night": str(day), "as_of": night(self.spec, day).isoformat()}

    def _ask(self, day: date, cause: Any, why: str, *, once: str) -> None:
        """What a schedule asks of the ledger, for a night of the replay."""
        request(self.spec.name, cause, self._night(day), settings=self.settings, actor=WHO, why=why, once=once)

    def _carried_out(self, asked: Request, *, stop: Stop) -> dict[str, Any] | None:
        """Sees a request to its end: starts its attempts as the sensor would, without waiting for its next tick."""
        dagster = self.runs.dagster
        while not stop():
            state = self.state().retraining
            now = state.find(asked.number)
            if now is None or now.outcome is not None:
                told = {"outcome": now.outcome, "version": now.version, "why": now.why} if now else {"outcome": "gone"}
                causes = list(now.causes) if now else []
                return {"request": asked.number, "causes": causes, "version": None, "why": "", **told}
            wanted = due(self.spec.retraining, state, datetime.now(UTC))
            number = len(now.attempts) + (0 if now.running else 1)
            tags = {REQUEST: str(now.number), ATTEMPT: str(number)}
            found = dagster.runs(tags=tags, pipelineName=f"train_{self.spec.name}", limit=1)
            if found and not found[0].ended:
                self.runs.ended(found[0].id, found[0].job, stop=stop, must=False)
            elif found or wanted.do == "give_up":
                # A run is over and the ledger doesn't know yet how.
                self.runs.job("reconcile_retraining", {}, stop=stop)
            elif wanted.do == "begin":
                self._attempt(now, number)
            elif wanted.at is None:
                waits = {"outcome": "waits", "version": None, "why": wanted.why}
                return {"request": now.number, "causes": list(now.causes), **waits}
            else:
                time.sleep(LOOK_S)
        return None

    def _attempt(self, asked: Request, number: int) -> None:
        training = training_of(self.spec, asked, now=asked.as_of or datetime.now(UTC))
        self.runs.dagster.launch(
            f"train_{self.spec.name}",
            tags={
                REQUEST: str(asked.number),
                ATTEMPT: str(number),
                CAUSE: "+".join(asked.causes),
                ACTOR: WHO,
                # A crashed run is tried again by its request, which counts; not by Dagster as well.
                "dagster/max_retries": "0",
            },
            config=without_page(self.spec) | ({"resources": {"training": {"config": training}}} if training else {}),
        )


def without_page(spec: ModelSpec) -> dict[str, Any]:
    """Run configuration that has Evidently's page of the drift not drawn: most of that step's time, for people to read.
    What is measured and decided is the same."""
    return {"ops": {f"{spec.name}__drift_report": {"config": {"report": False}}}} if spec.drift else {}


def _dated(config: Mapping[str, Any], night_of: Mapping[str, str]) -> dict[str, Any]:
    """The run configuration of a wish, with the night that it is about among its evidence."""
    ops = {
        name: {**op, "config": {**op["config"], "evidence": {**op["config"].get("evidence", {}), **night_of}}}
        for name, op in config.get("ops", {}).items()
    }
    return {**config, "ops": ops}
