"""Takes the pictures of the documentation from a running platform, by a headless Chromium.

    make up            # in one terminal, until everything serves
    make screenshots   # in another; ARGS='lineage' for one of them

Speaks the browser's own protocol (CDP), so that it can wait for what a picture is of instead of for a time.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from websockets.sync.client import ClientConnection, connect

from pilotage.settings import PROJECT, Settings

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_SECONDS = 60

CLEARED = """(() => {
  const button = (text) => [...document.querySelectorAll("button, a")].find((one) => one.innerText.trim() === text);
  for (const text of ["Skip", "Hide navigation"]) button(text)?.click();
  let panel = document.querySelector('input[placeholder^="Jump to"]');
  while (panel && !panel.querySelector("button")) panel = panel.parentElement;
  panel?.querySelector("button").click();
  for (const covers of ["[role=dialog]", "[data-component-id^='mlflow.assistant']"])
    for (const part of document.querySelectorAll(covers))
      (part.matches("[aria-label=Close]") ? part : part.querySelector("[aria-label=Close]"))?.click();
  return true;
})()"""
"""Puts away what lies over or beside a page's content: in Dagster the invitation to its community and the navigation,
in MLflow its announcements and the assistant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One page, and when it is ready to be taken."""

    name: str
    url: str
    ready: str
    """JavaScript that is true when what the picture is of is on the page."""
    width: int = 1600
    height: int = 900


def pictures(settings: Settings) -> list[Picture]:
    """What is taken; the names are the files in ``docs/images``."""

    def shows(*words: str) -> str:
        return " && ".join(f"document.body.innerText.includes({json.dumps(word)})" for word in words)

    # The model's assets and everything upstream of them, with the groups opened.
    selection = quote('+group:"flight_delay"')
    groups = quote("global@global:flight_delay,global@global:sources")
    dagster, mlflow = settings.dagster_ui, settings.mlflow_ui
    return [
        Picture(
            name="lineage",
            url=f"{dagster}/asset-groups~{selection}?expanded={groups}",
            # The graph is laid out in the background; the colours of the assets arrive while the picture settles.
            ready=shows("registered_version", "training_set"),
            # So wide that the names can be read in a README, and no wider: Dagster would then show every detail.
            width=2200,
            height=900,
        ),
        Picture(
            name="checks",
            url=f"{dagster}/assets/validated/flights?view=checks",
            ready=shows("Passed"),
        ),
        Picture(name="models", url=f"{mlflow}/#/models", ready=shows("flight_delay", "loan_approval")),
        Picture(name="service", url=f"{settings.service}/", ready=shows("flight_delay")),
    ]


class Page:
    """A tab of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command and returns its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_SECONDS))
            if message.get("id") == self._last:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])

    def holds(self, script: str) -> bool:
        result = self.call("Runtime.evaluate", expression=f"Boolean({script})", returnByValue=True)
        return bool(result["result"].get("value"))

    def take(self, picture: Picture, path: Path) -> None:
        """Opens the page, waits until it is ready and has stopped moving, and writes it as PNG.

        Raises:
            TimeoutError: It did not become ready.
        """
        size = {"width": picture.width, "height": picture.height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=picture.url)
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.holds(f"document.readyState === 'complete' && {CLEARED} && {picture.ready}"):
            if time.monotonic() > end:
                raise TimeoutError(f"{picture.url} did not show what the picture is of.")
            time.sleep(0.25)
        before, image = b"", self._shot()
        while image != before and time.monotonic() < end:
            time.sleep(1.5)
            self.holds(CLEARED)
            before, image = image, self._shot()
        path.write_bytes(image)

    def _shot(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(command: str) -> Iterator[Page]:
    """A headless browser with a profile of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
        # As root, and in containers, Chromium has no sandbox and too little shared memory.
        flags += ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--lang=en-US"]
        process = subprocess.Popen(
            [command, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with connect(_tab(Path(profile), process), max_size=None) as socket:
                page = Page(socket)
                page.call("Page.enable")
                yield page
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Address of the browser's first tab; it writes the port that it chose into its profile."""
    end = time.monotonic() + PATIENCE_SECONDS
    note = profile / "DevToolsActivePort"
    while time.monotonic() < end and process.poll() is None:
        if note.exists() and (lines := note.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise RuntimeError("The browser did not start.")


def main() -> int:
    """Takes the pictures that are named, or all."""
    known = pictures(Settings.load())
    names = [picture.name for picture in known]
    parser = argparse.ArgumentParser(description="Takes the pictures of the documentation from a running platform.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names)}; all by default")
    parser.add_argument("--browser", help="Chromium or Chrome; by default the first that is on the path")
    parser.add_argument("--folder", type=Path, default=PROJECT / "docs" / "images")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(names)):
        parser.error(f"there is no picture {unknown[0]}; there are {', '.join(names)}")
    command = arguments.browser or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if command is None:
        print(f"None of {', '.join(BROWSERS)} is on the path; give --browser.", file=sys.stderr)
        return 1
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with browser(command) as page:
        for picture in known:
            if arguments.names and picture.name not in arguments.names:
                continue
            try:
                page.take(picture, arguments.folder / f"{picture.name}.png")
            except (TimeoutError, RuntimeError) as error:
                failed += 1
                print(
                    f"✗ {picture.name}: {error} Is `make up` running, and does it say that it serves?", file=sys.stderr
                )
            else:
                print(f"✓ {arguments.folder / picture.name}.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
