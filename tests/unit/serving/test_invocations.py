"""MLflow's form, beside what MLflow's own scoring server makes of the same bodies."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pytest

from pilotage.errors import InvalidRequest, ModelNotReady, RequestTooLarge
from pilotage.runtime.contract import Contract
from pilotage.runtime.pandas_frame import predict_frame
from pilotage.testing.bundles import ORDER
from serving.protocols import invocations
from tests.unit.serving.codec_cases import FIELDS, SPEC, answer

OTHER = {**ORDER, "order_id": "A-8", "courier": "c1", "express": False}
ROWS = [ORDER, OTHER]
COLUMNS = list(ORDER)
SPLIT = {"columns": COLUMNS, "data": [list(row.values()) for row in ROWS]}
BODIES = [
    {"dataframe_split": SPLIT},
    {"dataframe_split": {**SPLIT, "index": [5, 9]}},
    {"dataframe_records": ROWS},
    {"instances": ROWS},
    {"inputs": {name: [row[name] for row in ROWS] for name in COLUMNS}},
]


def rows(content: object, largest: int = 10) -> list[dict[str, Any]]:
    return invocations.parse(json.dumps(content).encode(), {}, FIELDS, largest=largest).rows


def rows_of_mlflow(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What MLflow's scoring server hands to the model."""
    from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

    data, _ = _split_data_and_params(json.dumps(content))
    frame = pd.DataFrame(infer_and_parse_data(data)).astype(object)
    return frame.where(frame.notna(), None).to_dict(orient="records")


@pytest.mark.parametrize("content", BODIES, ids=lambda content: next(iter(content)))
def test_every_form_gives_the_rows_that_mlflow_reads_of_it(content: dict[str, Any]):
    assert rows(content) == rows_of_mlflow(content) == ROWS


def test_the_values_of_one_row_are_inputs_too():
    assert rows({"inputs": ORDER}) == [ORDER]


@pytest.mark.parametrize("orient", ["split", "records"])
def test_what_pandas_writes_of_a_frame_is_taken(orient: str):
    frame = pd.DataFrame(ROWS)
    frame["items"] = frame["items"].astype(float)
    frame["ordered_at"] = pd.to_datetime(frame["ordered_at"]).dt.tz_localize(None)
    sent = {f"dataframe_{orient}": json.loads(frame.to_json(orient=orient, date_format="iso"))}
    assert sent != BODIES[0]
    contract = Contract(SPEC.request)
    assert [contract.row(row) for row in rows(sent)] == [contract.row(row) for row in ROWS]


def test_what_mlflows_client_writes_of_missing_values_is_null():
    from mlflow.utils.proto_json_utils import dump_input_data

    frame = pd.DataFrame([{**ORDER, "courier": float("nan")}, {**OTHER, "amount": float("nan")}])
    sent = dump_input_data(frame)
    assert sent.count("NaN") == 2
    parsed = invocations.parse(sent.encode(), {}, FIELDS, largest=10).rows
    assert [row["courier"] for row in parsed] == [None, "c1"]
    # Where null is not allowed, the contract says so.
    assert [row["amount"] for row in parsed] == [ORDER["amount"], None]
    assert rows({"instances": [{**ORDER, "courier": "NaN"}]}) == [{**ORDER, "courier": "NaN"}]


@pytest.mark.parametrize(
    "beside", ["Infinity", "-Infinity", "1e999", '"\\ud800"', "[", "[" * 100_000, "nan", "9" * 5_000]
)
def test_beside_a_missing_value_a_body_is_read_as_strictly_as_without(beside: str):
    with pytest.raises(InvalidRequest, match="not JSON"):
        invocations.parse(f'{{"instances": [{{"a": NaN, "b": {beside}}}]}}'.encode(), {}, FIELDS, largest=10)


def test_only_what_pandas_can_not_write_otherwise_is_put_right():
    [row] = rows({"instances": [{**ORDER, "items": 3.5, "amount": "640", "ordered_at": "2024-01-03T10:00:00+01:00"}]})
    assert (row["items"], row["amount"], row["ordered_at"]) == (3.5, "640", "2024-01-03T10:00:00+01:00")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([ORDER], "no object"),
        ({}, "none of the forms"),
        ({"data": [ORDER]}, "none of the forms"),
        ({"instances": [ORDER], "inputs": ORDER}, "instances and inputs"),
        ({"instances": [ORDER], "signature_name": "x"}, "no field 'signature_name'"),
        ({"instances": [ORDER], "params": {"threshold": 0.1}}, "takes params"),
        ({"instances": ORDER}, "no list"),
        ({"instances": [[1, 2]]}, "Row 0 of instances is no object"),
        ({"instances": []}, "no rows"),
        ({"dataframe_records": [ORDER, 7]}, "Row 1 of dataframe_records"),
        ({"dataframe_split": [ORDER]}, "no split frame"),
        ({"dataframe_split": {**SPLIT, "dtypes": []}}, "no split frame"),
        ({"dataframe_split": {"data": SPLIT["data"]}}, "does not name its columns"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "a column twice"),
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [1]]}}, "Row 1 of dataframe_split"),
        ({"inputs": {"a": [1, 2], "b": [1]}}, "not equally long"),
        ({"inputs": {"a": [1, 2], "b": 1}}, "not equally long"),
    ],
)
def test_a_body_of_another_form_is_refused_with_what_to_send(content: object, words: str):
    with pytest.raises(InvalidRequest, match=words) as error:
        rows(content)
    assert error.value.fix


def test_more_rows_than_one_request_may_have_are_too_many():
    with pytest.raises(RequestTooLarge, match="2 rows; at most 1"):
        rows({"dataframe_split": SPLIT}, largest=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    from pilotage.runtime.bundle import read_bundle
    from pilotage.testing.bundles import make_bundle

    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder, spec=SPEC)
    return read_bundle(folder)


def test_predictions_have_the_shape_that_mlflows_server_gives_for_our_model(bundle):
    from mlflow.pyfunc.scoring_server import predictions_to_json

    frame = pd.DataFrame(ROWS)
    frame["ordered_at"] = pd.to_datetime(frame["ordered_at"])
    predicted = predict_frame(bundle, frame)
    of_mlflow = io.StringIO()
    predictions_to_json(predicted, of_mlflow)
    results = [
        answer(number, probability=float(row.probability), decision=bool(row.decision))
        for number, row in enumerate(predicted.itertuples())
    ]
    parsed = invocations.parse(json.dumps({"instances": ROWS}).encode(), {}, FIELDS, largest=2)
    ours = json.loads(invocations.render(parsed, results, model="tiny", version=3).body)
    assert ours["predictions"] == json.loads(of_mlflow.getvalue())["predictions"]


def test_mlflows_client_reads_the_answer():
    from mlflow.deployments import PredictionsResponse

    parsed = invocations.parse(json.dumps({"instances": ROWS}).encode(), {}, FIELDS, largest=2)
    referred = answer(1, decision=None, referred=True, reasons=("a person decides",), logged=False)
    rendered = invocations.render(parsed, [answer(0), referred], model="tiny", version=3)
    frame = PredictionsResponse.from_json(rendered.body.decode()).get_predictions()
    assert frame.columns.tolist() == ["probability", "decision"]
    assert frame["decision"].tolist() == [False, None]
    beside = json.loads(rendered.body)
    assert (beside["prediction_ids"], beside["referred"], beside["versions"]) == (["p-0", "p-1"], [False, True], [3, 3])
    assert (beside["reasons"], beside["logged"]) == ([[], ["a person decides"]], [True, False])


def test_errors_are_said_as_mlflow_says_them_and_name_the_row():
    parsed = invocations.parse(json.dumps({"instances": ROWS}).encode(), {}, FIELDS, largest=2)
    refused = InvalidRequest("items=0 is out of range.", fix="Send an integer from 1 to 99.")
    rendered = invocations.render(parsed, [answer(0), refused], model="tiny", version=3)
    assert rendered.status == 400
    assert json.loads(rendered.body) == {
        "error_code": "BAD_REQUEST",
        "message": "Row 1: items=0 is out of range. Fix: Send an integer from 1 to 99.",
    }
    unready = invocations.refuse(ModelNotReady("tiny has no champion.", fix="Promote one."))
    assert (unready.status, json.loads(unready.body)["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")


def test_every_status_has_the_name_that_mlflow_gives_it():
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS

    assert {name: ERROR_CODE_TO_HTTP_STATUS[name] for name in invocations._CODES.values()} == {
        name: status for status, name in invocations._CODES.items()
    }


def test_ping_and_version_answer_as_mlflows_server_does():
    import mlflow

    assert [invocations.ping(ok).status for ok in (True, False)] == [200, 404]
    assert invocations.mlflow_version().body.decode() == mlflow.__version__
