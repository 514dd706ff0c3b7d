"""What the monitoring assets found → a request to retrain, or a call for a person. Compares what they computed, and
decides by ``should_retrain``; a run of ``retrain_<model>`` records it, so that the way from the alarm is on show.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.alarms import VERSION
from assets.drift import EXPECTED, INPUTS, TRUTH
from assets.labels import CHECKS as LABEL_CHECKS
from assets.labels import NEW_LABELS
from assets.lineage import model_key
from jobs.retraining import ask_job_name, wish
from pilotage.declaration import within
from pilotage.run_tags import ATTEMPT, EVIDENCE, OCCASION
from pilotage.spec import ModelSpec
from resources.checks import last_result
from resources.platform_home import PlatformHome
from sensors.asking import skipped
from sensors.attempts import pause_before

if TYPE_CHECKING:
    from pilotage.release.retraining.decision import Decision, Signal

PROMISED = ("as_promised", "as_estimated")
_TOLD = (VERSION, "value", "threshold", "window", "top_columns", "measured", "limit", "alarm_since", "missed")
"""Metadata of a check that go into the evidence."""


def alarm_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """Reads the newest checks of drift, performance and labels of one model."""

    @dg.sensor(
        name=f"retraining_alarms_{spec.name}",
        job_name=ask_job_name(spec.name),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Asks for a retraining of {within(spec.title)} when performance suffers, or drift says that it will; not "
            "while labels are defective. Calls a person when retraining has not helped."
        ),
    )
    def watch(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.release.champions import states
        from pilotage.release.retraining.decision import should_retrain
        from pilotage.release.stages import ModelState

        state = states(settings=platform.settings).get(spec.name, ModelState(model=spec.name))
        if state.champion is None:
            return skipped(f"{spec.name} has no champion that could get worse.")
        found = list(_signals(context.instance, spec, state.champion.promoted_at, state.champion.version))
        labels = list(_label_defects(context.instance, spec))
        new = _new_labels(context.instance, spec)
        decision = should_retrain(spec, state, found, labels=labels, new_labels=new, now=datetime.now(UTC))
        if decision.do in ("nothing", "wait") or decision.signal is None:
            return skipped(decision.why)
        about = "labels" if decision.do == "blocked" else decision.signal.alarm
        if decision.do != "ask" and any(call.about == about for call in state.retraining.calls):
            return skipped(f"A person was called for {about}. {decision.why}")
        return _asked(context.instance, spec, decision, about)

    return watch


def _asked(instance: dg.DagsterInstance, spec: ModelSpec, decision: "Decision", about: str) -> dg.SensorResult:
    """The request of a run that records the decision, or why there is none: what a run recorded is not asked for again,
    and what a failed one did not record is, after a pause. One that is under way has the key of this attempt."""
    occasion = f"{decision.do}: {about}, {decision.evidence.get('check_run', '')}"
    name = hashlib.sha256(f"{spec.name} {occasion}".encode()).hexdigest()[:16]
    runs = dg.RunsFilter(job_name=ask_job_name(spec.name), tags={OCCASION: name})
    attempt = 1
    if last := instance.get_run_records(runs, limit=1):
        run, attempt = last[0].dagster_run, int(last[0].dagster_run.tags.get(ATTEMPT, "1"))
        if run.status is dg.DagsterRunStatus.SUCCESS:
            return skipped(f"Run {run.run_id[:8]} recorded it. {decision.why}")
        if run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
            attempt += 1
            now = datetime.now(UTC)
            ended = datetime.fromtimestamp(last[0].end_time or now.timestamp(), UTC)
            if now - ended < (pause := pause_before(attempt)):
                return skipped(
                    f"Run {run.run_id[:8]} failed to record it, and it is tried again "
                    f"{pause.total_seconds() / 60:.0f} min after it. {decision.why}"
                )
    tags = {EVIDENCE: decision.why[:250], OCCASION: name, ATTEMPT: str(attempt)}
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{spec.name} {occasion}, attempt {attempt}",
                run_config=_wish(spec, decision, about, occasion),
                tags=tags,
            )
        ]
    )


def _wish(spec: ModelSpec, decision: "Decision", about: str, occasion: str) -> dict[str, Any]:
    return wish(
        spec.name,
        cause=decision.signal.cause if decision.signal else "manual",
        actor="monitoring",
        why=decision.why,
        evidence={**decision.evidence, "alarm": about},
        once=occasion,
        verdict=decision.do,
    )


def _signals(instance: dg.DagsterInstance, spec: ModelSpec, since: datetime, version: int) -> Iterator["Signal"]:
    """What the checks say about the champion. One that was made before it became champion, or names another version,
    is about another."""
    from pilotage.release.retraining.decision import Signal

    def failing(asset: str, name: str) -> dict[str, Any] | None:
        found = _failed(instance, model_key(spec.name, asset), name, since)
        return found if found is not None and found.get(VERSION, version) == version else None

    failed = [found for name in PROMISED if (found := failing("performance", name))]
    if failed:
        yield Signal(
            cause="performance",
            why=" ".join(str(each["why"]) for each in failed),
            harmful=True,
            evidence={"name": f"performance of version {version}", "checks": failed, "check_run": failed[0]["run"]},
        )
    if spec.drift is None:
        return
    # Both tell the one verdict, and its day.
    moved = failing("drift_report", INPUTS) or failing("drift_report", TRUTH)
    suffers = failing("drift_report", EXPECTED)
    if moved or suffers:
        told = [each for each in (moved, suffers) if each]
        changed = next((each["alarm_since"] for each in told if each.get("alarm_since")), None)
        yield Signal(
            cause="drift",
            why=" ".join(str(each["why"]) for each in told),
            harmful=suffers is not None,
            since=date.fromisoformat(str(changed)[:10]) if changed else None,
            evidence={"name": f"drift of version {version}", "checks": told, "check_run": told[0]["run"]},
        )


def _label_defects(instance: dg.DagsterInstance, spec: ModelSpec) -> Iterator[dict[str, Any]]:
    """Defects that block: the checks of the labels that failed as errors."""
    for name in LABEL_CHECKS:
        found = _failed(instance, model_key(spec.name, "label_quality"), name)
        if found is not None and found["severity"] == dg.AssetCheckSeverity.ERROR.value:
            yield found


def _new_labels(instance: dg.DagsterInstance, spec: ModelSpec) -> int | None:
    """Labelled rows that the last training did not have, by the last look at the labels; ``None`` if none was since."""
    looked, trained = (
        instance.get_latest_materialization_event(model_key(spec.name, asset))
        for asset in ("label_quality", "training_set")
    )
    if looked is None or looked.asset_materialization is None or trained is None:
        return None
    told = looked.asset_materialization.metadata.get(NEW_LABELS)
    return int(str(told.value)) if told is not None and looked.timestamp > trained.timestamp else None


def _failed(
    instance: dg.DagsterInstance, key: dg.AssetKey, name: str, since: datetime | None = None
) -> dict[str, Any] | None:
    """What the newest evaluation of a check says, if it failed; JSON values."""
    found = last_result(instance, dg.AssetCheckKey(key, name))
    if found is None or found[1].passed:
        return None
    record, evaluation = found
    # Not the record's own time, which has no fractions of a second.
    made = record.event.timestamp if record.event is not None else record.create_timestamp
    if since is not None and made < since.timestamp():
        return None
    metadata = {
        field: value.value
        for field in _TOLD
        if (value := evaluation.metadata.get(field)) is not None and _plain(value.value)
    }
    return {
        "check": name,
        "why": evaluation.description or f"The check {name} failed.",
        "severity": evaluation.severity.value,
        "run": record.run_id,
        **metadata,
    }


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
