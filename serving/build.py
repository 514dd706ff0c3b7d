"""Builds the BentoML service of some models: one typed route a model, over one follower that keeps their champions."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import bentoml  # noqa: TID253 - serving is BentoML's shell
from starlette.responses import Response

from pilotage.release.champions import ChampionFeed
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.follower import Follower
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from serving.boundary import Boundary, error_response, json_response, parse
from serving.leash import die_with_parent
from serving.openapi import describe
from serving.schemas import Answer, Body, request_model

logger = logging.getLogger("bentoml.pilotage")

TIMEOUT_S = 30
"""Seconds after which a request is given up."""


class _Worker:
    """What a worker process holds. Its routes are added by ``build``, since they depend on the models."""

    specs: Mapping[str, ModelSpec]

    def __init__(self) -> None:
        """Runs in the worker, never at import: settings are read, threads and metrics are made here."""
        die_with_parent()
        settings = Settings.load()
        self._metrics = _Metrics()
        self._follower = Follower(
            tuple(self.specs),
            releases=ChampionFeed(SqlLedger(settings.ledger)),
            bundles=settings.bundles,
            online=settings.online,
            report=logger.info,
        )
        _status.append(self._follower.status)
        self._follower.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Ends the background thread."""
        _status.clear()
        self._follower.stop()

    async def __is_ready__(self) -> bool:
        """BentoML's ``/readyz``: every model has a verified champion loaded, and the state that it needs."""
        return self._follower.ready()

    def answer(self, spec: ModelSpec, raw: bytes) -> Response:
        """Predicts one request: the whole of what a route does."""
        try:
            request = parse(raw)
            serving = self._follower.serving(spec.name)
            [prediction] = serving.predictor.predict([request], serving.state)
        except Exception as error:
            self._metrics.errors.labels(model=spec.name, error=type(error).__name__).inc()
            return error_response(error)
        self._metrics.predictions.labels(
            model=spec.name, version=str(prediction.version), decision=str(prediction.decision).lower()
        ).inc()
        return json_response(
            {
                "model": prediction.model,
                "version": prediction.version,
                "probability": prediction.probability,
                "decision": prediction.decision,
                "label": serving.predictor.bundle.label,
                "entity": {name: request[name] for name in spec.entity if name in request},
                "predicted_at": datetime.now(UTC),
                "state_through": prediction.state_through,
            }
        )


class _Metrics:
    """Prometheus metrics of a worker. Made at import they would be lost in BentoML's workers."""

    def __init__(self) -> None:
        from prometheus_client import Counter

        self.predictions = Counter("pilotage_predictions", "Predictions answered.", ["model", "version", "decision"])
        self.errors = Counter("pilotage_errors", "Requests answered with an error.", ["model", "error"])


_status: list[Callable[[], list[dict[str, object]]]] = []
"""The status of this process's follower, once there is one: BentoML makes the middleware before the worker."""


def build(specs: Mapping[str, ModelSpec], *, name: str = "PredictionService") -> Any:
    """Makes the service.

    Args:
        specs: Model → its declaration.
        name: Name of the service.

    Returns:
        A ``bentoml.Service``; bind it to a module's variable of the same name.
    """
    routes = {f"predict_{model}": _route(spec) for model, spec in specs.items()}
    doc = "Predictions of the champions.\n\n" + "\n".join(
        f"- `POST /{model}/predict`: {spec.title}" for model, spec in specs.items()
    )
    inner = type(name, (_Worker,), {"__doc__": doc, "specs": dict(specs), **routes})
    # A line a request would fill the disk: the health poll alone wrote 25 MB a day. Requests are counted by metrics.
    quiet: Any = {"access": {"enabled": False}}
    service = bentoml.service(name=name, workers=1, traffic={"timeout": TIMEOUT_S}, logging=quiet)(inner)
    service.add_asgi_middleware(
        Boundary,
        models=tuple(specs),
        status=lambda: _status[-1]() if _status else [],
        # Made once: it takes 0.2 s.
        page=cache(lambda: describe(service.openapi_spec.asdict(), specs)),
    )
    return service


def _route(spec: ModelSpec) -> Any:
    async def predict(self: _Worker, request: Body, /) -> Answer:
        return self.answer(spec, request.raw)  # type: ignore[return-value]

    predict.__doc__ = f"{spec.title}. {spec.objective}"
    predict.__name__ = f"predict_{spec.name}"
    predict.__annotations__ = {"request": request_model(spec), "return": Answer}
    api: Callable[[Callable[..., Awaitable[Any]]], Any] = bentoml.api(route=f"/{spec.name}/predict")
    return api(predict)
