"""Who asks: the caller that a valid API key stands for, its roles and its rate limit. Records only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from pilotage.errors import NotAllowed

Role = Literal["predict", "outcomes", "read", "operate"]
"""``predict`` asks for predictions, ``outcomes`` tells the truth about them, ``read`` sees what is served and the
pages, ``operate`` kills and resumes. None of them includes another: a key gets those that it needs."""
ROLES: tuple[Role, ...] = get_args(Role)

FASTEST = 1_000_000.0
"""Requests a second that a limit may allow at most."""
LARGEST_BURST = 1_000_000
_LONGEST_NS = 366 * 86_400 * 10**9
"""A limit that takes longer to recover is a mistake, and would not fit the limiter's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How often a key may ask: ``per_second`` on average, and ``burst`` at once after a pause."""

    per_second: float
    """Above 0 and at most ``FASTEST``. A batch counts as many as it has rows."""
    burst: int
    """From 1 to ``LARGEST_BURST``; also the largest batch that the key can ever send."""
    interval_ns: int = field(init=False, repr=False, compare=False)
    """Nanoseconds that one request takes up."""
    allowance_ns: int = field(init=False, repr=False, compare=False)
    """Nanoseconds that a full burst takes up."""

    def __post_init__(self) -> None:
        # Written so that a NaN fails.
        if not 0 < self.per_second <= FASTEST:
            raise ValueError(f"per_second is {self.per_second}, not above 0 and at most {FASTEST:,.0f}")
        if not isinstance(self.burst, int) or not 1 <= self.burst <= LARGEST_BURST:
            raise ValueError(f"burst is {self.burst}, not from 1 to {LARGEST_BURST:,}")
        # No whole number yet: it may be infinite.
        interval = 1e9 / self.per_second
        if interval * self.burst > _LONGEST_NS:
            raise ValueError(f"a burst of {self.burst} at {self.per_second:g} a second takes more than a year")
        interval_ns = max(1, round(interval))
        object.__setattr__(self, "interval_ns", interval_ns)
        object.__setattr__(self, "allowance_ns", interval_ns * self.burst)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. Made once per key and file version, shared by all its requests."""

    id: str
    """Of the API key; ``""`` where none is needed. It is in the prediction log, and is no secret."""
    name: str
    roles: frozenset[str]
    limit: Limit | None
    """``None`` for no limit."""

    def require(self, role: Role) -> None:
        """Lets pass whoever has a role.

        Raises:
            NotAllowed: This caller has not.
        """
        if role not in self.roles:
            raise NotAllowed(
                f"The API key {self.id} ({self.name}) has no role {role!r}; it has {', '.join(sorted(self.roles))}.",
                fix=f"Use a key that was made with --role {role}.",
                key=self.id,
                role=role,
            )


ANYBODY = Caller(id="", name="anybody on this machine", roles=frozenset(ROLES), limit=None)
"""Who asks while no key was ever made, which is fine on loopback only."""
