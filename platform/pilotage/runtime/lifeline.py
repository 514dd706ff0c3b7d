"""Whether a process of this host still lives, told by a file that it locks for as long as it does.

A process id can be used again, and a start time has a resolution; a lock ends with its process, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pilotage.runtime.log.files import Files, RealFiles, begin_new, still_named

_ATTEMPTS = 5


class Lifeline:
    """The lock of this process, in a folder with those of others.

    Args:
        folder: Made if it isn't there.

    Raises:
        OSError: The file can't be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: Files = RealFiles()
        self._files.make_folder(folder)
        for attempt in range(_ATTEMPTS):
            self.token = os.urandom(12).hex()
            """Names this process, among all that ever were."""
            try:
                self._file = begin_new(self._files, folder / self.token)
                break
            except BlockingIOError:
                # Another process looked for the dead between the file's creation and its lock.
                if attempt == _ATTEMPTS - 1:
                    raise

    def close(self) -> None:
        """From now on this counts as dead."""
        os.close(self._file)

    def dead(self) -> Iterator[str]:
        """The tokens of dead processes whose files are still there."""
        for path in self._folder.iterdir():
            if path.name != self.token and not self._holds(path):
                yield path.name

    def alive(self, token: str) -> bool:
        """Whether the process with this token lives."""
        return token == self.token or self._holds(self._folder / token)

    def forget(self, token: str) -> None:
        """Removes the file of a dead process."""
        path = self._folder / token
        with suppress(FileNotFoundError):
            file = self._files.open(path)
            try:
                # A process that has just made its file, and did not lock it yet, notices that it is gone.
                if self._files.lock(file) and still_named(file, path):
                    self._files.remove(path)
            finally:
                os.close(file)

    def _holds(self, path: Path) -> bool:
        try:
            file = self._files.open(path)
        except FileNotFoundError:
            return False
        try:
            return not self._files.lock(file)
        finally:
            os.close(file)
