"""What the report of a replay tells: alarms, retrainings with what became of them, releases, and where that is from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from pilotage.features.state import microseconds
from pilotage.monitoring.alerts import Alert, AlertBook
from pilotage.policy import Retraining
from pilotage.release.events import Event
from pilotage.release.ledger import SqlLedger
from pilotage.release.retraining import attempts
from pilotage.release.retraining.requests import request
from pilotage.release.retraining.state import FENCE
from pilotage.replay.progress import Progress
from pilotage.replay.report import write_report
from pilotage.replay.report_rows import Nights, alarm_rows, release_rows, retraining_rows
from pilotage.settings import Settings
from pilotage.testing.bundles import tiny_spec
from tests.unit.monitoring.logs import shadow, write_segment
from tests.unit.release.lives import draft, registered
from tests.unit.replay.test_progress import answer

FIRST = date(2013, 3, 1)
SPEC = tiny_spec("tiny", retraining=Retraining(at_most=9))


class Replayed:
    """A replay of a few nights, by what it left behind."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.ledger = SqlLedger.of(self.settings)
        self.day = FIRST
        for each in (registered("tiny", 1), draft("promoted", 1, model="tiny")):
            self.ledger.append(each)
        self.progress = Progress(home / "year.db", model="tiny", first=FIRST, last=FIRST)

    def asks(self, cause: str) -> int:
        """A request, and the fence of its attempt."""
        by = {"settings": self.settings, "actor": "replay", "ledger": self.ledger}
        asked = request("tiny", cause, {"night": str(self.day)}, why=f"{cause} on {self.day}", **by)  # type: ignore[arg-type]
        assert asked is not None
        run = f"run {self.day}"
        return attempts.begin("tiny", asked.number, run=run, policy=SPEC.retraining, book=self.ledger)[1].fence

    def releases(self, version: int, cause: str) -> Event:
        made = registered("tiny", version)
        fence = self.asks(cause)
        self.ledger.append(replace(made, payload={**made.payload, FENCE: fence, "tried": []}))
        return self.ledger.append(draft("promoted", version, model="tiny"))

    def refuses(self, cause: str) -> None:
        payload = {"mlflow_run_id": "r", "bundle_sha256": "s", "reasons": ["It is no better."]}
        self.ledger.append(draft("refused", model="tiny", **payload, tried=[], **{FENCE: self.asks(cause)}))

    def night_is_over(self) -> None:
        self.progress.finish(self.day, "reacted", seconds=1.0)
        self.day += timedelta(days=1)

    def answers(self, version: int, told: dict[int, tuple[float, float, bool]]) -> None:
        """Number → what the version answered, what version 1 would have, and the truth."""
        now = microseconds(datetime.now(UTC))
        self.progress.keep(
            answer(str(each), prediction_id=f"p{each:05d}", version=version, probability=ours, day=str(self.day))
            for each, (ours, _, _) in told.items()
        )
        self.progress.told(self.day, [(str(each), truth, now) for each, (_, _, truth) in told.items()])
        shadows = [
            shadow(each, model="tiny", version=1, probability=theirs, at=now) for each, (_, theirs, _) in told.items()
        ]
        write_segment(self.settings.prediction_log, shadows)

    @property
    def events(self) -> list[Event]:
        return self.ledger.events()

    @property
    def nights(self) -> Nights:
        done = {day: (at, facts) for day, _, at, facts in self.progress.facts()}
        return Nights(began=self.progress.began, done=done)

    def retrainings(self) -> list[dict[str, str]]:
        return retraining_rows(self.events, self.nights, self.progress.answers(), self.settings, SPEC)


@pytest.fixture
def replayed(tmp_path: Path) -> Iterator[Replayed]:
    made = Replayed(tmp_path)
    made.releases(2, "nightly")
    made.night_is_over()
    made.ledger.append(draft("rolled_back", 2, model="tiny", to=1))
    made.night_is_over()
    made.refuses("drift")
    made.night_is_over()
    made.releases(3, "performance")
    truth = {each: (0.2 + 0.6 * (each % 2), 0.5, each % 2 == 1) for each in range(20)}
    made.answers(3, truth)
    made.night_is_over()
    yield made
    made.progress.close()
    made.ledger.close()


def test_each_retraining_is_told_with_who_asked_what_came_of_it_and_whether_it_helped(replayed: Replayed) -> None:
    rows = replayed.retrainings()
    assert [(row["replayed day"], row["asked by"], row["ended as"], row["version"]) for row in rows] == [
        ("2013-03-01", "nightly", "registered", "2"),
        ("2013-03-03", "drift", "refused", ""),
        ("2013-03-04", "performance", "registered", "3"),
    ]
    assert rows[0]["did it help"] == "promoted on 2013-03-01; no outcome yet"
    assert (rows[1]["what it said"], rows[1]["did it help"]) == (
        "It is no better.",
        "no version: the champion stayed",
    )
    # The champion before it was version 1 again: version 2 had been taken back.
    assert rows[2]["did it help"].startswith("promoted on 2013-03-04; it helped: on 20 requests that both answered")
    assert rows[2]["did it help"].endswith("against version 1")


def test_a_new_champion_that_loses_more_than_the_one_before_did_not_help(tmp_path: Path) -> None:
    made = Replayed(tmp_path)
    made.releases(2, "nightly")
    made.answers(2, {each: (0.9, 0.5, each % 2 == 1) for each in range(10)})
    made.night_is_over()
    [row] = made.retrainings()
    assert "it did not help: on 10 requests that both answered, log loss +0.5108" in row["did it help"]


def test_releases_and_rollbacks_are_told_by_the_night_that_they_were_of(replayed: Replayed) -> None:
    rows = [
        (row["replayed day"], row["event"], row["version"]) for row in release_rows(replayed.events, replayed.nights)
    ]
    assert rows == [
        ("before", "registered", "1"),
        ("before", "promoted", "1"),
        ("2013-03-01", "registered", "2"),
        ("2013-03-01", "promoted", "2"),
        ("2013-03-02", "rolled back", "2"),
        ("2013-03-04", "registered", "3"),
        ("2013-03-04", "promoted", "3"),
    ]


def test_alarms_are_told_with_what_caused_them_and_the_page_has_all_of_it(replayed: Replayed) -> None:
    with AlertBook.of(replayed.settings) as book:
        book.raise_(Alert.of("drift", "The distance of a flight moved.", model="tiny"))
        book.raise_(Alert.of("drift", "Another model's.", model="other"))
    replayed.night_is_over()
    [row] = alarm_rows(replayed.settings, "tiny", replayed.nights)
    assert (row["replayed day"], row["kind"], row["what"]) == ("2013-03-05", "drift", "The distance of a flight moved.")
    path = write_report(SPEC, settings=replayed.settings, progress=replayed.progress, first=FIRST, last=replayed.day)
    page = path.read_text(encoding="utf-8")
    for words in ("The distance of a flight moved.", "it helped: on 20 requests", "rolled back", "It is no better."):
        assert words in page
