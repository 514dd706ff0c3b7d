"""What a worker process holds, from its start to its end: nothing of it exists at import."""

import asyncio
import gc
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import msgspec

from pilotage.errors import LogUnavailable, PilotageError
from pilotage.pseudonyms import Pseudonyms
from pilotage.release import killing
from pilotage.release.feed import PlanFeed
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.access.keys import KeyRing
from pilotage.runtime.access.limiter import Limiter
from pilotage.runtime.answer import Answer, Explanation
from pilotage.runtime.baked import Baked
from pilotage.runtime.board import Admission
from pilotage.runtime.drafts import Drafted
from pilotage.runtime.follower import Follower
from pilotage.runtime.idempotency import Idempotency
from pilotage.runtime.log import PredictionLog, adopt_orphans, encode, oldest
from pilotage.runtime.log.files import Files
from pilotage.runtime.plan import Plan
from pilotage.runtime.probe import admit
from pilotage.runtime.responder import Responder
from pilotage.runtime.shadows import Shadows
from pilotage.runtime.tried import Tried
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from serving import logs
from serving.heartbeat import Heartbeat
from serving.in_flight import InFlight
from serving.metrics import Gauges, ServiceMetrics
from serving.openapi import routes
from serving.tracing import Tracing
from serving.turns import BulkTurns

EXPLAINING = 2
"""Explanations that are computed at once: each takes milliseconds of a core."""
STOP_S = 4.0
"""Seconds that the log gets at the end."""
_OPEN = (
    "No API key was made: everything on this machine may ask for everything, and other machines are refused. Make one:"
    " pilotage keys create NAME --role predict."
)


class Core:
    """The parts of a worker, put together."""

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        settings: Settings,
        *,
        baked: Baked | None = None,
        in_flight: InFlight | None = None,
        filesystem: Files | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Makes the parts; nothing runs before ``start``.

        Args:
            specs: Model → its declaration.
            settings: Where everything is.
            baked: Plans and bundles that came with the code, where there is no ledger.
            in_flight: Other bounds than the usual ones.
            filesystem: Of the prediction log.
            admission: Decides whether a bundle is fit to serve; a trial process, unless another one says so.
        """
        self.specs = specs
        self.settings = settings
        self.logger = logs.set_up(settings.log_format)
        self.name = f"w{os.getpid()}-{os.urandom(3).hex()}"
        report = self.logger.info
        warn = self.logger.warning
        self.ledger = SqlLedger.of(settings)
        self.deciding = settings.without_mlflow()
        """To decide with: MLflow's client takes 150 MB and four seconds."""
        self._alone = baked is not None
        """Whether BentoML started it, and not ``python -m serving``, which says itself who is answered."""
        self.standalone = self._alone and not settings.ledger_url
        """Whether there is no ledger to decide in."""
        self._feed = PlanFeed(self.ledger)
        self.heartbeat = Heartbeat(settings.heartbeats, worker=self.name)
        self.follower = Follower(
            tuple(specs),
            releases=baked.releases(settings, self._releases) if baked is not None else self._releases,
            bundles=settings.bundles,
            online=settings.online,
            report=report,
            remember=settings.service_state,
            source="bento" if self.standalone else "ledger",
            policies={name: spec.serving for name, spec in specs.items()},
            chores=(self._settle_memory, self._beat, self._adopt),
            admission=admission or partial(admit, tried=Tried(settings.tried)),
        )
        self.log = PredictionLog(settings.prediction_log, worker=self.name, report=warn, filesystem=filesystem)
        self.responder = Responder(
            specs,
            self.follower,
            pseudonyms=Pseudonyms.of(settings),
            encode=encode,
            keep=self.log.keep,
            report=logs.Seldom(self._warn_of),
        )
        self.turns = BulkTurns(self.responder)
        self.idempotency = Idempotency.of(settings, report=warn)
        self.ring = KeyRing(settings.api_keys, report=warn)
        self.limiter = Limiter(settings.service_state / "limits", report=warn)
        self.in_flight = InFlight() if in_flight is None else in_flight
        self.metrics = ServiceMetrics(settings.service_state / "metrics", models=specs, routes=routes())
        self.metrics.watch(self._figures)
        self.shadows = Shadows(
            encode=encode, log=self.log.submit_nowait, report=logs.Seldom(warn), count=self.metrics.shadowed
        )
        self.tracing = Tracing(settings.otel_endpoint, worker=self.name) if settings.otel_endpoint else None
        self.explainers = ThreadPoolExecutor(EXPLAINING, thread_name_prefix="explain")
        self.explaining = 0
        self._alert = logs.Seldom(self.logger.error)
        self._loads = 0

    def start(self) -> None:
        """Begins to answer. Call it on the event loop's thread."""
        loop = asyncio.get_running_loop()
        if self._alone and self.ring.open:
            self.logger.warning(_OPEN)
        self.log.start(loop)
        self.idempotency.start()
        self.shadows.start(loop)
        self.in_flight.start(loop)
        self.metrics.start()
        if self.tracing is not None:
            self.tracing.start()
        self.follower.start()

    async def stop(self) -> None:
        """Ends everything; what was answered is sealed."""
        await asyncio.to_thread(self.log.close, STOP_S)
        self.in_flight.stop()
        await asyncio.to_thread(self._stop_threads)

    async def settle(self, drafted: Drafted) -> Answer:
        """Waits until an answer's record is on the disk, and gives the answer.

        Raises:
            LogUnavailable: It can't be, and its model does not answer without.
        """
        answer = drafted.answer
        try:
            await self.log.submit(drafted.payload)
        except LogUnavailable as error:
            return self.unlogged(answer, error)
        return answer

    def unlogged(self, answer: Answer, error: PilotageError) -> Answer:
        """What becomes of an answer that can't be logged: as its model's spec says, never silently.

        Raises:
            LogUnavailable: Its model does not answer without.
        """
        if self.specs[answer.model].when_log_is_full == "refuse":
            raise error
        self._alert(f"{answer.model} answers without a record: {error.message}")
        return msgspec.structs.replace(answer, logged=False)

    async def explanation(self, drafted: Drafted) -> Explanation | None:
        """Why an answer is what it is, computed beside the loop; ``None`` where no version gave it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.explainers, self.responder.explain, drafted)

    def _warn_of(self, sentence: str, *, request: str | None = None) -> None:
        self.logger.warning(sentence, extra={"about": {"request_id": request}})

    def _stop_threads(self) -> None:
        self.idempotency.close(1.0)
        self.follower.stop()
        self.heartbeat.stop()
        self.metrics.stop()
        if self.tracing is not None:
            self.tracing.stop(1.0)
        self.explainers.shutdown(wait=False, cancel_futures=True)
        self.limiter.close()
        self.ledger.close()

    def _releases(self) -> dict[str, Plan]:
        """What the ledger says, with what it did not have yet: kills of while it could not be reached."""
        with suppress(OSError):
            killing.record(self.deciding, ledger=self.ledger, report=self._alert)
        return self._feed()

    def _settle_memory(self) -> None:
        """After versions were loaded: what lives on is no garbage, and need not be looked through again and again.

        Without this the collector stops the worker for 0.1 s now and then.
        """
        if self._loads != self.follower.loads:
            self._loads = self.follower.loads
            gc.collect()
            gc.freeze()
            gc.set_threshold(10_000, 500, 100)

    def _beat(self) -> None:
        self.heartbeat.beat(self.follower.status())

    def _adopt(self) -> None:
        for adopted in adopt_orphans(self.settings.prediction_log, report=self.logger.warning):
            self.logger.warning(
                "Took over the log of a worker that died: %s, %d records", adopted.outcome, adopted.records
            )

    def _figures(self, gauges: Gauges) -> None:
        for model, desk in self.responder.desks.items():
            gauges.set("pilotage_cache_hits_total", desk.answers.hits, model)
            gauges.set("pilotage_cache_misses_total", desk.answers.misses, model)
            gauges.set("pilotage_ready", float(self.follower.ready(model)), model)
            board = self.follower.boards.get(model)
            gauges.set("pilotage_killed", float(board is not None and board.killed is not None), model)
            if board is None:
                continue
            roles = [("champion", board.champion), ("previous_champion", board.previous)]
            roles += [("canary", board.canary.loaded)] if board.canary else []
            roles += [("shadow", each) for each in board.shadows]
            for role, loaded in roles:
                if loaded is not None:
                    gauges.set("pilotage_versions", 1, model, loaded.version, role)
            if (through := self.follower.state_through(model)) is not None:
                gauges.set("pilotage_state_through_seconds", through.timestamp(), model)
        gauges.set("pilotage_log_queue_depth", self.log.depth)
        gauges.set("pilotage_log_unsealed_bytes", self.log.unsealed_bytes)
        began = oldest(self.settings.prediction_log)
        gauges.set("pilotage_log_lag_seconds", time.time() - began.timestamp() if began is not None else 0)
        gauges.set("pilotage_log_failing", float(self.log.last_error is not None))
        if self.tracing is not None:
            gauges.set("pilotage_spans_dropped_total", self.tracing.dropped)
