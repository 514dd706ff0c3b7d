"""How long to wait before something is tried again whose run failed. A run key is used up even by a run that fails, so
each attempt has another one."""

from datetime import timedelta

LONGEST_PAUSE = timedelta(hours=1)


def pause_before(attempt: int) -> timedelta:
    """After the attempt before it: a minute before the second, and twice as long each time, up to ``LONGEST_PAUSE``."""
    return min(timedelta(minutes=2.0 ** min(attempt - 2, 10)), LONGEST_PAUSE)
