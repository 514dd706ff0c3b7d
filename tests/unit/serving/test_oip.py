"""The Open Inference Protocol, against the client of somebody else and against bytes made by hand."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from pilotage.errors import InvalidRequest, PilotageError, RequestTooLarge, UnknownModel
from pilotage.runtime.contract import Contract
from pilotage.testing.bundles import ORDER
from serving.protocols import Parsed, Rendered, oip
from tests.unit.serving.codec_cases import FIELDS, SPEC, answer

DATATYPES = {
    "order_id": "BYTES",
    "amount": "FP64",
    "items": "INT64",
    "express": "BOOL",
    "shop": "BYTES",
    "courier": "BYTES",
    "ordered_at": "BYTES",
}
NUMPY = {"BYTES": np.object_, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
SENT = {name: value for name, value in ORDER.items() if value is not None}


def tensor(name: str, column: list[Any], *, binary: bool = True, datatype: str | None = None) -> InferInput:
    kind = datatype or DATATYPES[name]
    made = InferInput(name, [len(column)], kind)
    made.set_data_from_numpy(np.array(column, dtype=NUMPY[kind]), binary_data=binary)
    return made


def tensors(rows: list[dict[str, Any]], *, binary: bool = True) -> list[InferInput]:
    return [tensor(name, [row[name] for row in rows], binary=binary) for name in rows[0]]


def parsed(inputs: list[InferInput], largest: int = 100, **options: Any) -> Parsed:
    """What we read of the bytes that the client would send."""
    body, json_size = InferenceServerClient.generate_request_body(inputs, **options)
    headers = {} if json_size is None else {oip.HEADER_LENGTH: str(json_size)}
    return oip.parse(body, headers, FIELDS, largest=largest)


def by_hand(content: dict[str, Any], binary: bytes = b"", **headers: str) -> Parsed:
    head = json.dumps(content).encode()
    length = {oip.HEADER_LENGTH: str(len(head))} if binary else {}
    return oip.parse(head + binary, {**length, **headers}, FIELDS, largest=100)


def read(rendered: Rendered) -> InferResult:
    """What the client reads of our bytes."""
    length = dict(rendered.headers).get(oip.HEADER_LENGTH)
    return InferenceServerClient.parse_response_body(
        rendered.body, header_length=int(length) if length is not None else None
    )


def render(request: Parsed, results: list[Any]) -> Rendered:
    return oip.render(request, results, model="tiny", version=3)


@pytest.mark.parametrize("binary", [True, False])
def test_the_clients_tensors_become_rows_that_the_contract_takes(binary: bool):
    rows = [SENT, {**SENT, "order_id": "Ä-8", "amount": 0.1, "items": 1, "express": False, "shop": "south"}]
    found = parsed(tensors(rows, binary=binary)).rows
    assert found == rows
    contract = Contract(SPEC.request)
    assert [contract.row(row) for row in found] == [contract.row({**row, "courier": None}) for row in rows]


@given(
    st.lists(
        st.tuples(st.text(max_size=30), st.floats(0, 1000), st.integers(-(2**63), 2**63 - 1), st.booleans()),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_any_values_survive_the_way_through_the_client(rows: list[tuple[str, float, int, bool]], binary: bool):
    names = ("shop", "amount", "items", "express")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    inputs = [tensor(name, column, binary=binary) for name, column in columns.items()]
    assert parsed(inputs).rows == [dict(zip(names, row, strict=True)) for row in rows]


def test_a_column_may_have_a_second_dimension_of_one():
    column = InferInput("items", [2, 1], "INT64")
    column.set_data_from_numpy(np.array([[1], [2]]))
    assert parsed([column]).rows == [{"items": 1}, {"items": 2}]
    nested = {"name": "items", "shape": [2, 1], "datatype": "INT64", "data": [[1], [2]]}
    assert by_hand({"inputs": [nested]}).rows == [{"items": 1}, {"items": 2}]
    assert by_hand({"inputs": [{**nested, "data": [1, 2]}]}).rows == [{"items": 1}, {"items": 2}]


@pytest.mark.parametrize(("datatype", "dtype"), [("INT8", np.int8), ("UINT16", np.uint16), ("INT32", np.int32)])
def test_a_smaller_number_is_taken_where_nothing_is_lost(datatype: str, dtype: type):
    column = InferInput("items", [1], datatype)
    column.set_data_from_numpy(np.array([7], dtype=dtype))
    assert parsed([column]).rows == [{"items": 7}]


class TestNull:
    def test_a_field_that_was_left_out_is_null_in_every_row(self):
        [row] = parsed(tensors([SENT])).rows
        assert Contract(SPEC.request).row(row)[list(FIELDS).index("courier")] is None

    def test_json_data_may_hold_a_null(self):
        request = {"name": "courier", "shape": [2], "datatype": "BYTES", "data": ["c1", None]}
        assert by_hand({"inputs": [request]}).rows == [{"courier": "c1"}, {"courier": None}]

    def test_a_tensor_beside_it_says_which_values_are_null(self):
        mask = tensor("courier.null", [False, True], datatype="BOOL")
        for inputs in ([tensor("courier", ["c1", ""]), mask], [mask, tensor("courier", ["c1", ""])]):
            assert parsed(inputs).rows == [{"courier": "c1"}, {"courier": None}]

    def test_nan_is_null_where_null_is_allowed_and_refused_where_it_is_not(self):
        optional = {"amount": FIELDS["amount"].model_copy(update={"nullable": True})}
        body, size = InferenceServerClient.generate_request_body([tensor("amount", [float("nan"), 1.5])])
        headers = {oip.HEADER_LENGTH: str(size)}
        assert oip.parse(body, headers, optional, largest=9).rows == [{"amount": None}, {"amount": 1.5}]
        row = oip.parse(body, headers, FIELDS, largest=9).rows[0]
        with pytest.raises(InvalidRequest, match="amount=nan is not a finite number"):
            Contract(SPEC.request).row({**ORDER, **row})

    def test_a_mask_without_its_tensor_or_of_a_field_that_is_never_null_is_refused(self):
        with pytest.raises(InvalidRequest, match="there is no tensor courier beside it"):
            parsed([tensor("courier.null", [True], datatype="BOOL")])
        with pytest.raises(InvalidRequest, match=r"no field 'amount\.null'"):
            parsed([tensor("amount", [1.0]), tensor("amount.null", [False], datatype="BOOL")])


ITEMS = {"name": "items", "shape": [1], "datatype": "INT64", "data": [3]}
TWO_TEXTS = struct.pack("<I", 1) + b"a" + struct.pack("<I", 2) + b"bc"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no inference request"),
        ({}, "missing required field `inputs`"),
        ({"inputs": []}, "no inputs"),
        ({"inputs": [{**ITEMS, "nmae": 1}]}, "unknown field"),
        ({"inputs": [ITEMS], "mode": 1}, "unknown field"),
        ({"inputs": [{**ITEMS, "name": "colour"}]}, "no field 'colour'"),
        ({"inputs": [{**ITEMS, "datatype": "FP64"}]}, "datatype is 'FP64'"),
        ({"inputs": [{**ITEMS, "datatype": "int64"}]}, "datatype is 'int64'"),
        ({"inputs": [{**ITEMS, "shape": []}]}, r"shape is \[\]"),
        ({"inputs": [{**ITEMS, "shape": [1, 2]}]}, r"shape is \[1, 2\]"),
        ({"inputs": [{**ITEMS, "shape": [-1]}]}, r"shape is \[-1\]"),
        ({"inputs": [{**ITEMS, "shape": [0], "data": []}]}, "no rows"),
        ({"inputs": [{**ITEMS, "shape": [2]}]}, "1 values, its shape says 2"),
        ({"inputs": [ITEMS, ITEMS]}, "there twice"),
        ({"inputs": [ITEMS, {**ITEMS, "name": "shop", "datatype": "BYTES", "shape": [2]}]}, "2 rows, the first"),
        ({"inputs": [{"name": "items", "shape": [1], "datatype": "INT64"}]}, "has no data"),
        ({"inputs": [{**ITEMS, "parameters": {"binary_data_size": -1}}]}, "is no size"),
        ({"inputs": [{**ITEMS, "parameters": {"binary_data_size": 8}}]}, "not all there"),
        ({"inputs": [{**ITEMS, "parameters": {"shared_memory_region": "r"}}]}, "shared_memory_region is not"),
        ({"inputs": [ITEMS], "parameters": {"sequence_id": 7}}, "sequence_id is not supported"),
        ({"inputs": [ITEMS], "outputs": [{"name": "colour"}]}, "no output 'colour'"),
    ],
)
def test_what_the_protocol_does_not_say_is_refused_in_words(content: Any, words: str):
    with pytest.raises(InvalidRequest, match=words):
        by_hand(content)


@pytest.mark.parametrize(
    ("name", "datatype", "count", "binary", "words"),
    [
        ("items", "INT64", 2, b"\0" * 15, "15 bytes, its shape needs 16"),
        ("express", "BOOL", 2, b"\0\2", "other than 0 and 1"),
        ("shop", "BYTES", 3, TWO_TEXTS, "2 values, its shape says 3"),
        ("shop", "BYTES", 2, TWO_TEXTS[:-1], "cut off"),
        ("shop", "BYTES", 2, TWO_TEXTS[:7], "cut off"),
        ("shop", "BYTES", 1, struct.pack("<I", 0xFFFFFFFF), "cut off"),
        ("shop", "BYTES", 1, struct.pack("<I", 1) + b"\xff", "no UTF-8"),
    ],
)
def test_bytes_that_are_not_what_their_description_says_are_refused(
    name: str, datatype: str, count: int, binary: bytes, words: str
):
    request = {
        "name": name,
        "shape": [count],
        "datatype": datatype,
        "parameters": {"binary_data_size": len(binary)},
    }
    with pytest.raises(InvalidRequest, match=words):
        by_hand({"inputs": [request]}, binary)


@pytest.mark.parametrize(
    ("name", "datatype", "value"),
    [
        ("items", "INT8", 300),
        ("items", "UINT8", -5),
        ("items", "INT64", 2**63),
        ("items", "INT64", 3.5),
        ("items", "INT64", True),
        ("items", "INT64", "3"),
        ("amount", "FP64", "640.5"),
        ("amount", "FP32", False),
        ("shop", "BYTES", 5),
        ("express", "BOOL", 1),
    ],
)
def test_json_values_are_of_the_datatype_that_they_are_said_to_be(name: str, datatype: str, value: Any):
    request = {"name": name, "shape": [1], "datatype": datatype, "data": [value]}
    with pytest.raises(InvalidRequest, match=f"is no {datatype}") as refused:
        by_hand({"inputs": [request]})
    assert refused.value.details["field"] == name


@pytest.mark.parametrize(("datatype", "value"), [("FP64", 640.5), ("FP64", 640), ("INT32", 7), ("FP64", None)])
def test_json_values_of_their_datatype_are_taken(datatype: str, value: Any):
    request = {"name": "amount", "shape": [1], "datatype": datatype, "data": [value]}
    assert by_hand({"inputs": [request]}).rows == [{"amount": value}]


@pytest.mark.parametrize("value", ["false", 1, 0, [], None])
def test_whether_an_output_is_binary_is_true_or_false(value: Any):
    for more in (
        {"outputs": [{"name": "decision", "parameters": {"binary_data": value}}]},
        {"parameters": {"binary_data_output": value}},
    ):
        with pytest.raises(InvalidRequest, match="The parameter binary_data"):
            by_hand({"inputs": [ITEMS], **more})


def test_bytes_that_no_tensor_claims_are_refused():
    with pytest.raises(InvalidRequest, match="binary part has 3 bytes, the tensors 0"):
        by_hand({"inputs": [ITEMS]}, b"abc")


@pytest.mark.parametrize("length", ["-1", "1e3", "999999", "", "٣"])
def test_a_header_length_that_is_none_is_refused(length: str):
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        oip.parse(b"{}", {oip.HEADER_LENGTH: length}, FIELDS, largest=1)


def test_a_shape_of_billions_is_refused_before_its_values_are_looked_for():
    with pytest.raises(RequestTooLarge, match="4,000,000,000 rows"):
        by_hand({"inputs": [{**ITEMS, "shape": [4_000_000_000]}]})


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_at_all_break_the_reader(body: bytes, length: int):
    with pytest.raises(PilotageError):
        oip.parse(body, {oip.HEADER_LENGTH: str(length)}, FIELDS, largest=10)


class TestOutputs:
    def test_without_a_wish_the_client_gets_every_output_as_bytes(self):
        request = parsed(tensors([SENT, SENT]), request_id="mine")
        by_rule = {"version": None, "stage": None, "answered_by": "rule", "reasons": ("it was killed", "so by rule")}
        results = [answer(0), answer(1, probability=0.9, decision=None, referred=True, logged=False, **by_rule)]
        result = read(render(request, results))
        assert result.get_response()["model_name"] == "tiny"
        assert result.get_response()["model_version"] == "3"
        assert result.get_response()["id"] == "mine"
        assert result.as_numpy("probability").tolist() == [0.25, 0.9]
        assert result.as_numpy("decision").tolist() == [b"false", b"refer"]
        assert result.as_numpy("referred").tolist() == [False, True]
        assert result.as_numpy("answered_by").tolist() == [b"model", b"rule"]
        assert result.as_numpy("version").tolist() == [3, 0]
        assert result.as_numpy("prediction_id").tolist() == [b"p-0", b"p-1"]
        assert result.as_numpy("reasons").tolist() == [b"", b"it was killed; so by rule"]
        assert result.as_numpy("logged").tolist() == [True, False]
        assert all(output["parameters"]["binary_data_size"] > 0 for output in result.get_response()["outputs"])

    def test_only_the_outputs_that_were_asked_for_come_each_in_its_own_form(self):
        wanted = [InferRequestedOutput("decision", binary_data=False), InferRequestedOutput("probability")]
        request = parsed(tensors([SENT]), outputs=wanted)
        result = read(render(request, [answer(0, decision=True, probability=1.0)]))
        assert [output["name"] for output in result.get_response()["outputs"]] == ["decision", "probability"]
        assert result.get_output("decision")["data"] == ["true"]
        assert "data" not in result.get_output("probability")
        assert result.as_numpy("decision").tolist() == ["true"]
        assert result.as_numpy("probability").tolist() == [1.0]

    def test_without_binary_outputs_the_answer_is_plain_json(self):
        rendered = render(by_hand({"inputs": [ITEMS]}), [answer(0)])
        assert dict(rendered.headers) == {"content-type": "application/json"}
        assert "id" not in json.loads(rendered.body)
        assert read(rendered).as_numpy("probability").tolist() == [0.25]

    @pytest.mark.parametrize("binary", [True, False])
    def test_where_nobody_could_answer_there_is_no_number_that_looks_like_one(self, binary: bool):
        nothing = answer(0, version=None, stage=None, answered_by="nothing", probability=None, decision=None)
        wanted = [InferRequestedOutput(name, binary_data=binary) for name in ("probability", "decision")]
        result = read(render(parsed(tensors([SENT]), outputs=wanted), [nothing]))
        assert np.isnan(result.as_numpy("probability").astype(float)).all()
        assert [str(value).strip("b'") for value in result.as_numpy("decision")] == ["none"]

    def test_one_bad_row_refuses_the_request_and_is_named(self):
        request = parsed(tensors([SENT, SENT]))
        assert request.whole is True
        refused = InvalidRequest("items=0 is out of range.", fix="Send an integer from 1 to 99.", field="items")
        rendered = render(request, [answer(0), refused])
        assert rendered.status == 422
        assert json.loads(rendered.body) == {
            "error": "Row 1: items=0 is out of range. Fix: Send an integer from 1 to 99."
        }

    def test_the_answer_names_the_version_that_answered_or_where_several_did_the_champion(self):
        request = parsed(tensors([SENT, SENT]))

        def named(*versions: int | None) -> str:
            results = [answer(row, version=version) for row, version in enumerate(versions)]
            result = read(render(request, results))
            assert result.as_numpy("version").tolist() == [version or 0 for version in versions]
            return result.get_response()["model_version"]

        assert [named(4, 4), named(3, 4), named(None, None)] == ["4", "3", ""]


def test_only_a_version_that_is_served_may_be_asked_for():
    assert oip.check_version("tiny", "3", [3, 2]) == 3
    for asked in ("4", "03", "latest", ""):
        with pytest.raises(UnknownModel, match=r"is not served; what is: 3, 2"):
            oip.check_version("tiny", asked, [3, 2])


def test_the_metadata_names_a_tensor_for_each_field_and_each_part_of_the_answer():
    content = json.loads(oip.metadata("tiny", FIELDS, [3]).body)
    assert content["versions"] == ["3"]
    assert {each["name"]: each["datatype"] for each in content["inputs"]} == DATATYPES
    assert all(each["shape"] == [-1] for each in content["inputs"] + content["outputs"])
    assert [each["parameters"]["optional"] for each in content["inputs"]] == [name == "courier" for name in FIELDS]
    assert [each["name"] for each in content["outputs"]] == list(oip.OUTPUTS)


def test_health_is_200_or_as_the_protocol_wants_it_4xx():
    assert [oip.health("live", True).status, oip.health("ready", False).status] == [200, 400]
    assert oip.model_ready("tiny", False).status == 400
    assert json.loads(oip.server().body)["extensions"] == ["binary_tensor_data"]
