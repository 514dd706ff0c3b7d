"""``pilotage alerts``: what is open, who looks after it, what is silenced; and the watch over the watch.

Here are its commands; what becomes of an alarm is in ``pilotage.monitoring.alerts``. Nothing heavy is imported before a
command runs.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from pilotage.cli.actor import actor_of
from pilotage.cli.console import out, print_json, say
from pilotage.cli.decisions import AS_JSON, recorded

if TYPE_CHECKING:
    from pilotage.monitoring.alerts import Alarm, AlertBook
    from pilotage.monitoring.alerts.notices import Silence
    from pilotage.settings import Settings

_STYLES = {"critical": "bold red", "warning": "yellow", "information": "dim"}


NUMBER = click.argument("number", type=click.IntRange(min=1))


@click.group(short_help="What is wrong, who looks after it, and who is told.")
def alerts() -> None:
    """What is wrong, who looks after it, and who is told. See docs/how-to/alerts.md."""


@alerts.command("list", short_help="The alarms that are open, and the silences.")
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@AS_JSON
def list_(everything: bool, as_json: bool) -> None:
    """The alarms that are open, the worst first, and the silences that are in force."""
    with _book() as book:
        alarms, silences = book.alarms(open_only=not everything), book.silences()
    alarms.sort(key=_worst_first)
    if as_json:
        print_json({"alarms": [as_data(alarm) for alarm in alarms], "silences": [_silence(each) for each in silences]})
        return
    _show(alarms, silences)


@alerts.command(short_help="Everything that is known of one alarm.")
@NUMBER
@AS_JSON
def show(number: int, as_json: bool) -> None:
    """Everything that is known of one alarm: what it was found by, what to do, and what happened since."""
    with _book() as book:
        alarm = next((each for each in book.alarms(open_only=False) if each.number == number), None)
        history = [row for row in book.history() if row["alarm"] == number]
    if alarm is None:
        from pilotage.errors import ConfigError

        raise ConfigError(f"There is no alarm {number}.", fix="pilotage alerts list --all shows them.", alarm=number)
    if as_json:
        print_json({**as_data(alarm), "history": history})
        return
    console = out()
    for name, value in as_data(alarm).items():
        if value not in ("", None):
            console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, markup=False)
    for row in history:
        detail = row["detail"]
        words = " ".join(str(detail[key]) for key in ("receiver", "why") if detail.get(key))
        console.print(
            f"  {row['at'][:19]} {row['happened']} ({row['tier']}) by {row['actor']} {words}".rstrip(),
            highlight=False,
            markup=False,
        )


@alerts.command(short_help="Say that you look after an alarm.")
@NUMBER
@recorded
def ack(number: int, why: str, actor: str | None) -> None:
    """Say that you look after alarm NUMBER: nobody else is called for it. What only happened, is thereby over."""
    with _book() as book:
        alarm = book.acknowledge(number, who=actor_of(actor), why=why)
    say(f"Alarm {number} is looked after." if alarm.open else f"Alarm {number} is noted, and over.")


@alerts.command(short_help="End an alarm by hand.")
@NUMBER
@recorded
def close(number: int, why: str, actor: str | None) -> None:
    """End alarm NUMBER by hand, for instance since what found it is no longer there. Found again, it opens again."""
    with _book() as book:
        book.end(number, who=actor_of(actor), why=why)
    say(f"Alarm {number} is over.")


@alerts.command(short_help="Tell nobody of some alarms for a while.")
@click.option("--kind", default="*", help="Name of a kind, or a pattern: log_*.")
@click.option("--model", default="*", help="Name of a model, or a pattern.")
@click.option("--subject", default="*", help="Of the alarm: a source, a job; or a pattern.")
@click.option("--for", "lasts", required=True, metavar="12h|3d|1w", help="How long, 30 days at most.")
@recorded
def silence(kind: str, model: str, subject: str, lasts: str, why: str, actor: str | None) -> None:
    """Tell nobody of alarms that fit, for a while. They are recorded; critical ones are told afterwards."""
    from pilotage.cli import declared
    from pilotage.cli.keys import duration
    from pilotage.monitoring.alerts.alert import KINDS
    from pilotage.monitoring.alerts.book import LONGEST_SILENCE

    most = f"{LONGEST_SILENCE.days} days"
    until = datetime.now(UTC) + duration(lasts, option="--for", longest=LONGEST_SILENCE, most=most)
    with _book() as book:
        alerts = [alarm.alert for alarm in book.alarms()]
        _require_fit("kind of alarm", kind, {*KINDS, *(each.kind for each in alerts)})
        # Some alarms are about no model.
        _require_fit("model", model, {"", *declared.names(), *(each.model or "" for each in alerts)})
        made = book.silence(until=until, who=actor_of(actor), why=why, kind=kind, model=model, subject=subject)
    say(f"Silence {made.number} until {made.until:%Y-%m-%d %H:%M} UTC.")


@alerts.command(short_help="End a silence.")
@NUMBER
@recorded
def unsilence(number: int, why: str, actor: str | None) -> None:
    """End silence NUMBER: who was not told so far is told now."""
    with _book() as book:
        book.unsilence(number, who=actor_of(actor), why=why)
    say(f"Silence {number} is over.")


@alerts.command(short_help="Send every receiver a message.")
def test() -> None:
    """Send every receiver a message, and say which arrived. Exit code 1 if one did not."""
    sys.exit(send_test(_settings()))


@alerts.command(short_help="Look after the platform from outside, and tell people when it can't.")
@click.option("--once", is_flag=True, help="Look once. Exit code 1 if the platform is silent.")
@click.option("--alive", is_flag=True, help="Only say whether a watch is at work. Exit code 1 if none is.")
def watch(once: bool, alive: bool) -> None:
    """Look whether the platform still watches itself, each minute; raise an alarm and tell people where it does not.

    `pilotage up` and docker-compose.yml run it. Elsewhere, run it where the daemon's end does not end it too. See
    docs/how-to/alerts.md.
    """
    from pilotage.monitoring.alerts.outside import keep_watch, look_from_outside, watching

    settings = _settings()
    if not once and not alive:
        keep_watch(settings, say=_complain)
    wrong = f"The watch {trouble}." if alive and (trouble := watching(settings)) is not None else None
    if once:
        wrong = look_from_outside(settings, say=_complain)
    if wrong is not None:
        _complain(wrong)
        sys.exit(1)


def send_test(settings: Settings) -> int:
    """Sends each receiver a message, says which took it, and gives the exit code."""
    from pilotage.monitoring.alerts.notices import Message
    from pilotage.monitoring.alerts.receivers import read_receivers, send

    receivers = read_receivers(settings.alerts_file)
    if not receivers:
        say("There are no receivers: alarms are in the log and in the Dagster UI (asset `alerts`).")
        return 0
    message = Message(
        tier="information",
        title="[TEST] Pilotage",
        body="A test by `pilotage alerts test`: whoever reads this will be told of alarms.",
        data=(),
    )
    bad = 0
    for receiver in receivers:
        why = send(receiver, message)
        gets = ", ".join([*sorted(receiver.tiers), *(["escalation"] if receiver.escalation else [])])
        say(f"{'✓' if why is None else '✗'} {receiver.name} ({gets}): {why or 'took it'}")
        bad += why is not None
    return 1 if bad else 0


def counts(settings: Settings) -> dict[str, int]:
    """Open alarms by tier, for ``pilotage status``; makes nothing where there is no book yet."""
    from pilotage.monitoring.alerts import TIERS, AlertBook

    with AlertBook.of(settings) as book:
        alarms = book.alarms()
    return {tier: sum(alarm.tier == tier for alarm in alarms) for tier in TIERS[:2]}


def as_data(alarm: Alarm) -> dict[str, Any]:
    """An alarm as JSON values."""
    alert, taken = alarm.alert, alarm.acknowledged
    return {
        "alarm": alarm.number,
        "status": alarm.status,
        "tier": alarm.tier,
        "kind": alert.kind,
        "model": alert.model,
        "subject": alert.subject,
        "summary": alert.summary,
        "evidence": dict(alert.evidence),
        "since": alarm.opened_at.isoformat(),
        "raised": alarm.count,
        "last_raised": alarm.raised_at.isoformat(),
        "episode": alarm.episode,
        "escalations": alarm.level,
        "ended": alarm.ended_at.isoformat() if alarm.ended_at else None,
        "ended_why": alarm.ended_why,
        "looked_after_by": taken.who if taken else None,
        "because": taken.why if taken else None,
        "runbook": alert.runbook,
        "run": alert.run_url,
    }


def _show(alarms: list[Alarm], silences: list[Silence]) -> None:
    from rich.text import Text

    console = out()
    if not alarms:
        console.print("No alarm is open.")
    for alarm in alarms:
        about = " ".join(part for part in (alarm.key.kind, alarm.key.model, alarm.key.subject) if part)
        times = f", raised {alarm.count} times" if alarm.count > 1 else ""
        by = f"looked after by {alarm.acknowledged.who}" if alarm.acknowledged else "nobody looks after it"
        state = by if alarm.open else f"over: {alarm.ended_why}"
        style = _STYLES[alarm.tier] if alarm.open else "dim"
        console.print(Text.assemble((f"{alarm.number:>4} ", "bold"), (f"{alarm.tier:<11} ", style), about))
        console.print(Text(f"     {alarm.alert.summary}"))
        console.print(Text(f"     since {alarm.opened_at:%Y-%m-%d %H:%M} UTC{times}; {state}", style="dim"))
    for each in silences:
        about = f"kind {each.kind}, model {each.model}, subject {each.subject}"
        words = f"Silence {each.number} until {each.until:%Y-%m-%d %H:%M} UTC: {about}. {each.who}: {each.why}"
        console.print(words, highlight=False, markup=False)


def _silence(silence: Silence) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(silence)


def _require_fit(what: str, pattern: str, names: set[str]) -> None:
    """A silence that no alarm can ever fit would be noticed by whoever is called at night."""
    from pilotage.errors import ConfigError

    if not any(fnmatchcase(each, pattern) for each in names):
        known = ", ".join(sorted(names - {""}))
        raise ConfigError(f"No {what} fits {pattern!r}.", fix=f"Use one of: {known}.")


def _worst_first(alarm: Alarm) -> tuple[bool, int, datetime]:
    from pilotage.monitoring.alerts import TIERS

    return not alarm.open, TIERS.index(alarm.tier), alarm.opened_at


def _book() -> AlertBook:
    from pilotage.monitoring.alerts import AlertBook

    return AlertBook.of(_settings())


def _settings() -> Settings:
    from pilotage.settings import Settings

    return Settings.load()


def _complain(words: str) -> None:
    say(words, err=True)
