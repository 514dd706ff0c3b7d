"""A replayed day's requests: their order, their pace, and which are asked again after an end in the middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from assets.models.flight_delay import MODEL
from assets.sources import load_sources
from pilotage.replay.drive import Drive
from pilotage.replay.landing import Archive, archive_of
from pilotage.replay.progress import Progress
from pilotage.replay.sender import Sent
from pilotage.settings import Settings

DAY = date(2013, 1, 25)


@pytest.fixture(scope="module")
def archive() -> Archive:
    return archive_of(MODEL, load_sources())


class Killed(BaseException):
    """What no code of ours sees coming."""


class Line:
    """Answers each request at once, and notes what was to be waited before it."""

    def __init__(self, *, killed_at: int | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.pauses: list[float] = []
        self.killed_at = killed_at

    def predict(
        self,
        requests: Sequence[tuple[str, str, Mapping[str, Any]]],
        *,
        answered: Callable[[Sent], None],
        stop: Callable[[], bool],
        pace: Callable[[int], float],
    ) -> int:
        for position, (key, request_id, _) in enumerate(requests):
            if stop():
                return position
            if position == self.killed_at:
                raise Killed
            self.pauses.append(pace(position))
            self.asked.append((key, request_id))
            answer = {"prediction_id": f"of {request_id}", "answered_by": "model"}
            answered(Sent(key=key, answer=answer, latency_ms=1.0, attempts=1))
        return len(requests)

    def tell(self, outcomes: Sequence[Mapping[str, Any]]) -> None: ...


class Idle:
    """A platform that has done everything before it is waited for."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)

    def taken_up(self, day: date, *, stop: Callable[[], bool]) -> dict[str, Any]:
        return {}

    def night(self, day: date, **_: Any) -> dict[str, Any]:
        return {}


def drive(home: Path, archive: Archive, line: Line, *, speed: float | None = None, progress: Progress) -> bool:
    return Drive(
        spec=MODEL, archive=archive, platform=Idle(home), sender=line, progress=progress, first=DAY, last=DAY,  # type: ignore[arg-type]
        speed=speed,
    ).run()  # fmt: skip


def opened(home: Path) -> Progress:
    return Progress(home / "year.db", model=MODEL.name, first=DAY, last=DAY)


def test_slowed_down_a_day_takes_its_own_time_divided_by_the_speed(tmp_path: Path, archive: Archive) -> None:
    line, progress = Line(), opened(tmp_path)
    assert drive(tmp_path, archive, line, speed=3600, progress=progress)
    moments = progress.answers()["moment"].sort()
    progress.close()
    span_s = (moments[-1] - moments[0]) / 1e6
    assert span_s > 12 * 3600
    assert sum(line.pauses) == pytest.approx(span_s / 3600)
    assert min(line.pauses) == 0.0, "some flights leave at the same minute"


def test_at_full_speed_nothing_is_waited_for(tmp_path: Path, archive: Archive) -> None:
    line, progress = Line(), opened(tmp_path)
    assert drive(tmp_path, archive, line, progress=progress)
    progress.close()
    assert set(line.pauses) == {0.0}


def test_what_a_kill_kept_from_being_written_down_is_asked_again_under_its_id(tmp_path: Path, archive: Archive) -> None:
    first, progress = Line(killed_at=120), opened(tmp_path)
    # Nothing is written down on the way out.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kept, keep = [], progress.keep
        patch.setattr(
            Progress, "keep", lambda _, answers: kept.append(len(answers)) or len(answers) < 50 or keep(answers)
        )
        drive(tmp_path, archive, first, progress=progress)
    progress.close()
    assert kept == [50, 50, 20]
    second, progress = Line(), opened(tmp_path)
    assert len(progress.answered(DAY)) == 100
    assert drive(tmp_path, archive, second, progress=progress)
    progress.close()
    assert second.asked[:20] == first.asked[100:120], "the same requests, and the same ids"
    assert not {key for key, _ in first.asked[:100]} & {key for key, _ in second.asked}
