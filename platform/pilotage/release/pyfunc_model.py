"""The model that MLflow loads in a notebook. MLflow stores this file as text ("models from code"): nothing is pickled.

    mlflow.pyfunc.load_model("models:/flight_delay@champion").predict(frame)

``frame`` (pandas) has the request and as-of columns, as ``pilotage.runtime.state`` joins them; the answer has
``probability`` and ``decision``, one row per row. This file imports Pilotage only where it predicts, so that it can be
stored without being run.
"""

from pathlib import Path

import mlflow  # noqa: TID253 - only MLflow ever runs this file
import pandas as pd  # noqa: TID253


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A bundle behind MLflow's interface."""

    def load_context(self, context):  # type: ignore[no-untyped-def]
        """Admits the bundle: hashes, a trial in a child process, golden rows."""
        from pilotage.runtime.probe import admit

        self._bundle = admit(Path(context.artifacts["bundle"]))

    def predict(self, context, model_input: pd.DataFrame, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Predicts rows that already carry their as-of columns."""
        from pilotage.runtime.pandas_frame import predict_frame

        return predict_frame(self._bundle, model_input)


mlflow.models.set_model(BundleModel())
