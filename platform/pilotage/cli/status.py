"""``pilotage status``: what is in production, and how it is doing. Read from the ledger, never guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pilotage.cli import declared, home, retrain, servers
from pilotage.cli.alerts import counts
from pilotage.cli.console import one_line, out
from pilotage.cli.retrain import retraining_of
from pilotage.cli.stages import rows, stages_of
from pilotage.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pilotage.release.state import ModelState, Release


def states(settings: Settings) -> dict[str, ModelState]:
    """What the ledger says of every model."""
    from pilotage.release.ledger import SqlLedger
    from pilotage.release.state import fold

    ledger = SqlLedger.to_read(settings)
    try:
        return fold(ledger.events())
    finally:
        ledger.close()


def newest_releasable(state: ModelState | None) -> int | None:
    """The newest version that passed its gate and was not turned down since; ``None`` if there is none."""
    known = state.versions.values() if state is not None else ()
    return max((each.version for each in known if each.stage not in ("rejected", "rolled_back")), default=None)


def in_production(release: Release) -> dict[str, Any]:
    """A champion in the few words that ``pilotage up`` shows."""
    return {
        "model": release.model,
        "version": release.version,
        "since": _iso(release.promoted_at),
        "by": release.actor,
        "detail": f"since {_local(release.promoted_at)}, {data_words(release.facts)}",
    }


def report(settings: Settings, names: list[str]) -> dict[str, Any]:
    """The whole status as JSON values: the instance, its servers, and each model."""
    from pilotage.errors import ConfigError

    instance = home.is_up(settings)
    known = states(settings)
    specs, wrong = declared.each_model()
    every = [*sorted({*specs, *wrong}), *sorted(set(known) - {*specs, *wrong})]
    if unknown := [name for name in names if name not in every]:
        raise ConfigError(
            f"There is no model {unknown[0]!r}.", fix=f"Use one of: {', '.join(every)}.", model=unknown[0]
        )
    elsewhere = instance is None and servers.are_elsewhere(settings)
    health = servers.health_elsewhere if elsewhere else servers.health
    return {
        "home": str(settings.home),
        "up": None if instance is None else {"pid": instance.pid, "since": instance.started_at},
        "elsewhere": elsewhere,
        **_alarms(settings),
        "servers": health(
            settings, lambda: [name for name, state in known.items() if state.champion and name in specs]
        ),
        "models": [
            {
                **_model(name, specs.get(name), known.get(name)),
                "declaration_error": f"{wrong[name].message} {wrong[name].fix}" if name in wrong else None,
            }
            for name in names or every
        ],
    }


def _alarms(settings: Settings) -> dict[str, Any]:
    """Open alarms by tier; where their database fails, why they are not known: the ledger still tells the rest."""
    from pilotage.errors import LedgerUnavailable

    try:
        return {"alarms": counts(settings), "alarms_unknown": None}
    except LedgerUnavailable as error:
        return {"alarms": None, "alarms_unknown": error.message}


def _model(name: str, spec: Any, state: ModelState | None) -> dict[str, Any]:
    champion = state.champion if state else None
    refused = state.refused[-1] if state and state.refused else None
    waiting = [
        number
        for number, known in (state.versions if state else {}).items()
        if known.stage == "candidate" and (champion is None or number > champion.version)
    ]
    return {
        "model": name,
        "title": spec.title if spec else None,
        "owner": spec.owner if spec else None,
        "risk": spec.risk if spec else None,
        "declared": spec is not None,
        "champion": None if champion is None else _champion(champion, state),
        **stages_of(spec, state),
        "waiting_versions": sorted(waiting),
        "retraining": retraining_of(spec, state),
        "versions": sorted(state.versions) if state else [],
        "releases": [
            {"version": past.version, "since": _iso(past.promoted_at), "by": past.actor, "why": past.why}
            for past in (state.history if state else ())
        ],
        "last_refusal": None
        if refused is None
        else {"at": _iso(refused.at), "reasons": list(refused.reasons), "mlflow_run_id": refused.mlflow_run_id},
    }


def _champion(release: Release, state: ModelState | None) -> dict[str, Any]:
    version = state.versions.get(release.version) if state else None
    facts = dict(release.facts)
    return {
        "version": release.version,
        "since": _iso(release.promoted_at),
        "promoted_by": release.actor,
        "why": release.why,
        "approved_by": [
            {"by": each.actor, "at": _iso(each.at), "why": each.why} for each in (version.approvals if version else ())
        ],
        "trained_at": _iso(release.trained_at),
        "trained_because": version.cause if version else None,
        "data": {key: value for key, value in facts.items() if key != "metrics"},
        "metrics": facts.get("metrics"),
        "bundle_sha256": release.bundle_sha256,
        "mlflow_run_id": release.mlflow_run_id,
        "dagster_run": version.run_url if version else None,
    }


def show(status: dict[str, Any]) -> None:
    """Prints a report for people."""
    console = out()
    for model in status["models"]:
        console.print(_panel(model))
    console.print(_servers(status))


def _panel(model: dict[str, Any]) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")

    def row(name: str, words: str, style: str = "") -> None:
        # As text: what people wrote may look like Rich's markup, "[ticket 12]".
        grid.add_row(name, Text(one_line(words), style=style))

    champion = model["champion"]
    if champion is None:
        row("in production", "nothing", "yellow")
        newest = model["waiting_versions"][-1:]
        step = (
            f"pilotage promote {model['model']} {newest[0]} --why …" if newest else f"pilotage train {model['model']}"
        )
        row("next", step)
    else:
        row("in production", f"version {champion['version']}", "bold green")
        row("since", f"{_local(champion['since'])}, by {champion['promoted_by']}: {champion['why']}")
        for each in champion["approved_by"]:
            row("approved", f"{_local(each['at'])} by {each['by']}: {each['why']}")
        because = f" ({champion['trained_because']})" if champion["trained_because"] else ""
        row("trained", f"{_local(champion['trained_at'])}{because}, on {data_words(champion['data'])}")
        if champion["metrics"]:
            row("at the gate", _metrics(champion["metrics"]))
        if model["waiting_versions"]:
            row("waiting", f"version {', '.join(map(str, model['waiting_versions']))}")
    for name, words, style in [*rows(model), *retrain.words(model["retraining"])]:
        row(name, words, style)
    if model["last_refusal"]:
        refusal = model["last_refusal"]
        row("last refused", f"{_local(refusal['at'])}: {'; '.join(refusal['reasons'])}")
    if model["declared"]:
        row("owner", f"{model['owner']}, risk {model['risk']}")
    elif model["declaration_error"]:
        row("its file", model["declaration_error"], "bold red")
    else:
        row("owner", "no longer declared: a service that starts without its file does not serve it")
    title = Text.assemble((model["model"], "bold"), f" {model['title'] or ''}")
    return Panel(grid, title=title, title_align="left", border_style="dim")


def _servers(status: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    running = status["up"] or status["elsewhere"]
    grid = Table.grid(padding=(0, 2))
    for server in status["servers"]:
        style = "green" if server["healthy"] else "red" if running else "dim"
        grid.add_row(server["name"], server["url"], Text(server["detail"] or "healthy", style=style))
    if status["alarms"] is None:
        grid.add_row(Text("open alarms", style="bold red"), "", Text(f"not known: {status['alarms_unknown']}"))
    elif alarms := [f"{number} {tier}" for tier, number in status["alarms"].items() if number]:
        style = "bold red" if status["alarms"]["critical"] else "yellow"
        grid.add_row(Text("open alarms", style=style), "pilotage alerts list", Text(", ".join(alarms), style=style))
    if not running:
        grid.add_row(Text("Pilotage is not running on this home.", style="yellow"), "pilotage up", "")
    return grid


def data_words(facts: Any) -> str:
    """What a version was trained on, in words."""
    rows = facts.get("rows")
    days = f" from {facts['first']} to {facts['last']}" if facts.get("first") and facts.get("last") else ""
    return f"{rows:,} rows{days}" if isinstance(rows, int) else "data that its record names"


def _metrics(metrics: dict[str, Any]) -> str:
    shown = []
    for name, value in metrics.items():
        number = value.get("value") if isinstance(value, dict) else value
        if isinstance(number, int | float):
            shown.append(f"{name} {number:.4g}")
    return ", ".join(shown)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _local(moment: datetime | str) -> str:
    """A moment in the reader's time zone, to the minute."""
    parsed = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return parsed.astimezone().strftime("%Y-%m-%d %H:%M")
