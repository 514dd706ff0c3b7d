"""Rows to predict in a notebook: what ``mlflow.pyfunc.load_model("models:/<model>@champion")`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import NotReleasable
from pilotage.release.champions import champion
from pilotage.runtime.bundle import read_bundle
from pilotage.runtime.contract import Contract
from pilotage.runtime.state import OnlineState
from pilotage.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


def champion_rows(
    model: str, requests: Sequence[Mapping[str, Any]], *, settings: Settings | None = None
) -> pd.DataFrame:
    """Requests as the service takes them, with the as-of columns that the service would look up for them.

    Args:
        model: A model with a champion.
        requests: JSON objects, such as the example on the service's OpenAPI page.
        settings: Where everything is; default: the environment's.

    Returns:
        One row per request: request and as-of columns.

    Raises:
        NotReleasable: The model has no champion.
        InvalidRequest: A request breaks the champion's contract.
        StateUnavailable: The online store is missing, or does not reach back so far.
    """
    settings = settings or Settings.load()
    release = champion(model, settings=settings)
    if release is None:
        raise NotReleasable(f"{model} has no champion.", fix=f"Promote a version: pilotage promote {model} VERSION.")
    bundle = read_bundle(Path(release.bundle), sha256=release.bundle_sha256)
    frame = Contract(bundle.request).frame(requests)
    if bundle.asof:
        state = OnlineState(settings.online / f"{model}.db")
        try:
            frame = state.attach(frame, bundle)
        finally:
            state.close()
    return frame.to_pandas()
