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

    bundle = Path(os.environ["BUNDLE"])
    booster = lightgbm.Booster(model_str=(bundle / "model.txt").read_text())
    mlflow.lightgbm.save_model(booster, out, pip_requirements=["lightgbm"])


def payload(rows: list[dict[str, object]], bundle: Path) -> bytes:
    """Rows as ``dataframe_split``, with the codes of their categories."""
    levels = json.loads((bundle / "categories.json").read_text())
    names = list(rows[0])
    data = [
        [
            (levels[name].index(row[name]) if row[name] in levels[name] else None) if name in levels else row[name]
            for name in names
        ]
        for row in rows
    ]
    return json.dumps({"dataframe_split": {"columns": names, "data": data}}).encode()


if __name__ == "__main__":
    main(sys.argv[1])
