"""Metrics of one worker: counted in plain Python as requests are answered, shared with the other workers each second.

Counting a request costs about a microsecond, because nothing leaves the process for it; ``prometheus_client`` in
multiprocess mode writes to a mapped file at every step, which is ten. ``metrics_text.py`` says what each metric means,
``metrics_files.py`` how several workers add up to one page. Make one at worker start, never at import.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from pilotage.runtime.answer import Answer
from serving.metrics_files import MetricsFiles
from serving.metrics_text import (
    BATCH,
    BOUNDS,
    FAMILIES,
    MOST_SERIES,
    PHASES,
    Distribution,
    Series,
    Snapshot,
    merge,
    merge_dead,
    pack,
    text,
    unpack,
)

EVERY_S = 1.0
"""Seconds between two looks at what is watched; how old another worker's numbers may be."""
_PART = 5_000
"""Durations that are sorted in together, in 0.1 ms."""
_BREATH_S = 0.001
"""Between two of them."""
OTHER = "other"
"""Label of what is not declared."""
logger = logging.getLogger("bentoml.pilotage")


class _Histogram:
    """What was added is sorted in when somebody looks: to bring it along costs a fifth of a microsecond, that five."""

    __slots__ = ("_looked", "_parts", "counts", "totals")

    def __init__(self, width: int) -> None:
        self._parts = deque([array("d")])
        """What waits, in order, one duration after another; the last one is being filled."""
        self._looked = 0
        """Numbers of the first one that were sorted in."""
        self.counts = np.zeros((width, len(BOUNDS) + 1), dtype=np.int64)
        self.totals = np.zeros(width)

    def add(self, seconds: Sequence[float]) -> None:
        """Adds a duration to each of several histograms."""
        part = self._parts[-1]
        part.extend(seconds)
        if len(part) >= _PART:
            self._parts.append(array("d"))

    def look(self) -> Iterator[tuple[list[int], float]]:
        """How many are in each bucket, and their sum. For one thread at a time, which may be another than adds.

        In parts, between which others get Python's lock.
        """
        whole = True
        while whole:
            # In this order: to one that has another behind it nothing is added any more.
            whole = len(self._parts) > 1
            self._sort_in(self._parts[0][self._looked :])
            if whole:
                self._parts.popleft()
                self._looked = 0
                time.sleep(_BREATH_S)
        return zip(self.counts.tolist(), self.totals.tolist(), strict=True)

    def _sort_in(self, numbers: array[float]) -> None:
        self._looked += len(numbers)
        width, buckets = self.counts.shape
        added = np.frombuffer(numbers).reshape(-1, width)
        found = np.searchsorted(BOUNDS, added) + np.arange(width) * buckets
        self.counts += np.bincount(found.ravel(), minlength=width * buckets).reshape(width, buckets)
        self.totals += added.sum(axis=0)


class Gauges:
    """What a watcher fills in at each look: gauges, and counters that somebody else keeps."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, tuple[str, ...]], float] = {}

    def set(self, name: str, value: float, *labels: object) -> None:
        """Says what a metric of ``FAMILIES`` is now, with its labels in their order."""
        key = name, tuple(map(str, labels))
        if len(key[1]) != len(FAMILIES[name].labels):
            raise ValueError(f"{name} has the labels {FAMILIES[name].labels}, not {labels}")
        self.series[key] = value


class ServiceMetrics:
    """What a worker counts. The counting methods are for the event loop's thread alone."""

    def __init__(
        self, folder: Path, *, models: Iterable[str], routes: Collection[str], service: str | None = None
    ) -> None:
        """Joins the service's other workers.

        Args:
            folder: Shared by them.
            models: Every model that is served.
            routes: Every route template; requests of others are counted as ``other``.
            service: See ``MetricsFiles``.
        """
        self.in_flight = 0
        """Requests being answered; the gateway counts it up and down."""
        self._predictions: dict[tuple[str, int | None, str | None, str, bool | None, bool], int] = {}
        self._phases = {model: _Histogram(len(PHASES)) for model in models}
        self._batches = {model: _Histogram(1) for model in self._phases}
        self._routes = frozenset(routes)
        self._requests: dict[tuple[str, int], int] = {}
        self._counted: dict[str, dict[tuple[str, ...], float]] = {
            name: {} for name, family in FAMILIES.items() if family.kind == "counter"
        }
        # From the start on: of a counter that appears later, Prometheus' increase() does not see the first step.
        self._counted["pilotage_unlogged_answers_total"] = {(model,): 0 for model in self._phases}
        self._watchers: list[Callable[[Gauges], None]] = [_process]
        self._failing: set[Callable[[Gauges], None]] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._unshared = False
        self._files = MetricsFiles(folder, merge=merge_dead, service=service)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def answered(self, answer: Answer, seconds: Sequence[float] | None = None) -> None:
        """Counts an answer.

        Args:
            answer: As it leaves.
            seconds: See ``timed``; left out for a row of a batch, whose time is not its own.
        """
        key = (answer.model, answer.version, answer.stage, answer.answered_by, answer.decision, answer.referred)
        predictions = self._predictions
        predictions[key] = predictions.get(key, 0) + 1
        if seconds is not None:
            self.timed(answer.model, seconds)
        if not answer.logged:
            self.count("pilotage_unlogged_answers_total", answer.model)

    def answered_many(self, shared: Answer, kinds: Mapping[tuple[bool | None, bool], int]) -> None:
        """Counts the logged answers of a batch.

        Args:
            shared: One of them.
            kinds: How many have each decision, and were referred to a person.
        """
        predictions = self._predictions
        for (decision, referred), number in kinds.items():
            key = (shared.model, shared.version, shared.stage, shared.answered_by, decision, referred)
            predictions[key] = predictions.get(key, 0) + number

    def timed(self, model: str, seconds: Sequence[float]) -> None:
        """Counts what a request took.

        Args:
            model: That was asked.
            seconds: What each of ``PHASES`` took.
        """
        self._phases[model].add(seconds)

    def timed_batch(self, model: str, seconds: float) -> None:
        """Counts what a request of many rows took, which would hide what one prediction takes."""
        self._batches[model].add((seconds,))

    def failed(self, model: str | None, error: BaseException) -> None:
        """Counts a prediction that was answered with an error."""
        self.count("pilotage_errors_total", self._known(model), type(error).__name__)

    def requested(self, route: str, status: int) -> None:
        """Counts an HTTP request by its route's template."""
        key = (route if route in self._routes else OTHER, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def turned_away(self, reason: str) -> None:
        """Counts a request that had no valid key, or not the role.

        Args:
            reason: One of few fixed words, never what was sent.
        """
        self.count("pilotage_auth_failures_total", reason)

    def rate_limited(self) -> None:
        """Counts a request that came too early."""
        self.count("pilotage_rate_limited_total")

    def explained(self, model: str) -> None:
        """Counts an explanation."""
        self.count("pilotage_explanations_total", model)

    def took_outcomes(self, model: str, number: int) -> None:
        """Counts outcomes that are on disk."""
        self.count("pilotage_outcomes_total", model, by=number)

    def shadowed(self, model: str, version: int, result: str) -> None:
        """Counts what a shadow version did: ``answered``, ``error`` or ``dropped``."""
        self.count("pilotage_shadow_predictions_total", model, str(version), result)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Adds to a counter of ``FAMILIES``, with its labels in their order."""
        series = self._counted[name]
        if labels not in series and len(series) >= MOST_SERIES:
            labels = (OTHER,) * len(labels)
        series[labels] = series.get(labels, 0) + by

    def watch(self, look: Callable[[Gauges], None]) -> None:
        """Has somebody asked each second for what is not counted by requests: versions, queues, caches."""
        self._watchers.append(look)

    def start(self) -> None:
        """Begins to share, each second."""
        self._share()
        self._thread.start()

    def stop(self) -> None:
        """Shares the last numbers, and ends. The counters stay on the page."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._share()
        self._files.close()

    def flush(self) -> None:
        """Shares the numbers with the other workers.

        Raises:
            OSError: The disk does not take them.
        """
        with self._lock:
            # All of it, or what was read first could be written last.
            self._files.write(pack(self._snapshot()))

    def page(self) -> bytes:
        """All workers' metrics, for Prometheus. Takes milliseconds: not for the event loop's thread.

        Everything is read from the files, our own too, so that no counter on a page is behind an earlier page. What the
        disk does not take is on our own pages alone.
        """
        self._share()
        return text(merge((unpack(payload), lives) for payload, lives in self._files.read()))

    def _snapshot(self) -> Snapshot:
        gauges = Gauges()
        gauges.set("pilotage_in_flight_requests", self.in_flight)
        for look in self._watchers:
            try:
                look(gauges)
            except Exception:
                # One that can't be asked must not hide the others, nor fill the log.
                if look not in self._failing:
                    logger.exception("Metrics can't be read")
                self._failing.add(look)
            else:
                self._failing.discard(look)
        series = [Series(*key, value) for key, value in gauges.series.items()]
        # Copies first: a dict must not grow while it is read. (One C call; the loop's thread can't come between.)
        for name, counted in self._counted.items():
            series.extend(Series(name, labels, value) for labels, value in counted.copy().items())
        series.extend(_predictions(self._predictions.copy()))
        series.extend(
            Series("pilotage_http_requests_total", (route, str(status)), number)
            for (route, status), number in self._requests.copy().items()
        )
        distributions = [
            Distribution("pilotage_request_seconds", (model, phase), counts, total)
            for model, phases in self._phases.items()
            for phase, (counts, total) in zip(
                (*PHASES, BATCH), (*phases.look(), *self._batches[model].look()), strict=True
            )
        ]
        return Snapshot(series, distributions)

    def _known(self, model: str | None) -> str:
        return model if model in self._phases else OTHER

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self._share()

    def _share(self) -> None:
        """A disk that is full keeps no worker from answering, and is told once, not each second."""
        try:
            self.flush()
        except OSError as error:
            if not self._unshared:
                where = self._files.folder
                logger.warning("Metrics can't be shared with other workers by %s: %s. Make room there.", where, error)
            self._unshared = True
        else:
            self._unshared = False


def _predictions(counted: Mapping[tuple[str, int | None, str | None, str, bool | None, bool], int]) -> list[Series]:
    found: dict[tuple[str, ...], float] = {}
    for (model, version, stage, answered_by, decision, referred), number in counted.items():
        shown = "refer" if referred else {True: "true", False: "false", None: "none"}[decision]
        labels = (model, "none" if version is None else str(version), stage or "none", answered_by, shown)
        found[labels] = found.get(labels, 0) + number
    return [Series("pilotage_predictions_total", labels, value) for labels, value in found.items()]


def _process(gauges: Gauges) -> None:
    """What this worker itself needs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    gauges.set("pilotage_workers", 1)
    gauges.set("pilotage_worker_resident_bytes", psutil.Process(os.getpid()).memory_info().rss)
    gauges.set("pilotage_worker_cpu_seconds_total", used.ru_utime + used.ru_stime)
