"""The code location that the retraining faults are made in: the platform's own, in a hurry, with one model."""

import os
from datetime import timedelta

import dagster as dg

import sensors.retraining as quick
from assets.catalogue import all_assets
from assets.models import load_models
from assets.sources import load_sources
from jobs.catalogue import all_jobs
from pilotage.policy import Retraining
from pilotage.release.retraining import reconcile
from resources import default_resources

quick.EVERY_S = 2
reconcile.GRACE = timedelta(seconds=2)

EXECUTOR = os.environ.get("FAULTS_EXECUTOR")
RETRAINING = Retraining(
    at_most=1000,
    attempts=6,
    retry_after=timedelta(seconds=1),
    # Between two steps nobody beats, and with a process a step each begins with half a minute of imports here.
    lease=timedelta(seconds=240 if EXECUTOR == "multiprocess" else 20),
    better_by=0,
    watch=None,
)
SOURCES = load_sources()
MODEL = load_models()["loan_approval"].model_copy(update={"retraining": RETRAINING})
MODELS = {MODEL.name: MODEL}

defs = dg.Definitions(
    assets=all_assets(SOURCES, MODELS),
    jobs=all_jobs(SOURCES, MODELS),
    sensors=[quick.retraining_sensor(MODEL), quick.reconcile_sensor(MODELS)],
    resources=default_resources(),
    # With a process a step, a killed run worker leaves its step at work: a second writer.
    executor=dg.multiprocess_executor
    if os.environ.get("FAULTS_EXECUTOR") == "multiprocess"
    else dg.in_process_executor,
)
