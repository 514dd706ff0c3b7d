"""The servers of an instance: how each is started, and how to see over HTTP that it is well."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pilotage.cli import code_server, home
from pilotage.cli.asking import address, answers, get, graphql, reason, unreachable
from pilotage.cli.orphans import MARK, end_orphans
from pilotage.cli.runs import alive
from pilotage.cli.supervisor import Lasting, Program
from pilotage.run_tags import OWNER
from pilotage.settings import Settings

WORD_SECONDS = 15.0
"""Seconds for which a worker of the service is believed; it says how it is every second."""
SWEEP_SECONDS = 60.0
"""Seconds that Dagster gets for what must be done, not only looked at; its first query loads the definitions."""

UNFINISHED = """query { runsOrError(filter: {statuses: [STARTING, STARTED, CANCELING, NOT_STARTED]}, limit: 200) {
  ... on Runs { results { runId tags { key value } } } } }"""
CANCEL = """mutation($runs: [String!]!) { terminateRuns(runIds: $runs,
  terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename } }"""

DAEMONS = """query { instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"""
LOCATIONS = """query { workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { ... on PythonError { message causes { message } } } } } } }"""


def code(settings: Settings) -> Program:
    """The code server, which loads the project for the web UI and the daemon."""
    command, check = [sys.executable, "-m", "pilotage.cli.code_server"], partial(code_server.listens, settings)
    return _program(settings, name="Code server", log="code", command=command, url="", check=check)


def dagster(settings: Settings) -> Program:
    """The Dagster web UI."""
    url = address(settings, settings.dagster_port)
    command = [sys.executable, "-m", "pilotage.cli.webserver", *code_server.workspaces(settings)]
    command += ["-h", settings.host, "-p", str(settings.dagster_port), "--log-level", "warning"]
    check = partial(_locations, url)
    return _program(settings, name="Dagster", log="dagster", command=command, url=url, check=check)


def daemon(settings: Settings) -> Program:
    """Dagster's daemon: schedules, sensors, the run queue. It has no address; the web UI knows how it is."""
    command = _tool("dagster-daemon", "run", *code_server.workspaces(settings), "--log-level", "info")
    url = address(settings, settings.dagster_port)
    check = partial(_daemons, url)
    return _program(settings, name="Dagster daemon", log="daemon", command=command, url="", check=check)


def mlflow(settings: Settings) -> Program:
    """The MLflow UI, on the same store that runs write to."""
    url = address(settings, settings.mlflow_port)
    port = settings.mlflow_port
    hosts = sorted({"localhost", "127.0.0.1", settings.host})
    command = _tool("mlflow", "server", "--default-artifact-root", str(settings.mlflow_artifacts))
    command += ["--no-serve-artifacts", "--host", settings.host, "--port", str(port), "--workers", "1"]
    # A page of another origin that resolves its name to loopback would otherwise reach the registry.
    command += ["--allowed-hosts", ",".join(f"{host}:{port}" for host in hosts)]
    program = _program(
        settings, name="MLflow", log="mlflow", command=command, url=url, check=lambda: answers(f"{url}/health")
    )
    # Not among the arguments: see ``leashed``.
    stores = {"MLFLOW_BACKEND_STORE_URI": settings.mlflow, "MLFLOW_REGISTRY_STORE_URI": settings.mlflow}
    return replace(program, variables={**program.variables, **stores})


def reports(settings: Settings) -> Program:
    """Data Docs and drift reports, as static pages."""
    url = address(settings, settings.reports_port)
    command = [sys.executable, "-m", "pilotage.cli.reports", "--folder", str(settings.reports)]
    command += ["--host", settings.host, "--port", str(settings.reports_port)]
    return _program(
        settings, name="Reports", log="reports", command=command, url=url, check=lambda: answers(f"{url}/-/health")
    )


def watch(settings: Settings) -> Program:
    """The watch over the watch, which tells people when the daemon can't. It leaves word in the home."""
    from pilotage.monitoring.alerts.outside import watching

    command = _tool("pilotage", "alerts", "watch")
    return _program(
        settings, name="Alerts watch", log="watch", command=command, url="", check=lambda: watching(settings)
    )


def service(settings: Settings, expected: Callable[[], Iterable[str]] = tuple) -> Program:
    """The prediction service.

    Args:
        settings: Host and port.
        expected: Models that must be served for it to be well; those without a champion can't be.
    """
    url = address(settings, settings.service_port)
    command = [sys.executable, "-m", "serving", "--host", settings.host, "--port", str(settings.service_port)]
    check = partial(_serves, settings, expected)
    return _program(settings, name="Prediction service", log="service", command=command, url=url, check=check)


def served(settings: Settings) -> list[dict[str, Any]]:
    """What the prediction service says of each model; empty when it does not answer."""
    try:
        return _models(settings)
    except (OSError, ValueError):
        return []


def health(settings: Settings, expected: Callable[[], Iterable[str]] = tuple) -> list[dict[str, Any]]:
    """Asks every server once; one entry a server."""
    asked = []
    programs = [make(settings) for make in (code, dagster, daemon, watch, mlflow, reports)]
    for program in [*programs, service(settings, expected)]:
        trouble = program.check() if program.check else None
        asked.append({"name": program.name, "url": program.url, "healthy": trouble is None, "detail": trouble or ""})
    return asked


def are_elsewhere(settings: Settings) -> bool:
    """Whether the settings name servers that other containers run, as those of ``docker-compose.yml`` do."""
    return bool(settings.dagster_url) and settings.mlflow.startswith(("http://", "https://"))


def health_elsewhere(settings: Settings, expected: Callable[[], Iterable[str]] = tuple) -> list[dict[str, Any]]:
    """The same of servers that run in other containers, by what they leave in the home that they share.

    None of them is at this machine's own address, and the one way to the UI asks people for their password.
    """
    from pilotage.monitoring.alerts.outside import beating, watching

    checks: list[tuple[str, str, Callable[[], str | None]]] = [
        ("Dagster daemon", settings.dagster_ui, lambda: beating(settings)),
        ("Alerts watch", "", lambda: watching(settings)),
        ("MLflow", settings.mlflow_ui, lambda: answers(f"{settings.mlflow}/health")),
        ("Prediction service", "", lambda: _ready(_left_word(settings), expected)),
    ]
    asked = [(name, url, check()) for name, url, check in checks]
    return [
        {"name": name, "url": url, "healthy": trouble is None, "detail": trouble or ""} for name, url, trouble in asked
    ]


def has_store(settings: Settings) -> bool:
    """Whether MLflow's store is known to be ready; ``pilotage setup store`` makes it so."""
    file = store_file(settings)
    return file is not None and file.exists() and ready_mark(file).exists()


def store_file(settings: Settings) -> Path | None:
    """The file of a SQLite store; ``None`` for another database or a server."""
    prefix = "sqlite:///"
    return Path(settings.mlflow.removeprefix(prefix)) if settings.mlflow.startswith(prefix) else None


def ready_mark(file: Path) -> Path:
    """What ``pilotage.release.mlflow_store`` leaves beside a store that is complete."""
    return file.with_name(f"{file.name}.ready")


def end_lost_runs(settings: Settings) -> list[str]:
    """Marks runs as cancelled whose process is gone: Dagster itself would show them as running for an hour.

    Called when we have just taken the home's lock, so nothing that an earlier instance started is alive; a run that
    somebody started beside it, by ``pilotage train``, carries its owner's process in a tag.

    Returns:
        Ids of the runs.
    """
    url = address(settings, settings.dagster_port)
    found = graphql(url, UNFINISHED, timeout=SWEEP_SECONDS)["runsOrError"].get("results", [])
    lost = []
    for run in found:
        owner = next((tag["value"] for tag in run["tags"] if tag["key"] == OWNER), "")
        if not (owner and alive(owner)):
            lost.append(str(run["runId"]))
    if lost:
        graphql(url, CANCEL, timeout=SWEEP_SECONDS, runs=lost)
    return lost


def _program(
    settings: Settings, *, name: str, log: str, command: list[str], url: str, check: Callable[[], str | None]
) -> Program:
    return Program(
        name=name,
        command=command,
        log=home.logs(settings) / f"{log}.log",
        check=check,
        url=url,
        variables={**home.variables(settings), MARK: f"{_marks(settings)}{name}"},
    )


def end_leftovers(settings: Settings) -> None:
    """Ends what is left of an earlier instance where not only that was killed, but also what would have ended it."""
    end_orphans(lambda mark: mark.startswith(_marks(settings)))


def _marks(settings: Settings) -> str:
    """How the marks of all programs of a home begin."""
    return f"{settings.home}: "


def _tool(name: str, *arguments: str) -> list[str]:
    """A console script of our own environment, wherever PATH points."""
    return [str(Path(sys.executable).parent / name), *arguments]


def _models(settings: Settings) -> list[dict[str, Any]]:
    try:
        answer = get(f"{address(settings, settings.service_port)}/models")
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        # It lives, and wants an API key, which we have none of. Its workers leave word in our home as well.
        error.close()
        return _left_word(settings)
    if not isinstance(answer, dict) or not isinstance(answer.get("models"), list):
        raise ValueError("it is no prediction service")
    models: list[dict[str, Any]] = answer["models"]
    return models


def _left_word(settings: Settings) -> list[dict[str, Any]]:
    """What the workers of the service said last; a model that one of them can't serve is told by that one."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(settings.heartbeats.glob("*.json")):
        try:
            told = json.loads(path.read_bytes())
            models = told["models"] if time.time() - told["at"] <= WORD_SECONDS else []
            for model in models:
                if found.setdefault(model["model"], model)["ready"]:
                    found[model["model"]] = model
        except (OSError, ValueError, KeyError, TypeError):
            continue  # It is just being replaced, or its worker has ended.
    return list(found.values())


def _serves(settings: Settings, expected: Callable[[], Iterable[str]]) -> str | None:
    """Whether the service has a verified champion of every model that has one."""
    try:
        return _ready(_models(settings), expected)
    except urllib.error.HTTPError as error:
        return reason(error)
    except (OSError, ValueError) as error:
        return unreachable(error)


def _ready(told: Iterable[dict[str, Any]], expected: Callable[[], Iterable[str]]) -> str | None:
    """Whether what workers told names a verified champion of every model that has one."""
    models = {str(model.get("model")): model for model in told}
    if not models:
        return "loading"
    missing = {name: models.get(name, {}) for name in expected() if not models.get(name, {}).get("ready")}
    trouble = [f"{name}: {model.get('problem') or 'loading'}" for name, model in missing.items()]
    return "; ".join(trouble) or None


def _locations(url: str) -> str | None:
    """Whether the web server has loaded the project's definitions."""
    try:
        entries = graphql(url, LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    except (OSError, ValueError) as error:
        return unreachable(error)
    for entry in entries:
        if entry["loadStatus"] != "LOADED":
            return "loading definitions"
        if "message" in (found := entry.get("locationOrLoadError") or {}):
            if "DagsterUserCodeUnreachableError" in found["message"]:
                return "waits for the code server"
            # Around what a file of ours says, Dagster says that loading failed.
            first = next(iter(found.get("causes") or []), found)["message"].strip().splitlines()[0]
            return Lasting(f"definitions don't load: {first[:300]}")
    return None if entries else "no definitions"


def _daemons(url: str) -> str | None:
    try:
        statuses = graphql(url, DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (OSError, ValueError) as error:
        return unreachable(error)
    ill = [status["daemonType"].lower() for status in statuses if status["required"] and not status["healthy"]]
    return f"no heartbeat of {', '.join(ill)}" if ill else None
