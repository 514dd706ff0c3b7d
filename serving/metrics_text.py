"""What the service's metrics are called and mean, how those of several workers add up, and their text for Prometheus.

Every metric is in ``FAMILIES``; a label's values come from declarations, versions and fixed words, never from what a
client sent. Collecting is in ``metrics.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PHASES = ("parse", "features", "predict", "log", "total")
"""Of a request: reading its bytes; checking it, looking up its state and computing features; model, calibration and
decision; waiting until it is on disk; all of it, inside the service."""
BATCH = "batch"
"""The phase of the metric that is all of a request of many rows."""
BOUNDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the histograms' buckets, seconds."""
MOST_SERIES = 2_000
"""Of one family. Nothing declared comes near it; it is there so that a mistake can't fill the memory."""


class Family(NamedTuple):
    """One metric."""

    kind: Literal["counter", "histogram", "sum", "max", "min"]
    """The last three are gauges, by how those of several workers become one."""
    help: str
    labels: tuple[str, ...] = ()


FAMILIES = {
    "pilotage_request_seconds": Family("histogram", "Time of a prediction request, by phase.", ("model", "phase")),
    "pilotage_predictions_total": Family(
        "counter",
        "Predictions answered. answered_by: the step of the fallback chain. decision: true, false, refer or none.",
        ("model", "version", "stage", "answered_by", "decision"),
    ),
    "pilotage_errors_total": Family("counter", "Predictions answered with an error.", ("model", "error")),
    "pilotage_http_requests_total": Family("counter", "HTTP requests, by route template.", ("route", "status")),
    "pilotage_explanations_total": Family("counter", "Explanations computed.", ("model",)),
    "pilotage_outcomes_total": Family("counter", "Outcomes accepted.", ("model",)),
    "pilotage_shadow_predictions_total": Family(
        "counter", "Predictions of shadow versions. result: answered, error or dropped.", ("model", "version", "result")
    ),
    "pilotage_auth_failures_total": Family("counter", "Requests turned away for their key.", ("reason",)),
    "pilotage_rate_limited_total": Family("counter", "Requests turned away for their number."),
    "pilotage_unlogged_answers_total": Family("counter", "Answers given that are not on disk.", ("model",)),
    "pilotage_cache_hits_total": Family("counter", "Answers that needed no model.", ("model",)),
    "pilotage_cache_misses_total": Family("counter", "Answers that needed the model.", ("model",)),
    "pilotage_in_flight_requests": Family("sum", "Requests being answered."),
    "pilotage_versions": Family(
        "sum", "Workers that have a version loaded, by its role.", ("model", "version", "role")
    ),
    "pilotage_ready": Family("min", "1 if every worker can answer for a model.", ("model",)),
    "pilotage_killed": Family("max", "1 if a model's kill switch is on.", ("model",)),
    "pilotage_state_through_seconds": Family("min", "How far the as-of features know, Unix time.", ("model",)),
    "pilotage_log_queue_depth": Family("sum", "Records that wait for the disk."),
    "pilotage_log_unsealed_bytes": Family("sum", "Bytes of segments that are still written to."),
    "pilotage_log_lag_seconds": Family(
        "max", "Age of the oldest segment of the prediction log that is not in the lake."
    ),
    "pilotage_log_failing": Family("max", "1 if the prediction log can't be written."),
    "pilotage_spans_dropped_total": Family("counter", "Trace spans that the collector did not take in time."),
    "pilotage_workers": Family("sum", "Workers that live."),
    "pilotage_worker_resident_bytes": Family("sum", "Memory of all workers."),
    "pilotage_worker_cpu_seconds_total": Family("counter", "CPU time of all workers."),
}


class Series(msgspec.Struct, array_like=True):
    """One counter or gauge."""

    name: str
    labels: tuple[str, ...]
    value: float


class Distribution(msgspec.Struct, array_like=True):
    """One histogram: how many were at most each of ``BOUNDS`` (not cumulative; the last entry is above all)."""

    name: str
    labels: tuple[str, ...]
    counts: list[int]
    total: float


class Snapshot(msgspec.Struct, array_like=True):
    """The numbers of one worker, or of several."""

    series: list[Series] = []
    distributions: list[Distribution] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def pack(snapshot: Snapshot) -> bytes:
    """A snapshot for the file."""
    return _encoder.encode(snapshot)


def unpack(payload: bytes) -> Snapshot:
    """A snapshot of the file."""
    return _decoder.decode(payload)


def merge_dead(payloads: list[bytes]) -> bytes:
    """Adds up what dead workers left: their counters and histograms."""
    return pack(merge((unpack(payload), False) for payload in payloads))


def merge(snapshots: Iterable[tuple[Snapshot, bool]]) -> Snapshot:
    """Adds up the numbers of workers; with each, whether it lives: the gauges of a dead one mean nothing any more."""
    values: dict[tuple[str, tuple[str, ...]], float] = {}
    distributions: dict[tuple[str, tuple[str, ...]], Distribution] = {}
    for snapshot, lives in snapshots:
        for each in snapshot.series:
            family = FAMILIES.get(each.name)
            if family is None or (family.kind != "counter" and not lives):
                continue
            key = each.name, each.labels
            before = values.get(key)
            if before is None:
                values[key] = each.value
            else:
                combine = {"max": max, "min": min}.get(family.kind, _add)
                values[key] = combine(before, each.value)
        for one in snapshot.distributions:
            key = one.name, one.labels
            so_far = distributions.get(key)
            if so_far is None:
                distributions[key] = Distribution(one.name, one.labels, list(one.counts), one.total)
            elif len(so_far.counts) == len(one.counts):
                so_far.counts = [mine + theirs for mine, theirs in zip(so_far.counts, one.counts, strict=True)]
                so_far.total += one.total
    return Snapshot([Series(*key, value) for key, value in values.items()], list(distributions.values()))


def text(snapshot: Snapshot) -> bytes:
    """The numbers in Prometheus' text format."""
    lines: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for each in sorted(snapshot.series, key=lambda series: series.labels):
        labels = _labels(FAMILIES[each.name].labels, each.labels)
        lines[each.name].append(f"{each.name}{labels} {_number(each.value)}")
    for one in sorted(snapshot.distributions, key=lambda distribution: distribution.labels):
        names = FAMILIES[one.name].labels
        *up_to, every = accumulate(one.counts)
        for bound, count in zip((*map(_number, BOUNDS), "+Inf"), (*up_to, every), strict=True):
            lines[one.name].append(f"{one.name}_bucket{_labels((*names, 'le'), (*one.labels, bound))} {count}")
        labels = _labels(names, one.labels)
        lines[one.name].append(f"{one.name}_count{labels} {every}")
        lines[one.name].append(f"{one.name}_sum{labels} {one.total!r}")
    parts = []
    for name, found in lines.items():
        if found:
            kind = FAMILIES[name].kind
            shown = kind if kind in ("counter", "histogram") else "gauge"
            parts.append(f"# HELP {name} {FAMILIES[name].help}\n# TYPE {name} {shown}\n")
            parts.extend(f"{line}\n" for line in found)
    return "".join(parts).encode()


def _add(one: float, other: float) -> float:
    return one + other


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
