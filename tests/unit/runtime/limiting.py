"""A clock that is moved by hand, a key with a limit, and what it is granted."""

from __future__ import annotations

from pilotage.errors import RateLimited
from pilotage.runtime.access.caller import Caller, Limit
from pilotage.runtime.access.limiter import Limiter

SECOND = 1_000_000_000


class Clock:
    """Nanoseconds, moved by hand."""

    def __init__(self, now: int = 1_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def caller(key_id: str = "abcdefghij", per_second: float = 10, burst: int = 5) -> Caller:
    return Caller(id=key_id, name=key_id, roles=frozenset(["predict"]), limit=Limit(per_second=per_second, burst=burst))


def granted(limiter: Limiter, who: Caller, tries: int, cost: int = 1) -> int:
    count = 0
    for _ in range(tries):
        try:
            limiter.take(who, cost)
        except RateLimited:
            continue
        count += 1
    return count
