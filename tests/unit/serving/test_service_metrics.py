"""Metrics of one worker, and of several that add up to one page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pilotage.errors import InvalidRequest
from pilotage.settings import PROJECT
from serving.metrics import Gauges, ServiceMetrics
from serving.metrics_files import service_of
from serving.metrics_text import (
    BATCH,
    BOUNDS,
    FAMILIES,
    MOST_SERIES,
    PHASES,
    Distribution,
    Series,
    Snapshot,
    merge,
    text,
)
from tests.full_disk import no_room
from tests.unit.serving.codec_cases import answer

PREDICT = "/{model}/predict"
SECONDS = (0.00001, 0.00003, 0.00002, 0.0003, 0.0005)


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus' own parser reads of a page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float | None:
    return samples(page).get((name, frozenset(labels.items())))


def made(folder: Path) -> ServiceMetrics:
    return ServiceMetrics(folder, models=["tiny", "other_model"], routes=[PREDICT])


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[ServiceMetrics]:
    metrics = made(tmp_path)
    metrics.start()
    yield metrics
    metrics.stop()


def test_answers_are_counted_by_model_version_stage_who_answered_and_decision(metrics: ServiceMetrics):
    metrics.answered(answer(), SECONDS)
    metrics.answered(answer(decision=True), SECONDS)
    metrics.answered(answer(decision=True, stage="canary", version=4), SECONDS)
    metrics.answered(answer(decision=None, referred=True), SECONDS)
    nobody = answer(version=None, stage=None, answered_by="nothing", probability=None, decision=None)
    metrics.answered(nobody, SECONDS)
    page = metrics.page()
    base = {"model": "tiny", "version": "3", "stage": "champion", "answered_by": "model"}
    counted = "pilotage_predictions_total"
    assert value(page, counted, **base, decision="false") == 1
    assert value(page, counted, **base, decision="true") == 1
    assert value(page, counted, **base, decision="refer") == 1
    assert value(page, counted, **{**base, "version": "4", "stage": "canary"}, decision="true") == 1
    none = {"version": "none", "stage": "none", "answered_by": "nothing", "decision": "none"}
    assert value(page, counted, model="tiny", **none) == 1


def test_answers_of_a_batch_are_counted_as_each_would_be(tmp_path: Path):
    kinds = {(True, False): 3, (False, False): 2, (None, True): 1}
    together, each_alone = made(tmp_path / "together"), made(tmp_path / "alone")
    together.answered_many(answer(), kinds)
    together.answered_many(answer(), {(True, False): 1})
    for (decision, referred), number in [*kinds.items(), ((True, False), 1)]:
        for _ in range(number):
            each_alone.answered(answer(decision=decision, referred=referred))
    counted = "pilotage_predictions_total"
    pages = [samples(metrics.page()) for metrics in (together, each_alone)]
    found = [{key: number for key, number in page.items() if key[0] == counted} for page in pages]
    assert found[0] == found[1]
    assert sum(found[0].values()) == 7


def test_each_phase_has_its_times(metrics: ServiceMetrics):
    metrics.answered(answer(), SECONDS)
    metrics.answered(answer(), (0.0, 0.0, 0.0, 99.0, 99.0))
    page = metrics.page()
    name = "pilotage_request_seconds"
    assert value(page, f"{name}_count", model="tiny", phase="total") == 2
    assert value(page, f"{name}_sum", model="tiny", phase="total") == pytest.approx(99.0005)
    buckets = {
        bound: value(page, f"{name}_bucket", model="tiny", phase="total", le=bound)
        for bound in ("0.0005", "10", "+Inf")
    }
    assert buckets == {"0.0005": 1, "10": 1, "+Inf": 2}


@given(st.lists(st.floats(0, 20), max_size=50))
def test_a_buckets_number_is_of_the_times_up_to_its_bound(times: list[float]):
    distribution = Distribution("pilotage_request_seconds", ("tiny", "total"), [0] * (len(BOUNDS) + 1), sum(times))
    from bisect import bisect_left

    for spent in times:
        distribution.counts[bisect_left(BOUNDS, spent)] += 1
    page = text(Snapshot([], [distribution]))
    for bound in BOUNDS:
        shown = str(int(bound)) if bound == int(bound) else repr(bound)
        found = value(page, "pilotage_request_seconds_bucket", model="tiny", phase="total", le=shown)
        assert found == sum(spent <= bound for spent in times)


def test_what_a_client_sends_never_becomes_a_label(metrics: ServiceMetrics):
    for number in range(50):
        metrics.requested(f"/{number}/predict", 404)
        metrics.failed(f"model-{number}", InvalidRequest("x", fix="y"))
    metrics.requested(PREDICT, 200)
    page = metrics.page()
    assert value(page, "pilotage_http_requests_total", route="other", status="404") == 50
    assert value(page, "pilotage_http_requests_total", route=PREDICT, status="200") == 1
    assert value(page, "pilotage_errors_total", model="other", error="InvalidRequest") == 50
    assert b"model-" not in page
    assert b"/7/predict" not in page


def test_even_a_mistake_can_not_make_more_series_than_there_is_room_for(metrics: ServiceMetrics):
    for number in range(MOST_SERIES + 100):
        metrics.turned_away(f"reason {number}")
    found = [key for key in samples(metrics.page()) if key[0] == "pilotage_auth_failures_total"]
    assert len(found) == MOST_SERIES + 1
    assert value(metrics.page(), "pilotage_auth_failures_total", reason="other") == 100


def test_unlogged_answers_are_on_the_page_from_the_start_so_that_the_first_one_is_an_increase(metrics: ServiceMetrics):
    assert value(metrics.page(), "pilotage_unlogged_answers_total", model="tiny") == 0


def test_the_rarer_things_are_counted_too(metrics: ServiceMetrics):
    metrics.turned_away("expired")
    metrics.rate_limited()
    metrics.explained("tiny")
    metrics.took_outcomes("tiny", 7)
    metrics.shadowed("tiny", 5, "dropped")
    metrics.answered(answer(logged=False), SECONDS)
    metrics.in_flight = 3
    page = metrics.page()
    assert value(page, "pilotage_auth_failures_total", reason="expired") == 1
    assert value(page, "pilotage_rate_limited_total") == 1
    assert value(page, "pilotage_explanations_total", model="tiny") == 1
    assert value(page, "pilotage_outcomes_total", model="tiny") == 7
    assert value(page, "pilotage_shadow_predictions_total", model="tiny", version="5", result="dropped") == 1
    assert value(page, "pilotage_unlogged_answers_total", model="tiny") == 1
    assert value(page, "pilotage_in_flight_requests") == 3
    assert value(page, "pilotage_workers") == 1
    assert value(page, "pilotage_worker_resident_bytes") > 1e6


def test_what_is_watched_is_asked_for_each_page_and_what_is_gone_disappears(metrics: ServiceMetrics):
    loaded = {3: "champion"}

    def look(gauges: Gauges) -> None:
        for version, role in loaded.items():
            gauges.set("pilotage_versions", 1, "tiny", version, role)

    metrics.watch(look)
    assert value(metrics.page(), "pilotage_versions", model="tiny", version="3", role="champion") == 1
    loaded.clear()
    assert value(metrics.page(), "pilotage_versions", model="tiny", version="3", role="champion") is None


def test_a_watcher_that_fails_hides_no_other(metrics: ServiceMetrics, caplog: pytest.LogCaptureFixture):
    def broken(gauges: Gauges) -> None:
        raise OSError("gone")

    metrics.watch(broken)
    metrics.watch(lambda gauges: gauges.set("pilotage_log_queue_depth", 4))
    assert [value(metrics.page(), "pilotage_log_queue_depth") for _ in range(3)] == [4, 4, 4]
    assert [record.message for record in caplog.records] == ["Metrics can't be read"], "once, not each second"


def test_labels_that_a_metric_does_not_have_are_a_mistake():
    with pytest.raises(ValueError, match="has the labels"):
        Gauges().set("pilotage_ready", 1)


def test_every_page_says_what_each_metric_means_and_escapes_what_it_quotes():
    page = text(Snapshot([Series("pilotage_killed", ('a"\\\n',), 1)], []))
    assert page.decode() == (
        "# HELP pilotage_killed 1 if a model's kill switch is on.\n# TYPE pilotage_killed gauge\n"
        'pilotage_killed{model="a\\"\\\\\\n"} 1\n'
    )
    assert all(family.help.endswith(".") for family in FAMILIES.values())


def test_gauges_add_up_as_their_family_says_and_counters_outlive_their_worker():
    def snapshot(number: float) -> Snapshot:
        names = ("pilotage_rate_limited_total", "pilotage_log_queue_depth", "pilotage_log_lag_seconds")
        return Snapshot(
            [*(Series(name, (), number) for name in names), Series("pilotage_ready", ("tiny",), number % 2)], []
        )

    merged = merge([(snapshot(2), True), (snapshot(3), True), (snapshot(10), False)])
    assert {series.name: series.value for series in merged.series} == {
        "pilotage_rate_limited_total": 15,
        "pilotage_log_queue_depth": 5,
        "pilotage_log_lag_seconds": 3,
        "pilotage_ready": 0,
    }


def test_two_workers_give_one_page_whichever_is_asked(tmp_path: Path):
    one, two = made(tmp_path), made(tmp_path)
    for metrics, number in ((one, 3), (two, 4)):
        metrics.start()
        for _ in range(number):
            metrics.answered(answer(), SECONDS)
        metrics.flush()
    labels = {"model": "tiny", "phase": "total"}
    for metrics in (one, two):
        assert value(metrics.page(), "pilotage_request_seconds_count", **labels) == 7
        assert value(metrics.page(), "pilotage_workers") == 2
    one.stop()
    page = two.page()
    assert value(page, "pilotage_request_seconds_count", **labels) == 7, "counters never go backwards"
    assert value(page, "pilotage_workers") == 1
    two.stop()


WORKER = """
import sys
from pathlib import Path
from serving.metrics import ServiceMetrics
from tests.full_disk import no_room
from tests.unit.serving.codec_cases import answer
metrics = ServiceMetrics(Path(sys.argv[1]), models=["tiny"], routes=[], service=sys.argv[2])
metrics.answered(answer(), (0.0,) * 4 + (0.1,))
metrics.flush()
print("ready", flush=True)
sys.stdin.read()
"""


def test_killed_workers_leave_their_counters_and_one_file(tmp_path: Path, metrics: ServiceMetrics):
    def died() -> None:
        command = [sys.executable, "-c", WORKER, str(tmp_path), service_of(os.getppid())]
        with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            assert value(metrics.page(), "pilotage_workers") == 2
            worker.send_signal(signal.SIGKILL)

    for number in (1, 2, 3):
        died()
        page = metrics.page()
        assert value(page, "pilotage_workers") == 1
        assert value(page, "pilotage_request_seconds_count", model="tiny", phase="total") == number
    [service] = [path for path in tmp_path.iterdir() if path.is_dir()]
    # Ours, the last worker's, and what the first two left.
    assert len(list(service.glob("*.metrics"))) == 3


def test_a_service_that_is_gone_leaves_nothing_behind(tmp_path: Path):
    gone = tmp_path / "999999999-1"
    gone.mkdir()
    (gone / "1-aa.metrics").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    made(tmp_path).stop()
    assert {path.name for path in tmp_path.iterdir()} == {"notes", service_of(os.getppid())}


def test_on_a_full_disk_a_worker_starts_and_its_own_page_has_its_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    one, two = made(tmp_path), made(tmp_path)
    two.flush()
    errors = "pilotage_errors_total"
    with no_room():
        one.start()
        for number in (1, 2):
            one.failed("tiny", InvalidRequest("no", fix="ask"))
            assert value(one.page(), errors, model="tiny", error="InvalidRequest") == number
            assert value(two.page(), errors, model="tiny", error="InvalidRequest") is None
    assert [record.levelname for record in caplog.records if "can't be shared" in record.message] == ["WARNING"] * 2
    one.page()
    assert value(two.page(), errors, model="tiny", error="InvalidRequest") == 2
    one.stop()
    two.stop()


def test_a_worker_starts_where_no_folder_can_be_made_for_its_numbers(tmp_path: Path):
    (tmp_path / "metrics").write_text("")
    metrics = made(tmp_path / "metrics")
    metrics.start()
    assert b"pilotage_request_seconds" in metrics.page()
    metrics.stop()


def test_pages_taken_while_others_write_never_go_backwards(tmp_path: Path):
    one, two = made(tmp_path), made(tmp_path)
    one.flush()
    two.flush()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            two.answered(answer(), SECONDS)
            two.flush()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        seen = [
            value(metrics.page(), "pilotage_request_seconds_count", model="tiny", phase="total") or 0
            for _ in range(60)
            for metrics in (one, two)
        ]
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)
    one.stop()
    two.stop()


def test_every_phase_is_on_the_page(metrics: ServiceMetrics):
    assert {
        dict(labels)["phase"] for name, labels in samples(metrics.page()) if name == "pilotage_request_seconds_count"
    } == {*PHASES, BATCH}


def test_a_row_of_a_batch_has_no_time_of_its_own(metrics: ServiceMetrics):
    for _ in range(100):
        metrics.answered(answer())
    metrics.timed_batch("tiny", 0.2)
    page = metrics.page()
    name = "pilotage_request_seconds_count"
    assert value(page, name, model="tiny", phase="total") == 0
    assert value(page, name, model="tiny", phase="batch") == 1


def test_each_duration_is_counted_once_whoever_looks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.metrics._PART", 50)
    counted = ServiceMetrics(tmp_path, models=("tiny",), routes=())
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            counted.flush()

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(20_000):
        counted.timed("tiny", (0.5, 0.25, 0.125, 0.0625, 1.0))
    done.set()
    looking.join()
    page = counted.page()
    assert value(page, "pilotage_request_seconds_count", model="tiny", phase="total") == 20_000
    for phase, seconds in zip(PHASES, (0.5, 0.25, 0.125, 0.0625, 1.0), strict=True):
        assert value(page, "pilotage_request_seconds_sum", model="tiny", phase=phase) == 20_000 * seconds


def test_the_how_to_names_every_metric_and_no_other():
    page = (PROJECT / "docs" / "how-to" / "monitor-the-service.md").read_text()
    named = {name.removesuffix("_bucket") for name in re.findall(r"pilotage_[a-z_]+", page)}
    assert named == set(FAMILIES)
