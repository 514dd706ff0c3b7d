"""The service's OpenAPI page (``/docs.json``) and the page that shows it (``/``), made from the specs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version as installed
from typing import Any

from pilotage.spec import ModelSpec
from serving.protocols.oip import VERSION
from serving.schemas import (
    ERROR,
    LONGEST_WHY,
    Schema,
    answer_schemas,
    batch_schemas,
    inference_schemas,
    invocation_schemas,
    name_of,
    outcome_schemas,
    ref,
    request_schema,
)

_ERRORS = {
    "400": "The head can't be read, or the body is not what the protocol asks for.",
    "401": "No key was sent, or none that is valid.",
    "403": "The key's roles do not cover this.",
    "404": "There is no such model or version.",
    "409": "The request id was sent before, with another content.",
    "413": "The body is too large, or has too many rows.",
    "415": "The body is of another kind by its Content-Type, or compressed.",
    "422": "The request is not what the model's contract asks for.",
    "429": "The key has used up what it may ask for; `Retry-After` says when to come again.",
    "500": "A defect of ours; the log has it.",
    "503": "It can't be answered now: nothing is loaded, or it can't be logged.",
    "504": "It took too long.",
}
_ROLES = {
    "predict": "ask for predictions",
    "outcomes": "tell outcomes",
    "read": "see what is served, and this page",
    "operate": "kill, resume and roll back",
}
_REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": r"^[A-Za-z0-9_.:/=+@,~|#-]+$"},
    "description": "Names the request. Sent again with the same content, it gets the stored answer; one log row.",
}
_NAME = {
    **_REQUEST_ID,
    "description": "Names the request. An outcome has its own id; sent again, it counts once whatever this is.",
}
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False},
    # As a shell's user writes it: `?explain=`.
    "allowEmptyValue": True,
    "description": "Whether the answer carries its explanation (exact TreeSHAP; milliseconds).",
}
_TRACE = {
    "name": "traceparent",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "W3C trace context.",
}
_READY: Schema = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
_OIP_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_MLFLOW_ERROR = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}


def page(specs: Mapping[str, ModelSpec]) -> dict[str, Any]:
    """The page.

    Args:
        specs: The models that are served.
    """
    schemas = {"Error": ERROR, "InferenceError": _OIP_ERROR, "ScoringError": _MLFLOW_ERROR, **answer_schemas()}
    paths: dict[str, Any] = {}
    for name, spec in specs.items():
        schemas[f"{name_of(spec)}Request"] = request_schema(spec)
        paths |= _of_model(name, spec)
    if len(specs) == 1:
        [(name, _)] = specs.items()
        paths["/invocations"] = {"post": {**paths[f"/{name}/invocations"]["post"], "operationId": "invocations"}}
    listed = "\n".join(
        f"- **{name}** ({spec.risk} risk): {spec.title}. {spec.objective} Use: {spec.intended_use} Limits: "
        + " ".join(spec.limitations)
        for name, spec in specs.items()
    )
    roles = "; ".join(f"`{role}`: {words}" for role, words in _ROLES.items())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pilotage: predictions",
            "version": installed("pilotage"),
            "description": f"The champion of every model answers; its version is in each answer.\n\n{listed}",
        },
        "tags": [
            {"name": "Predictions", "description": "One request, or many in one body."},
            {"name": "Outcomes", "description": "What became of what was predicted."},
            {"name": "MLflow", "description": "The form of MLflow's scoring server."},
            {"name": "Open Inference Protocol", "description": "Version 2, with the binary tensor extension."},
            {"name": "Operation", "description": "What is served, and the kill switch."},
            {"name": "Health", "description": "For probes and Prometheus; these need no key."},
        ],
        "paths": paths | _shared(tuple(specs)),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"A key made with `pilotage keys create`, with roles ({roles}). On one machine, "
                    "before the first key is made, none is needed.",
                }
            },
        },
    }


def routes() -> frozenset[str]:
    """The route templates that metrics and traces may name: the page's, with ``{model}`` for a model."""
    v2 = "/v2/models/{model}"
    own = [f"/{{model}}/{end}" for end in ("predict", "predict/batch", "invocations", "outcomes")]
    ends = ("", "/ready", "/infer")
    versions = [f"{v2}{middle}{end}" for middle in ("", "/versions/{version}") for end in ends]
    return frozenset((*own, *versions, *_shared(()), "/", "/docs.json", "/health", "/invocations"))


def _of_model(name: str, spec: ModelSpec) -> dict[str, Any]:
    body, answers = batch_schemas(spec)
    told, taken = outcome_schemas(spec)
    frame, predictions = invocation_schemas(spec)
    tensors, outputs = inference_schemas(spec)
    request = ref(f"{name_of(spec)}Request")
    asked = [_REQUEST_ID, _TRACE]
    common = ("400", "401", "403", "409", "413", "415", "429", "500", "503", "504")
    v2 = f"/v2/models/{name}"
    number = {"type": "string", "pattern": f"^{VERSION.pattern}$", "example": "1"}
    version = {"name": "version", "in": "path", "required": True, "schema": number}
    infer = _post(
        "Open Inference Protocol",
        f"{spec.title}: tensors.",
        f"infer_{name}",
        "predict",
        (tensors, outputs),
        (*common, "422"),
        asked,
        error="InferenceError",
    )
    about = _get(
        "Open Inference Protocol",
        "Versions and tensors.",
        f"metadata_{name}",
        ("predict", "read"),
        ("401", "403", "404"),
        error="InferenceError",
    )
    ready = _get(
        "Open Inference Protocol", "Whether it can answer.", f"ready_{name}", None, (), answer=_READY, no="400"
    )

    def versioned(operation: dict[str, Any]) -> dict[str, Any]:
        return {
            **operation,
            "operationId": f"{operation['operationId']}_version",
            "parameters": [version, *operation.get("parameters", [])],
            "responses": {**operation["responses"], "404": _error("404", "InferenceError")},
        }

    return {
        f"/{name}/predict": {
            "post": _post(
                "Predictions",
                f"{spec.title}. {spec.objective}",
                f"predict_{name}",
                "predict",
                (request, ref("Answer")),
                (*common, "422"),
                [*asked, _EXPLAIN],
            )
        },
        f"/{name}/predict/batch": {
            "post": _post(
                "Predictions",
                f"{spec.title}: up to {spec.serving.largest_batch:,} requests, each with its own answer or error.",
                f"predict_batch_{name}",
                "predict",
                (body, answers),
                (*common, "422"),
                asked,
            )
        },
        f"/{name}/outcomes": {
            "post": _post(
                "Outcomes",
                f"Tells what became of predictions of {name}. All of a body is taken, or nothing.",
                f"outcomes_{name}",
                "outcomes",
                (told, taken),
                (*(code for code in common if code != "409"), "422"),
                [_NAME],
                status="202",
            )
        },
        f"/{name}/invocations": {
            "post": _post(
                "MLflow",
                f"{spec.title}: a frame.",
                f"invocations_{name}",
                "predict",
                (frame, predictions),
                common,
                asked,
                error="ScoringError",
            )
        },
        v2: {"get": about},
        f"{v2}/ready": {"get": ready},
        f"{v2}/infer": {"post": infer},
        f"{v2}/versions/{{version}}": {"get": versioned(about)},
        f"{v2}/versions/{{version}}/ready": {"get": versioned(ready)},
        f"{v2}/versions/{{version}}/infer": {"post": versioned(infer)},
    }


def _shared(names: tuple[str, ...]) -> dict[str, Any]:
    """Routes that are not of one model."""
    why: Schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["why"],
        "properties": {
            "why": {
                "type": "string",
                "minLength": 1,
                "maxLength": LONGEST_WHY,
                "description": "The reason, in characters that can be printed in a line.",
                "example": "The answers are wrong since the storm.",
            }
        },
    }
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": list(names)}}

    to = {"type": "integer", "description": "Version; left out, the champion before."}
    version = {
        "type": "integer",
        "description": "The version that is taken back; 409 if it gets no traffic, so that this is safe to repeat.",
    }
    where = {**why, "properties": {**why["properties"], "to": to, "version": version}}
    stands = {
        "type": "object",
        "required": ["model", "champion", "killed", "sequence"],
        "properties": {
            "model": {"type": "string"},
            "champion": {"type": ["integer", "null"], "description": "Its version."},
            "killed": {"type": ["string", "null"], "description": "Why no version may answer; null if they may."},
            "sequence": {"type": "integer", "description": "Of the ledger's event that says so."},
        },
    }

    def admin(what: str, words: str, body: Schema = why) -> dict[str, Any]:
        refused = ("400", "401", "403", "404", "409", "413", "415", "422", "429", "500", "503", "504")
        return {"post": _post("Operation", words, what, "operate", (body, stands), refused, [model])}

    def text(words: str, operation: str, no: str | None = None) -> dict[str, Any]:
        return {"get": _get("Health", words, operation, None, (), content="text/plain", no=no)}

    oip = "Open Inference Protocol"
    return {
        "/models": {
            "get": _get(
                "Operation",
                "What is served: versions with their roles, since when, trained when, and what is wrong, if anything.",
                "models",
                "read",
                ("401", "403"),
            )
        },
        "/workers": {
            "get": _get("Operation", "Each worker, with the versions it has loaded.", "workers", "read", ("401", "403"))
        },
        "/admin/{model}/kill": admin("kill", "Within two seconds no answer comes from a model, until `resume`."),
        "/admin/{model}/resume": admin("resume", "Lets versions answer again."),
        "/admin/{model}/rollback": admin("rollback", "Makes an earlier version champion again.", where),
        "/v2": {"get": _get(oip, "The server's name, version and extensions.", "server", None, ())},
        "/v2/health/live": {"get": _get(oip, "Whether the process is there.", "live", None, ())},
        "/v2/health/ready": {
            "get": _get(oip, "Whether every model can answer.", "ready", None, (), answer=_READY, no="400")
        },
        "/ping": {"get": _get("MLflow", "Whether every model can answer.", "ping", None, (), content=None, no="404")},
        "/version": {"get": _get("MLflow", "MLflow's version.", "mlflow_version", None, (), content=None, no="404")},
        "/livez": text("Whether the process is there.", "livez"),
        "/readyz": text("200 once every model can answer.", "readyz", "503"),
        "/metrics": text("Metrics of all workers, for Prometheus.", "metrics"),
    }


def _post(
    tag: str,
    words: str,
    operation: str,
    role: str,
    schemas: tuple[Schema, Schema],
    errors: Iterable[str],
    parameters: list[dict[str, Any]],
    *,
    status: str = "200",
    error: str = "Error",
) -> dict[str, Any]:
    body, answer = schemas
    return {
        **_get(tag, words, operation, role, errors, answer=answer, status=status, error=error),
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
    }


def _get(
    tag: str,
    words: str,
    operation: str,
    roles: str | tuple[str, ...] | None,
    errors: Iterable[str],
    *,
    answer: Schema | None = None,
    status: str = "200",
    error: str = "Error",
    content: str | None = "application/json",
    no: str | None = None,
) -> dict[str, Any]:
    """An operation that reads.

    Args:
        content: Of the answer; ``None`` where MLflow's says JSON, and is none.
        no: Status of an answer of the same form that says no.
    """
    each = (roles,) if isinstance(roles, str) else roles or ()
    needs = f"\n\nNeeds a key with the role {' or '.join(f'`{role}`' for role in each)}." if each else ""
    said: dict[str, Any] = {} if content is None else {"content": {content: {"schema": answer or {}}}}
    described = {
        "tags": [tag],
        "summary": words if len(words) <= 100 else f"{words[:97]}…",
        "description": words + needs,
        "operationId": operation,
        "responses": {
            status: {"description": "Done.", **said},
            **({no: {"description": "It can't, or there is none.", **said}} if no is not None else {}),
            **{code: _error(code, error) for code in sorted(errors)},
        },
    }
    return {**described, "security": [*({"key": [role]} for role in each), {}] if each else []}


def _error(code: str, schema: str) -> dict[str, Any]:
    return {"description": _ERRORS[code], "content": {"application/json": {"schema": ref(schema)}}}
