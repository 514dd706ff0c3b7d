"""Keeps drift reports in MLflow, one run a window, beside the model they are about. Decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.release.mlflow_store import experiment_id, page, session
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.monitoring.drift import DriftReport


def log_drift(report: DriftReport, *, settings: Settings, page_file: Path, run_id: str) -> str:
    """Logs measures, verdict, thresholds and the page; a window that is looked at again is logged again.

    Returns:
        Address of the run in MLflow's UI.

    Raises:
        RegistryUnavailable: MLflow can't be reached.
    """
    import msgspec

    verdict = report.verdict
    with session(settings) as client:
        experiment = experiment_id(client, verdict.model, settings)
        tags = {
            "kind": "drift",
            "version": str(verdict.version),
            "window": f"{verdict.first} … {verdict.last}",
            "alarm": str(verdict.alarm).lower(),
            "dagster_run_id": run_id,
            "mlflow.note.content": verdict.why[:5_000],
        }
        run = client.create_run(experiment, run_name=f"drift {verdict.last or ''}".strip(), tags=tags).info.run_id
        for each in verdict.columns:
            for name in ("psi", "js"):
                measured = each.measures.get(name)
                if measured is not None and measured.value is not None:
                    key = f"{name}.{each.column}".replace("(", "").replace(")", "")
                    client.log_metric(run, key, measured.value)
        client.log_text(run, msgspec.json.format(msgspec.json.encode(verdict)).decode(), "verdict.json")
        client.log_text(run, msgspec.json.encode(report.thresholds).decode(), "thresholds.json")
        client.log_artifact(run, str(page_file))
        client.set_terminated(run)
        return page(settings, f"experiments/{experiment}/runs/{run}")
