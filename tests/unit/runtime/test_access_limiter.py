"""Rate limits: exactly what a key may ask, however many workers it asks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import RateLimited, RequestTooLarge
from pilotage.runtime.access import slots
from pilotage.runtime.access.caller import ANYBODY
from pilotage.runtime.access.limiter import Limiter
from tests.unit.runtime.limiting import SECOND, Clock, caller, granted


def test_a_key_gets_its_burst_at_once_and_then_its_rate(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    who = caller(per_second=10, burst=5)
    assert granted(limiter, who, 20) == 5
    clock.now += SECOND // 10
    assert granted(limiter, who, 20) == 1
    clock.now += SECOND * 3 // 10
    assert granted(limiter, who, 20) == 3
    clock.now += 3600 * SECOND
    assert granted(limiter, who, 20) == 5, "a pause earns no more than a burst"


def test_who_waits_as_long_as_it_was_told_is_let_through(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    who = caller(per_second=3, burst=2)
    assert granted(limiter, who, 9) == 2
    with pytest.raises(RateLimited) as caught:
        limiter.take(who)
    wait = caught.value.details["retry_after_s"]
    assert wait == pytest.approx(1 / 3)
    clock.now += int(wait * SECOND) - 1_000
    assert granted(limiter, who, 1) == 0
    clock.now += 1_001
    assert granted(limiter, who, 1) == 1


def test_a_batch_counts_as_many_as_it_has_rows_and_a_refused_one_counts_nothing(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    who = caller(per_second=10, burst=10)
    limiter.take(who, 7)
    assert granted(limiter, who, 5, cost=4) == 0
    limiter.take(who, 3)
    assert granted(limiter, who, 1) == 0


def test_a_batch_that_could_never_pass_is_too_large_not_too_early(file: Path, clock: Clock):
    with pytest.raises(RequestTooLarge, match="--burst"):
        Limiter(file, clock=clock).take(caller(burst=5), 6)


def test_what_was_paid_for_a_batch_before_its_rows_were_known_is_given_back_if_it_is_refused(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    who = caller(per_second=10, burst=5)
    limiter.take(who)
    with pytest.raises(RequestTooLarge):
        limiter.take(who, 6, paid=1)
    limiter.take(who, 2)
    limiter.take(who)
    with pytest.raises(RateLimited) as caught:
        limiter.take(who, 4, paid=1)
    clock.now += int(caught.value.details["retry_after_s"] * SECOND) + 1
    limiter.take(who)
    limiter.take(who, 4, paid=1)
    assert granted(limiter, who, 1) == 0


@given(
    st.floats(0.01, 1e6),
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 60)), max_size=40),
)
def test_a_batch_that_pays_in_two_parts_gets_and_pays_what_it_would_in_one(
    tmp_path_factory: pytest.TempPathFactory, per_second: float, burst: int, steps: list[tuple[int, int]]
):
    clock = Clock(SECOND)  # Soon after the machine was started.
    folder = tmp_path_factory.mktemp("limits")
    who = caller(per_second=per_second, burst=burst)

    def passes(limiter: Limiter, *parts: tuple[int, int]) -> bool:
        try:
            for cost, paid in parts:
                limiter.take(who, cost, paid=paid)
        except (RateLimited, RequestTooLarge):
            return False
        return True

    one, two = (Limiter(folder / name, clock=clock, slots=4) for name in ("one", "two"))
    for pause, cost in steps:
        clock.now += pause
        assert passes(one, (cost, 0)) is passes(two, (1, 0), (cost, 1))
    one.close()
    two.close()


def test_keys_do_not_share_their_limits(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    everybody = [caller(f"key{number:07}") for number in range(50)]
    assert [granted(limiter, who, 9) for who in everybody] == [5] * 50


def test_without_a_limit_nothing_is_counted(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    assert granted(limiter, ANYBODY, 1000) == 1000


@given(
    st.floats(0.01, 1e6),
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 60)), max_size=40),
)
def test_no_interval_ever_gets_more_than_rate_and_burst(
    tmp_path_factory: pytest.TempPathFactory, per_second: float, burst: int, steps: list[tuple[int, int]]
):
    """For every two grants: what was let through between them fits the burst and the time."""
    clock = Clock()
    limiter = Limiter(tmp_path_factory.mktemp("limits") / "limits", clock=clock, slots=4)
    who = caller(per_second=per_second, burst=burst)
    passed: list[tuple[int, int]] = []
    for pause, cost in steps:
        clock.now += pause
        try:
            limiter.take(who, cost)
        except (RateLimited, RequestTooLarge):
            continue
        passed.append((clock.now, cost))
    limiter.close()
    assert who.limit is not None
    for first in range(len(passed)):
        total = 0
        for moment, cost in passed[first:]:
            total += cost
            assert (total - burst) * who.limit.interval_ns <= moment - passed[first][0]


WORKER = """
import sys
from pathlib import Path
from pilotage.errors import RateLimited
from pilotage.runtime.access import slots
from pilotage.runtime.access.caller import Caller, Limit
from pilotage.runtime.access.limiter import Limiter

# However busy the machine is: this is about the lock.
slots._PATIENCE_S = 100
path, clock = Path(sys.argv[1]), sys.argv[2]
limit = Limit(per_second=float(sys.argv[3]), burst=int(sys.argv[4]))
who = Caller(id="abcdefghij", name="x", roles=frozenset(), limit=limit)
limiter = Limiter(path, clock=(lambda: int(clock))) if clock != "real" else Limiter(path)
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for _ in range(int(sys.argv[5])):
    try:
        limiter.take(who)
        granted += 1
    except RateLimited:
        pass
print(granted, flush=True)
"""


def workers(file: Path, clock: str, per_second: float, burst: int, tries: int, count: int = 4) -> int:
    """What several processes get that ask at the same time."""
    command = [sys.executable, "-c", WORKER, str(file), clock, str(per_second), str(burst), str(tries)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(int(process.communicate(timeout=120)[0]) for process in started)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_limit_holds_exactly_over_workers_that_ask_at_the_same_time(file: Path):
    """The clock stands still, so a lost update of any two of them would be a grant too many."""
    assert workers(file, str(1_000 * SECOND), per_second=1, burst=60_000, tries=20_000) == 60_000


def test_a_limit_holds_over_workers_by_the_machines_own_clock(file: Path):
    begun = time.monotonic()
    total = workers(file, "real", per_second=1_000, burst=500, tries=5_000)
    took = time.monotonic() - begun
    assert 500 <= total <= 500 + 1_000 * took


def test_who_waited_for_its_turn_gives_nothing_back(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    waiting, other = Limiter(file, clock=clock), Limiter(file, clock=clock)
    assert granted(other, caller(), 9) == 5
    acquire = waiting._slots.acquire

    def wait(name: bytes, now: int) -> int:
        # Meanwhile another worker uses up what there is.
        clock.now += 2 * SECOND
        assert granted(other, caller(), 9) == 5
        return acquire(name, now)

    monkeypatch.setattr(waiting._slots, "acquire", wait)
    assert granted(waiting, caller(), 1) == 0
    assert granted(other, caller(), 9) == 0


def test_a_worker_that_is_stopped_or_dies_holds_nobody_up(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    code = (
        "import sys, time; from pathlib import Path; from pilotage.runtime.access.slots import Slots; "
        "table = Slots(Path(sys.argv[1]), report=print); table.acquire(b'abcdefghij', 0); "
        "print('locked', flush=True); time.sleep(600)"
    )
    told: list[str] = []
    limiter = Limiter(file, clock=clock, report=told.append)
    waits: list[float] = []
    monkeypatch.setattr(slots.time, "sleep", waits.append)
    holder = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert granted(limiter, caller(), 9) == 5, "counted without the lock"
        assert len(told) == 1, "waited for once, not for each request"
        assert "without its lock" in told[0]
        waited = len(waits)
        assert granted(limiter, caller("other00000"), 9) == 5
        assert len(waits) == waited
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        fresh = Limiter(file, clock=clock, report=pytest.fail)
        assert granted(fresh, caller(), 9) == 0
        assert len(waits) == waited, "its lock went with it"
    finally:
        holder.kill()
        holder.communicate()


def test_a_worker_that_starts_later_sees_what_was_used_up(file: Path, clock: Clock):
    assert granted(Limiter(file, clock=clock), caller(), 9) == 5
    assert granted(Limiter(file, clock=clock), caller(), 9) == 0


def test_after_a_restart_of_the_machine_everybody_begins_anew(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    assert granted(Limiter(file, clock=clock), caller(per_second=0.001), 9) == 5
    monkeypatch.setattr(slots, "_boot", lambda: 12345)
    assert granted(Limiter(file, clock=Clock(now=SECOND)), caller(per_second=0.001), 9) == 5


def test_a_clock_that_starts_again_unnoticed_costs_a_burst_at_most(file: Path, clock: Clock):
    assert granted(Limiter(file, clock=clock), caller(), 9) == 5
    early = Clock(now=SECOND)
    limiter = Limiter(file, clock=early)
    assert granted(limiter, caller(), 9) == 0
    early.now += SECOND
    limiter.take(caller())


def test_a_limit_that_was_lowered_counts_at_once(file: Path, clock: Clock):
    limiter = Limiter(file, clock=clock)
    assert granted(limiter, caller(per_second=1, burst=1000), 1000) == 1000
    assert granted(limiter, caller(per_second=1, burst=10), 1) == 0
    clock.now += 10 * SECOND
    assert granted(limiter, caller(per_second=1, burst=10), 20) == 10
