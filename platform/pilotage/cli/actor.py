"""Who decides, for the record: who says so, else the user at the keyboard."""

from __future__ import annotations

import getpass

from pilotage.errors import ConfigError


def actor_of(name: str | None, *, say: str = "Say it: --actor NAME.") -> str:
    """The name to record.

    Args:
        name: What was said.
        say: What to do where the user has no name, as in a container that runs under any number.

    Raises:
        ConfigError: Nothing was said, and the user has no name.
    """
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ConfigError("Who decides is recorded, and this user has no name.", fix=say) from None
