"""Follows docs/how-to/add-a-feature.md to the letter."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
import pytest

from assets.models.flight_delay import MODEL
from pilotage.errors import DeclarationError
from pilotage.features.view import FeatureView
from pilotage.settings import PROJECT
from pilotage.spec import ModelSpec

PAGE = (PROJECT / "docs" / "how-to" / "add-a-feature.md").read_text()
SHORT_HOP, WINDOW, FEATURE, LOOK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def changed() -> ModelSpec:
    """The model's file with the page's lines in the places that it names."""
    source = (PROJECT / "assets" / "models" / "flight_delay.py").read_text()
    for place, lines in (("    asof=(\n", WINDOW), ("    features=(\n", SHORT_HOP + FEATURE)):
        assert source.count(place) == 1
        source = source.replace(place, place + lines)
    names: dict[str, Any] = {}
    exec(compile(source, "flight_delay.py", "exec"), names)
    model = names["MODEL"]
    assert isinstance(model, ModelSpec)
    return model


def test_the_page_adds_its_two_features_and_changes_the_fingerprint() -> None:
    before, after = FeatureView(MODEL), FeatureView(changed())

    added = {name: dtype for name, dtype in after.schema.items() if name not in before.schema}
    assert added == {"short_hop": pl.Boolean(), "carrier_route_late_14d": pl.Float64()}
    assert set(after.state_types) - set(before.state_types) == {"carrier_route_late_14d"}
    assert after.fingerprint != before.fingerprint


def test_what_the_page_shows_in_a_shell_prints_the_view(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(LOOK, "add-a-feature.md", "exec"), {})

    assert FeatureView(MODEL).fingerprint in capsys.readouterr().out


@pytest.mark.parametrize("expr", [pl.col("distance").mean(), pl.col("distance").shift()], ids=str)
def test_what_the_page_says_is_refused_is_refused(expr: pl.Expr) -> None:
    feature = MODEL.features[0].model_copy(update={"name": "x", "expr": expr})

    with pytest.raises(DeclarationError, match="Feature x looks at other rows"):
        FeatureView(MODEL.model_copy(update={"features": (feature,)}))
