"""From a run that fails to a message that somebody gets, through a real Dagster instance and over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._daemon.types import DaemonHeartbeat

from assets.alerts import KEY, alerts_asset
from assets.ledger import KEY as LEDGER
from assets.ledger import ledger_asset
from assets.models import load_models
from assets.predictions import LOG
from assets.skew import FEATURES
from assets.sources import load_sources
from jobs.alerts import DELIVER, alerts_job
from pilotage.cli.main import cli
from pilotage.errors import ConfigError
from pilotage.monitoring.alerts import Alert, AlertBook
from pilotage.run_tags import ATTEMPT, CAUSE
from pilotage.settings import Settings
from resources.platform_home import PlatformHome
from sensors.alerts import alerts_sensor
from sensors.failures import failure, run_failures_sensor, tier
from sensors.heartbeat import heartbeat_sensor
from tests.unit.cli.ledgers import promoted, registered

SECRET = "tok-3n-of-the-hook"


class Hook(ThreadingHTTPServer):
    """A receiver on this machine that notes what it gets, and answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.status = 200

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self.server_address[1]}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if server.status == 200:
            server.got.append(body)
        self.send_response(server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    file = tmp_path / "receivers"
    file.write_text(f"hook all {hook.address}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PILOTAGE_HOME", str(home))
    monkeypatch.setenv("PILOTAGE_ALERTS_FILE", str(file))
    return Settings.load()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


class Daemon:
    """Ticks the sensors and runs what they ask for, as the daemon does."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

        @dg.op
        def break_it() -> None:
            try:
                raise KeyError("within")
            except KeyError as error:
                raise ValueError("the aircraft table is gone (password=hunter2)") from error

        @dg.job
        def train_tiny() -> None:
            break_it()

        self.broken = train_tiny
        self.definitions = dg.Definitions(
            assets=[alerts_asset(), ledger_asset()],
            jobs=[alerts_job(), train_tiny],
            resources={"platform": PlatformHome()},
        )

    def heartbeat(self) -> str:
        sensor = heartbeat_sensor(load_sources(), load_models())
        context = dg.build_sensor_context(
            instance=self.instance, resources={"platform": PlatformHome()}, cursor=self.cursor
        )
        result: Any = sensor(context)
        self.cursor = result.cursor
        return str(result.skip_reason.skip_message)

    def alerts(self) -> tuple[list[dg.RunRequest], str]:
        context = dg.build_sensor_context(instance=self.instance, resources={"platform": PlatformHome()})
        result: Any = alerts_sensor()(context)
        return list(result.run_requests or []), result.skip_reason.skip_message if result.skip_reason else ""

    def deliver(self) -> dg.AssetMaterialization:
        done = self.definitions.resolve_job_def(DELIVER).execute_in_process(instance=self.instance)
        return done.asset_materializations_for_node("alerts")[0]

    def fail(self) -> dg.DagsterRun:
        """A run that fails, and the failure sensor's tick for it."""
        done = self.broken.execute_in_process(instance=self.instance, raise_on_error=False)
        event = next(each for each in done.all_events if each.event_type_value == "PIPELINE_FAILURE")
        context = dg.build_run_status_sensor_context(
            sensor_name="run_failures",
            dagster_event=event,
            dagster_instance=self.instance,
            dagster_run=done.dagster_run,
            resources={"platform": PlatformHome()},
        ).for_run_failure()
        run_failures_sensor()(context)
        return done.dagster_run


@pytest.fixture
def daemon(instance: dg.DagsterInstance, settings: Settings) -> Daemon:
    return Daemon(instance)


def test_a_failed_run_reaches_a_person_with_its_address_and_what_to_do(
    daemon: Daemon, hook: Hook, settings: Settings
) -> None:
    run = daemon.fail()
    # A warning waits a minute for others; until then only the table in the UI is to be brought up to date.
    [request], _ = daemon.alerts()
    assert request.tags["pilotage/due"] == "0"
    with AlertBook.of(settings, clock=lambda: datetime.now(UTC) + timedelta(minutes=2)) as later:
        from pilotage.monitoring.alerts import deliver

        done = deliver(later, settings)
    assert (done.messages, done.failures) == (1, ())
    [got] = hook.got
    assert got["title"] == "[WARNING] run failed: train_tiny"
    assert got["type"] == "warning"
    assert "break_it: ValueError: the aircraft table is gone (password=…" in got["message"]
    assert f"{settings.dagster_ui}/runs/{run.run_id}" in got["message"]
    assert "docs/runbooks/alerts.md#run_failed" in got["message"]


def test_a_job_that_succeeds_again_ends_its_alarm_and_one_that_fails_again_is_no_second_alarm(
    daemon: Daemon, settings: Settings, instance: dg.DagsterInstance
) -> None:
    daemon.fail()
    daemon.fail()
    with AlertBook.of(settings) as book:
        [alarm] = book.alarms()
        assert alarm.count == 2
        daemon.heartbeat()
        assert book.alarms()[0].clears == 0

        @dg.op
        def fine() -> None:
            return

        @dg.job(name="train_tiny")
        def mended() -> None:
            fine()

        mended.execute_in_process(instance=instance)
        daemon.heartbeat()
        assert book.alarms()[0].clears == 1


def test_critical_alarms_go_out_by_the_job_that_the_sensor_asks_for_and_are_shown_in_the_ui(
    daemon: Daemon, hook: Hook, settings: Settings, instance: dg.DagsterInstance
) -> None:
    with AlertBook.of(settings) as book:
        book.raise_(Alert.of("service_on_fallback", "Half of the answers.", model="flight_delay"))
    [request], _ = daemon.alerts()
    assert request.tags["pilotage/due"] == "1"
    shown = daemon.deliver()
    assert [body["title"] for body in hook.got] == ["[CRITICAL] service on fallback (flight_delay)"]
    assert hook.got[0]["type"] == "failure"
    assert (shown.metadata["open"].value, shown.metadata["critical"].value) == (1, 1)
    [row] = shown.metadata["alarms"].records
    assert (row.data["summary"], row.data["looked_after_by"]) == ("Half of the answers.", "")
    [point] = str(shown.metadata["what_is_open"].value).splitlines()
    assert point.startswith(r"- **1 · critical · service\_on\_fallback flight\_delay** Half of the answers. *Since ")
    assert point.endswith("nobody looks after it.* What to do: `docs/runbooks/alerts.md#service_on_fallback`")
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(KEY, "looked_after"))
    assert record is not None and record.evaluation is not None and not record.evaluation.passed
    requests, reason = daemon.alerts()
    assert requests == [] and "nobody waits to be told" in reason


def test_a_receiver_that_refuses_is_seen_retried_and_its_secret_is_nowhere(
    daemon: Daemon, hook: Hook, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    hook.status = 503
    with AlertBook.of(settings) as book:
        book.raise_(Alert.of("service_on_fallback", "Half of the answers.", model="flight_delay"))
        shown = daemon.deliver()
        [row] = shown.metadata["not_told"].records
        assert str(row.data["receiver"]).startswith("hook: ")
        assert shown.metadata["waiting_to_be_told"].value >= 1
        assert "delivery" in {alarm.key.kind for alarm in book.alarms()}
        kept = json.dumps(book.history()) + str(shown.metadata) + "".join(capfd.readouterr())
        assert SECRET not in kept
    hook.status = 200
    from pilotage.monitoring.alerts import deliver

    with AlertBook.of(settings, clock=lambda: datetime.now(UTC) + timedelta(minutes=1)) as later:
        deliver(later, settings)
    assert [body["title"] for body in hook.got] == ["[CRITICAL] service on fallback (flight_delay)"]


def test_the_heartbeat_sees_the_ledgers_decisions_and_its_broken_check(
    daemon: Daemon, settings: Settings, instance: dg.DagsterInstance
) -> None:
    registered(settings, "flight_delay")
    promoted(settings, "flight_delay")
    said = daemon.heartbeat()
    assert "2 new events of the ledger" in said and "disk:" in said
    settings.ledger_head.unlink()
    daemon.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[LEDGER], raise_on_error=False
    )
    said = daemon.heartbeat()
    assert "ledger_broken" in said
    assert "0 new events of the ledger" in said
    # A run that is to look again: until then the check says what it said.
    instance.create_run_for_job(daemon.definitions.resolve_implicit_global_asset_job_def())
    daemon.heartbeat()
    with AlertBook.of(settings) as book:
        [alarm] = book.alarms()
        assert (alarm.tier, alarm.alert.runbook) == ("critical", "docs/runbooks/ledger-does-not-verify.md")
        assert f"{settings.dagster_ui}/runs/" in alarm.alert.run_url
        told = {row["kind"] for row in book.history() if row["happened"] == "opened"}
        assert told == {"retrained", "promoted", "ledger_broken"}
    assert json.loads(settings.heartbeat.read_text())["at"]


def test_a_daemon_that_no_longer_beats_is_critical_and_one_that_beats_again_ends_it(
    daemon: Daemon, settings: Settings, instance: dg.DagsterInstance
) -> None:
    def beats(ago_s: float) -> None:
        at = datetime.now(UTC).timestamp() - ago_s
        instance.add_daemon_heartbeat(DaemonHeartbeat(timestamp=at, daemon_type="SENSOR", daemon_id="d", errors=[]))

    beats(280)
    assert "daemon_silent" not in daemon.heartbeat()
    beats(400)
    assert "critical daemon_silent" in daemon.heartbeat()
    with AlertBook.of(settings) as book:
        [alarm] = book.alarms()
        assert "sensor has been silent for 7 minutes" in alarm.alert.summary
        assert alarm.alert.runbook == "docs/runbooks/alerts.md#daemon_silent"
        beats(1)
        daemon.heartbeat()
        assert book.alarms()[0].clears == 1


def test_a_damaged_log_and_skew_are_alarms_by_their_checks_until_these_pass(
    daemon: Daemon, settings: Settings, instance: dg.DagsterInstance
) -> None:
    def says(key: dg.AssetKey, check: str, passed: bool) -> None:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=key, check_name=check, passed=passed, description=f"{check} it is")
        )

    skew = dg.AssetKey(["flight_delay", "serving_skew"])
    for passed in (False, True):
        says(LOG, "undamaged", passed)
        says(skew, FEATURES, passed)
        daemon.heartbeat()
        with AlertBook.of(settings) as book:
            assert {(alarm.key.kind, alarm.tier) for alarm in book.alarms()} == (
                set() if passed else {("log_damaged", "critical"), ("skew", "warning")}
            )


def test_how_bad_a_failed_run_is_depends_on_what_it_was_for() -> None:
    assert tier("train_flight_delay", {CAUSE: "nightly"}) == "warning"
    assert tier("__ASSET_JOB", {CAUSE: "new_data", ATTEMPT: "1"}) == "warning"
    assert tier("__ASSET_JOB", {CAUSE: "new_data", ATTEMPT: "3"}) == "critical"
    assert tier("kill_flight_delay", {}) == "critical"
    assert tier("audit_ledger", {}) == "critical"


def test_the_same_failure_told_twice_is_one_occurrence(settings: Settings) -> None:
    run = dg.DagsterRun(job_name="train_tiny", tags={})
    with AlertBook.of(settings) as book:
        for _ in range(3):
            book.raise_(failure(run, "it broke", settings))
        assert book.alarms()[0].count == 1


def test_an_operator_lists_takes_on_silences_and_tests(settings: Settings, hook: Hook) -> None:
    with AlertBook.of(settings) as book:
        number = book.raise_(Alert.of("service_on_fallback", "Half of the answers.", model="flight_delay")).number
    run = CliRunner().invoke
    assert "Half of the answers." in run(cli, ["alerts", "list"]).output
    assert run(cli, ["alerts", "ack", str(number), "--why", "on it", "--actor", "ada"]).exit_code == 0
    silenced = run(cli, ["alerts", "silence", "--kind", "drift", "--for", "2h", "--why", "known", "--actor", "ada"])
    assert silenced.exit_code == 0, silenced.output
    mistyped = run(cli, ["alerts", "silence", "--kind", "drfit", "--for", "2h", "--why", "known", "--actor", "ada"])
    assert "No kind of alarm fits 'drfit'" in str(mistyped.exception)
    elsewhere = run(cli, ["alerts", "silence", "--model", "fligth_delay", "--for", "2h", "--why", "known"])
    assert "No model fits 'fligth_delay'" in str(elsewhere.exception)
    forever = run(cli, ["alerts", "silence", "--kind", "drift", "--for", "9w", "--why", "known"]).exception
    assert isinstance(forever, ConfigError)
    assert "30 days at most" in forever.fix
    told = json.loads(run(cli, ["alerts", "list", "--json"]).output)
    assert told["alarms"][0]["looked_after_by"] == "ada"
    assert told["silences"][0]["kind"] == "drift"
    assert "acknowledged" in run(cli, ["alerts", "show", str(number)]).output
    assert run(cli, ["alerts", "unsilence", "1", "--why", "over"]).exit_code == 0
    assert run(cli, ["alerts", "close", str(number), "--why", "gone"]).exit_code == 0
    assert "No alarm is open." in run(cli, ["alerts", "list"]).output
    tested = run(cli, ["alerts", "test"])
    assert tested.exit_code == 0 and "✓ hook" in tested.output and SECRET not in tested.output
    assert [body["title"] for body in hook.got] == ["[TEST] Pilotage"]
    hook.status = 500
    tested = run(cli, ["alerts", "test"])
    assert tested.exit_code == 1 and "✗ hook" in tested.output and SECRET not in tested.output


def test_an_address_that_apprise_does_not_know_is_said_without_it(settings: Settings) -> None:
    assert settings.alerts_file is not None
    settings.alerts_file.write_text(f"odd all nosuch://{SECRET}\n")
    tested = CliRunner().invoke(cli, ["alerts", "test"])
    assert tested.exit_code == 1 and "no address that Apprise knows" in tested.output
    assert SECRET not in tested.output
