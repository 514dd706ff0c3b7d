"""An attempt's hold on its model while a step works: a heartbeat beside the work, and the check before each commit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from pilotage.errors import LedgerConflict, PilotageError
from pilotage.release.ledger import Ledger, opened
from pilotage.release.retraining import attempts
from pilotage.release.retraining.book import state_of
from pilotage.release.retraining.records import Attempt, Request
from pilotage.settings import Settings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a step of an attempt holds. Its fence goes into whatever the attempt records."""

    model: str
    request: Request
    attempt: Attempt
    lasts: timedelta
    settings: Settings
    ledger: Ledger | None = None
    lost: threading.Event = field(default_factory=threading.Event)
    """Set as soon as it is known that somebody else carries the request out."""

    @property
    def fence(self) -> int:
        return self.attempt.fence

    def check(self) -> None:
        """Asks the ledger. To be called before whatever others will read is written.

        Raises:
            LedgerConflict: The lease is somebody else's.
        """
        with opened(self.settings, self.ledger) as book:
            attempts.check(self.model, self.fence, book=book)

    @contextmanager
    def kept(self, *, checked: bool = True) -> Iterator[None]:
        """Renews the lease beside the work of a step, and checks it at both ends.

        Args:
            checked: Not for work that ends the attempt by what it records.

        Raises:
            LedgerConflict: The lease is somebody else's; what the step made must not be read.
        """
        if checked:
            self.check()
        over = threading.Event()
        beat = threading.Thread(target=self._beat, args=(over,), name=f"lease-{self.model}", daemon=True)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()
        if checked:
            self.check()

    def _beat(self, over: threading.Event) -> None:
        # Half of it, so that one beat may fail. A step that takes less needs no event.
        while not over.wait(self.lasts.total_seconds() / 2):
            try:
                with opened(self.settings, self.ledger) as book:
                    attempts.renew(self.model, self.fence, lease=self.lasts, book=book)
            except LedgerConflict:
                self.lost.set()
                return
            except PilotageError as error:
                # The ledger may be back at the next beat; if not, the commit fails for the same reason.
                _LOG.warning("The lease of %s could not be renewed: %s", self.model, error.message)


def held_by(
    model: str, run: str, *, lasts: timedelta, settings: Settings, ledger: Ledger | None = None
) -> Lease | None:
    """The lease of a run; ``None`` if it carries no request out.

    Raises:
        LedgerConflict: Its attempt is over.
    """
    with opened(settings, ledger) as book:
        state = state_of(model, book).retraining
    for request in state.requests():
        for attempt in request.attempts:
            if attempt.run == run:
                return Lease(
                    model=model, request=request, attempt=attempt, lasts=lasts, settings=settings, ledger=ledger
                )
    return None
