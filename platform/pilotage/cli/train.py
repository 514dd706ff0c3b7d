"""``pilotage train``: a training run from one file, and what the gate says to it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pilotage.cli import declared, home, runs, servers
from pilotage.cli.actor import actor_of
from pilotage.cli.console import err, out, say
from pilotage.cli.stages import stages_of
from pilotage.cli.status import states
from pilotage.errors import RegistryUnavailable, TrainingError
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.release.events import Event

REFUSED = 3
"""Exit code of a training whose candidate the gate refused."""


def train(settings: Settings, name: str, file: Path | None) -> int:
    """Checks the file, runs the model's training job, and says what became of it.

    Returns:
        Exit code: 0 registered, 3 refused by the gate.

    Raises:
        ConfigError: The file is wrong; nothing was started.
        TrainingError: The run failed.
    """
    from pilotage.training.config import TrainConfig

    spec = declared.model(name)
    config = TrainConfig.from_file(file) if file else TrainConfig()
    config.check(spec)
    if config.params or config.tuning:
        from pilotage.training.fit import check_params

        check_params(spec, config)
    home.prepare(settings)
    if not servers.has_store(settings):
        _make_store(settings)
    before = _last_event(settings)
    values = config.model_dump(mode="json", exclude_unset=True)
    began = time.monotonic()

    def progress(text: str) -> None:
        say(f"[{time.monotonic() - began:6.1f} s] {text}", err=True)

    work = runs.dagster_job(
        f"train_{name}",
        settings=settings,
        cause="manual",
        actor=actor_of(None, say="Set the variable USER, or LOGNAME."),
        progress=progress,
        config={"resources": {"training": {"config": values}}} if values else None,
    )
    result = _obedient(work)
    if not result.ok:
        raise TrainingError(
            f"Training of {name} failed{f' in {runs.readable(result.failed_step)}' if result.failed_step else ''}: "
            f"{result.error}",
            fix=f"See {work.log}" + (f" or {settings.dagster_ui}/runs/{result.run_id}" if result.run_id else ""),
            model=name,
            run_id=result.run_id,
        )
    return conclude(settings, name, run_id=result.run_id, before=before)


def conclude(settings: Settings, name: str, *, run_id: str, before: int) -> int:
    """Prints what the ledger says of a run.

    Args:
        settings: Which home.
        name: The model.
        run_id: Dagster's run.
        before: Sequence number of the ledger's last event before the run.

    Returns:
        Exit code: 0 registered, 3 refused.

    Raises:
        TrainingError: The ledger says nothing of it.
    """
    event = _decision(settings, name, run_id, before)
    console = out()
    console.print(f"Run: {settings.dagster_ui}/runs/{run_id}", highlight=False)
    if event.kind == "registered":
        console.print(f"[bold green]{name} version {event.version} passed its gate and is registered.[/]")
        state = states(settings)[name]
        champion = state.champion
        if champion is not None and champion.version == event.version:
            console.print("It is the champion now.")
            return 0
        for asked in stages_of(declared.models().get(name), state)["approvals"]:
            if asked["version"] == event.version:
                who = f"Somebody has to approve it first, {asked['may_approve']}:"
                console.print(f'{who} pilotage approve {name} {event.version} --why "…"', highlight=False)
        console.print(f'Release it: pilotage promote {name} {event.version} --why "…"', highlight=False)
        return 0
    console.print(f"[bold red]The gate refused this candidate of {name}.[/] The champion stays.")
    for reason in event.payload["reasons"]:
        console.print(f"  - {reason}", highlight=False, markup=False)
    return REFUSED


def _decision(settings: Settings, name: str, run_id: str, before: int) -> Event:
    """The ledger's event about this run: what it registered, or why it was refused."""
    from pilotage.release.ledger import SqlLedger

    ledger = SqlLedger.to_read(settings)
    try:
        events = ledger.events(after=before)
    finally:
        ledger.close()
    for event in reversed(events):
        ours = event.model == name and event.kind in ("registered", "refused")
        if ours and str(event.payload.get("run_url", "")).endswith(run_id):
            return event
    raise TrainingError(
        f"The run of {name} ended well, but registered nothing and refused nothing.",
        fix=f"Look at {settings.dagster_ui}/runs/{run_id}.",
        model=name,
        run_id=run_id,
    )


def _last_event(settings: Settings) -> int:
    return max((state.sequence for state in states(settings).values()), default=0)


def _obedient(work: runs.Work) -> runs.RunResult:
    """Runs it so that Ctrl-C and SIGTERM end the run in order, and not only us."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        work.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = work.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        err().print("Stopped; nothing was registered.")
        sys.exit(130)
    return result


def _make_store(settings: Settings) -> None:
    work = runs.pilotage("setup", "store", settings=settings, log="store", progress=lambda _: None)
    result = _obedient(work)
    if not result.ok:
        raise RegistryUnavailable(f"MLflow's store could not be made: {result.error}", fix=f"See {work.log}.")
