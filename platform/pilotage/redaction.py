"""Texts that leave the platform, in logs and alarms, without what nobody may read in them."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"(?i)(bearer\s+)\S+|(://[^/\s:@]*:)[^@/\s]+(?=@)"
    r"|((?:api[_-]?key|authorization|password|secret|token)[\"']?\s*[=:]\s*[\"']?)"
    r"(?!bearer\b)[^\s\"',}]+"
)


def without_secrets(text: str) -> str:
    """A text with keys, passwords and tokens struck out."""
    return _SECRET.sub(lambda found: f"{found[1] or found[2] or found[3]}…", text)
