"""The platform's watch over itself: daemons, sensors, disk, keys, log, freshness, answers, checks, decisions.

Other sensors change nothing. This one writes what it sees into the book of alarms, which is idempotent: a tick that was
killed and runs again raises what is raised. Each look is a matter of milliseconds; nothing here reads data.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.ledger import KEY as LEDGER
from assets.lineage import model_key
from assets.predictions import LOG
from assets.skew import FEATURES, PROBABILITIES
from pilotage.data.source import SourceSpec
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from resources.checks import last_result
from resources.platform_home import PlatformHome
from sensors.failed_runs import FailedRunsWatch
from sensors.failures import run_url
from sensors.ticks import ticks_watch

if TYPE_CHECKING:
    from pilotage.monitoring.alerts import AlertBook
    from pilotage.monitoring.alerts.watches import DecisionsWatch, FreshnessWatch, Look, Watch

SILENT = timedelta(minutes=5)
"""After which a daemon counts as silent; each beats every half minute. (Dagster's own limit is half an hour.)"""


@dataclass(slots=True)
class Memory:
    """The sensor's cursor. Lost, it costs nothing but a look at yesterday's decisions."""

    decisions: int | None = None
    """Number of the last event of the ledger that was looked at."""
    newest: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Source → its newest day, and when it was first seen."""
    failures: datetime | None = None
    """Up to when failed runs were looked at."""

    @classmethod
    def read(cls, cursor: str | None) -> "Memory":
        if not cursor:
            return cls()
        data = json.loads(cursor)
        at = data.get("failures")
        return cls(
            decisions=data["decisions"],
            newest={name: (day, at) for name, (day, at) in data["newest"].items()},
            failures=datetime.fromisoformat(at) if at else None,
        )

    def write(self) -> str:
        at = self.failures.isoformat() if self.failures else None
        return json.dumps({"decisions": self.decisions, "newest": self.newest, "failures": at})


def heartbeat_sensor(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> dg.SensorDefinition:
    """Looks at everything twice a minute."""

    @dg.sensor(
        name="heartbeat",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Watches the platform itself, and raises alarms: silent daemons, sensors that fail, a full disk, keys and "
            "certificates that end, a prediction log that nobody moves, sources that fall behind, a service on its "
            "fallback, checks that failed, decisions of the ledger. Launches nothing; the sensor `alerts` has people "
            "told."
        ),
    )
    def heartbeat(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.monitoring.alerts import AlertBook
        from pilotage.monitoring.alerts.watches import carry_out

        settings, now = platform.settings, datetime.now(UTC)
        memory = Memory.read(context.cursor)
        with AlertBook.of(settings) as book:
            engine = _Engine.of(platform, sources, models, memory, now, book)
            failed = FailedRunsWatch(
                instance=context.instance, book=book, settings=settings, now=now, seen=memory.failures
            )
            others = [
                *dagster_watches(context.instance, models, settings, now=now),
                ticks_watch(context.instance, _declared(context), settings),
            ]
            told = carry_out(book, [*engine.watches(), *others, failed.watch()])
            alarms = book.look()
        _note(settings, now)
        waiting = [f"{alarm.number} ({alarm.tier} {alarm.key.kind})" for alarm in alarms]
        opened = f"Open alarms: {', '.join(waiting)}." if waiting else "No alarm is open."
        seen = "; ".join(f"{name}: {words}" for name, words in told.items())
        memory = replace(engine.memory(), failures=failed.seen)
        return dg.SensorResult(skip_reason=dg.SkipReason(f"{opened} {seen}."), cursor=memory.write())

    return heartbeat


def _declared(context: dg.SensorEvaluationContext) -> set[str] | None:
    """Names of the sensors and schedules that there are."""
    if (known := context.repository_def) is None:
        return None
    return {each.name for each in known.sensor_defs} | {each.name for each in known.schedule_defs}


@dataclass(slots=True)
class _Engine:
    """The watches that know nothing of Dagster, and what they remember."""

    decisions: "DecisionsWatch"
    freshness: "FreshnessWatch"
    others: list["Watch"]

    @classmethod
    def of(
        cls,
        platform: PlatformHome,
        sources: Mapping[str, SourceSpec],
        models: Mapping[str, ModelSpec],
        memory: Memory,
        now: datetime,
        book: "AlertBook",
    ) -> "_Engine":
        from pilotage.monitoring.alerts.watches import AnswersWatch, DecisionsWatch, FreshnessWatch, machine_watches
        from pilotage.release.ledger import SqlLedger

        settings, lake = platform.settings, platform.lake
        answers = AnswersWatch(settings=settings, models=models, now=now, opened=book.alarms)
        return cls(
            decisions=DecisionsWatch(
                ledger=SqlLedger.to_read(settings), now=now, seen=memory.decisions, ui=settings.dagster_ui
            ),
            freshness=FreshnessWatch(sources=sources, lake=lake, now=now, memory=memory.newest),
            others=[*machine_watches(settings, now=now), *answers.watches()],
        )

    def watches(self) -> list["Watch"]:
        return [*self.others, self.freshness.watch(), self.decisions.watch()]

    def memory(self) -> Memory:
        return Memory(decisions=self.decisions.seen, newest=self.freshness.memory)


def dagster_watches(
    instance: dg.DagsterInstance, models: Iterable[str], settings: Settings, *, now: datetime
) -> list["Watch"]:
    """What Dagster alone knows, but for its failed runs.

    Args:
        instance: Its storage.
        models: Names of the models.
        settings: Where its UI is.
        now: UTC.
    """
    from pilotage.monitoring.alerts.watches import Watch

    kinds = {
        "ledger_broken": [dg.AssetCheckKey(LEDGER, "verifies")],
        "log_damaged": [dg.AssetCheckKey(LOG, "undamaged")],
        "skew": [
            dg.AssetCheckKey(model_key(name, "serving_skew"), check)
            for name in models
            for check in (FEATURES, PROBABILITIES)
        ],
    }
    return [
        Watch(name="daemons", kinds=frozenset({"daemon_silent"}), look=lambda: _daemons(instance, now)),
        Watch(name="checks", kinds=frozenset(kinds), look=lambda: _checks(instance, kinds, settings)),
    ]


def _daemons(instance: dg.DagsterInstance, now: datetime) -> "Look":
    from pilotage.monitoring.alerts import Alert
    from pilotage.monitoring.alerts.watches import Look

    alerts, told = [], []
    for name, status in instance.get_daemon_statuses().items():
        beat = status.last_heartbeat
        if not status.required or beat is None:
            # One that never was there is being started; `pilotage up` and the UI tell if it can't be.
            continue
        silent = now - datetime.fromtimestamp(beat.timestamp, UTC)
        told.append(f"{name.lower()} {silent.total_seconds():.0f} s ago")
        if silent > SILENT:
            summary = f"Dagster's daemon {name.lower()} has been silent for {silent.total_seconds() / 60:.0f} minutes."
            errors = [error.message for error in (beat.errors or [])][:3]
            alerts.append(
                Alert.of("daemon_silent", summary, subject=name.lower(), evidence={"silent": silent, "errors": errors})
            )
    return Look(alerts=tuple(alerts), words=", ".join(told) or "no daemon has beaten yet")


def _checks(instance: dg.DagsterInstance, kinds: Mapping[str, list[dg.AssetCheckKey]], settings: Settings) -> "Look":
    """The last results of the checks that nobody may overlook."""
    from pilotage.monitoring.alerts import Alert
    from pilotage.monitoring.alerts.alert import Key
    from pilotage.monitoring.alerts.watches import Look

    alerts, unknown, passed = [], set(), 0
    for kind, keys in kinds.items():
        for key in keys:
            model = key.asset_key.path[0] if len(key.asset_key.path) > 1 else None
            found = last_result(instance, key)
            if found is None:
                unknown.add(Key(kind, model or "", key.name))
            elif (evaluation := found[1]).passed:
                passed += 1
            else:
                run = found[0].run_id
                told = evaluation.description or f"The check {key.name} of {key.asset_key.to_user_string()} failed."
                alerts.append(
                    Alert.of(
                        kind,
                        told,
                        model=model,
                        subject=key.name,
                        evidence={"check": key.name, "asset": key.asset_key.to_user_string()},
                        run_url=run_url(settings, run),
                        occurrence=run,
                    )
                )
    return Look(alerts=tuple(alerts), unknown=frozenset(unknown), words=f"{passed} passed, {len(alerts)} failed")


def _note(settings: Settings, now: datetime) -> None:
    """Leaves word for `pilotage alerts watch`, which tells people when nobody else can."""
    staged = settings.heartbeat.with_suffix(".new")
    staged.parent.mkdir(parents=True, exist_ok=True)
    staged.write_text(json.dumps({"at": now.isoformat()}), encoding="utf-8")
    staged.replace(settings.heartbeat)
