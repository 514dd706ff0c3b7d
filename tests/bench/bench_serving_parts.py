"""What each part of a prediction costs: the same load with one part left out, or added.

    python -m tests.bench.bench_serving_parts [HOME]

Microseconds of the server's CPU a request, at 16 connections (one for explanations, of which few are computed at once),
one core, no request remembered but where the row says so. Each is a difference to the whole; the smaller of two runs of
each counts. Requests that wait for one sync are answered together, which is cheaper for the loop than one by one:
without the log that is lost, so the differences of the log and its parts do not add up.
A HOME that is given is kept, and used again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilotage.runtime.access.caller import Limit
from pilotage.runtime.access.keyfile import create_key
from pilotage.settings import Settings
from tests.bench.bench_serving import measure, pilotage
from tests.bench.serving.home import Prepared, prepare
from tests.bench.serving.load import request_bytes
from tests.bench.serving.server import CLIENT_CORE

CONNECTIONS = 16
FEW = 500
"""Requests that are sent again and again where answers are to be remembered."""


def main(home: Path) -> None:
    prepared = prepare(home)
    os.sched_setaffinity(0, [CLIENT_CORE])
    bodies = [json.dumps(row).encode() for row in prepared.requests]
    limited = _auth(prepared.settings, Limit(per_second=100_000, burst=100_000))
    unlimited = _auth(prepared.settings, None)
    path = "/flight_delay/predict"

    def sent(auth: str, path: str = path, bodies: list[bytes] = bodies) -> list[bytes]:
        return [request_bytes(path, body, headers=[auth]) for body in bodies]

    whole = _cost(prepared, home, "", sent(limited))
    print(f"{'the whole':<44}{whole:8.0f} µs a request")
    for words, part, requests in (
        ("the log: its records, queue, writing, sync", "unlogged", sent(limited)),
        ("the sync of the log alone", "unsynced", sent(limited)),
        ("the limit of a key", "", sent(unlimited)),
        ("the cache of answers, which never hits", "uncached", sent(limited)),
    ):
        print(f"{words:<44}{whole - _cost(prepared, home, part, requests):8.0f} µs", flush=True)
    again = _cost(prepared, home, "", sent(limited, bodies=bodies[:FEW]))
    print(f"{'an answer from the cache, less than the whole':<44}{whole - again:8.0f} µs")
    alone = _cost(prepared, home, "", sent(limited), connections=1)
    explained = _cost(prepared, home, "", sent(limited, path + "?explain=true"), connections=1)
    print(f"{'an explanation, more than the whole':<44}{explained - alone:8.0f} µs")
    with _shadow(prepared):
        watched = _cost(prepared, home, "", sent(limited))
    print(f"{'a shadow version, more than the whole':<44}{watched - whole:8.0f} µs")


def _cost(prepared: Prepared, home: Path, part: str, requests: list[bytes], *, connections: int = CONNECTIONS) -> float:
    """CPU of the service, microseconds a request."""
    work = home / "bench"
    work.mkdir(exist_ok=True)
    service = "tests.bench.serving.parts_service:PartsService"
    with pilotage(prepared, work, service=service, variables={"BENCH_PART": part}) as server:
        return min(measure(server, requests, connections).cpu_us for _ in range(2))


def _auth(settings: Settings, limit: Limit | None) -> str:
    return f"Authorization: Bearer {create_key(settings.api_keys, 'bench', roles=['predict'], limit=limit)[1]}"


@contextmanager
def _shadow(prepared: Prepared) -> Iterator[None]:
    """The champion's bundle once more, as a version that watches."""
    from assets.models.flight_delay import MODEL
    from pilotage.release.champions import states
    from pilotage.release.commands import reject, shadow
    from pilotage.testing.service import register_bundle

    settings = prepared.settings
    known = states(settings=settings)[MODEL.name]
    version = max(known.versions) + 1
    register_bundle(settings, MODEL.name, prepared.bundle, known.versions[1].bundle_sha256, version=version)
    shadow(MODEL.name, version, settings=settings, actor="person:bench", why="To see what it costs.")
    try:
        yield
    finally:
        reject(MODEL.name, version, settings=settings, actor="person:bench", why="The bench is over.")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).absolute())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
