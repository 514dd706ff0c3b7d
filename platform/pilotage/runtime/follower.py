"""Keeps the champions of a serving process up to date: one thread that follows the releases, and swaps.

A release that can't be served is refused and remembered with its reason; the version before goes on answering. Where
releases are read from is handed in, so that this file knows no database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pilotage.errors import ModelNotReady, PilotageError, UnknownModel
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.probe import admit
from pilotage.runtime.shelf import fetch
from pilotage.runtime.state import OnlineState

POLL_S = 1.0
"""Seconds between two looks at the releases."""
_LONGEST_PAUSE_S = 60.0
"""Seconds between two attempts at a release that was refused. It may only have been a full disk."""


class Champion(Protocol):
    """What the follower reads of a release (``pilotage.release.state.Release``)."""

    @property
    def version(self) -> int: ...
    @property
    def bundle(self) -> str: ...
    @property
    def bundle_sha256(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def promoted_at(self) -> datetime: ...
    @property
    def trained_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A version that answers. Requests hold on to one object, so version and score always belong together."""

    predictor: Predictor
    state: OnlineState | None
    release: Champion
    loaded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Retry:
    """When a refused release is tried again."""

    sequence: int
    not_before: float
    pause_s: float


class Follower:
    """The champions that this process serves."""

    def __init__(
        self,
        models: Sequence[str],
        *,
        releases: Callable[[], Mapping[str, Champion]],
        bundles: Path,
        online: Path,
        report: Callable[[str], None],
        poll_s: float = POLL_S,
    ) -> None:
        """Starts nothing yet.

        Args:
            models: The models to serve.
            releases: Gives the champion of each model that has one.
            bundles: Folder in which copies of bundles are kept.
            online: Folder of the online stores.
            report: Called with a sentence for each thing that an operator should know.
            poll_s: Seconds between two looks.
        """
        self.models = tuple(models)
        self._releases = releases
        self._bundles = bundles
        self._online = {model: OnlineState(online / f"{model}.db") for model in models}
        self._report = report
        self._poll_s = poll_s
        self._serving: dict[str, Serving] = {}
        self._problems: dict[str, str] = {}
        """Model → what an operator should know; the empty name stands for the releases themselves."""
        self._stateless: set[str] = set()
        """Models whose online state can't answer."""
        self._retries: dict[str, _Retry] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pilotage-follower", daemon=True)

    def start(self) -> None:
        """Begins to follow, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and closes the stores."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        for state in self._online.values():
            state.close()

    def serving(self, model: str) -> Serving:
        """The version that answers for a model, now.

        Raises:
            UnknownModel: There is no such model.
            ModelNotReady: It has no verified champion.
        """
        if (serving := self._serving.get(model)) is not None:
            return serving
        if model not in self.models:
            raise UnknownModel(
                f"There is no model {model[:100]!r}.", fix=f"Use one of: {', '.join(self.models)}.", model=model[:100]
            )
        problem = self._trouble(model)
        raise ModelNotReady(
            f"{model} has no champion that can be served" + (f": {problem}" if problem else "."),
            fix="Release one: pilotage promote " + model + " VERSION.",
            model=model,
        )

    def ready(self) -> bool:
        """Whether every model has a verified champion loaded, with its state."""
        return all(self._ready(model) for model in self.models)

    def status(self) -> list[dict[str, object]]:
        """What is served, one entry a model."""
        answer: list[dict[str, object]] = []
        for model in self.models:
            serving = self._serving.get(model)
            entry: dict[str, object] = {
                "model": model,
                "ready": self._ready(model),
                "problem": self._trouble(model),
                "version": None,
            }
            if serving is not None:
                bundle = serving.predictor.bundle
                entry |= {
                    "version": serving.predictor.version,
                    "promoted_at": serving.release.promoted_at,
                    "trained_at": serving.release.trained_at,
                    "loaded_at": serving.loaded_at,
                    "bundle_sha256": bundle.sha256,
                    "label": bundle.label,
                    "threshold": bundle.threshold,
                    "state_through": _through(serving),
                }
            answer.append(entry)
        return answer

    def look(self) -> None:
        """Looks once, and takes up whatever is new. The thread calls this; tests may."""
        try:
            releases = self._releases()
        except Exception as error:
            # The ledger may be down for a while; what is loaded goes on answering.
            self._problem("", f"The releases can't be read: {error}")
            return
        self._problems.pop("", None)
        for model in self.models:
            release = releases.get(model)
            if release is None:
                self._problem(model, "none was promoted yet")
            elif self._is_new(model, release):
                self._take_up(model, release)
            if model in self._serving:
                self._watch_state(model)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._poll_s)

    def _is_new(self, model: str, release: Champion) -> bool:
        serving, retry = self._serving.get(model), self._retries.get(model)
        if serving is not None and serving.release.sequence == release.sequence:
            return False
        return retry is None or retry.sequence != release.sequence or time.monotonic() >= retry.not_before

    def _take_up(self, model: str, release: Champion) -> None:
        try:
            folder = fetch(
                Path(release.bundle),
                sha256=release.bundle_sha256,
                shelf=self._bundles,
                model=model,
                version=release.version,
            )
            bundle = admit(folder, sha256=release.bundle_sha256)
            predictor = Predictor(bundle, release.version)
            predictor.warm()
        except Exception as error:
            # Whatever it is: this thread must live to see the next release, and what is loaded goes on answering.
            before = self._retries.get(model)
            again = before is not None and before.sequence == release.sequence
            pause = min(_LONGEST_PAUSE_S, 2 * before.pause_s if again and before else self._poll_s)
            self._retries[model] = _Retry(sequence=release.sequence, not_before=time.monotonic() + pause, pause_s=pause)
            self._problem(model, f"version {release.version} is refused: {error}")
            return
        state = self._online[model] if bundle.asof else None
        # One assignment: a request sees the old version or the new one, whole.
        self._serving[model] = Serving(predictor=predictor, state=state, release=release, loaded_at=datetime.now(UTC))
        self._problems.pop(model, None)
        self._retries.pop(model, None)
        self._report(f"{model} is served by version {release.version}")

    def _watch_state(self, model: str) -> None:
        """Notes whether the online state can answer; a missing one is found before the first request."""
        serving = self._serving[model]
        if serving.state is None:
            self._stateless.discard(model)
            return
        try:
            serving.state.check(serving.predictor.bundle)
        except PilotageError as error:
            self._stateless.add(model)
            self._problem(model, str(error))
        else:
            if model in self._stateless:
                self._stateless.discard(model)
                self._problems.pop(model, None)
                self._report(f"{model} has its online state")

    def _ready(self, model: str) -> bool:
        return model in self._serving and model not in self._stateless

    def _trouble(self, model: str) -> str | None:
        """What is wrong with a model; else, with the releases that all of them wait for."""
        return self._problems.get(model) or self._problems.get("")

    def _problem(self, model: str, what: str) -> None:
        if self._problems.get(model) != what:
            self._problems[model] = what
            self._report(f"{model}: {what}" if model else what)


def _through(serving: Serving) -> datetime | None:
    try:
        return serving.state.through if serving.state else None
    except PilotageError:
        return None
