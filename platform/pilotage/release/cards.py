"""Model cards beside their candidates in MLflow: written once, and read back only as the ledger knows them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pilotage.errors import CardChanged, NotReleasable
from pilotage.release import mlflow_store
from pilotage.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pilotage.release.history import VersionRecord

CARD = "model_card.md"
"""Artifact of a candidate's run."""
CARD_SHA256 = "model_card_sha256"
"""Tag of the run, and fact of the version in the ledger."""


def keep_card(client: MlflowClient, run_id: str, card: str) -> str:
    """Keeps a card with a candidate's run, if no earlier attempt did; returns the SHA-256 of the kept one."""
    if (kept := client.get_run(run_id).data.tags.get(CARD_SHA256)) is not None:
        return str(kept)
    client.log_text(run_id, card, CARD)
    digest = sha256(card.encode()).hexdigest()
    client.set_tag(run_id, CARD_SHA256, digest)
    return digest


def read_card(model: str, version: VersionRecord, *, settings: Settings) -> str:
    """The card of a registered version.

    Raises:
        NotReleasable: It was registered before there were cards.
        CardChanged: MLflow has another one, or none.
        RegistryUnavailable: MLflow can't be reached.
    """
    expected = version.facts.get(CARD_SHA256)
    if expected is None:
        raise NotReleasable(
            f"{model} version {version.version} was registered before there were model cards.",
            fix=f"pilotage trace, audit log and status tell of it; pilotage train {model} makes a version with a card.",
        )
    with mlflow_store.session(settings) as client:
        card = _stored(client, version.mlflow_run_id)
    if card is None or sha256(card).hexdigest() != expected:
        was = "is gone" if card is None else "was changed"
        raise CardChanged(
            f"The card of {model} version {version.version} {was}: the ledger knows {expected[:12]}.",
            fix=f"Restore {CARD} of the MLflow run {version.mlflow_run_id} from a backup.",
        )
    return card.decode()


def _stored(client: MlflowClient, run_id: str) -> bytes | None:
    if CARD not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, CARD, folder)).read_bytes()
