"""Dagster's web server, as the compose file starts it, and a PostgreSQL that crashed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pilotage.settings import PROJECT
from tests.postgres import PostgresServer, running_postgres

pytestmark = pytest.mark.slow
RECYCLE = "--db-pool-recycle"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


def seconds() -> int:
    """The age, by the compose file, at which the web server opens a connection anew."""
    command = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]["webserver"]["command"]
    return int(command[command.index(RECYCLE) + 1]) if RECYCLE in command else 3600


def test_its_first_queries_after_a_crash_of_the_database_are_answered(server: PostgresServer, tmp_path: Path) -> None:
    storage = {"postgres": {"postgres_url": server.database()}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=seconds(), max_overflow=20)

        def look() -> list[object]:
            return [instance.get_runs(limit=1), instance.all_asset_keys(), instance.all_instigator_state()]

        assert look() == [[], [], []]
        server.stop()
        server.start()
        time.sleep(1.5)  # No container is back sooner.
        assert look() == [[], [], []]
