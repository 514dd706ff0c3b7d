"""A declaration is checked when it is constructed, and its error names the field, the value and the fix."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from assets.models import load_models
from assets.models.flight_delay import MODEL as FLIGHT_DELAY
from assets.models.loan_approval import MODEL as LOAN_APPROVAL
from assets.sources.flights import SOURCE as FLIGHTS
from pilotage.data.source import Daily, Expectation, Files, RestEndpoint, SourceSpec
from pilotage.errors import DeclarationError
from pilotage.policy import CanaryStep, Drift, Guardrail, Retraining, Rollout, Serving, ShadowStage
from pilotage.spec import (
    CostMatrix,
    Feature,
    Gate,
    HashSplit,
    Label,
    Latest,
    ModelSpec,
    RequestField,
    TimeSplit,
    Window,
)

NEVER, DAY = timedelta(0), timedelta(days=1)
BRIER = Guardrail(metric="brier", tolerance=0.01)


def changed(spec: ModelSpec, **fields: Any) -> ModelSpec:
    values = {name: getattr(spec, name) for name in type(spec).model_fields}
    return ModelSpec(**(values | fields))


def refusal(spec: ModelSpec, **fields: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        changed(spec, **fields)
    return str(caught.value)


def test_both_shipped_models_are_valid_and_found_by_their_file_names() -> None:
    assert list(load_models()) == ["flight_delay", "loan_approval"]


def test_a_name_that_is_no_url_is_refused_with_the_value() -> None:
    message = refusal(FLIGHT_DELAY, name="Flight Delay")
    assert "name='Flight Delay'" in message
    assert "Fix:" in message


def test_a_field_that_does_not_exist_is_refused_with_the_ones_that_do() -> None:
    message = refusal(FLIGHT_DELAY, labell=None)
    assert "no field labell" in message
    assert "label" in message.split("Fix:")[1]


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DeclarationError, match=r"Feature\('x'\): expr is missing"):
        Feature(name="x", description="")  # type: ignore[call-arg]


def test_a_feature_that_reads_an_unknown_column_is_refused_with_the_known_ones() -> None:
    feature = Feature(name="wind", expr=pl.col("weather_wind"), description="Wind")
    message = refusal(FLIGHT_DELAY, features=(feature,))
    assert "feature wind reads weather_wind" in message
    assert "weather_wind_speed" in message.split("Fix:")[1]


def test_a_feature_with_a_python_function_is_refused_because_it_cannot_be_served() -> None:
    with pytest.warns(pl.exceptions.PolarsInefficientMapWarning):
        expr = pl.col("distance").map_elements(lambda miles: miles * 1.6, return_dtype=pl.Float64)
    message = refusal(FLIGHT_DELAY, features=(Feature(name="km", expr=expr, description=""),))
    assert "feature km holds a Python function" in message


def test_a_feature_may_share_a_columns_name_only_if_it_is_that_column() -> None:
    message = refusal(FLIGHT_DELAY, features=(Feature(name="distance", expr=pl.col("distance") * 2, description=""),))
    assert "feature distance has the name of a column" in message


def test_two_features_of_one_name_are_refused() -> None:
    twice = (Feature(name="miles", expr=pl.col("distance"), description=""),) * 2
    assert "features names miles twice" in refusal(FLIGHT_DELAY, features=twice)


def test_an_as_of_feature_keyed_by_a_column_that_no_request_has_is_refused() -> None:
    lookup = Latest(name="plane", source="planes", on={"tail": "tailnum"}, columns={"year": pl.Int64})
    assert "asof plane reads tail" in refusal(FLIGHT_DELAY, asof=(lookup,))


def test_a_protected_column_cannot_be_a_feature() -> None:
    request = (*LOAN_APPROVAL.request, RequestField(name="black", dtype=pl.Int64, description="", example=0))
    features = (*LOAN_APPROVAL.features, Feature(name="group", expr=pl.col("black"), description=""))
    assert "protected column black" in refusal(LOAN_APPROVAL, request=request, features=features)


def test_event_time_prediction_moment_and_label_time_go_together() -> None:
    timeless = Label(name="late", expr=pl.col("late"), known_at=None, description="")
    assert "go together" in refusal(FLIGHT_DELAY, label=timeless)


def test_a_window_needs_a_value_unless_it_counts() -> None:
    with pytest.raises(DeclarationError, match="has no value"):
        Window(name="w", source="s", on={"a": "a"}, known_at="t", over=timedelta(hours=1), aggregate="mean")


def test_a_request_column_of_a_type_that_json_lacks_is_refused() -> None:
    with pytest.raises(DeclarationError, match="can't be sent in a request"):
        RequestField(name="x", dtype=pl.Decimal, description="", example=1)


def test_the_decision_threshold_is_where_both_decisions_cost_the_same() -> None:
    cost = FLIGHT_DELAY.kpi.cost
    p = cost.threshold
    acting = p * cost.true_positive + (1 - p) * cost.false_positive
    waiting = p * cost.false_negative + (1 - p) * cost.true_negative
    assert acting == pytest.approx(waiting)


def test_a_cost_matrix_that_rewards_wrong_decisions_is_refused() -> None:
    with pytest.raises(DeclarationError, match="costs no more than the right one"):
        CostMatrix(true_positive=1, false_positive=0, true_negative=0, false_negative=2)


def test_a_declaration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FLIGHT_DELAY.owner = "team:other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: CanaryStep(share=0.1, predictions=1, at_most=timedelta(0)), "at_most"),
        (lambda: ShadowStage(predictions=1, at_most=timedelta(days=-1)), "at_most"),
        (
            lambda: Rollout(
                canary=tuple(CanaryStep(share=part, predictions=1, at_most=timedelta(days=1)) for part in (0.25, 0.05))
            ),
            "do not rise: 0.25, 0.05",
        ),
    ],
)
def test_a_rollout_goes_forward(build: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        build()


def test_a_model_that_is_split_by_a_hash_is_not_fitted_again() -> None:
    message = refusal(LOAN_APPROVAL, retraining=LOAN_APPROVAL.retraining.model_copy(update={"refit": True}))
    assert "no row that the next candidate could be judged on" in message
    assert "TimeSplit" in message


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: CostMatrix(true_positive=0, false_positive=math.nan, true_negative=0, false_negative=1), "finite"),
        (lambda: Gate(at_most={"log_loss": math.nan}), "finite"),
        (lambda: Expectation(name="n", sql="count(*)", low=math.nan, severity="block", why="."), "finite"),
        (lambda: TimeSplit(calibration=DAY, holdout=NEVER, embargo=NEVER), "holdout"),
        (lambda: TimeSplit(calibration=DAY, holdout=DAY, embargo=-DAY), "embargo"),
        (lambda: Gate(at_least={"auc": 78}), "auc is between 0 and 1, never 78"),
        (lambda: Gate(at_most={"brier": -0.1}), "brier is between 0 and 1"),
        (lambda: Expectation(name="n", sql="count(*)", low=2, high=1, severity="warn", why="."), "from 2 to 1"),
        (lambda: Rollout(guardrails=(BRIER, BRIER)), "two guardrails watch brier"),
        (lambda: HashSplit(calibration=0.7, holdout=0.3), "leave too few rows"),
        (lambda: HashSplit(calibration=0.2, holdout=0), "leave too few rows"),
        (lambda: Serving(refer_between=(0.8, 0.2)), "no probability is between"),
        (lambda: Drift(window=timedelta(hours=36)), "no number of whole days"),
        (lambda: Retraining(window=-DAY), "window"),
        (lambda: Rollout(approvals=2, approvers=("ann", "ann")), "nothing could be released"),
        (lambda: Daily(column="day", first=date(2026, 1, 2), last=date(2026, 1, 1)), "before the first"),
        (lambda: RestEndpoint(url="example.com/x", records="r"), "url"),
        (lambda: Files(pattern="x", format="csv", separator=";;"), "separator"),
        (lambda: field(pl.Float64, minimum=2, maximum=1), "no number is from 2 to 1"),
        (lambda: field(pl.String, minimum=2), "String has no minimum or maximum"),
        (lambda: field(pl.Int64, one_of=("a",)), "one_of is given for Int64"),
    ],
)
def test_what_nothing_could_ever_fulfil_is_refused_when_it_is_declared(build: Any, said: str) -> None:
    """Each of these was found at the first request, at a training's end, at night, or never: a bound that is NaN bounds
    nothing."""
    with pytest.raises(DeclarationError, match=said):
        build()


def field(dtype: Any, **changes: Any) -> RequestField:
    return RequestField(name="x", dtype=dtype, description="", example=1, **changes)


def test_slow_answers_may_be_watched_by_several_limits() -> None:
    limits = [Guardrail(metric="slow_answers", tolerance=0.1, limit_ms=limit) for limit in (20, 200)]
    assert Rollout(guardrails=tuple(limits)).guardrails == tuple(limits)
    with pytest.raises(DeclarationError, match="two guardrails watch slow_answers"):
        Rollout(guardrails=(limits[0], limits[0]))


@pytest.mark.parametrize("zone", ["Europe/Pariss", "", "+02:00", "../etc/passwd"])
def test_a_time_zone_that_is_on_no_map_is_refused_with_its_name(zone: str) -> None:
    """Dagster refuses it too, and all other models with it."""
    assert f"there is no time zone {zone!r}" in refusal(FLIGHT_DELAY, time_zone=zone)


def test_a_model_without_features_or_entity_is_refused() -> None:
    assert "features=()" in refusal(FLIGHT_DELAY, features=())
    assert "entity=()" in refusal(FLIGHT_DELAY, entity=())


def test_a_source_without_a_key_or_with_an_endpoint_that_is_asked_for_other_days_is_refused() -> None:
    said = {name: getattr(FLIGHTS, name) for name in SourceSpec.model_fields}
    for change, told in (
        ({"key": ()}, "key=\\(\\)"),
        ({"read": RestEndpoint(url="http://example.com/rows", records="r")}, "needs {day} in read.url"),
        ({"read": RestEndpoint(url="http://example.com/{day}", records="r"), "daily": None}, "only a daily one"),
    ):
        with pytest.raises(DeclarationError, match=told):
            SourceSpec(**(said | {"expectations": ()} | change))


def test_a_label_that_the_request_holds_is_refused() -> None:
    label = Label(name="far", expr=pl.col("distance") > 500, known_at="arr_known_at", description="")
    assert "who asks sends the answer" in refusal(FLIGHT_DELAY, label=label)


def test_the_models_own_rows_have_not_been_known_always() -> None:
    same = Latest(name="same", source="flights", on={"flight_id": "flight_id"}, columns={"late": pl.Boolean})
    message = refusal(FLIGHT_DELAY, asof=(*FLIGHT_DELAY.asof, same))
    assert "asof same takes all rows of flights for known always" in message
