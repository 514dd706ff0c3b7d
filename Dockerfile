# syntax=docker/dockerfile:1
# One image for the code location, the web server, the daemon, MLflow and the prediction service.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS libraries
COPY deploy/requirements.lock /tmp/requirements.lock
# The lock is complete and has every hash: nothing is resolved, and nothing unknown gets in.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes \
        -r /tmp/requirements.lock

FROM python:${PYTHON}-slim-bookworm
# LightGBM's threads.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
# Folders of the volumes, so that a new volume belongs to the user.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pilotage \
    && for folder in pilotage pilotage/landing pilotage/reports pilotage/access pilotage/dagster mlflow; do \
        install -d -o pilotage -g pilotage "/var/lib/$folder"; done
COPY --from=libraries /opt/venv /opt/venv
COPY --link definitions.py workspace.yaml pyproject.toml LICENSE /app/
COPY --link platform /app/platform
COPY --link assets /app/assets
COPY --link jobs /app/jobs
COPY --link sensors /app/sensors
COPY --link resources /app/resources
COPY --link serving /app/serving
COPY --link deploy/workspace.yaml /etc/dagster/
COPY --chmod=755 deploy/pilotage /usr/local/bin/pilotage
WORKDIR /app
# Both source roots for good: Dagster adds the working directory only while it imports the definitions.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app:/app/platform \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    DAGSTER_HOME=/var/lib/pilotage/dagster \
    PILOTAGE_HOME=/var/lib/pilotage \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    BENTOML_DO_NOT_TRACK=True \
    BENTOML_HOME=/tmp/bentoml \
    DO_NOT_TRACK=1 \
    GX_ANALYTICS_ENABLED=false \
    DAGSTER_EVENT_BATCH_SIZE=500 \
    OMP_WAIT_POLICY=passive
# The code is not installed: it says its version by a file on the path.
RUN version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml) \
    && mkdir "pilotage-$version.dist-info" \
    && printf 'Metadata-Version: 2.1\nName: pilotage\nVersion: %s\n' "$version" >"pilotage-$version.dist-info/METADATA"
# Bytecode once, here: the containers' file system is read-only.
RUN python -m compileall -q /app
USER 10001:10001
CMD ["pilotage", "--help"]
