"""A real PostgreSQL server and an object store for as long as the tests run, and an online store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.features.online import build_online
from pilotage.features.store import OnlineStore
from tests.contract.online_shop import SHOP, publish
from tests.object_store import ObjectStore, running_object_store
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


@pytest.fixture(scope="session")
def _object_store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("object-store") / "log") as store:
        yield store


@pytest.fixture
def object_store(_object_store_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An S3 store, which the environment says how to reach."""
    for name, value in _object_store_server.environment.items():
        monkeypatch.setenv(name, value)
    return _object_store_server


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """What the shop has published."""
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, (-3, "a", 1), (-1, "a", 10), (-0.5, "b", 5), (0, "a", 100))
    lake.replace("validated/farms", pl.DataFrame({"farm": ["a", "b"], "cows": [40, 3]}), note={})
    return lake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the online store; nothing is there."""
    return tmp_path / "online" / "shop.db"


@pytest.fixture
def store(lake: Lake, path: Path) -> Iterator[OnlineStore]:
    """What was built of the lake."""
    build_online(SHOP, lake=lake, path=path, run_id="run-1")
    with OnlineStore.open(path) as store:
        yield store
