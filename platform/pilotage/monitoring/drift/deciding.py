"""One window, measured → what it means: which columns drifted, whether that is an alarm, and why.

Explicit state in, explicit state out; nothing is read or written here. Drift is a reason to look and to ask for a
retraining, never a reason to promote or to stop anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta

import msgspec

from pilotage.monitoring.drift.bins import Bins, Role
from pilotage.monitoring.drift.counting import Days
from pilotage.monitoring.drift.learning import level, lower_level, score, threshold
from pilotage.monitoring.drift.measures import MEASURES, decided_on, measures, noise, null_rate
from pilotage.monitoring.drift.records import (
    ColumnDrift,
    ColumnNull,
    DriftState,
    DriftVerdict,
    ExpectedLoss,
    Measured,
    Multivariate,
    Raised,
    Thresholds,
)

MATTERS = 0.1
"""Share of the model's gain that raised features must have together, for an alarm on inputs alone."""
CLEAR_AFTER = 3
"""Windows in a row below the lower bound that close an alarm, and at least as many as a window has days: then none of
the days that raised it is in the window."""
_DAY = timedelta(days=1)
_THIN = 0.5
"""Of the learned windows' rows: with fewer, what rows alone do is added to what was learned."""


def measure(
    reference: Days, window: Days, bins: Sequence[Bins], thresholds: Thresholds, importance: Mapping[str, float]
) -> list[ColumnDrift]:
    """Compares a window with the reference, column by column; the highest score first.

    Args:
        reference: Counts of the reference's days.
        window: Counts of the window's days.
        bins: Their bins.
        thresholds: What is much.
        importance: Feature → share of the champion's gain, 0..1.
    """
    season = thresholds.season(window.days[-1] if window.days else None)
    reach = level(thresholds)
    before, now = reference.total(), window.total()
    found: list[ColumnDrift] = []
    for each in bins:
        if not before[each.name].sum() or not now[each.name].sum():
            continue  # No label is known yet, or nothing was predicted then.
        rows = float(now[each.name].sum())
        values = {name: _value(value) for name, value in measures(each, before[each.name], now[each.name]).items()}
        limits = {name: threshold(thresholds, each.name, name, season, reach) for name in decided_on(each)}
        if each.name not in thresholds.columns or rows < _THIN * thresholds.learned.rows_a_window:
            total = float(before[each.name].sum())
            limits = {name: max(limit, noise(each, name, total, rows)) for name, limit in limits.items()}
        beyond = [name for name, limit in limits.items() if (value := values[name]) is not None and value >= limit]
        null = thresholds.columns.get(each.name)
        scored = score(null, season, {name: values[name] for name in limits}) if null else None
        found.append(
            ColumnDrift(
                column=each.name,
                role=each.role,
                measures={name: Measured(value=value, threshold=limits.get(name)) for name, value in values.items()},
                null_rate=null_rate(now[each.name]),
                reference_null_rate=null_rate(before[each.name]),
                importance=importance.get(each.name, 0.0) if each.role == "input" and importance else None,
                score=scored if scored is not None and math.isfinite(scored) else None,
                drifted=bool(beyond),
                raised=False,
            )
        )
    found = _step_down(found, thresholds, season)
    return sorted(found, key=lambda one: (not one.drifted, -(one.score or -math.inf), one.column))


def decide(
    columns: Sequence[ColumnDrift],
    thresholds: Thresholds,
    state: DriftState,
    *,
    days: Sequence[date],
    rows: int,
    reference_rows: int,
    expected: ExpectedLoss | None = None,
    multivariate: Multivariate | None = None,
    incident: Iterable[date] = (),
    incident_why: str = "",
    watched: Collection[str] | None = None,
) -> tuple[DriftVerdict, DriftState]:
    """Says what a window means, given what was said before.

    A column is raised when it drifts, and stays so until it was below a lower bound (what nine of ten ordinary years
    reach) for ``CLEAR_AFTER`` windows in a row: a value that flaps is one alarm. The alarm is open while raised
    features that make ``MATTERS`` of the model's gain, a prediction, a label, or the columns together are. What can't
    be measured for a while, as labels, stays raised; a window without a classifier is one in which it found nothing.

    Args:
        columns: From ``measure``.
        thresholds: What they were measured by.
        state: What the last decision left.
        days: Days of the window.
        rows: Rows of the window.
        reference_rows: Rows of the reference.
        expected: What the model should expect to lose.
        multivariate: The columns together.
        incident: Days that are an incident, all of them so far.
        incident_why: What is unlike on them, and what is done about it.
        watched: The version's columns, and ``TOGETHER`` if they are looked at together: nothing else stays raised.
            ``None`` for all that ever was.
    """
    last = days[-1] if days else None
    repeated = state.through is not None and last is not None and last <= state.through
    raised = dict(state.raised)
    if not repeated:
        now = _raised(columns, thresholds, state, last, multivariate)
        raised = {name: each for name, each in now.items() if watched is None or name in watched}
    told = [msgspec.structs.replace(each, raised=each.column in raised) for each in columns]
    matter = _matter(told, raised)
    since = state.alarm_since
    new = bool(matter) and since is None
    cleared = not matter and since is not None
    if not repeated:
        since = (since or last) if matter else None
    alarm = since is not None if repeated else bool(matter)
    incidents = tuple(sorted(incident))
    inside = tuple(day for day in incidents if days and days[0] <= day <= days[-1])
    verdict = DriftVerdict(
        model=thresholds.model,
        version=thresholds.version,
        first=days[0] if days else None,
        last=last,
        rows=rows,
        reference_rows=reference_rows,
        alarm=alarm,
        new=new and not repeated,
        cleared=cleared and not repeated,
        why=_why(told, raised, matter, expected, multivariate, inside, incident_why, thresholds),
        columns=tuple(told),
        expected_loss=expected,
        multivariate=multivariate,
        incident=inside,
        learned=thresholds.enough,
    )
    later = DriftState(
        raised=raised, alarm_since=since, incidents=incidents, through=state.through if repeated else last
    )
    return verdict, later


def until(state: DriftState, today: date) -> DriftState:
    """A state without what lies ahead of today, as a day of requests asked in advance could leave it: until that day
    came, no window would be newer, and nothing would change. The window that ended yesterday is decided then."""
    if state.through is None or state.through <= today:
        return state
    incidents = tuple(day for day in state.incidents if day <= today)
    return msgspec.structs.replace(state, through=today - 2 * _DAY, incidents=incidents)


TOGETHER = "(together)"
"""Name under which the columns together are raised."""


def _step_down(found: list[ColumnDrift], thresholds: Thresholds, season: int) -> list[ColumnDrift]:
    """What surely drifted is no longer among those that might by chance (Westfall and Young 1993, algorithm 2.8)."""
    while True:
        left = [each.column for each in found if not each.drifted and each.column in thresholds.joint]
        if not left or not any(each.drifted for each in found):
            return found
        reach = level(thresholds, left)
        more = [
            each.column
            for each in found
            if each.column in left
            and each.score is not None
            and each.score >= reach
            and not _noisy(each, thresholds, season)
        ]
        if not more:
            return found
        found = [msgspec.structs.replace(each, drifted=True) if each.column in more else each for each in found]


def _noisy(each: ColumnDrift, thresholds: Thresholds, season: int) -> bool:
    """Whether its threshold was raised, because the window or the past has few rows: then only that one counts."""
    if (null := thresholds.columns.get(each.column)) is None or null.scarce:
        return True
    reach = level(thresholds)
    return any(
        measured.threshold is not None and measured.threshold > threshold(thresholds, each.column, name, season, reach)
        for name, measured in each.measures.items()
    )


def _raised(
    columns: Sequence[ColumnDrift],
    thresholds: Thresholds,
    state: DriftState,
    last: date | None,
    multivariate: Multivariate | None,
) -> dict[str, Raised]:
    day = last or date.min
    lower = lower_level(thresholds)
    raised: dict[str, Raised] = {}
    seen: set[str] = set()
    now: list[tuple[str, Role | None, bool, bool, float]] = [
        (one.column, one.role, one.drifted, _calm(one, lower, thresholds.columns.get(one.column)), one.score or 0.0)
        for one in columns
    ]
    effect, limit = (multivariate.effect, multivariate.threshold) if multivariate is not None else (0.0, None)
    calm = limit is None or effect < 0.8 * limit
    now.append((TOGETHER, None, multivariate is not None and multivariate.drifted, calm, effect))
    for name, role, drifted, calm, value in now:
        seen.add(name)
        before = state.raised.get(name)
        if drifted:
            worst = max(value, before.worst) if before else value
            raised[name] = Raised(since=before.since if before else day, calm=0, worst=worst, role=role)
        elif before is not None:
            windows = before.calm + 1 if calm else 0
            if windows < max(CLEAR_AFTER, thresholds.window_days):
                raised[name] = msgspec.structs.replace(before, calm=windows, role=role)
    # What could not be measured stays as it was.
    return raised | {name: each for name, each in state.raised.items() if name not in seen}


def _calm(each: ColumnDrift, lower: float, null: ColumnNull | None) -> bool:
    """Below the lower bound: what nine of ten ordinary years reach, or 0.8 of a threshold that was declared."""
    if each.score is not None and null is not None and not null.scarce:
        return each.score < lower
    return all(
        measured.value is None or measured.threshold is None or measured.value < 0.8 * measured.threshold
        for measured in each.measures.values()
    )


def _matter(columns: Sequence[ColumnDrift], raised: Mapping[str, Raised]) -> list[str]:
    """What makes the alarm; empty for none. A raised column that is not among those measured is no input: these always
    are."""
    inputs = [each for each in columns if each.raised and each.role == "input"]
    share = sum(each.importance if each.importance is not None else 1.0 for each in inputs)
    matter = [each.column for each in inputs] if share >= MATTERS else []
    measured = {each.column for each in inputs}
    return [*matter, *(name for name, each in raised.items() if name not in measured and each.role != "input")]


def _value(value: object) -> float | None:
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _why(
    columns: Sequence[ColumnDrift],
    raised: Mapping[str, Raised],
    matter: Sequence[str],
    expected: ExpectedLoss | None,
    multivariate: Multivariate | None,
    incident: Sequence[date],
    incident_why: str,
    thresholds: Thresholds,
) -> str:
    said: list[str] = []
    drifted = [each for each in columns if each.raised]
    if drifted:
        named = ", ".join(_told(each) for each in drifted[:5])
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        said.append(f"{'Drifted' if matter else 'Moved, but matters little to the model'}: {named}{more}.")
    elif not raised:
        said.append("Nothing moved more than it does in an ordinary year.")
    unmeasured = raised.keys() - {each.column for each in columns} - ({TOGETHER} if multivariate is not None else set())
    if unmeasured:
        named = ", ".join("the columns together" if name == TOGETHER else name for name in sorted(unmeasured))
        said.append(f"Not measured in this window, and beyond its threshold lately: {named}.")
    if multivariate is not None and TOGETHER in raised:
        used = ", ".join(list(multivariate.used)[:3])
        said.append(
            f"A classifier tells the window from the reference (AUC {0.5 + multivariate.effect:.2f}) by {used}."
        )
    if expected is not None and (raised or expected.suffers):
        verb = "is expected to suffer" if expected.suffers else "is not expected to suffer"
        said.append(
            f"Performance {verb}, if the probabilities can still be taken at their word: expected cost a row "
            f"{expected.reference_cost:.4g} → {expected.cost:.4g}."
        )
    if any(each.role in ("label", "concept") for each in raised.values()):
        said.append("The truth itself moved, which no estimate from the inputs shows: look at measured performance.")
    if incident:
        one, several = f"{incident[0]} is an incident", f"{incident[0]} … {incident[-1]} are an incident"
        said.append(f"{one if len(incident) == 1 else several} ({incident_why}).")
    if not thresholds.enough:
        said.append(thresholds.why)
    return " ".join(said)


def _told(each: ColumnDrift) -> str:
    """The column with the measure that is farthest beyond its threshold."""
    if not each.drifted:
        return f"{each.column} (was beyond its threshold lately)"
    beyond = [
        (measured.value / measured.threshold, name, measured)
        for name, measured in each.measures.items()
        if measured.value is not None and measured.threshold
    ]
    if not beyond:
        return each.column
    _, name, worst = max(beyond, key=lambda one: one[0])
    share = f", {each.importance:.0%} of the gain" if each.importance is not None else ""
    return f"{each.column} ({MEASURES[name].words} {worst.value:.2g}, threshold {worst.threshold:.2g}{share})"
