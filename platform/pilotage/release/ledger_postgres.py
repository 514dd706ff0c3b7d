"""PostgreSQL connections that never wait for ever: a server that hangs fails like one that is gone.

The kernel's timeouts find a host that is gone, and the server's own a statement that takes long. Neither finds a server
that is stopped, or stuck at its disk, on a host that still acknowledges what it is sent: libpq waits for it without a
bound. So one thread looks, once a second, who waits for too long, and hangs up.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from psycopg2 import OperationalError
from psycopg2.extensions import connection, cursor

_LOOK_S = 1.0


class BoundedConnection(connection):  # type: ignore[misc]  # psycopg2 comes without types
    """Whatever it asks the server, it gives up in time, and is of no more use then."""

    def __init__(self, *arguments: Any, usual_s: float, **named: Any) -> None:
        """Connects.

        Args:
            arguments: As for psycopg2's.
            usual_s: Seconds that the server's answer may take.
            named: As for psycopg2's.
        """
        super().__init__(*arguments, **named)
        self._usual_s = usual_s
        self.patience_s = usual_s
        """Seconds that an answer may take, until the transaction's end."""
        # A number of its own: libpq may have closed its one when it is used, and another file have got that.
        self._line = os.dup(self.fileno())
        self._let_go = weakref.finalize(self, os.close, self._line)

    def cursor(self, *arguments: Any, **named: Any) -> Any:
        """A cursor whose statements are bounded."""
        return super().cursor(*arguments, **{"cursor_factory": _BoundedCursor, **named})

    def commit(self) -> None:
        """Commits. Where the server does not answer, nobody knows whether it did."""
        with self.bounded():
            super().commit()
        self.patience_s = self._usual_s

    def rollback(self) -> None:
        """Rolls back."""
        with self.bounded():
            super().rollback()
        self.patience_s = self._usual_s

    def close(self) -> None:
        """Closes it."""
        super().close()
        self._let_go()

    def hang_up(self) -> None:
        """Ends the waiting for the server: whoever waits for it then learns that it is gone."""
        with socket.socket(fileno=os.dup(self._line)) as line, suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Bounds what is asked within.

        Raises:
            OperationalError: The server did not answer in time.
        """
        deadline = time.monotonic() + self.patience_s
        _watch.begin(self, deadline)
        try:
            yield
        except OperationalError as error:
            if time.monotonic() >= deadline:
                raise OperationalError(f"the server did not answer within {self.patience_s:g} s") from error
            raise
        finally:
            _watch.end(self)


class _BoundedCursor(cursor):  # type: ignore[misc]
    connection: BoundedConnection

    def execute(self, *arguments: Any) -> None:
        with self.connection.bounded():
            super().execute(*arguments)


class _Watch:
    """Who waits for a server, and until when at most; one thread for all, as one for each would cost more than it asks
    for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[BoundedConnection, float] = {}
        self._thread: threading.Thread | None = None
        self._never = threading.Event()
        """To wait by."""

    def begin(self, held: BoundedConnection, deadline: float) -> None:
        with self._lock:
            self._waiting[held] = deadline
            # In a process that was forked it is there, and does not run.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="postgresql-watch", daemon=True)
                self._thread.start()

    def end(self, held: BoundedConnection) -> None:
        with self._lock:
            self._waiting.pop(held, None)

    def _run(self) -> None:
        while True:
            self._never.wait(_LOOK_S)
            now = time.monotonic()
            with self._lock:
                for held, deadline in self._waiting.items():
                    if now >= deadline:
                        held.hang_up()


_watch = _Watch()
