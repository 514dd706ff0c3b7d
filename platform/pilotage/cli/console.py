"""Where commands print: results to standard output, what people should notice to standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pilotage.errors import PilotageError


def out() -> Console:
    """The console of results."""
    from rich.console import Console

    return Console(soft_wrap=True)


def err() -> Console:
    """The console of errors and progress."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output, dates as ISO 8601."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def print_error(error: PilotageError) -> None:
    """What is wrong in red, and below it what to do."""
    from rich.text import Text

    console = err()
    console.print(Text.assemble(("Error: ", "bold red"), (error.message, "red")))
    console.print(Text.assemble(("Fix: ", "bold"), error.fix))
