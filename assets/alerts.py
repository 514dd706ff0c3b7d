"""The alarms as an asset: each run tells the receivers what they have still to be told, and shows what is open."""

import re
from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import Materialized, table
from resources.failures import plainly
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.alerts import Alarm, Delivered

KEY = dg.AssetKey(["alerts"])
THROUGH = "through"
"""Metadata: number of the last thing that happened to any alarm."""


def alerts_asset() -> dg.AssetsDefinition:
    """What somebody should know of, now."""

    @dg.asset(
        key=KEY,
        group_name="governance",
        owners=["team:platform"],
        kinds={"sql"},
        description=(
            "The alarms that are open, the worst first: what was found, since when, how often, and who looks after it. "
            "A run tells the receivers first. `pilotage alerts` acknowledges and silences."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "looked_after", asset=KEY, description="Somebody looks after every alarm that is critical."
            )
        ],
    )
    @plainly
    def alerts(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.monitoring.alerts import TIERS, AlertBook, deliver

        settings = platform.settings
        with AlertBook.of(settings) as book:
            done = deliver(book, settings)
            for failed in done.failures:
                context.log.warning(failed)
            alarms = sorted(book.alarms(), key=lambda alarm: (TIERS.index(alarm.tier), alarm.opened_at))
            waiting, newest = len(book.waiting()), book.newest()
        if done.busy:
            context.log.info("Another process tells people just now.")
        return dg.MaterializeResult(
            metadata={
                "open": len(alarms),
                **{tier: sum(alarm.tier == tier for alarm in alarms) for tier in TIERS[:2]},
                "what_is_open": dg.MetadataValue.md("\n".join(map(_words, alarms)) or "Nothing."),
                "alarms": table(_row(alarm) for alarm in alarms),
                "messages_sent": done.messages,
                "waiting_to_be_told": waiting,
                THROUGH: newest,
                **_failures(done),
            },
            check_results=[_looked_after(alarms)],
        )

    return alerts


def _words(alarm: "Alarm") -> str:
    """An alarm as a point of a list: a table's cells are too narrow for what it says."""
    alert = alarm.alert
    about = " ".join(part for part in (alert.kind, alert.model, alert.subject) if part)
    by = f"{alarm.acknowledged.who} looks after it" if alarm.acknowledged else "nobody looks after it"
    times = f", raised {alarm.count} times" if alarm.count > 1 else ""
    run = f", [run]({alert.run_url})" if alert.run_url else ""
    return (
        f"- **{alarm.number} · {alarm.tier} · {_plain(about)}** {_plain(alert.summary)} "
        f"*Since {alarm.opened_at:%Y-%m-%d %H:%M} UTC{times}; {_plain(by)}.* What to do: `{alert.runbook}`{run}"
    )


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else: names in it come from files of others."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _row(alarm: "Alarm") -> dict[str, object]:
    alert = alarm.alert
    return {
        "alarm": alarm.number,
        "tier": alarm.tier,
        "kind": alert.kind,
        "summary": alert.summary,
        "looked_after_by": alarm.acknowledged.who if alarm.acknowledged else "",
    }


def _failures(done: "Delivered") -> dict[str, dg.TableMetadataValue]:
    return {"not_told": table({"receiver": failed} for failed in done.failures)} if done.failures else {}


def _looked_after(alarms: list["Alarm"]) -> dg.AssetCheckResult:
    alone = [alarm for alarm in alarms if alarm.tier == "critical" and alarm.acknowledged is None]
    return dg.AssetCheckResult(
        check_name="looked_after",
        asset_key=KEY,
        passed=not alone,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(alarm.alert.summary for alarm in alone[:3]) or "No critical alarm waits for anybody.",
        metadata={"critical": len(alone), "what_to_do": "pilotage alerts ack NUMBER --why …"},
    )
