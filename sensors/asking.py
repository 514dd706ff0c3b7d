"""What sensors share that ask for runs: which runs are under way, and how one says that it asks for none."""

import dagster as dg

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def skipped(reason: str, *, cursor: str | None = None) -> dg.SensorResult:
    """No run is asked for, and why; with a cursor, what the next tick is to know."""
    return dg.SensorResult(skip_reason=dg.SkipReason(reason), cursor=cursor)
