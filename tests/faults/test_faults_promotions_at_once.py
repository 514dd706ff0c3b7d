"""A hundred rounds of twenty promotions at once: one wins each number of the ledger, and its chain verifies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import pytest

from pilotage.errors import LedgerConflict
from pilotage.release import commands
from pilotage.release.audit import audit
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.release.state import fold
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle
from tests.faults.models import SPECS
from tests.postgres import PostgresServer

ROUNDS, AT_ONCE, PROCESSES = 100, 20, 4


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A ledger with twenty versions, any of which may become champion."""
    url = ""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.database()
    # Without MLflow: there is nothing to show its aliases to.
    made = Settings(home=tmp_path, ledger_url=url)
    folder = tmp_path / "bundle"
    sha256 = make_bundle(folder, spec=SPECS["tiny"])
    ledger = SqlLedger.of(made)
    for version in range(1, AT_ONCE + 1):
        payload = {
            "bundle": str(folder), "bundle_sha256": sha256, "mlflow_run_id": f"run-{version}", "run_url": "",
            "trained_at": "2024-01-01T00:00:00+00:00", "facts": {},
        }  # fmt: skip
        ledger.append(
            Draft(model="tiny", kind="registered", version=version, actor="test", cause="test", payload=payload)
        )
    ledger.close()
    return made


def check_rounds(settings: Settings, outcomes: list[list[str]], tell: Callable[[str], None]) -> None:
    """One winner a round, told by one event; everybody else was told so."""
    ledger = SqlLedger.of(settings)
    events = ledger.events()
    ledger.close()
    promoted = [event for event in events if event.kind == "promoted"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [Counter(each) for each in outcomes] == [Counter({"conflict": AT_ONCE - 1, "won": 1})] * len(outcomes)
    assert len(promoted) == len(outcomes)
    state = fold(events)["tiny"]
    assert state.champion is not None
    assert state.champion.version == promoted[-1].version
    assert audit(settings).faults == ()
    tell(f"{len(outcomes)} rounds of {AT_ONCE}: {len(promoted)} promotions, {len(events)} events, the chain verifies")


@pytest.mark.timeout(900)
def test_of_twenty_threads_that_decided_on_the_same_state_one_promotes(
    settings: Settings, draw: random.Random, tell: Callable[[str], None]
) -> None:
    ledgers = [SqlLedger.of(settings) for _ in range(AT_ONCE)]
    together = Barrier(AT_ONCE)
    outcomes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS):
            state = fold(ledgers[0].events())["tiny"]
            champion = state.champion.version if state.champion else None
            versions = [each for each in range(1, AT_ONCE + 1) if each != champion]
            # The champion itself can't be promoted again, so somebody else wants the same as another.
            wanted = [*versions, draw.choice(versions)]
            draw.shuffle(wanted)

            def promote(index: int, wanted: list[int] = wanted, seen: int = state.sequence) -> str:
                together.wait(60)
                try:
                    commands.promote(
                        "tiny", wanted[index], settings=settings, actor=f"actor {index}", why="a race",
                        ledger=ledgers[index], seen=seen,
                    )  # fmt: skip
                except LedgerConflict:
                    return "conflict"
                return "won"

            outcomes.append(list(pool.map(promote, range(AT_ONCE))))
    for ledger in ledgers:
        ledger.close()
    check_rounds(settings, outcomes, tell)


def race(settings: Settings, together: Barrier, index: int, rounds: int) -> list[str]:
    """One of those in a process of their own: each round appends on the head that all of them saw."""
    ledger = SqlLedger.of(settings)
    outcomes = []
    for round_ in range(rounds):
        together.wait(120)
        head = ledger.events()[-1].sequence
        together.wait(120)
        draft = Draft(
            model="tiny", kind="promoted", version=1 + (index + round_) % AT_ONCE, actor=f"actor {index}", cause="race",
            payload={},
        )  # fmt: skip
        try:
            ledger.append(draft, expected=head)
        except LedgerConflict:
            outcomes.append("conflict")
        else:
            outcomes.append("won")
    ledger.close()
    return outcomes


def race_threads(settings: Settings, together: Barrier, process: int, rounds: int) -> list[list[str]]:
    """The threads of one process."""
    threads = AT_ONCE // PROCESSES
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(race, settings, together, process * threads + each, rounds) for each in range(threads)]
        return [job.result() for job in jobs]


@pytest.mark.timeout(900)
def test_of_twenty_writers_in_four_processes_one_wins_each_number(
    settings: Settings, tell: Callable[[str], None]
) -> None:
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(PROCESSES) as pool:
        together = manager.Barrier(AT_ONCE)
        jobs = [pool.apply_async(race_threads, (settings, together, each, ROUNDS)) for each in range(PROCESSES)]
        writers = [outcomes for job in jobs for outcomes in job.get(800)]
    check_rounds(settings, [list(each) for each in zip(*writers, strict=True)], tell)
