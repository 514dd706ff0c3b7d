"""The OpenAPI page, made of the specs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from pilotage.errors import InvalidRequest
from pilotage.runtime.contract import Contract
from pilotage.testing.bundles import ORDER, tiny_spec
from serving import openapi
from serving.gateway import endpoints
from serving.protocols import Parsed, batch, invocations, json_answer, oip, outcomes
from tests.unit.serving.codec_cases import FIELDS, NOW, answer

SPECS = {spec.name: spec for spec in (tiny_spec("tiny"), tiny_spec("tiny_state", with_state=True))}


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    # As a client gets it.
    return json.loads(json_answer(openapi.page(SPECS)).body)


def resolved(page: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": page["components"]})


def body_of(page: dict[str, Any], path: str) -> dict[str, Any]:
    return page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def answer_of(page: dict[str, Any], path: str, status: str = "200") -> dict[str, Any]:
    return page["paths"][path]["post"]["responses"][status]["content"]["application/json"]["schema"]


def test_the_page_is_valid_openapi(page: dict[str, Any]):
    validate(page)
    assert page["openapi"] == "3.1.0"


def test_with_one_model_the_bare_invocations_route_is_its_own(page: dict[str, Any]):
    assert "/invocations" not in page["paths"]
    alone = openapi.page({"tiny": SPECS["tiny"]})
    validate(alone)
    assert (
        alone["paths"]["/invocations"]["post"]["requestBody"]
        == alone["paths"]["/tiny/invocations"]["post"]["requestBody"]
    )


def test_every_field_is_shown_with_its_words_example_and_range(page: dict[str, Any]):
    schema = page["components"]["schemas"]["TinyRequest"]
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == sorted(set(ORDER) - {"courier"})
    assert schema["properties"]["amount"] == {
        "type": "number",
        "format": "double",
        "title": "amount",
        "description": "EUR.",
        "example": 12.5,
        "minimum": 0,
        "maximum": 1000,
    }
    assert schema["properties"]["shop"]["enum"] == ["north", "south"]
    assert schema["properties"]["courier"]["type"] == ["string", "null"]
    assert schema["properties"]["ordered_at"]["format"] == "date-time"


def test_the_examples_are_requests_that_the_service_takes(page: dict[str, Any]):
    contract = Contract(SPECS["tiny"].request)
    contract.row(page["components"]["schemas"]["TinyRequest"]["example"])

    def sent(path: str) -> bytes:
        return json.dumps(body_of(page, path)["example"]).encode()

    for codec, path in (
        (batch, "/tiny/predict/batch"),
        (invocations, "/tiny/invocations"),
        (oip, "/v2/models/tiny/infer"),
    ):
        for row in codec.parse(sent(path), {}, FIELDS, largest=10).rows:
            contract.row(row)
    assert outcomes.parse(sent("/tiny/outcomes"), model="tiny", entity=[FIELDS["order_id"]], caller="", now=NOW)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tiny/predict", ORDER),
        ("/tiny/predict/batch", {"requests": [ORDER]}),
        ("/tiny/invocations", {"dataframe_records": [ORDER]}),
        ("/tiny/invocations", {"dataframe_split": {"columns": ["a"], "data": [[1]]}}),
        ("/tiny/invocations", {"inputs": {"amount": [1.0]}}),
        ("/tiny/outcomes", {"prediction_id": "p-1", "label": True}),
        ("/tiny/outcomes", {"outcomes": [{"entity": {"order_id": "A-7"}, "label": False}]}),
        ("/v2/models/tiny/infer", {"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]}]}),
    ],
)
def test_what_the_service_takes_fits_the_schema(page: dict[str, Any], path: str, body: object):
    resolved(page, body_of(page, path)).validate(body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tiny/predict", {**ORDER, "colour": "red"}),
        ("/tiny/predict", {**ORDER, "amount": "640"}),
        ("/tiny/predict", {**ORDER, "shop": None}),
        ("/tiny/predict/batch", {"requests": []}),
        ("/tiny/outcomes", {"prediction_id": "p-1", "label": 1}),
        ("/tiny/invocations", {"instances": [], "params": {}}),
    ],
)
def test_what_the_service_refuses_does_not_fit_the_schema(page: dict[str, Any], path: str, body: object):
    assert not resolved(page, body_of(page, path)).is_valid(body)


def test_what_the_service_answers_fits_the_schema(page: dict[str, Any]):
    results = [answer(0), answer(1, version=None, stage=None, answered_by="nothing", probability=None, decision=None)]
    refused = InvalidRequest("amount is missing.", fix="Send it.", field="amount")
    parsed = Parsed(rows=[{}, {}], whole=True, echo=(None, dict.fromkeys(oip.OUTPUTS, False)))
    known: dict[str, Any] = {"model": "tiny", "version": 3}
    for path, body in {
        "/tiny/predict/batch": batch.render(parsed, [*results, refused], **known).body,
        "/tiny/invocations": invocations.render(parsed, results, **known).body,
        "/v2/models/tiny/infer": oip.render(parsed, results, **known).body,
    }.items():
        resolved(page, answer_of(page, path)).validate(json.loads(body))
    for result in results:
        resolved(page, answer_of(page, "/tiny/predict")).validate(json.loads(json_answer(result).body))
    for path, body in {
        "/tiny/predict": batch.refuse(refused).body,
        "/tiny/invocations": invocations.refuse(refused).body,
        "/v2/models/tiny/infer": oip.refuse(refused).body,
    }.items():
        code = "400" if path.endswith("invocations") else "422"
        resolved(page, answer_of(page, path, code)).validate(json.loads(body))


def test_the_answers_fields_have_the_words_of_the_record(page: dict[str, Any]):
    properties = page["components"]["schemas"]["Answer"]["properties"]
    assert properties["referred"]["description"] == "Whether a person should decide."
    assert properties["explanation"]["anyOf"][0] == {"$ref": "#/components/schemas/Explanation"}
    assert "null" in properties["version"]["description"]


def test_what_needs_a_key_says_which_role(page: dict[str, Any]):
    assert page["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    roles = {
        path: [role for need in operation["security"] for role in need.get("key", [])]
        for path, item in page["paths"].items()
        for operation in item.values()
    }
    assert roles["/tiny/predict"] == roles["/v2/models/tiny/infer"] == roles["/tiny/invocations"] == ["predict"]
    assert roles["/tiny/outcomes"] == ["outcomes"]
    assert roles["/models"] == roles["/workers"] == ["read"]
    assert roles["/admin/{model}/kill"] == ["operate"]
    assert roles["/livez"] == roles["/readyz"] == []


def test_every_path_of_the_page_has_a_route_template(page: dict[str, Any]):
    def template(path: str) -> str:
        for name in sorted(SPECS, key=len, reverse=True):
            path = path.replace(f"/v2/models/{name}", "/v2/models/{model}")
            path = path.replace(f"/{name}/", "/{model}/")
        return path

    assert {template(path) for path in page["paths"]} <= openapi.routes()


def test_every_endpoint_is_on_the_page_and_its_requests_are_counted_by_its_route(page: dict[str, Any]):
    made = endpoints(SPECS)
    hidden = [path for path, endpoint in made.items() if not {path, endpoint.route} & set(page["paths"])]
    assert hidden == [], "describe these in serving/openapi.py"
    assert {endpoint.route for endpoint in made.values()} - openapi.routes() == set(), "add these to openapi.routes()"


def test_no_operation_has_the_id_of_another(page: dict[str, Any]):
    ids = [operation["operationId"] for item in page["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_the_page_says_who_may_ask_for_what(page: dict[str, Any]):
    def keys(path: str) -> list[Any]:
        [operation] = page["paths"][path].values()
        return operation["security"]

    assert keys("/v2/models/tiny") == [{"key": ["predict"]}, {"key": ["read"]}, {}]
    assert keys("/v2/models/tiny/ready") == keys("/v2/models/tiny/versions/{version}/ready") == []
    assert keys("/tiny/predict") == [{"key": ["predict"]}, {}]
    assert "`predict` or `read`" in page["paths"]["/v2/models/tiny"]["get"]["description"]


def test_of_outcomes_it_promises_no_stored_answer(page: dict[str, Any]):
    told = page["paths"]["/tiny/outcomes"]["post"]
    assert "409" not in told["responses"]
    [name] = told["parameters"]
    assert "stored" not in name["description"]


def test_explain_may_be_empty_as_a_shells_user_writes_it(page: dict[str, Any]):
    told = {each["name"]: each for each in page["paths"]["/tiny/predict"]["post"]["parameters"]}
    assert told["explain"]["schema"]["type"] == "boolean"
    assert told["explain"]["allowEmptyValue"], "the service takes it, so whoever tests it by this page should know"
