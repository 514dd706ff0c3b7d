"""A real PostgreSQL server for as long as the tests run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A fresh server, without a database."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes an empty database, and gives its address."""
    return postgres_server.database
