"""Workers of a host that share the table of requests, and die."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.idempotency import Idempotency
from pilotage.runtime.log import encode
from pilotage.runtime.log.framing import frame
from pilotage.runtime.log.segments import Header
from pilotage.runtime.requests_table import RequestsTable

BODY = hashlib.sha256(b'{"amount": 1}').digest()


def prediction(
    prediction_id: str, *, request_id: str = "r-1", caller: str = "app", at: int = 10**15
) -> PredictionRecord:
    return PredictionRecord(
        prediction_id=prediction_id,
        request_id=request_id,
        model="tiny",
        entity={},
        at=at,
        moment=None,
        version=1,
        stage="champion",
        answered_by="model",
        probability=0.5,
        decision=True,
        referred=False,
        reasons=(),
        latency_us=1,
        caller=caller,
        request={},
        features=None,
        state=None,
    )


class Host:
    """Workers that share a folder; each can die, which leaves what it owned as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.mkdir()
        self.now = 10.0**9
        self.told: list[str] = []
        self._segments = 0
        self._workers: list[Idempotency] = []

    def worker(self, **more: float) -> Idempotency:
        worker = self.real_worker(clock=lambda: self.now, **more)
        self._workers.append(worker)
        return worker

    def real_worker(self, **more: Any) -> Idempotency:
        """By the real clock, unless told otherwise."""
        table = RequestsTable(self.folder, log=self.log, report=self.told.append, **more)
        return Idempotency(table, report=self.told.append)

    def die(self, worker: Idempotency) -> None:
        worker.close()

    def write(self, *records: PredictionRecord, suffix: str = ".open") -> Path:
        """Logs what a worker submitted at once, as the log of a dead worker."""
        self._segments += 1
        path = self.log / f"w-20010909T014640.000000Z-{self._segments:06d}{suffix}"
        header = encode(Header(worker="w", at=0))
        path.write_bytes(frame([(header,)]) + frame([tuple(encode(record) for record in records)]))
        return path

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def take(worker: Idempotency, request_id: str = "r-1", *, body: bytes = BODY, caller: str = "app", model: str = "tiny"):
    return worker.begin(caller, request_id, body, model=model)
