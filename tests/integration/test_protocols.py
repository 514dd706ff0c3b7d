"""Other people's clients against the running service: Triton's, MLflow's, Prometheus', and a browser's first page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from pilotage.runtime.answer import OutcomeRecord, PredictionRecord
from pilotage.runtime.bundle import read_bundle
from pilotage.runtime.log import read_segment, segments
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle, tiny_spec
from pilotage.testing.service import RunningService, release_bundle, running_service

SERVICE = "tests.integration.service_of_tiny_models:TinyService"
SPEC = tiny_spec("tiny")
ORDERS = [
    {
        "order_id": f"A-{number}",
        "amount": 100.5 * number + 0.25,
        "items": number + 1,
        "express": number % 2 == 0,
        "shop": "north" if number % 3 else "south",
        "courier": None if number == 1 else "c1",
        "ordered_at": f"2024-01-03T1{number}:00:00Z",
    }
    for number in range(5)
]
BAD = {**ORDERS[0], "items": 0}
DATATYPES = {"order_id": "BYTES", "amount": "FP64", "items": "INT64", "express": "BOOL", "shop": "BYTES"}
NUMPY = {"BYTES": np.object_, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("protocols"))


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[RunningService]:
    """A service of which one of two models has a champion: version 3."""
    bundle = settings.home / "tiny"
    release_bundle(settings, "tiny", bundle, make_bundle(bundle, spec=SPEC), version=3)
    with running_service(settings, service=SERVICE, log=settings.home / "service.log") as running:
        running.until_answer(
            lambda: running.client.post(f"{running.url}/tiny/predict", json=ORDERS[0]),
            lambda answer: answer.status_code == 200,
        )
        yield running


@pytest.fixture(scope="module")
def expected(settings: Settings, service: RunningService) -> list[float]:
    """What the bundle says, asked directly."""
    bundle = read_bundle(settings.home / "tiny")
    frame = pl.DataFrame(ORDERS).with_columns(pl.col("ordered_at").str.to_datetime(time_unit="us", time_zone="UTC"))
    return bundle.score(frame.select(field.name for field in SPEC.request)).tolist()


@pytest.fixture(scope="module")
def triton(service: RunningService) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(service.url.removeprefix("http://"))
    yield client
    client.close()


def tensors(rows: list[dict[str, Any]], *, binary: bool = True) -> list[InferInput]:
    made = []
    for name in rows[0]:
        datatype = DATATYPES.get(name, "BYTES")
        column = np.array(["" if row[name] is None else row[name] for row in rows], dtype=NUMPY[datatype])
        made.append(InferInput(name, list(column.shape), datatype))
        made[-1].set_data_from_numpy(column, binary_data=binary)
    made.append(InferInput("courier.null", [len(rows)], "BOOL"))
    made[-1].set_data_from_numpy(np.array([row["courier"] is None for row in rows]), binary_data=binary)
    return made


def logged(settings: Settings, accept: Callable[[Any], bool]) -> list[Any]:
    """Records of the prediction log, in their order."""
    return [
        record
        for segment in segments(settings.prediction_log)
        for record in read_segment(segment.path)
        if accept(record)
    ]


class TestTriton:
    def test_the_server_and_the_model_are_alive_ready_and_described(self, triton: InferenceServerClient) -> None:
        assert triton.is_server_live()
        assert not triton.is_server_ready(), "the other model has no champion"
        assert triton.is_model_ready("tiny")
        assert triton.is_model_ready("tiny", "3")
        assert not triton.is_model_ready("tiny", "4")
        assert not triton.is_model_ready("tiny_state")
        assert not triton.is_model_ready("nothing")
        assert triton.get_server_metadata()["name"] == "pilotage"
        about = triton.get_model_metadata("tiny", "3")
        assert (about["name"], about["versions"]) == ("tiny", ["3"])
        assert [each["name"] for each in about["inputs"]] == [field.name for field in SPEC.request]

    @pytest.mark.parametrize("binary", [True, False])
    def test_the_unchanged_client_gets_the_bundles_own_probabilities(
        self, triton: InferenceServerClient, expected: list[float], binary: bool
    ) -> None:
        result = triton.infer("tiny", tensors(ORDERS, binary=binary), request_id="7")
        assert result.as_numpy("probability").tolist() == expected
        threshold = SPEC.kpi.cost.threshold
        assert result.as_numpy("decision").tolist() == [str(p >= threshold).lower().encode() for p in expected]
        assert result.as_numpy("answered_by").tolist() == [b"model"] * len(ORDERS)
        assert result.as_numpy("version").tolist() == [3] * len(ORDERS)
        assert len(set(result.as_numpy("prediction_id").tolist())) == len(ORDERS)
        assert result.get_response()["model_version"] == "3"
        assert result.get_response()["id"] == "7"

    def test_only_the_outputs_that_it_asks_for_come(self, triton: InferenceServerClient, expected: list[float]) -> None:
        wanted = [InferRequestedOutput("probability", binary_data=False)]
        result = triton.infer("tiny", tensors(ORDERS[:1]), outputs=wanted)
        assert [each["name"] for each in result.get_response()["outputs"]] == ["probability"]
        assert result.get_output("probability")["data"] == expected[:1]

    def test_a_version_may_be_asked_for_and_one_that_is_not_served_is_named(
        self, triton: InferenceServerClient, expected: list[float]
    ) -> None:
        result = triton.infer("tiny", tensors(ORDERS), model_version="3")
        assert result.as_numpy("probability").tolist() == expected
        with pytest.raises(InferenceServerException, match="Version '4' of tiny is not served; what is: 3") as error:
            triton.infer("tiny", tensors(ORDERS), model_version="4")
        assert error.value.status() == "404"

    def test_a_bad_row_refuses_the_request_and_nothing_is_logged(
        self, triton: InferenceServerClient, settings: Settings
    ) -> None:
        before = len(logged(settings, lambda record: isinstance(record, PredictionRecord)))
        with pytest.raises(InferenceServerException, match="Row 1: items=0 is out of range") as error:
            triton.infer("tiny", tensors([ORDERS[0], BAD]))
        assert error.value.status() == "422"
        assert len(logged(settings, lambda record: isinstance(record, PredictionRecord))) == before

    def test_an_unknown_model_is_said_in_its_own_form(self, triton: InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="no model 'nothing'") as error:
            triton.infer("nothing", tensors(ORDERS))
        assert error.value.status() == "404"


class TestMlflow:
    @pytest.mark.parametrize("orient", ["split", "records"])
    def test_a_frame_gets_the_bundles_own_probabilities(
        self, service: RunningService, expected: list[float], orient: str
    ) -> None:
        frame = pd.DataFrame(ORDERS)
        body = {f"dataframe_{orient}": json.loads(frame.to_json(orient=orient))}
        answer = service.client.post(f"{service.url}/tiny/invocations", json=body)
        assert answer.status_code == 200, answer.text
        assert [each["probability"] for each in answer.json()["predictions"]] == expected
        assert [each.keys() for each in answer.json()["predictions"]] == [{"probability", "decision"}] * len(ORDERS)

    def test_an_error_is_said_as_mlflow_says_it(self, service: RunningService) -> None:
        answer = service.client.post(f"{service.url}/tiny/invocations", json={"instances": [ORDERS[0], BAD]})
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert answer.json()["message"].startswith("Row 1: items=0 is out of range")

    def test_with_two_models_there_is_no_route_that_would_have_to_guess(self, service: RunningService) -> None:
        answer = service.client.post(f"{service.url}/invocations", json={"instances": ORDERS})
        assert answer.status_code == 404

    def test_ping_and_version_are_there(self, service: RunningService) -> None:
        assert service.get("/ping").status_code == 404, "the other model has no champion"
        assert service.get("/version").text.count(".") == 2


class TestBatch:
    def test_each_row_has_its_own_answer_or_error_and_only_answers_are_logged(
        self, service: RunningService, settings: Settings, expected: list[float]
    ) -> None:
        rows = [*ORDERS, BAD, "no row"]
        answer = service.client.post(
            f"{service.url}/tiny/predict/batch", json={"requests": rows}, headers={"x-request-id": "batch-1"}
        )
        assert answer.status_code == 200, answer.text
        *good, bad, none = answer.json()["answers"]
        assert [each["answer"]["probability"] for each in good] == expected
        assert (bad["error"]["field"], none["error"]["error"]) == ("items", "InvalidRequest")
        ids = [each["answer"]["prediction_id"] for each in good]
        records = logged(settings, lambda record: getattr(record, "request_id", None) == "batch-1")
        assert [record.prediction_id for record in records] == ids
        assert [record.probability for record in records] == expected

    def test_too_many_rows_are_refused(self, service: RunningService) -> None:
        rows = [ORDERS[0]] * (SPEC.serving.largest_batch + 1)
        answer = service.client.post(f"{service.url}/tiny/predict/batch", json={"requests": rows})
        assert (answer.status_code, answer.json()["error"]) == (413, "RequestTooLarge")


class TestOutcomes:
    def test_what_became_of_an_answer_is_on_disk_and_again_is_the_same(
        self, service: RunningService, settings: Settings
    ) -> None:
        said = {"prediction_id": service.predict("tiny", ORDERS[0]).json()["prediction_id"], "label": True}
        about = {"entity": {"order_id": "A-3"}, "label": False, "known_at": "2024-01-05T00:00:00Z"}
        url = f"{service.url}/tiny/outcomes"
        answers = [service.client.post(url, json=body) for body in (said, {"outcomes": [said, about]})]
        assert [answer.status_code for answer in answers] == [202, 202]
        first, both = (answer.json()["outcome_ids"] for answer in answers)
        assert both[0] == first[0]
        records = logged(settings, lambda record: isinstance(record, OutcomeRecord))
        assert [record.outcome_id for record in records] == [*first, *both]
        assert (records[-1].entity, records[-1].label) == ({"order_id": "A-3"}, False)

    def test_a_bad_outcome_is_refused_with_all_beside_it(self, service: RunningService, settings: Settings) -> None:
        before = len(logged(settings, lambda record: isinstance(record, OutcomeRecord)))
        body = {"outcomes": [{"prediction_id": "p", "label": True}, {"prediction_id": "p", "label": "yes"}]}
        answer = service.client.post(f"{service.url}/tiny/outcomes", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, "label")
        assert len(logged(settings, lambda record: isinstance(record, OutcomeRecord))) == before


class TestPages:
    def test_the_openapi_page_is_valid_and_its_get_routes_are_there(self, service: RunningService) -> None:
        page = service.get("/docs.json").json()
        validate(page)
        for path, item in page["paths"].items():
            if "get" in item and "{" not in path:
                answer = service.get(path)
                assert str(answer.status_code) in {*item["get"]["responses"], "503"}, path

    def test_the_first_page_loads_nothing_from_elsewhere(self, service: RunningService) -> None:
        answer = service.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "://" not in answer.text
        for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
            assert f"static_content/{name}" in answer.text
            assert service.get(f"/static_content/{name}").status_code == 200

    def test_prometheus_reads_what_the_service_did(self, service: RunningService) -> None:
        service.predict("tiny", ORDERS[0])
        service.predict("tiny", BAD)
        for number in range(20):
            service.get(f"/nothing-{number}")
        families = {family.name: family for family in text_string_to_metric_families(service.get("/metrics").text)}
        predictions = families["pilotage_predictions"].samples
        assert {sample.labels["version"] for sample in predictions} == {"3"}
        assert sum(sample.value for sample in predictions) > 1
        errors = {sample.labels["error"]: sample.value for sample in families["pilotage_errors"].samples}
        assert errors["InvalidRequest"] >= 1
        routes = {sample.labels["route"] for sample in families["pilotage_http_requests"].samples}
        assert "/{model}/predict" in routes
        assert not any("nothing" in route for route in routes)
        phases = {
            sample.labels["phase"]: sample.value
            for sample in families["pilotage_request_seconds"].samples
            if sample.name.endswith("_count") and sample.labels["model"] == "tiny"
        }
        assert phases["total"] >= phases["log"] >= 1
        [lag] = families["pilotage_log_lag_seconds"].samples
        assert 0 < lag.value < 3600
        [versions] = families["pilotage_versions"].samples
        assert versions.labels == {"model": "tiny", "version": "3", "role": "champion"}
