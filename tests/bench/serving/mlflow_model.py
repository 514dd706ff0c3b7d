"""The same Booster saved in MLflow's format, for ``mlflow models serve``.

    BUNDLE=<folder> python -m tests.bench.serving.mlflow_model OUT

MLflow's LightGBM flavour is sent pandas rows of finished features; categories are sent as their codes.
"""

import json
import os
import sys
from pathlib import Path


def main(out: str) -> None:
    import lightgbm
    import mlflow.lightgbm
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    bundle = Path(os.environ["BUNDLE"])
    booster = lightgbm.Booster(model_str=(bundle / "model.txt").read_text())
    # With a signature, as MLflow asks for: without one it says that the model should have one.
    columns = Schema([ColSpec("double", name) for name in booster.feature_name()])
    signature = ModelSignature(inputs=columns, outputs=Schema([ColSpec("double")]))
    mlflow.lightgbm.save_model(booster, out, pip_requirements=["lightgbm"], signature=signature)


def payload(rows: list[dict[str, object]], bundle: Path) -> bytes:
    """Rows as ``dataframe_split``, with the codes of their categories."""
    levels = json.loads((bundle / "categories.json").read_text())
    names = list(rows[0])
    data = [
        [
            (float(levels[name].index(row[name])) if row[name] in levels[name] else None)
            if name in levels
            else None
            if row[name] is None
            else float(row[name])
            for name in names
        ]
        for row in rows
    ]
    return json.dumps({"dataframe_split": {"columns": names, "data": data}}).encode()


if __name__ == "__main__":
    main(sys.argv[1])
