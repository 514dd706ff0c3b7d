"""From what was measured to an alarm: weights, hysteresis, and what is said."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest

from pilotage.monitoring.drift import ColumnDrift, DriftState, DriftVerdict, ExpectedLoss, Thresholds, decide
from pilotage.monitoring.drift.deciding import TOGETHER, _step_down
from pilotage.monitoring.drift.learning import column_weights, level, lower_level, threshold
from pilotage.monitoring.drift.learning import score as score_of
from pilotage.monitoring.drift.records import ColumnNull, Learned, Measured, Multivariate, Null, Raised

DAY = date(2024, 5, 1)


def thresholds(*, enough: bool = True, seasonal: bool = False) -> Thresholds:
    null = {"psi": Null(location=0.1, scale=0.05)}
    seasons = {month: {"psi": Null(location=0.1 * month, scale=0.05)} for month in range(1, 13)}
    columns = {
        name: ColumnNull(role="input", weight=weight, seasons=seasons if seasonal else {0: null})
        for name, weight in (("heavy", 2.0), ("light", 0.5))
    }
    return Thresholds(
        model="m",
        version=3,
        window_days=7,
        block_days=7,
        false_alarms_a_year=0.2,
        enough=enough,
        why="Learned." if enough else "5 days of history are too few to learn from; declared thresholds hold.",
        learned=Learned(first=DAY, last=DAY, days=60, left_out=(), rows_a_window=1000.0, sources={}),
        columns=columns if enough else {},
        joint={"heavy": [0.1 * k for k in range(100)], "light": [0.05 * k for k in range(100)]} if enough else {},
        declared={"psi": 0.25},
        expected_cost=None,
        seasonal=seasonal,
    )


def column(
    name: str, score: float | None, *, drifted: bool, importance: float | None = 0.3, role: str = "input"
) -> ColumnDrift:
    return ColumnDrift(
        column=name,
        role=role,  # type: ignore[arg-type]
        measures={"psi": Measured(value=0.5 if drifted else 0.1, threshold=0.3)},
        null_rate=0.0,
        reference_null_rate=0.0,
        importance=importance,
        score=score,
        drifted=drifted,
        raised=False,
    )


def run(*windows: list[ColumnDrift], learned: Thresholds | None = None, **more: object) -> list[DriftVerdict]:
    state, verdicts = DriftState(), []
    for place, columns in enumerate(windows):
        last = DAY + timedelta(days=place)
        days = [last - timedelta(days=back) for back in range(6, -1, -1)]
        verdict, state = decide(
            columns,
            learned or thresholds(),
            state,
            days=days,
            rows=900,
            reference_rows=5000,
            **more,  # type: ignore[arg-type]
        )
        # What is remembered is JSON.
        state = msgspec.json.decode(msgspec.json.encode(state), type=DriftState)
        verdicts.append(verdict)
    return verdicts


def test_a_value_that_flaps_raises_one_alarm_and_a_calm_window_length_clears_it() -> None:
    high, between, low = (column("heavy", score, drifted=score > 8) for score in (9.0, 5.0, 0.0))
    told = run(*[[each] for each in (low, high, between, high, between, between, high, *[low] * 7, low)])
    assert [verdict.new for verdict in told].count(True) == 1
    assert [verdict.alarm for verdict in told] == [False] + [True] * 12 + [False, False]
    assert [verdict.cleared for verdict in told].count(True) == 1
    assert told[13].cleared


def test_six_calm_windows_and_another_rise_are_the_same_alarm() -> None:
    high, low = column("heavy", 9.0, drifted=True), column("heavy", 0.0, drifted=False)
    told = run([high], *[[low]] * 6, [high], *[[low]] * 6)
    assert [verdict.new for verdict in told] == [True] + [False] * 13
    assert all(verdict.alarm for verdict in told)


def test_a_window_that_is_looked_at_again_changes_nothing() -> None:
    days = [DAY - timedelta(days=back) for back in range(6, -1, -1)]
    columns = [column("heavy", 9.0, drifted=True)]
    first, state = decide(columns, thresholds(), DriftState(), days=days, rows=1, reference_rows=1)
    second, again = decide(columns, thresholds(), state, days=days, rows=1, reference_rows=1)
    assert (first.new, second.new) == (True, False)
    assert (first.alarm, second.alarm) == (True, True)
    assert again == state


def test_features_that_hardly_matter_are_told_and_raise_no_alarm() -> None:
    (told,) = run([column("light", 20.0, drifted=True, importance=0.01)])
    assert not told.alarm
    assert told.drifted == ["light"]
    assert told.why.startswith("Moved, but matters little to the model: light (PSI 0.5, threshold 0.3, 1% of the gain)")


def test_several_that_matter_little_matter_together() -> None:
    (told,) = run([column(f"light{place}", 20.0, drifted=True, importance=0.04) for place in range(3)])
    assert told.alarm
    assert told.matters == pytest.approx(0.12)


def test_predictions_labels_and_the_columns_together_matter_by_themselves() -> None:
    for role in ("prediction", "label", "concept"):
        (told,) = run([column(role, 20.0, drifted=True, importance=None, role=role)])
        assert told.alarm
    together = Multivariate(
        effect=0.4, threshold=0.3, past=(0.1,) * 6, rows=100, used={"temp": 0.7, "wind": 0.2}, drifted=True
    )
    (told,) = run([column("heavy", 0.0, drifted=False)], multivariate=together)
    assert told.alarm
    assert "A classifier tells the window from the reference (AUC 0.90) by temp, wind." in told.why
    assert TOGETHER not in told.raised, "it is no column"


def test_labels_that_stop_keep_their_alarm_open_and_it_is_the_same_one_when_they_come_back() -> None:
    calm = column("heavy", 0.0, drifted=False)
    for role in ("label", "concept"):
        moved, back = (column(role, score, drifted=score > 8, importance=None, role=role) for score in (20.0, 0.0))
        told = run([calm, moved], *[[calm]] * 20, [calm, moved], *[[calm, back]] * 7)
        assert [each.new for each in told] == [True] + [False] * 28
        assert [each.alarm for each in told] == [True] * 28 + [False]
        assert told[1].why.startswith(f"Not measured in this window, and beyond its threshold lately: {role}.")
        assert "The truth itself moved" in told[1].why


def after(raised: dict[str, Raised], *columns: ColumnDrift, windows: int, **more: Any) -> list[DriftVerdict]:
    """Windows after a state in which something is raised."""
    state, told = DriftState(raised=raised, alarm_since=DAY, through=DAY), []
    for place in range(1, windows + 1):
        days = [DAY + timedelta(days=place - back) for back in range(6, -1, -1)]
        verdict, state = decide(list(columns), thresholds(), state, days=days, rows=9, reference_rows=9, **more)
        told.append(verdict)
    return told


def test_an_alarm_of_the_columns_together_ends_when_the_classifier_no_longer_runs() -> None:
    raised = {TOGETHER: Raised(since=DAY, calm=0, worst=0.3)}
    calm = column("heavy", 0.0, drifted=False)
    told = after(raised, calm, windows=8)
    assert [each.alarm for each in told] == [True] * 6 + [False, False]
    assert told[0].why == "Not measured in this window, and beyond its threshold lately: the columns together."
    assert told[6].cleared
    (told_off,) = after(raised, calm, windows=1, watched={"heavy"})
    assert told_off.cleared, "the policy has no classifier any more"


def test_a_column_that_the_new_version_does_not_have_is_raised_no_longer() -> None:
    raised = {"label": Raised(since=DAY, calm=0, worst=9.0, role="label")}
    calm = column("heavy", 0.0, drifted=False)
    (told,) = after(raised, calm, windows=1, watched={"heavy", TOGETHER})
    assert (told.alarm, told.why) == (False, "Nothing moved more than it does in an ordinary year.")
    (told,) = after(raised, calm, windows=1, watched={"heavy", "label"})
    assert told.alarm


def test_a_state_from_before_roles_were_kept_is_read_and_goes_on() -> None:
    old = b'{"raised":{"heavy":{"since":"2024-04-30","calm":1,"worst":9.0}},"alarm_since":"2024-04-30","incidents":[]}'
    state = msgspec.json.decode(old, type=DriftState)
    days = [DAY - timedelta(days=back) for back in range(6, -1, -1)]
    calm = column("heavy", 0.0, drifted=False)
    told, later = decide([calm], thresholds(), state, days=days, rows=1, reference_rows=1)
    assert (told.alarm, told.new) == (True, False)
    assert later.raised["heavy"] == Raised(since=date(2024, 4, 30), calm=2, worst=9.0, role="input")


@pytest.mark.parametrize(("suffers", "words"), [(True, "is expected to suffer"), (False, "is not expected to suffer")])
def test_the_alarm_says_whether_performance_is_expected_to_suffer(suffers: bool, words: str) -> None:
    expected = ExpectedLoss(
        cost=230.0 if suffers else 190.0,
        reference_cost=200.0,
        cost_change=30.0 if suffers else -10.0,
        threshold=20.0,
        suffers=suffers,
    )
    (told,) = run([column("heavy", 9.0, drifted=True)], expected=expected)
    assert f"Performance {words}" in told.why


def test_too_little_history_is_said_and_clears_by_the_declared_threshold() -> None:
    few = thresholds(enough=False)
    high, low = column("heavy", None, drifted=True), column("heavy", None, drifted=False)
    told = run([high], *[[low]] * 7, learned=few)
    assert told[0].alarm
    assert not told[0].learned
    assert "5 days of history are too few to learn from" in told[0].why
    assert told[-1].cleared
    assert threshold(few, "heavy", "psi", 0, level(few)) == 0.25


def test_a_heavy_feature_has_a_lower_threshold_than_a_light_one_and_no_threshold_is_below_the_smallest_effect() -> None:
    learned = thresholds()
    reach = level(learned)
    assert lower_level(learned) < reach
    heavy, light = (threshold(learned, name, "psi", 0, reach) for name in ("heavy", "light"))
    assert heavy < light
    assert threshold(learned, "heavy", "psi", 0, -100.0) == 0.05


def test_the_more_columns_are_looked_at_the_more_one_must_show_so_that_all_together_keep_the_rate() -> None:
    ascending, descending = [0.1 * k for k in range(100)], [0.1 * k for k in reversed(range(100))]
    both = msgspec.structs.replace(thresholds(), joint={"heavy": ascending, "light": descending})
    alone = [level(both, [name]) for name in ("heavy", "light")]
    assert alone == pytest.approx([8.2, 8.2], abs=0.11)
    # What one column reaches in 18 of 100 years, one of two that go apart reaches in 36.
    reached = sum(max(pair) >= level(both) for pair in zip(ascending, descending, strict=True))
    assert reached / 100 == pytest.approx(1 - math.exp(-both.false_alarms_a_year), abs=0.02)
    assert level(both) > max(alone)


def test_beside_a_column_that_surely_drifted_the_others_are_held_to_what_they_reach_without_it() -> None:
    learned = thresholds()
    score = (level(learned, ["light"]) + level(learned)) / 2
    light = column("light", score, drifted=False)
    for sure in (True, False):
        heavy = column("heavy", 20.0 if sure else 1.0, drifted=sure)
        told = {each.column: each.drifted for each in _step_down([heavy, light], learned, 0)}
        assert told == {"heavy": sure, "light": sure}
    noisy = msgspec.structs.replace(light, measures={"psi": Measured(value=0.1, threshold=2.0)})
    [_, same] = _step_down([column("heavy", 20.0, drifted=True), noisy], learned, 0)
    assert not same.drifted, "of a window with few rows only the higher threshold counts"


def test_the_same_surprise_counts_for_more_in_a_column_that_matters_more() -> None:
    heavy, light = (score_of(thresholds().columns[name], 0, {"psi": 0.3}) for name in ("heavy", "light"))
    assert heavy - light == pytest.approx(math.log(2.0 / 0.5))


def test_where_a_year_is_known_each_month_has_its_own_threshold() -> None:
    learned = thresholds(seasonal=True)
    january, july = (threshold(learned, "heavy", "psi", month, level(learned)) for month in (1, 7))
    assert july - january == pytest.approx(0.6)
    assert learned.season(date(2024, 7, 3)) == 7
    assert thresholds().season(date(2024, 7, 3)) == 0


def test_weights_are_one_on_average_and_what_is_no_feature_weighs_as_the_heaviest() -> None:
    from pilotage.monitoring.drift.bins import Bins

    bins = [Bins(name=name, role="input") for name in "abc"] + [Bins(name="prediction", role="prediction")]
    weights = column_weights(bins, {"a": 0.8, "b": 0.2})
    assert sum(weights.values()) / 4 == pytest.approx(1)
    assert weights["prediction"] == weights["a"] > weights["b"] > weights["c"] > 0


def test_a_verdict_is_json_and_back() -> None:
    (told,) = run([column("heavy", 9.0, drifted=True)])
    assert msgspec.json.decode(msgspec.json.encode(told), type=DriftVerdict) == told
