"""Keeps a serving process in line with what was decided: follows the plans, loads versions, and swaps boards.

One thread follows the plans, and carries out at once what needs no loading: a kill, a rollback to a version that is
loaded, another share. Another one heeds what is on this host's disk, as the plans may be out of reach: kills that were
noted, and what other workers read. A third loads, which takes seconds; a version that can't be served is refused and
remembered with its reason, and the version before goes on answering. A fourth tends the online state. A fifth remembers
the plans: what holds it up, a disk or another worker, holds up no kill. Where plans are read from is handed in, so that
this file knows no database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pilotage.errors import PilotageError, UnknownModel
from pilotage.policy import Serving
from pilotage.runtime.board import Admission, Board, Key, Loaded, arrange, load
from pilotage.runtime.kill_notes import HeededKills, KillNotes
from pilotage.runtime.plan import Assignment, Plan
from pilotage.runtime.plans_file import HostsPlans, LastKnown, PlansFile
from pilotage.runtime.probe import admit
from pilotage.runtime.problems import Problems
from pilotage.runtime.refusals import Refusals
from pilotage.runtime.standing import changes, misunderstood, standing, state_through
from pilotage.runtime.state import OnlineState

POLL_S = 0.5
"""Seconds between two looks at the plans."""
_PATIENCE_S = 2.0
"""Seconds after which a start without plans goes by the last known ones, though the ledger may still answer."""
_TEND_S = 1.0
"""Seconds between two looks at the online state."""
_BREATH_S = 0.005
"""Seconds between two chores: who answers gets its turn."""
_NOTES, _KILLS, _HOST = "plans.json", "kills", "last known plans"
"""Stand for plans to be remembered, kills that were noted, and plans that others remember, among the problems."""


class Follower:
    """The boards of the models that this process serves."""

    def __init__(
        self,
        models: Sequence[str],
        *,
        releases: Callable[[], Mapping[str, Plan]],
        bundles: Path,
        online: Path,
        report: Callable[[str], None],
        remember: Path | None = None,
        source: str = "ledger",
        policies: Mapping[str, Serving] | None = None,
        chores: Iterable[Callable[[], None]] = (),
        admission: Admission = admit,
    ) -> None:
        """Starts nothing yet.

        Args:
            models: The models to serve.
            releases: Gives the plan of each model that has one. Called by one thread at a time.
            bundles: Folder in which copies of bundles are kept.
            online: Folder of the online stores.
            report: Called with a sentence for each thing that an operator should know.
            remember: Folder of the last known plans and of kills that were noted; ``None`` for neither.
            source: What people call where ``releases`` come from.
            policies: How each model is served; what is missing has the defaults.
            chores: Called in the background, about once a second.
            admission: Decides whether a bundle is fit to serve.
        """
        self.models = tuple(models)
        self.boards: dict[str, Board] = {}
        """Model → its board; what is missing was never promoted. A board is read with one look-up, from any thread."""
        self.loads = 0
        """Versions loaded so far."""
        self._releases = releases
        self._bundles = bundles
        self._states = {model: OnlineState(online / f"{model}.db") for model in models}
        self._report = report
        self._source = source
        self._file = PlansFile(remember) if remember is not None else None
        self._kills = HeededKills(KillNotes(remember) if remember is not None else None)
        self._host = HostsPlans(self._file)
        self._policies = policies or {}
        self._chores = tuple(chores)
        self._admission = admission
        self._plans: LastKnown | None = None
        """What is carried out, as of when its reading began: what was read last, or else recalled; or others read
        since."""
        self._read: LastKnown | None = None
        self._written: dict[str, Plan] | None = None
        """What is remembered."""
        self._reading = True
        """Whether the last attempt to read the plans went well."""
        self._looked = False
        """Whether there was one."""
        self._known: dict[str, dict[Key, Loaded]] = {model: {} for model in models}
        self._refusals = Refusals()
        self._problems = Problems(report)
        """Model → what an operator should know; the empty name stands for the plans themselves."""
        self._stateless: dict[str, str] = {}
        """Model → why its online state can't answer."""
        self._lock = threading.RLock()
        self._following = threading.Lock()
        """Held from the reading of the plans until they are carried out: nobody carries out older ones after newer."""
        self._stop = threading.Event()
        self._missing = threading.Event()
        self._changed = threading.Event()
        self._settled = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, pause), name=f"pilotage-{name}", daemon=True)
            for name, work, pause in (
                ("follower", self.follow, lambda: self._stop.wait(POLL_S)),
                ("kills", self.heed, lambda: self._stop.wait(POLL_S)),
                ("loader", self.load_missing, lambda: _until(self._missing)),
                ("notes", self._keep_notes, lambda: None),
                ("tender", self.tend, lambda: self._stop.wait(_TEND_S)),
            )
        ]

    def start(self) -> None:
        """Begins to follow, in the background; a model whose kill was noted does not answer even once."""
        self.heed()
        for thread in self._threads:
            thread.start()

    def until_settled(self, timeout_s: float) -> bool:
        """Waits until every version that the first plans name was loaded or refused; whether that is so in time."""
        return self._settled.wait(timeout_s)

    def stop(self) -> None:
        """Ends the threads, remembers what is new, and closes the stores."""
        for event in (self._stop, self._missing, self._changed, self._settled):
            event.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        if not any(thread.is_alive() for thread in self._threads):
            self.remember()
        for state in self._states.values():
            state.close()

    def board(self, model: str) -> Board | None:
        """Who answers for a model now; ``None`` before its first promotion.

        Raises:
            UnknownModel: There is no such model.
        """
        if (board := self.boards.get(model)) is None and model not in self._states:
            raise UnknownModel(
                f"There is no model {model[:100]!r}.", fix=f"Use one of: {', '.join(self.models)}.", model=model[:100]
            )
        return board

    def trouble(self, model: str) -> str | None:
        """What is wrong with a model, in a sentence; else, with the plans that all of them wait for."""
        by_ledger = misunderstood(self.boards.get(model))
        found = (
            self._kills.told(model),
            self._problems.about(model),
            self._stateless.get(model),
            by_ledger,
            *map(self._problems.about, ("", _NOTES, _KILLS, _HOST)),
        )
        return next(filter(None, found), None)

    def ready(self, model: str | None = None) -> bool:
        """Whether a model (all of them, without a name) has a version loaded that may answer, and its state; a model
        that was killed is ready to say so."""
        return all(self._ready(each) for each in (self.models if model is None else (model,)))

    def state_through(self, model: str) -> datetime | None:
        """How far a model's history knows (UTC); ``None`` if there is none."""
        board = self.boards.get(model)
        return state_through(board) if board is not None else None

    def status(self) -> list[dict[str, object]]:
        """What is served, one entry a model."""
        return [self._entry(model) for model in self.models]

    def look(self) -> None:
        """Looks once, takes up whatever is new, and loads it. What the threads do; tests may."""
        self.heed()
        self.follow()
        self.remember()
        self.load_missing()
        self.tend()

    def heed(self) -> None:
        """Carries out kills that were noted on this host, and what its other workers read and this one did not.

        Any thread may; it waits for nobody but the disk.
        """
        noted = self._problems.looked(_KILLS, self._kills.look, "Kills that were noted on this host")
        if self._problems.looked(_HOST, self._host.look, "The last known plans") or noted:
            self._arrange_all()
        if self._host.known is None:
            # It is gone, or damaged: it is to be written again.
            self._written = None

    def follow(self) -> None:
        """Reads the plans, and carries out what needs no loading. Any thread may; it waits for the ledger alone."""
        with self._following:
            try:
                gone, began = self._kills.gone(), datetime.now(UTC)
                read = LastKnown(plans=dict(self._releases()), at=datetime.now(UTC))
            except Exception as error:
                # The ledger may be down for a while; what is loaded goes on answering.
                self._reading = False
                self._problems.tell("", f"The releases can't be read: {error}")
                if self._plans is None:
                    self._recall(f"The releases can't be read: {error}")
            else:
                with self._lock:
                    self._problems.solved("")
                    self._plans, self._read, self._reading = replace(read, at=began), read, True
                    self._kills.let_go(gone)
            self._looked = True
            self._arrange_all()
        self._changed.set()

    def remember(self) -> None:
        """Notes the plans that the ledger said last, for a restart without it. Waits for the disk."""
        read = self._read
        if self._file is None or read is None or read.plans == self._written:
            return
        try:
            self._written = self._file.write(read.plans, at=read.at)
        except OSError as error:
            self._problems.tell(_NOTES, f"The plans can't be remembered for a restart: {error}")
        else:
            self._problems.solved(_NOTES)

    def load_missing(self) -> None:
        """Loads every version that has a role, the most important first, until none is left to try."""
        while not self._stop.is_set():
            if (wanted := next(iter(self._wanted()), None)) is None:
                break
            self._load(*wanted)
        if self._looked:
            self._settled.set()

    def tend(self) -> None:
        """Takes up replaced online stores, and does the chores."""
        for model, board in list(self.boards.items()):
            self._refresh_state(model, board.champion or board.previous)
        for chore in self._chores:
            self._stop.wait(_BREATH_S)
            try:
                chore()
            except Exception as error:
                # The others have nothing to do with it.
                self._problems.tell("chore", f"{type(error).__name__}: {error}")

    def _wanted(self) -> Iterable[tuple[str, Assignment]]:
        for turn in range(4):
            # First the champion of every model, then the canaries, the champions before, and the shadows.
            for model, plan in (self._plans.plans if self._plans else {}).items():
                roles = ((plan.champion,), (plan.canary,), (plan.previous,), plan.shadows)[turn]
                for assignment in roles:
                    if assignment is None or model not in self._known:
                        continue
                    key = (assignment.version, assignment.bundle_sha256)
                    if key not in self._known[model] and self._refusals.may_try(model, key):
                        yield model, assignment

    def _load(self, model: str, assignment: Assignment) -> None:
        key = (assignment.version, assignment.bundle_sha256)
        try:
            policy = self._policies.get(model) or Serving()
            loaded = load(model, assignment, bundles=self._bundles, policy=policy, admission=self._admission)
        except Exception as error:
            # Whatever it is: this thread must live to see the next version, and what is loaded goes on answering.
            self._refusals.add(model, key, f"version {assignment.version} is refused: {error}")
            self._report_refusals(model)
            return
        board = self.boards.get(model)
        # Before it answers its first request.
        self._refresh_state(model, (board.champion if board else None) or loaded)
        with self._lock:
            self._known[model][key] = loaded
            self._refusals.solved(model, key)
            self.loads += 1
            self._arrange_all()

    def _arrange_all(self) -> None:
        with self._lock:
            self._plans = self._host.over(self._plans)
            for model in self.models:
                plan = self._kills.applied(model, self._plans.plans.get(model) if self._plans else None)
                if self._looked and (plan is None or (plan.champion is None and not plan.killed)):
                    self._problems.tell(model, "none was promoted yet")
                if plan is not None:
                    self._arrange(plan)
        # Also if nothing is: the loader says when all is there.
        if not self._settled.is_set() or next(iter(self._wanted()), None) is not None:
            self._missing.set()

    def _arrange(self, plan: Plan) -> None:
        model, before = plan.model, self.boards.get(plan.model)
        try:
            board = arrange(plan, self._known[model], before, self._states[model])
        except PilotageError as error:
            self._problems.tell(model, f"the plan can't be carried out: {error}")
            return
        if before is not None and before.plan == plan and before.loaded().keys() == board.loaded().keys():
            self._report_refusals(model)
            return
        # One assignment: a request sees the old board or the new one, whole.
        self.boards[model] = board
        self._known[model] = board.loaded()
        self._refusals.keep(model, {(each.version, each.bundle_sha256) for each in plan.assignments()})
        if board.champion is not None or board.killed:
            self._problems.solved(model)
        self._report_refusals(model)
        for change in changes(before, board):
            self._report(change)

    def _report_refusals(self, model: str) -> None:
        if reasons := self._refusals.reasons(model):
            self._problems.tell(model, reasons)

    def _refresh_state(self, model: str, loaded: Loaded | None) -> None:
        """Takes up a replaced online store, and notes whether it can answer: a missing one is found before the first
        request."""
        reason = ""
        if loaded is not None and loaded.predictor.bundle.asof:
            state = self._states[model]
            try:
                state.refresh()
                state.check(loaded.predictor.bundle)
            except PilotageError as error:
                reason = str(error)
        before = self._stateless.get(model)
        if reason:
            self._stateless[model] = reason
            if before != reason:
                self._report(f"{model}: {reason}")
        elif self._stateless.pop(model, None):
            self._report(f"{model} has its online state")

    def _keep_notes(self) -> None:
        """Remembers plans that changed. Where the first look takes long, those that were last known are gone by."""
        if self._plans is None and not self._changed.wait(_PATIENCE_S):
            self._recall(f"The releases could not be read within {_PATIENCE_S:g} s")
        _until(self._changed)
        self.remember()

    def _recall(self, why: str) -> None:
        """Goes by the last known plans, as there is no other way to know; unless there are newer ones by now."""
        self.heed()
        with self._lock:
            known = self._host.known
            if known is None or self._plans is not None:
                return
            self._plans, self._reading, self._looked = known, False, True
            self._problems.tell("", why)
            self._report(f"The releases can't be read; going by those that were last known, of {known.at:%F %T} UTC")
            self._arrange_all()

    def _ready(self, model: str) -> bool:
        board = self.boards.get(model)
        if board is None:
            return False
        if board.killed:
            return True
        return (board.champion is not None or board.previous is not None) and model not in self._stateless

    def _entry(self, model: str) -> dict[str, object]:
        return {
            "model": model,
            "ready": self._ready(model),
            "problem": self.trouble(model),
            "plans_from": self._source if self._reading else "last known copy",
            "plans_as_of": self._plans.at if self._plans else None,
            **standing(self.boards.get(model)),
        }

    def _repeat(self, work: Callable[[], None], pause: Callable[[], object]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except Exception as error:
                # These threads end with the process and not before.
                self._report(f"{threading.current_thread().name}: {type(error).__name__}: {error}")
            pause()


def _until(happened: threading.Event) -> None:
    happened.wait()
    happened.clear()
