"""A notebook's frame gets the answers that the service gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pilotage.policy import Serving
from pilotage.runtime.bundle import read_bundle
from pilotage.runtime.pandas_frame import predict_frame
from pilotage.runtime.predictor import Predictor
from pilotage.testing.bundles import make_bundle, tiny_rows, tiny_spec


def test_where_the_service_refers_to_a_person_a_frame_has_no_decision_either(tmp_path: Path) -> None:
    spec = tiny_spec()
    rows = tiny_rows(spec, 200, seed=3).select(*spec.request_types())
    make_bundle(tmp_path / "decides", spec=spec)
    scores = np.unique(read_bundle(tmp_path / "decides").score(rows))
    # Both ends are scores of some rows: the lower one is inside.
    band = float(scores[len(scores) // 4]), float(scores[3 * len(scores) // 4])
    make_bundle(tmp_path / "refers", spec=spec.model_copy(update={"serving": Serving(refer_between=band)}))
    for name, undecided in (("decides", False), ("refers", True)):
        bundle = read_bundle(tmp_path / name)
        answers = predict_frame(bundle, rows.to_pandas())
        served = [Predictor(bundle, 1).decided(None, p).decision for p in answers["probability"]]  # type: ignore[arg-type]
        assert answers["decision"].tolist() == served
        assert (None in served, {True, False} <= set(served)) == (undecided, True)
