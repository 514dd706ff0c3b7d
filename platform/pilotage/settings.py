"""The one reader of the environment: where state lives, which ports, which stores.

Every setting is an environment variable ``PILOTAGE_…`` with a default that works on one machine. Nothing else in the
project reads ``os.environ``; nothing here opens a file or a connection.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from pilotage.errors import ConfigError
from pilotage.redaction import without_secrets

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: where ``workspace.yaml`` and ``definitions.py`` are."""

Port = Annotated[int, Field(ge=1, le=65535)]


def _http(address: str) -> str:
    """Refuses what no request could be sent to, and nobody would miss: ``collector:4318``."""
    parts = urlsplit(address)
    if address and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise PydanticCustomError("address", "an address begins with http://HOST or https://HOST")
    return address


PREFIX = "PILOTAGE_"


class Settings(BaseSettings):
    """Where everything is. Build with ``Settings.load()``; pass it down, never look it up again."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    home: Path = PROJECT / ".pilotage"
    """Folder that holds all state. Deleting it resets everything."""
    host: str = "127.0.0.1"
    """Address that servers listen on."""
    dagster_port: Port = 3000
    mlflow_port: Port = 5000
    service_port: Port = 8000
    reports_port: Port = 3001
    """Data Docs and drift reports, as static pages."""
    dagster_url: str = ""
    """Where people reach the Dagster UI. Default: ``http://<host>:<dagster_port>``."""
    mlflow_url: str = ""
    """Where people reach the MLflow UI."""
    reports_url: str = ""
    """Where people reach the reports."""
    lake_uri: str = ""
    """Root of the Delta tables: a folder or ``s3://bucket/prefix``. Default: ``<home>/lake``."""
    mlflow_uri: str = ""
    """MLflow tracking and registry store: ``sqlite:///…``, ``postgresql://…`` or a server's URL."""
    ledger_url: str = ""
    """SQLAlchemy URL of the ledger. Default: SQLite in ``<home>/ledger.db``."""
    ledger_key_file: Path | None = None
    """File with the secret of the ledger's keyed hashes, 16 bytes or more; only who writes or audits needs it."""
    ledger_keyed_since: Annotated[int, Field(ge=1)] | None = None
    """Number of the first keyed event: from it on an event without the key is a forgery, whoever can write the database
    and the home. 1 for a ledger that had its key from the beginning."""
    service_workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer predictions."""
    api_keys_file: Path | None = None
    """File of hashed API keys. Default: ``<home>/api-keys.json``."""
    pseudonym_key_file: Path | None = None
    """File with the secret that pseudonyms in the prediction log are made with. Default: made in ``<home>``."""
    otel_endpoint: Annotated[str, AfterValidator(_http)] = ""
    """OTLP/HTTP endpoint that traces are sent to; empty for none."""
    log_format: Literal["text", "json"] = "text"
    """Of the service's own log lines."""
    loans_url: str = ""
    """SQLAlchemy URL of the database that the loans are read from. Default: ``<home>/landing/loans.db``."""
    databases: dict[str, str] = {}
    """Name → SQLAlchemy URL of a database that sources are read from: ``PILOTAGE_DATABASES__<NAME>``, one each."""
    alerts_url: str = ""
    """SQLAlchemy URL of the alarms' database. Default: SQLite in ``<home>/alerts.db``."""
    alerts_file: Path | None = None
    """File of who is told of alarms: lines ``NAME WHAT ADDRESS``. A secret; without it alarms are in the log and UI."""
    alerts_escalate_minutes: Annotated[int, Field(ge=1, le=10_080)] = 30
    """Minutes that a critical alarm waits for somebody to acknowledge it, before others are told."""
    certificate_file: Path | None = None
    """Certificate (PEM) of the proxy in front, to be told before it expires."""
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Threads that one training may use."""

    @classmethod
    def load(cls) -> Settings:
        """Reads the ``PILOTAGE_*`` variables of the environment.

        Raises:
            ConfigError: A variable has a value that does not fit, or a name that no setting has.
        """
        known = {PREFIX + name.upper() for name in cls.model_fields}
        given = (key for key in os.environ if key.startswith(PREFIX))
        unknown = sorted(key for key in given if key not in known and not key.startswith(f"{PREFIX}DATABASES__"))
        if unknown:
            raise ConfigError(
                f"No setting is called {', '.join(unknown)}.",
                fix=f"Unset it, or use one of: {', '.join(sorted(known))}.",
                unknown=unknown,
            )
        try:
            settings = cls()
        except SettingsError:
            # The only setting that may be one text for several, or one each.
            raise ConfigError(
                f"{PREFIX}DATABASES is no JSON object.",
                fix=f"Unset it, and give each database its own variable: {PREFIX}DATABASES__<NAME>=<URL>.",
                setting=f"{PREFIX}DATABASES",
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            name = PREFIX + "__".join(map(str, first["loc"])).upper()
            raise ConfigError(
                f"{name}={without_secrets(repr(first['input']))} does not fit: {first['msg']}.",
                fix=f"Correct or unset {name}.",
                setting=name,
            ) from None
        return settings.model_copy(update={"home": settings.home.expanduser().absolute()})

    @property
    def landing(self) -> Path:
        """Folder where other systems drop files: ``<landing>/<source>/<file>``."""
        return self.home / "landing"

    @property
    def dagster_ui(self) -> str:
        return self.dagster_url or f"http://{self.host}:{self.dagster_port}"

    @property
    def mlflow_ui(self) -> str:
        return self.mlflow_url or f"http://{self.host}:{self.mlflow_port}"

    @property
    def reports_ui(self) -> str:
        return self.reports_url or f"http://{self.host}:{self.reports_port}"

    @property
    def service(self) -> str:
        """Address of the prediction service on this machine."""
        return f"http://{self.host}:{self.service_port}"

    @property
    def lake(self) -> str:
        return self.lake_uri or str(self.home / "lake")

    @property
    def mlflow(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    def without_mlflow(self) -> Self:
        """These, with MLflow out of reach: who decides then shows it nothing, which whoever looks next makes up for."""
        return self.model_copy(update={"mlflow_uri": f"sqlite:///{Path('/nonexistent/mlflow.db')}"})

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow-artifacts"

    @property
    def ledger(self) -> str:
        return self.ledger_url or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def ledger_head(self) -> Path:
        """The ledger's last event, noted outside its database."""
        return self.home / "ledger.head"

    @property
    def alerts(self) -> str:
        return self.alerts_url or f"sqlite:///{self.home / 'alerts.db'}"

    @property
    def heartbeat(self) -> Path:
        """What the platform's watch over itself noted last, for who watches the watch."""
        return self.home / "heartbeat.json"

    @property
    def loans(self) -> str:
        return self.loans_url or f"sqlite:///{self.landing / 'loans.db'}"

    def database(self, name: str) -> str | None:
        """SQLAlchemy URL of the database that a source names: one of ``databases``, or a property such as ``loans``."""
        url = self.databases.get(name, getattr(self, name, None))
        return url if isinstance(url, str) else None

    @property
    def candidates(self) -> Path:
        """Work of training runs before registration: ``<candidates>/<model>/<run>/``."""
        return self.home / "candidates"

    @property
    def bundles(self) -> Path:
        """Verified bundles that serving keeps: ``<bundles>/<model>/<version>/``."""
        return self.home / "bundles"

    @property
    def tried(self) -> Path:
        """Which bundles came through a trial process of this host: a file each, by SHA-256."""
        return self.bundles / ".tried"

    @property
    def online(self) -> Path:
        """Online state, one SQLite file a model: ``<online>/<model>.db``."""
        return self.home / "online"

    @property
    def prediction_log(self) -> Path:
        """Segments of the prediction log, until they are in the lake."""
        return self.home / "prediction-log"

    @property
    def api_keys(self) -> Path:
        return self.api_keys_file or self.home / "api-keys.json"

    @property
    def pseudonym_key(self) -> Path:
        return self.pseudonym_key_file or self.home / "pseudonym.key"

    @property
    def service_state(self) -> Path:
        """What the workers of the service share and remember: last known plans, request ids, rate limits."""
        return self.home / "service"

    @property
    def heartbeats(self) -> Path:
        """A file for each worker of the service, in which it says how it is. Who has no API key reads it here."""
        return self.service_state / "heartbeats"

    @property
    def reports(self) -> Path:
        """HTML that the UI links to: Data Docs, drift reports."""
        return self.home / "reports"

    @property
    def records(self) -> Path:
        """What one asset hands to the next, as JSON."""
        return self.home / "records"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"
