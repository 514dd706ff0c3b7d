"""``pilotage audit log`` and ``pilotage audit at``: what was decided, and what was in production at a moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import click

from pilotage.cli.console import one_line, out, percent, print_json, print_rows, utc
from pilotage.errors import ConfigError

if TYPE_CHECKING:
    from pilotage.release.events import Event
    from pilotage.release.history import Decision, Then
    from pilotage.settings import Settings


class Moment(click.ParamType[datetime]):
    """A day or a moment, UTC unless it names a zone."""

    name = "moment"

    def __init__(self, *, end: bool) -> None:
        """``end`` takes the end of a day, not its begin."""
        self._of_day = time.max if end else time.min

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """A moment in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(value)
            if _is_day(value):
                found = datetime.combine(found, self._of_day)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no moment: use 2026-05-03, or 2026-05-03T14:00:00+02:00.", param, ctx)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def show_log(
    settings: Settings,
    models: Sequence[str],
    *,
    version: int | None,
    first: datetime | None,
    last: datetime | None,
    as_json: bool,
) -> None:
    """Prints decisions, oldest first.

    Raises:
        ConfigError: The ledger knows nothing of a model, or the moments are in the wrong order.
    """
    from pilotage.release.history import decisions

    if first is not None and last is not None and first > last:
        raise ConfigError(f"--from {utc(first)} is after --to {utc(last)}.", fix="Swap them.")

    events = events_of(settings)
    known(models, {event.model for event in events})
    found = decisions(events, models=models, version=version, first=first, last=last)
    payloads = {event.sequence: event.payload for event in events}
    if as_json:
        print_json([{**asdict(each), "payload": dict(payloads[each.sequence])} for each in found])
        return
    for each in found:
        out().print(_line(each, payloads[each.sequence]), highlight=False, markup=False)
    if not found:
        out().print("Nothing was decided.")


def _line(each: Decision, payload: Mapping[str, Any]) -> str:
    about = each.model if each.version is None else f"{each.model} {each.version}"
    what = each.kind.replace("_", " ")
    if (to := payload.get("to")) is not None:
        what += f" to {to}"
    if (share := payload.get("share")) is not None:
        what += f" at {percent(share)}"
    why = ": ".join([each.why, *([" ".join(payload["reasons"])] if payload.get("reasons") else [])])
    # An event is a line: nobody's words may look like another event.
    return one_line(f"{each.sequence:>5}  {utc(each.at)}  {about}  {what} by {each.actor}: {why}")


def show_at(settings: Settings, moment: datetime, models: Sequence[str], *, as_json: bool) -> None:
    """Prints how models stood.

    Raises:
        ConfigError: The ledger knew nothing of a model then, or the moment is still to come.
    """
    from pilotage.release.history import stood

    now = datetime.now(UTC)
    if moment.date() > now.date():
        raise ConfigError(f"{utc(moment)} is still to come.", fix="Ask for a moment that has passed.")
    moment = min(moment, now)
    then = stood(events_of(settings), moment)
    known(models, then, when=f" at {utc(moment)}")
    wanted = {model: then[model] for model in models or sorted(then)}
    if as_json:
        print_json({"at": moment.isoformat(), "models": [_plain(each) for each in wanted.values()]})
        return
    for model, each in wanted.items():
        print_rows(f"{model} at {utc(moment)}", _rows(each))
    if not wanted:
        out().print(f"Nothing had been decided at {utc(moment)}.", highlight=False)


def events_of(settings: Settings) -> list[Event]:
    """All events of the ledger, in order."""
    from pilotage.release.ledger import SqlLedger

    ledger = SqlLedger.to_read(settings)
    try:
        return list(ledger.events())
    finally:
        ledger.close()


def known(models: Iterable[str], there: Collection[str], *, when: str = "") -> None:
    """Raises ConfigError if the ledger knows nothing of one of the models."""
    for model in models:
        if model not in there:
            known = f"Use one of: {', '.join(sorted(there))}." if there else "Nothing had been decided yet."
            raise ConfigError(f"The ledger knows nothing of a model {model!r}{when}.", fix=known, model=model)


def _rows(then: Then) -> Iterable[tuple[str, str]]:
    from pilotage.cli.records import record

    state = then.state
    if state.killed is not None:
        killed = state.killed
        yield "KILLED", f"since {utc(killed.at)} by {killed.actor}: {killed.why}; its fallback answered"
    if state.champion is None or then.champion is None:
        yield "in production", "nothing"
    else:
        release = state.champion
        yield "in production", f"version {release.version}"
        yield "since", f"{utc(release.promoted_at)}, by {release.actor}: {release.why} (event {release.sequence})"
        yield (
            "until",
            "it still is"
            if then.until is None
            else f"{utc(then.until.promoted_at)}, then version {then.until.version} (event {then.until.sequence})",
        )
        for each in state.versions[release.version].approvals:
            yield "approved", f"{utc(each.at)} by {each.actor}: {each.why} (event {each.sequence})"
        yield from record(then.champion)
    if then.erasures:
        events = ", ".join(str(each) for each in then.erasures)
        yield (
            "erased since",
            f"people whose rows it may have learned from (event{'s' * (len(then.erasures) > 1)} {events})",
        )
    if (running := state.challenger) is not None:
        kind = "canary" if running.kind == "canary" else "A/B test"
        yield kind, f"version {running.version}, {percent(running.share)} of the entities, since {utc(running.since)}"
    for shadow in state.shadows:
        yield "shadow", f"version {shadow.version}, since {utc(shadow.since)}"


def _plain(then: Then) -> dict[str, Any]:
    state = then.state
    release = state.champion
    return {
        "model": state.model,
        "champion": None
        if release is None or then.champion is None
        else {
            "since": release.promoted_at,
            "by": release.actor,
            "why": release.why,
            "event": release.sequence,
            "until": None if then.until is None else then.until.promoted_at,
            "approvals": [asdict(each) for each in state.versions[release.version].approvals],
            **asdict(then.champion),
        },
        "killed": None if state.killed is None else asdict(state.killed),
        "challenger": None if state.challenger is None else asdict(state.challenger),
        "shadows": [{"version": each.version, "since": each.since} for each in state.shadows],
        "erasures": then.erasures,
        "stages": {number: known.stage for number, known in sorted(state.versions.items())},
    }
