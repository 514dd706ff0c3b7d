"""How a command ends: what is deliberate, asked wrongly or refused by the machine is a message and an exit code.

Everything else is a fault of ours, and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

import click

from pilotage.errors import ConfigError, PilotageError

REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    }
)
"""Numbers of what the operating system refuses for a reason that a person can mend, and not the code."""


def run(command: Callable[[], Any]) -> int:
    """Runs a command and gives its exit code: 1 for what went wrong, 2 for what was asked wrongly, 130 for Ctrl-C."""
    from pilotage.cli.console import print_error

    try:
        result = command()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return 130
    except ConfigError as error:
        print_error(error)
        return 2
    except PilotageError as error:
        print_error(error)
        return 1
    except BrokenPipeError:
        # The reader of our output has seen enough. Nothing may be flushed into the closed pipe at exit.
        sys.stdout = None
        return 0
    except UnicodeEncodeError as error:
        if not any(error.object in word for word in sys.argv):
            raise
        print_error(ConfigError(f"{error.object!r} is no UTF-8.", fix="Write it in UTF-8."))
        return 2
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        print_error(PilotageError(f"{what}.", fix="See that this user may use it, and that its disk has room."))
        return 1
    return result if isinstance(result, int) else 0
