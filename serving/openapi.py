"""The service's OpenAPI page: BentoML's, with our words and our errors in it."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pilotage.spec import ModelSpec

_ERROR = {
    "type": "object",
    "title": "Error",
    "required": ["error", "message", "fix", "field"],
    "properties": {
        "error": {"type": "string", "description": "Kind of the error.", "example": "InvalidRequest"},
        "message": {"type": "string", "description": "What is wrong.", "example": "distance='far' is a text."},
        "fix": {"type": "string", "description": "What to do.", "example": "Send an integer from 1 to 10000."},
        "field": {"type": "string", "nullable": True, "description": "The field at fault.", "example": "distance"},
    },
}
_ERRORS = {
    "413": "The body is too large.",
    "415": "The body is not JSON by its Content-Type.",
    "422": "The request is not what the model's contract asks for.",
    "503": "The model has no verified champion, or its online state can't answer.",
    "500": "The prediction failed.",
}


def describe(page: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> dict[str, Any]:
    """The page that people see.

    Args:
        page: BentoML's.
        specs: The models that are served.
    """
    paths = {path: dict(item) for path, item in page["paths"].items()}
    for name in specs:
        route = dict(paths[f"/{name}/predict"]["post"])
        answers = {code: answer for code, answer in route["responses"].items() if str(code) == "200"}
        route["responses"] = {**answers, **{code: _answer(words) for code, words in _ERRORS.items()}}
        route["tags"] = ["Predictions"]
        paths[f"/{name}/predict"]["post"] = route
    paths["/models"] = {
        "get": {
            "tags": ["Predictions"],
            "description": "What is served: version, since when, trained when, and what is wrong if something is.",
            "operationId": "models",
            "responses": {"200": {"description": "One entry a model.", "content": {"application/json": {}}}},
        }
    }
    listed = "\n".join(
        f"- **{name}** ({spec.risk} risk): {spec.title}. {spec.objective} Use: {spec.intended_use} Limits: "
        + " ".join(spec.limitations)
        for name, spec in specs.items()
    )
    return {
        **page,
        "info": {
            "title": "Pilotage: predictions",
            "version": version("pilotage"),
            "description": f"The champion of every model answers; its version is in each answer.\n\n{listed}",
        },
        "tags": [{"name": "Predictions"}, *(tag for tag in page["tags"] if tag["name"] != "Service APIs")],
        "paths": paths,
        "components": {
            **page["components"],
            "schemas": {**page["components"]["schemas"], "Error": _ERROR},
        },
    }


def _answer(words: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
