"""The durable prediction log: what was answered is on the disk before the answer leaves.

One folder a host, one open segment a worker. ``writer.py`` queues and tells, ``committer.py`` says when what is
written, ``appender.py`` writes it, ``segments.py`` reads, ``repair.py`` takes over from the dead, ``framing.py`` is the
format, ``files.py`` the operating system. Nothing here knows HTTP, models or the lake; ``monitoring/`` moves sealed
segments there.
"""

from pilotage.runtime.log.queue import unavailable
from pilotage.runtime.log.repair import Adopted, adopt_orphans
from pilotage.runtime.log.segments import (
    Damage,
    Segment,
    encode,
    has_records,
    lines,
    oldest,
    payloads,
    read_segment,
    segments,
    singles,
)
from pilotage.runtime.log.writer import PredictionLog

__all__ = [
    "Adopted",
    "Damage",
    "PredictionLog",
    "Segment",
    "adopt_orphans",
    "encode",
    "has_records",
    "lines",
    "oldest",
    "payloads",
    "read_segment",
    "segments",
    "singles",
    "unavailable",
]
