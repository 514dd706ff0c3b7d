"""The service's own log lines."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import InvalidRequest, Overloaded, StateUnavailable, TimedOut
from pilotage.testing.bundles import ORDER, tiny_spec
from serving import logs
from tests.unit.serving.hosted import hosted
from tests.unit.serving.test_express import Disk


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    logger = logging.getLogger(logs.NAME)
    before = logger.handlers[:], logger.level, logger.propagate
    yield io.StringIO()
    logger.handlers[:], logger.level, logger.propagate = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_says_when_how_bad_what_and_about_which_request(stream: io.StringIO):
    logger = logs.set_up("json", stream=stream)
    logger.warning("Version %d is refused.", 3, extra={"about": {"request_id": "r-1", "model": "tiny"}})
    [line] = lines(stream)
    assert line.pop("at").endswith("+00:00")
    assert line.pop("process") > 0
    assert line == {
        "level": "warning",
        "message": "Version 3 is refused.",
        "request_id": "r-1",
        "model": "tiny",
    }


def test_a_text_line_has_the_same_in_one_line(stream: io.StringIO):
    logger = logs.set_up("text", stream=stream)
    logger.error("It failed.\nFAKE line", extra={"about": {"request_id": "r\n1"}})
    [line] = stream.getvalue().splitlines()
    assert line.endswith(" ERROR It failed.\\nFAKE line (request_id=r\\n1)")


def test_the_request_that_is_being_answered_is_named_where_a_line_does_not_say_it(stream: io.StringIO):
    logger = logs.set_up("json", stream=stream)
    token = logs.request_id.set("r-7")
    try:
        logger.info("Here.")
        logger.info("There.", extra={"about": {"request_id": "r-8"}})
    finally:
        logs.request_id.reset(token)
    logger.info("Nowhere.")
    assert [line.get("request_id") for line in lines(stream)] == ["r-7", "r-8", None]


def test_setting_up_twice_says_everything_once(stream: io.StringIO):
    logs.set_up("text", stream=io.StringIO())
    logs.set_up("json", stream=stream).info("Once.")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Authorization: Bearer pk_abc.def-1", "Authorization: Bearer …"),
        ("can't reach postgresql://ledger:s3cret@db/x", "can't reach postgresql://ledger:…@db/x"),
        ("api_key=pk_123, model=tiny", "api_key=…, model=tiny"),
        ('{"password": "hunter2", "a": 1}', '{"password": "…", "a": 1}'),
        ("token: abc", "token: …"),
        ("The bearer of this letter", "The bearer … this letter"),
        ("http://127.0.0.1:8000/models", "http://127.0.0.1:8000/models"),
    ],
)
def test_secrets_are_struck_out(stream: io.StringIO, text: str, without: str):
    logger = logs.set_up("json", stream=stream)
    logger.warning("%s", text, extra={"about": {"problem": text}})
    [line] = lines(stream)
    assert (line["message"], line["problem"]) == (without, without)


def test_a_clients_mistake_leaves_no_line(stream: io.StringIO):
    logs.set_up("json", stream=stream)
    logs.failure(InvalidRequest("name='Ada' is no number.", fix="x"), status=422, request="r-1", model="tiny")
    assert stream.getvalue() == ""


def test_a_failure_of_ours_is_said_with_its_fix_and_the_request(stream: io.StringIO):
    logs.set_up("json", stream=stream)
    error = StateUnavailable("The online store of tiny is gone.", fix="Materialise online_state.")
    logs.failure(error, status=503, request="r-1", model="tiny")
    [line] = lines(stream)
    assert line["message"] == "The online store of tiny is gone. Fix: Materialise online_state."
    assert (line["request_id"], line["model"], line["error"]) == ("r-1", "tiny", "StateUnavailable")
    assert "traceback" not in line


def test_of_requests_that_are_refused_for_the_same_one_in_a_while_is_named(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    logs.set_up("json", stream=stream)
    for number in range(50):
        for error in (Overloaded("Too many: 100 %.", fix="x"), TimedOut("Too late.", fix="x")):
            logs.failure(error, status=error.http_status, request=f"r-{number}", model="tiny")
    logs.failure(Overloaded("Too many.", fix="x"), status=503, request="r-other", model="other")
    named = [("Overloaded", "r-0"), ("TimedOut", "r-0"), ("Overloaded", "r-other")]
    assert [(line["error"], line["request_id"]) for line in lines(stream)] == named
    later = time.monotonic() + 11
    monkeypatch.setattr(logs.time, "monotonic", lambda: later)
    logs.failure(TimedOut("Too late.", fix="x"), status=504, request="r-99", model="tiny")
    assert lines(stream)[-1]["message"] == "Too late. Fix: x (and 49 more like it)"


def test_as_json_the_servers_own_lines_are_json_too(stream: io.StringIO):
    others = logging.getLogger("bentoml")
    handler = logging.StreamHandler(stream)
    before = others.level
    others.addHandler(handler)
    try:
        logs.set_up("json", stream=io.StringIO())
        logging.getLogger("bentoml.worker").error("Bearer plt_x_y did not work: %s", 7)
    finally:
        others.removeHandler(handler)
        others.setLevel(before)
    [line] = lines(stream)
    assert (line["level"], line["message"]) == ("error", "Bearer … did not work: 7")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_defect_is_said_with_its_place_and_without_the_values_that_it_quotes(stream: io.StringIO, log_format: Any):
    logs.set_up(log_format, stream=stream)
    try:
        try:
            int("Ada Lovelace")
        except ValueError as error:
            raise RuntimeError("could not read 'Ada Lovelace'") from error
    except RuntimeError as error:
        logs.failure(error, status=500, request="r-1", model="tiny")
    written = stream.getvalue()
    assert "test_service_logs.py" in written
    assert written.index("ValueError") < written.rindex("RuntimeError")
    # The source line of the traceback is code, and the only place where it may be.
    assert "could not read" not in written.replace('raise RuntimeError("could not read', "").replace(
        'raise RuntimeError(\\"could not read', ""
    )
    assert "invalid literal" not in written


def test_what_may_hold_a_clients_values_is_left_out(stream: io.StringIO):
    logger = logs.set_up("json", stream=stream)
    logger.warning("Odd.", extra={"about": {"model": "tiny", "request": {"name": "Ada"}, "entity": {"id": 1}}})
    assert "Ada" not in stream.getvalue()
    assert lines(stream)[0].keys() == {"at", "level", "message", "process", "model"}


def test_a_version_that_fails_is_said_with_the_request_that_it_failed_at(tmp_path: Path, stream: io.StringIO):
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        logs.set_up("json", stream=stream)
        champion = service.core.follower.boards["tiny"].champion
        champion.predictor.decide = None
        service.core.responder.answer("tiny", ORDER, request_id="r-7", caller="")
    [line] = [line for line in lines(stream) if "champion version 1 failed" in line["message"]]
    assert line["request_id"] == "r-7"


def test_what_is_said_while_a_request_is_answered_names_it(tmp_path: Path, stream: io.StringIO):
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:
        logs.set_up("json", stream=stream)
        disk.full = True
        assert service.predict(headers={"x-request-id": "r-8"}).json()["logged"] is False
    [line] = [line for line in lines(stream) if "answers without a record" in line["message"]]
    assert line["request_id"] == "r-8"
