"""What an alert is, and the kinds that there are: how bad each is, how it ends, and which page says what to do.

Only records and rules. What becomes of an alert over time is ``alarm.py``'s business, and who is told ``notices.py``'s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple

from pilotage.errors import ConfigError

Tier = Literal["critical", "warning", "information"]
TIERS: tuple[Tier, ...] = ("critical", "warning", "information")
"""The worst first. Critical: somebody has to come now. Warning: on the next working day. Information: good to know."""

Ends = Literal["clears", "acknowledged", "told"]
"""A condition ``clears`` when checks no longer find it; something that happened ends when somebody has ``acknowledged``
it, or once it is ``told``."""

PAGE = "docs/runbooks/alerts.md"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_LONGEST_SUMMARY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How alerts of one kind are treated."""

    tier: Tier
    """Unless whoever raises it knows better."""
    ends: Ends = "clears"
    clear_checks: int = 3
    """Checks in a row that must find nothing, ..."""
    clear_for: timedelta = timedelta(minutes=10)
    """... and for how long, before it counts as cleared. A value that flaps faster raises one alarm."""
    runbook: str = PAGE


_ONCE = timedelta(0)
_LATER = timedelta(hours=1)
KINDS: Mapping[str, Rule] = {
    # Critical.
    "data_stopped": Rule(tier="critical"),
    "service_on_fallback": Rule(tier="critical"),
    "service_down": Rule(tier="critical"),
    "guardrail_hit": Rule(tier="critical", ends="acknowledged"),
    "ledger_broken": Rule(
        tier="critical", clear_checks=1, clear_for=_ONCE, runbook="docs/runbooks/ledger-does-not-verify.md"
    ),
    "log_damaged": Rule(tier="critical", clear_checks=1, clear_for=_ONCE, runbook="docs/runbooks/prediction-log.md"),
    "daemon_silent": Rule(tier="critical"),
    "sensor_failing": Rule(tier="critical"),
    "killed": Rule(tier="critical", ends="acknowledged", runbook="docs/runbooks/a-model-answers-wrongly.md"),
    "needs_a_person": Rule(tier="critical", ends="acknowledged"),
    # Warning.
    # Drift has its hysteresis in its windows: when it says that an alarm is over, it is.
    "drift": Rule(tier="warning", clear_checks=1, clear_for=_ONCE),
    "incident": Rule(tier="warning", clear_checks=1, clear_for=_ONCE),
    "performance": Rule(tier="warning", clear_checks=2, clear_for=_LATER),
    "fairness": Rule(tier="warning", clear_checks=2, clear_for=_LATER),
    "label_quality": Rule(tier="warning", clear_checks=2, clear_for=_LATER),
    "label_lag": Rule(tier="warning", clear_checks=2, clear_for=_LATER),
    "latency": Rule(tier="warning"),
    "freshness": Rule(tier="warning"),
    "log_lag": Rule(tier="warning", runbook="docs/runbooks/prediction-log.md"),
    "skew": Rule(tier="warning", clear_checks=1, clear_for=_ONCE, runbook="docs/runbooks/skew.md"),
    "run_failed": Rule(tier="warning", clear_checks=1, clear_for=_LATER),
    "disk_full": Rule(tier="warning"),
    "key_expiry": Rule(tier="warning"),
    "certificate_expiry": Rule(tier="warning"),
    "watch_failed": Rule(tier="warning"),
    "delivery": Rule(tier="warning", clear_checks=1),
    # Information.
    "retrained": Rule(tier="information", ends="told"),
    "promoted": Rule(tier="information", ends="told"),
    "refused": Rule(tier="information", ends="told"),
    "rolled_back": Rule(tier="information", ends="told"),
    "resumed": Rule(tier="information", ends="told"),
    "alias_edited": Rule(tier="information", ends="told"),
    "waits_for_approval": Rule(tier="information", ends="told"),
    "test": Rule(tier="information", ends="told"),
}
"""Kind → rule. A kind that is not here is treated by its tier: see ``rule_of``."""

_BY_TIER: Mapping[str, Rule] = {
    "critical": Rule(tier="critical"),
    "warning": Rule(tier="warning"),
    "information": Rule(tier="information", ends="told"),
}


def rule_of(kind: str, tier: Tier) -> Rule:
    """How an alert is treated."""
    return KINDS.get(kind) or _BY_TIER[tier]


def worse(one: Tier, other: Tier) -> Tier:
    """The worse of two tiers."""
    return min(one, other, key=TIERS.index)


class Key(NamedTuple):
    """What tells one alarm from another: raising the same again is no other alarm."""

    kind: str
    model: str
    """Empty for what is about no model."""
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that somebody should know. Whoever finds it raises it, as often as it is found.

    Raises:
        ConfigError: A field does not fit.
    """

    tier: Tier
    kind: str
    """One of ``KINDS``, or another name."""
    summary: str
    """One sentence with the numbers in it, for somebody who is called at night."""
    model: str | None = None
    subject: str = ""
    """What exactly: a source, a feature, a job. Together with kind and model it names the alarm."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What it was found by: values of JSON, or of numpy and Python that have a place there. Never secrets."""
    runbook: str = ""
    """Page of the repository; by default that of the kind."""
    run_url: str = ""
    """Address of the run in the Dagster UI."""
    occurrence: str = ""
    """Names what happened once, such as a run's id: raised again it changes nothing. Empty for a condition."""

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise ConfigError(f"There is no tier {self.tier!r}.", fix=f"Use one of: {', '.join(TIERS)}.")
        if not _NAME.fullmatch(self.kind):
            raise ConfigError(f"{self.kind!r} is no kind of alert.", fix="Give a lower_snake_case name.")
        if not self.summary.strip():
            raise ConfigError(f"An alert of kind {self.kind} says nothing.", fix="Give a summary.")
        object.__setattr__(self, "summary", _short(" ".join(self.summary.split())))
        object.__setattr__(self, "evidence", _plain(dict(self.evidence)))
        object.__setattr__(self, "runbook", self.runbook or _runbook(self.kind, self.tier))

    @classmethod
    def of(cls, kind: str, summary: str, *, tier: Tier | None = None, **fields: Any) -> Alert:
        """An alert of a kind that ``KINDS`` knows, in its tier unless told otherwise.

        Raises:
            ConfigError: There is no such kind.
        """
        if kind not in KINDS:
            raise ConfigError(f"There is no kind of alert {kind!r}.", fix=f"Use one of: {', '.join(KINDS)}.")
        return cls(tier=tier or KINDS[kind].tier, kind=kind, summary=summary, **fields)

    @property
    def key(self) -> Key:
        return Key(self.kind, self.model or "", self.subject)

    @property
    def rule(self) -> Rule:
        return rule_of(self.kind, self.tier)


def _runbook(kind: str, tier: Tier) -> str:
    page = rule_of(kind, tier).runbook
    return f"{page}#{kind}" if page == PAGE and kind in KINDS else page


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SUMMARY else f"{text[: _LONGEST_SUMMARY - 2]} …"


def _plain(value: Any) -> Any:
    """Values as JSON has them. An alert must not get lost because a number in it is numpy's."""
    match value:
        case None | bool():
            return value
        # Numpy's are subclasses, and no JSON encoder knows them.
        case int():
            return int(value)
        case str():
            return str(value)
        case float():
            return float(value) if math.isfinite(value) else str(float(value))
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
    item = getattr(value, "item", None)
    if callable(item):
        return _plain(item())
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return str(value)
