"""One request or many, the answer is the bundle's, and belongs to one version."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pilotage.errors import BundleCorrupt, InvalidRequest, ModelNotReady
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.scorer import Calibrator
from pilotage.spec import Serving
from pilotage.testing.bundles import ORDER, make_bundle, tiny_rows, tiny_spec

SPEC = tiny_spec(with_state=True)


class Known:
    """State that always knows the same."""

    through = datetime(2024, 1, 2, tzinfo=UTC)

    def attach(self, requests: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
        return requests.with_columns(pl.lit(4, pl.Int64).alias("stock_level"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder, spec=SPEC)
    return read_bundle(folder)


def test_answers_come_in_order_with_version_and_state(bundle: Bundle) -> None:
    requests = tiny_rows(SPEC, 5).select(SPEC.request_types().keys())
    answers = Predictor(bundle, 12).predict(requests, Known())
    wanted = bundle.score(Known().attach(requests, bundle))
    assert [answer.probability for answer in answers] == wanted.tolist()
    assert {answer.version for answer in answers} == {12}
    assert {answer.state_through for answer in answers} == {Known.through}
    assert [answer.decision for answer in answers] == (wanted >= bundle.threshold).tolist()


def test_objects_and_typed_rows_get_the_same_bits(bundle: Bundle) -> None:
    rows = tiny_rows(SPEC, 3).select(SPEC.request_types().keys())
    objects = [{**row, "ordered_at": row["ordered_at"].isoformat()} for row in rows.to_dicts()]
    predictor = Predictor(bundle, 1)
    assert predictor.predict(objects, Known()) == predictor.predict(rows, Known())


def test_no_rows_are_no_answers(bundle: Bundle) -> None:
    assert Predictor(bundle, 1).predict([], Known()) == []


def test_a_model_with_history_does_not_answer_without_it(bundle: Bundle) -> None:
    requests = tiny_rows(SPEC, 1).select(SPEC.request_types().keys())
    with pytest.raises(ModelNotReady, match="no online state"):
        Predictor(bundle, 1).predict(requests, None)


def test_one_bad_row_is_refused_before_anything_is_predicted(bundle: Bundle) -> None:
    rows = tiny_rows(SPEC, 3).with_columns(amount=pl.lit(-1.0))
    with pytest.raises(InvalidRequest, match="amount"):
        Predictor(bundle, 1).predict(rows, Known())


def test_what_is_no_probability_is_never_answered(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle.scorer, "calibrator", Calibrator("isotonic", [0.0, 1.0], [1.5, 1.7]))
    with pytest.raises(BundleCorrupt, match="no probability"):
        Predictor(bundle, 1).predict(tiny_rows(SPEC, 1).select(SPEC.request_types().keys()), Known())


@pytest.mark.parametrize("band", [None, (0.25, 0.5), (0.0, 1.0), (0.5, 1.0)])
def test_many_are_decided_as_each_would_be_alone(tmp_path: Path, band: tuple[float, float] | None) -> None:
    make_bundle(tmp_path / "tiny", spec=tiny_spec(serving=Serving(refer_between=band)))
    predictor = Predictor(read_bundle(tmp_path / "tiny"), 1)
    edges = [0.0, 0.25, 0.5, 1.0, predictor.bundle.threshold]
    near = [math.nextafter(edge, to) for edge in edges for to in (0.0, 1.0)]
    prepared = predictor.prepare_many([ORDER] * len(edges + near), None)
    many = predictor.decided_many(prepared, edges + near)
    alone = [predictor.decided(predictor.prepare(ORDER, None), each) for each in edges + near]
    assert [(each.decision, each.referred) for each in many.all()] == [(one.decision, one.referred) for one in alone]


@pytest.mark.parametrize("wrong", [math.nan, -1e-9, 1.0 + 1e-9, math.inf])
def test_no_probability_among_many_is_never_decided_on(tmp_path: Path, wrong: float) -> None:
    make_bundle(tmp_path / "tiny", spec=tiny_spec())
    predictor = Predictor(read_bundle(tmp_path / "tiny"), 1)
    prepared = predictor.prepare_many([ORDER] * 3, None)
    with pytest.raises(BundleCorrupt, match="no probability"):
        predictor.decided_many(prepared, [0.5, wrong, 0.5])
