"""Every sensor, made from the declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import dagster as dg

from pilotage.data.source import SourceSpec
from pilotage.spec import ModelSpec
from sensors.alerts import alerts_sensor
from sensors.aliases import alias_sensor
from sensors.failures import run_failures_sensor
from sensors.heartbeat import heartbeat_sensor
from sensors.new_files import new_files_sensor
from sensors.prediction_log import prediction_log_sensor
from sensors.retraining import reconcile_sensor, retraining_sensor, watch_sensor
from sensors.retraining_alarms import alarm_sensor as retraining_alarm_sensor
from sensors.rollout import rollout_sensor


def all_sensors(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> Iterator[dg.SensorDefinition]:
    """Running on a fresh instance, without a click."""
    yield new_files_sensor(sources, models)
    yield prediction_log_sensor()
    for spec in models.values():
        yield rollout_sensor(spec)
        yield retraining_sensor(spec)
        yield retraining_alarm_sensor(spec)
        yield watch_sensor(spec)
    yield reconcile_sensor(models)
    yield alias_sensor(models)
    yield run_failures_sensor()
    yield heartbeat_sensor(sources, models)
    yield alerts_sensor()
