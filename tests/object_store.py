"""An object store that speaks S3 over HTTP, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import boto3
import httpx

PATIENCE_S = 60.0
_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStore:
    """A running one."""

    url: str
    secret: str = "not-in-any-message"

    @property
    def environment(self) -> dict[str, str]:
        """With which the libraries find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "ours",
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def bucket(self) -> str:
        """Makes an empty bucket, and gives its address."""
        name = f"lake-{next(_numbers)}"
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="ours",
            aws_secret_access_key=self.secret,
        )
        client.create_bucket(Bucket=name)
        client.close()
        return f"s3://{name}"


@contextmanager
def running_object_store(log: Path) -> Iterator[ObjectStore]:
    """A fresh one, in a process of its own: the libraries wait for it outside of Python."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        )
    store = ObjectStore(url=f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _answers(store):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the object store does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield store
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _answers(store: ObjectStore) -> bool:
    try:
        return httpx.get(f"{store.url}/moto-api/data.json", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
