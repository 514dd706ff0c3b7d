"""``pilotage trace``: one prediction, back to where it came from, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pilotage.cli.console import print_json, print_rows, utc
from pilotage.cli.records import decided, pairs, record, short
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.data.lineage import Origin
    from pilotage.monitoring.trace import Trace
    from pilotage.release.history import VersionRecord

_SHOWN = 8
"""Contributions that people are shown; JSON has all of them."""


def show(settings: Settings, prediction_id: str, *, files: bool, as_json: bool) -> None:
    """Traces a prediction, and prints what is found.

    Raises:
        UnknownPrediction: No model's log has it.
    """
    from pilotage.data.lake import Lake
    from pilotage.monitoring.trace import trace

    found = trace(prediction_id, settings=settings, lake=Lake(settings.lake))
    if as_json:
        print_json(_plain(found))
        return
    print_rows("Prediction " + prediction_id, _answer(found))
    print_rows("Why", _why(found))
    if found.version is not None:
        print_rows(f"Version {found.version.version}", _version(found.version))
    if found.origins or found.lost:
        print_rows("Learned from", _files(found.origins, found.lost, every=files))


def _plain(found: Trace) -> dict[str, Any]:
    import msgspec

    explanation = None if found.explanation is None else msgspec.to_builtins(found.explanation)
    return {**asdict(found), "explanation": explanation}


def _answer(found: Trace) -> Iterable[tuple[str, str]]:
    said = found.prediction
    who = f"version {said['version']}, {said['stage'] or said['answered_by']}" if said["version"] else "no version"
    if said["answered_by"] not in ("model", "previous_champion"):
        who += f" ({said['answered_by'].replace('_', ' ')})"
    yield (
        "answered",
        f"{utc(said['at'])} by {who} of {found.model}"
        + (f", to the API key {said['caller']}" if said["caller"] else ""),
    )
    probability = "none" if said["probability"] is None else f"{said['probability']:.4g}"
    decided = "a person decides" if said["referred"] else {True: "yes", False: "no", None: "none"}[said["decision"]]
    yield "answer", f"probability {probability}, decision: {decided}"
    for reason in said["reasons"]:
        yield "", reason
    yield "request", pairs(found.request)
    if found.state is not None:
        through = found.state["through"]
        yield (
            "state",
            (f"up to {utc(through)}, " if through else "") + f"made from {pairs(found.state['versions'])}",
        )
    elif said["state"] is not None:
        yield "state", f"{said['state']}, which the log does not explain"
    for shadow in found.shadows:
        yield "in shadow", f"version {shadow['version']}: " + (shadow["error"] or f"{shadow['probability']:.4g}")
    if found.outcome is not None:
        yield (
            "outcome",
            f"{'yes' if found.outcome['label'] else 'no'}, known {utc(found.outcome['label_known_at'])}",
        )
    else:
        yield "outcome", "not known"


def _why(found: Trace) -> Iterable[tuple[str, str]]:
    if found.explanation is None:
        yield "not told", found.unexplained or ""
        if found.features:
            yield "features", pairs(found.features)
        return
    told = found.explanation
    yield "base rate", f"{told.base_rate:.4g}"
    for each in told.contributions[:_SHOWN]:
        value = "not known" if each.value is None else f"{short(each.value)} {each.unit}".strip()
        yield f"{each.contribution:+.3f}", f"{each.description}: {value}"
    if (more := len(told.contributions) - _SHOWN) > 0:
        yield "", f"and {more} smaller ones (--json); log-odds, exact TreeSHAP"
    for reason in told.reasons:
        yield "reason", reason
    yield "checked", "computed again from the logged features by the version's own bundle: the same probability"


def _version(version: VersionRecord) -> Iterable[tuple[str, str]]:
    yield "now", version.stage.replace("_", " ")
    yield from record(version)
    yield from decided(version.decisions)


def _files(origins: Iterable[Origin], lost: Iterable[str], *, every: bool) -> Iterable[tuple[str, str]]:
    for each in origins:
        if each.missing is not None:
            yield f"{each.table} {each.version}", each.missing
            continue
        rows = sum(file.rows for file in each.files)
        days = [day for file in each.files for day in (file.first, file.last) if day is not None]
        span = f", {min(days)} to {max(days)}" if days else ""
        count = f"{len(each.files)} file{'s' * (len(each.files) != 1)}"
        yield f"{each.table} {each.version}", f"{each.raw_table} {each.raw_version}: {count}, {rows:,} rows{span}"
        for file in each.files if every else ():
            yield "", f"{file.name}  {file.sha256}  {file.rows:,} rows"
    for words in lost:
        yield "not known", words
