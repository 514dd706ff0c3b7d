"""Real answers, of a worker that can and of one that can't, are what the OpenAPI page says, and each is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from pilotage.testing.bundles import ORDER, tiny_spec
from tests.unit.serving.hosted import JSON, Hosted, hosted
from tests.unit.serving.test_gateway import TENSORS

V2 = "/v2/models/tiny"
ASKED = {
    "/tiny/predict": ORDER,
    "/tiny/predict/batch": {"requests": [ORDER]},
    "/tiny/invocations": {"inputs": [ORDER]},
    f"{V2}/infer": TENSORS,
    f"{V2}/versions/1/infer": TENSORS,
    "/tiny/outcomes": {"prediction_id": "p", "label": True},
}


def described(page: dict[str, Any], answer: httpx.Response) -> None:
    """An answer has a status that the page names for its operation, and the form that it gives."""
    path = answer.request.url.path.replace("/versions/1", "/versions/{version}")
    responses = page["paths"][path][answer.request.method.lower()]["responses"]
    assert str(answer.status_code) in responses, f"{path}: {answer.status_code} is not on the page"
    for kind, form in responses[str(answer.status_code)].get("content", {}).items():
        assert answer.headers["content-type"].startswith(kind)
        if kind == "application/json":
            schema = {**form["schema"], "components": page["components"]}
            Draft202012Validator(schema).validate(answer.json())


@pytest.mark.parametrize("release", [True, False], ids=["ready", "not ready"])
def test_every_answer_is_on_the_page(tmp_path: Path, release: bool) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), release=release) as service:
        page = service.get("/docs.json").json()
        for path, operations in page["paths"].items():
            # BentoML is not there.
            if "get" in operations and path not in ("/livez", "/readyz"):
                described(page, service.get(path.replace("{version}", "1")))
        for path, body in ASKED.items():
            described(page, service.post(path, json=body))
            described(page, service.post(path, content=b"{}", headers={**JSON, "content-length": "0" * 25 + "2"}))
        assert service.get("/v2/health/ready").json() == {"ready": release}
        assert "503" in page["paths"]["/readyz"]["get"]["responses"]


@pytest.mark.parametrize("path", [path for path in ASKED if "versions" not in path])
def test_a_defect_is_told_in_the_words_of_the_protocol(
    service: Hosted, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("kept in secret.txt")

    monkeypatch.setattr(service.core.limiter, "take", broken)
    answer = service.post(path, json=ASKED[path])
    assert answer.status_code == 500
    assert "The request failed." in answer.text
    assert "secret" not in answer.text
    described(service.get("/docs.json").json(), answer)


def test_a_page_is_counted_by_its_route_as_it_was_answered(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), release=False) as service:
        for path in ("/models", "/models", "/ping", "/health", V2, f"{V2}/ready", f"{V2}/versions/1", "/no-page"):
            service.get(path)
        service.post("/models")
        service.get("/models", headers={"host": "evil.example"})
        counted = {
            (sample.labels["route"], sample.labels["status"]): sample.value
            for family in text_string_to_metric_families(service.get("/metrics").text)
            for sample in family.samples
            if sample.name == "pilotage_http_requests_total"
        }
        assert counted == {
            ("/models", "200"): 2,
            ("/models", "405"): 1,
            ("/models", "401"): 1,
            ("/ping", "404"): 1,
            ("/health", "404"): 1,
            ("/v2/models/{model}", "200"): 1,
            ("/v2/models/{model}/ready", "400"): 1,
            ("/v2/models/{model}/versions/{version}", "404"): 1,
            ("other", "404"): 1,
        }
