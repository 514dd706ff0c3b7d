"""The definition as data: the same after JSON, one fingerprint in every process, another after any change."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from assets.models.flight_delay import MODEL
from pilotage.errors import DeclarationError
from pilotage.features.definition import Definition
from pilotage.features.view import FeatureView
from pilotage.spec import Feature, Latest, Window
from tests.unit.features.worlds import DEFINITION, MOMENT, VIEW, World, worlds


def test_a_view_is_the_same_after_json() -> None:
    view = FeatureView(MODEL)
    again = FeatureView.from_json(view.to_json())

    assert again.to_json() == view.to_json()
    assert again.fingerprint == view.fingerprint
    assert again.schema == view.schema
    assert again.state_types == view.state_types == MODEL.state_types()
    assert again.request_types == view.request_types == MODEL.request_types()
    assert again.timelines.keys() == view.timelines.keys()


@settings(deadline=None, max_examples=20)
@given(world=worlds)
def test_a_view_read_from_json_computes_the_same_features(world: World) -> None:
    again = FeatureView.from_json(VIEW.to_json())

    assert again.offline(world.population, world.read).equals(world.offline())


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from assets.models.flight_delay import MODEL; from pilotage.features.view import FeatureView;"
        "view = FeatureView(MODEL); print(view.fingerprint, *sorted(view.timelines))"
    )
    view = FeatureView(MODEL)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [view.fingerprint, *sorted(view.timelines)]


def changed(**changes: Any) -> str:
    return dataclasses.replace(DEFINITION, **changes).fingerprint


def with_asof(position: int, **changes: Any) -> str:
    asof = list(DEFINITION.asof)
    asof[position] = asof[position].model_copy(update=changes)
    return changed(asof=tuple(asof))


def test_anything_that_changes_a_value_changes_the_fingerprint() -> None:
    fingerprints = [
        DEFINITION.fingerprint,
        changed(features={**DEFINITION.features, "lane": pl.col("lane") + 1}),
        changed(features=dict(reversed(DEFINITION.features.items()))),
        changed(features={**DEFINITION.features, "more": pl.col("lane") * 2}),
        changed(predicts_at=pl.col("at") - pl.duration(seconds=1)),
        changed(request={**DEFINITION.request, "lane": pl.Boolean()}),
        changed(asof=DEFINITION.asof[:-1]),
        with_asof(0, columns={"value": pl.Float64()}),
        with_asof(0, max_age=timedelta(days=1)),
        with_asof(0, known_at=None),
        with_asof(0, on={"sensor": "lane"}),
        with_asof(0, source="places"),
        with_asof(4, over=timedelta(minutes=11)),
        with_asof(4, aggregate="sum"),
        with_asof(4, value=pl.col("value") * 2),
        with_asof(4, where=pl.col("value") > 0),
    ]

    assert len(set(fingerprints)) == len(fingerprints)


def test_words_for_people_do_not_change_the_fingerprint() -> None:
    features = tuple(Feature(name=each.name, expr=each.expr, description="Other words") for each in MODEL.features)

    assert FeatureView(MODEL.model_copy(update={"features": features})).fingerprint == FeatureView(MODEL).fingerprint


def test_every_kind_of_as_of_feature_survives_json() -> None:
    again = Definition.from_json(DEFINITION.to_json())

    assert [type(item) for item in again.asof] == [Latest] * 3 + [Window] * 5
    for item, other in zip(DEFINITION.asof, again.asof, strict=True):
        assert item.outputs() == other.outputs()
    assert again.asof[1].max_age == timedelta(minutes=7)  # type: ignore[union-attr]
    assert again.asof[0].columns["known_at"] == MOMENT  # type: ignore[union-attr]


def test_an_expression_with_a_python_function_is_neither_written_nor_read() -> None:
    code = pl.col("lane").map_elements(lambda lane: lane, return_dtype=pl.Int64)
    with pytest.raises(DeclarationError, match="feature bad"):
        dataclasses.replace(DEFINITION, features={"bad": code}).to_json()

    data = json.loads(DEFINITION.to_json())
    data["features"] = [["bad", code.meta.serialize(format="json")]]
    with pytest.raises(DeclarationError, match="holds a Python function"):
        FeatureView.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read"),
        ("[]", "can't be read"),
        ("{}", "can't be read"),
        ('{"format": 2}', "has format 2, not 1"),
        ('{"format": 1, "request": [["a", "matrix"]]}', "can't be read"),
        ('{"format":1,"request":[],"predicts_at":null,"asof":[{"kind":"guess"}],"features":[]}', "can't be read"),
        ('{"format":1,"request":[],"predicts_at":"nonsense","asof":[],"features":[]}', "predicts_at is not JSON"),
    ],
)
def test_text_that_is_no_definition_is_refused(text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        FeatureView.from_json(text)
