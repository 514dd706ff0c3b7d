"""Explanations are exact, in the spec's own words, and tell a person what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.models import loan_approval
from pilotage.errors import BundleCorrupt
from pilotage.runtime import explain
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.runtime.predictor import Predictor, Scored
from pilotage.spec import Feature
from pilotage.testing.bundles import make_bundle, tiny_rows, tiny_spec

FEATURES = tuple(
    feature.model_copy(update={"advice": "Order less at once."}) if feature.name == "amount" else feature
    for feature in tiny_spec().features
)
SPEC = tiny_spec(features=FEATURES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder, spec=SPEC, rounds=30)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return read_bundle(folder)


def scored(bundle: Bundle, rows: int = 40) -> list[Scored]:
    predictor = Predictor(bundle, 1)
    found = tiny_rows(SPEC, rows, seed=3).select(SPEC.request_types().keys()).to_dicts()
    return [predictor.score_one({**row, "ordered_at": row["ordered_at"].isoformat()}, None) for row in found]


def test_contributions_are_lightgbms_own_and_add_up_to_the_answer(bundle: Bundle, folder: Path) -> None:
    import lightgbm

    booster = lightgbm.Booster(model_str=(folder / "model.txt").read_text())
    predictor = Predictor(bundle, 1)
    for answer in scored(bundle):
        explanation = predictor.explain(answer)
        row = np.frombuffer(answer.prepared.key).reshape(1, -1)
        *wanted, base = booster.predict(row, pred_contrib=True, num_threads=1)[0]
        by_name = {each.feature: each.contribution for each in explanation.contributions}

        assert by_name == dict(zip([feature.name for feature in SPEC.features], wanted, strict=True))
        assert explanation.base_log_odds == base
        log_odds = explanation.base_log_odds + math.fsum(by_name.values())
        assert log_odds == pytest.approx(explanation.log_odds, abs=1e-9)
        assert log_odds == pytest.approx(booster.predict(row, raw_score=True)[0], abs=1e-9)
        calibrated = bundle.scorer.calibrator.apply(np.array([1 / (1 + math.exp(-log_odds))]))[0]
        assert answer.probability == pytest.approx(calibrated, abs=1e-9)
        assert explanation.base_rate == pytest.approx(
            bundle.scorer.calibrator.apply(np.array([1 / (1 + math.exp(-base))]))[0], abs=1e-12
        )


def test_the_largest_comes_first_in_the_specs_words_with_the_value_as_the_model_saw_it(bundle: Bundle) -> None:
    predictor = Predictor(bundle, 1)
    words = {feature.name: (feature.description, feature.unit) for feature in SPEC.features}
    for answer in scored(bundle):
        contributions = predictor.explain(answer).contributions
        sizes = [abs(each.contribution) for each in contributions]
        assert sizes == sorted(sizes, reverse=True)
        assert {each.feature: (each.description, each.unit) for each in contributions} == words
        assert {each.feature: each.value for each in contributions} == answer.prepared.features
    assert {type(value) for value in (answer.prepared.features["shop"], answer.prepared.features["express"])} == {
        str,
        bool,
    }


def test_reasons_are_what_spoke_for_the_decision_and_advice_is_for_what_stands_in_the_way(bundle: Bundle) -> None:
    predictor = Predictor(bundle, 1)
    answers = scored(bundle, 120)
    assert {answer.decision for answer in answers} == {True, False}
    advised = 0
    for answer in answers:
        explanation = predictor.explain(answer)
        sign = 1 if answer.decision else -1
        spoke = [each for each in explanation.contributions if each.contribution * sign > 0.01][: explain.MOST_REASONS]
        assert len(explanation.reasons) == len(spoke)
        for reason, each in zip(explanation.reasons, spoke, strict=True):
            assert reason.startswith(f"{each.description}: ")
            told = reason.endswith("Order less at once.")
            assert told == (each.feature == "amount" and not answer.decision)
            advised += told
    assert advised


def test_a_referred_request_is_told_what_stands_in_the_way(bundle: Bundle) -> None:
    predictor = Predictor(bundle, 1)
    answer = next(answer for answer in scored(bundle, 120) if answer.decision is False)
    referred = Scored(**{name: getattr(answer, name) for name in answer.__struct_fields__} | {"decision": None})
    assert predictor.explain(referred).reasons == predictor.explain(answer).reasons


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (None, "EUR", "Amount: not known."),
        (12.5, "EUR", "Amount: 12.5 EUR."),
        (0.123456, "", "Amount: 0.1235."),
        (123456.789, "USD", "Amount: 123,457 USD."),
        (-0.00012345, "", "Amount: -0.0001234."),
        (0.0, "", "Amount: 0."),
        (360.0, "months", "Amount: 360 months."),
        (1499, "minutes", "Amount: 1,499 minutes."),
        (True, "", "Amount: yes."),
        ("north", "", "Amount: north."),
        (math.inf, "", "Amount: inf."),
    ],
)
def test_a_value_is_shown_as_people_write_it(value: Any, unit: str, said: str) -> None:
    feature = Feature(name="amount", expr=pl.col("amount"), description="Amount", unit=unit)
    assert explain._sentence(feature, value, "") == said


def test_a_model_without_log_odds_is_not_explained() -> None:
    for objective in ("regression", "lambdarank", ""):
        with pytest.raises(BundleCorrupt, match="has no log-odds"):
            explain._log_odds_per_unit(objective)
    assert explain._log_odds_per_unit("binary sigmoid:2.5") == 2.5
    assert explain._log_odds_per_unit("cross_entropy") == 1.0


def test_an_applicant_for_a_loan_is_told_what_to_do() -> None:
    advised = {feature.name for feature in loan_approval.MODEL.features if feature.advice}
    assert {"loan_to_value", "obligations", "unverifiable"} <= advised
    band = loan_approval.MODEL.serving.refer_between
    assert band is not None
    assert band[0] <= loan_approval.MODEL.kpi.cost.threshold < band[1]
