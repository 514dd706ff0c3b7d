"""Ports are looked at before anything starts, and the message names port, holder and setting."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pilotage.cli.ports import require_free
from pilotage.errors import ConfigError
from pilotage.settings import Settings


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Four sockets on four ports of their own; none of them listens."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in made:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield made


def settings(sockets: list[socket.socket]) -> Settings:
    dagster, mlflow, service, reports = (one.getsockname()[1] for one in sockets)
    return Settings(dagster_port=dagster, mlflow_port=mlflow, service_port=service, reports_port=reports)


def test_free_ports_are_fine(sockets: list[socket.socket]) -> None:
    made = settings(sockets)
    for one in sockets:
        one.close()
    require_free(made)


def test_a_taken_port_is_named_with_its_holder_and_the_setting_to_change(sockets: list[socket.socket]) -> None:
    sockets[1].listen()
    with pytest.raises(ConfigError) as caught:
        require_free(settings(sockets))
    port = sockets[1].getsockname()[1]
    assert caught.value.message.startswith(f"Port {port}, for MLflow, is taken by ")
    assert f"(process {os.getpid()})" in caught.value.message
    assert "PILOTAGE_MLFLOW_PORT=" in caught.value.fix
    assert "PILOTAGE_DAGSTER_PORT" not in caught.value.fix


def test_all_taken_ports_are_named_at_once_and_the_proposals_differ(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.listen()
    with pytest.raises(ConfigError) as caught:
        require_free(settings(sockets))
    proposals = [word.split("=") for word in caught.value.fix.split() if word.startswith("PILOTAGE_")]
    assert [name for name, _ in proposals] == [
        "PILOTAGE_DAGSTER_PORT",
        "PILOTAGE_MLFLOW_PORT",
        "PILOTAGE_SERVICE_PORT",
        "PILOTAGE_REPORTS_PORT",
    ]
    assert len({port for _, port in proposals}) == 4


def test_one_port_for_two_servers_is_refused() -> None:
    with pytest.raises(ConfigError, match="Dagster and MLflow can't both have port 4000"):
        require_free(Settings(dagster_port=4000, mlflow_port=4000))


def test_a_port_that_an_earlier_start_is_giving_up_is_waited_for(sockets: list[socket.socket]) -> None:
    import threading

    made = settings(sockets)
    sockets[0].listen()
    for one in sockets[1:]:
        one.close()
    timer = threading.Timer(0.3, sockets[0].close)
    timer.start()
    require_free(made, patience=30)
    timer.join()


def test_whoever_does_not_want_the_ports_any_more_need_not_wait_for_them(sockets: list[socket.socket]) -> None:
    sockets[0].listen()
    asked = iter([False, True])
    require_free(settings(sockets), patience=3600, given_up=lambda: next(asked))
