"""A worker in this process: everything real but the server and its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pilotage.runtime.answer import PredictionRecord, Record
from pilotage.runtime.folder import MANIFEST, sha256_of
from pilotage.runtime.log import read_segment, segments
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import ORDER
from pilotage.testing.service import register_bundle, release_bundle
from serving.gateway import Gateway
from serving.worker import Core
from tests.unit.runtime.world import bundle_of, in_process

JSON = {"content-type": "application/json"}
URL = "http://127.0.0.1:8000"


async def bentoml(scope: Any, receive: Any, send: Any) -> None:
    """Stands where BentoML's application is."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-from", b"bentoml")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


class Hosted:
    """A worker that answers, on a loop of its own."""

    def __init__(self, home: Path, *specs: ModelSpec, release: bool = True, **parts: Any) -> None:
        self.settings = Settings(home=home)
        self.specs = {spec.name: spec for spec in specs}
        for name, spec in self.specs.items():
            if release:
                self.release(name, spec, 1)
        self.runner = asyncio.Runner()
        self.core: Core = self.run(self._start(parts))
        self.gateway = Gateway(bentoml, specs=self.specs, core=lambda: self.core)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.gateway), base_url=URL)

    def release(self, name: str, spec: ModelSpec, version: int, *, promote: bool = True) -> None:
        """Tells the ledger of a version."""
        folder = bundle_of(spec, version)
        sha256 = sha256_of((folder / MANIFEST).read_bytes())
        tell = release_bundle if promote else register_bundle
        tell(self.settings, name, folder, sha256, version=version)

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """A request, and its answer."""
        answer: httpx.Response = self.run(self.client.request(method, path, **request))
        return answer

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.ask("GET", path, **request)

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self.ask("POST", path, **request)

    def predict(self, model: str = "tiny", /, *, headers: Mapping[str, str] | None = None, **changes: Any) -> Any:
        return self.post(f"/{model}/predict", json={**ORDER, **changes}, headers=dict(headers or {}))

    def logged(self) -> list[Record]:
        """What is on the disk."""
        self.run(asyncio.sleep(0))
        return [record for each in segments(self.settings.prediction_log) for record in read_segment(each.path)]

    def predictions(self, request_id: str) -> list[PredictionRecord]:
        found = [record for record in self.logged() if isinstance(record, PredictionRecord)]
        return [record for record in found if record.request_id == request_id]

    def until(self, accept: Callable[[], bool]) -> None:
        """Lets the loop run until something holds."""

        async def wait() -> None:
            async with asyncio.timeout(30):
                while not accept():
                    await asyncio.sleep(0.01)

        self.run(wait())

    def stop(self) -> None:
        self.run(self.client.aclose())
        self.run(self.core.stop())
        self.runner.close()

    async def _start(self, parts: Mapping[str, Any]) -> Core:
        core = Core(self.specs, self.settings, **{"admission": in_process, **parts})
        # Loaded before it starts, so that no test has to wait for it.
        await asyncio.to_thread(core.follower.look)
        core.start()
        return core


@contextmanager
def hosted(home: Path, *specs: ModelSpec, **parts: Any) -> Any:
    """A worker for the time of a block."""
    made = Hosted(home, *specs, **parts)
    try:
        yield made
    finally:
        made.stop()
