"""A model's drift from its lake and its log to the page: what is read, what is remembered, what is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import numpy as np
import polars as pl
import pytest

from assets.drift import drift_checks
from assets.monitoring import monitoring_assets
from pilotage.data.lake import Lake
from pilotage.errors import DataError, NotReleasable
from pilotage.monitoring.drift import DriftState, DriftStore, DriftVerdict, watch
from pilotage.monitoring.drift.importance import gain_shares
from pilotage.monitoring.drift.measures import MEASURES, Floats, Measure
from pilotage.monitoring.evidently_report import write_html
from pilotage.settings import Settings
from pilotage.testing.bundles import tiny_rows, tiny_spec
from resources.platform_home import PlatformHome
from tests.unit.monitoring.drift_house import POLICY, REFERENCE, ROWS, WINDOW, House, day_of, dearer, night_of


def test_days_like_those_it_learned_from_raise_nothing_and_what_was_learned_is_kept(house: House) -> None:
    report = house.watch()
    verdict = report.verdict
    assert (verdict.first, verdict.last) == (day_of(REFERENCE), day_of(REFERENCE + WINDOW - 1))
    assert (verdict.rows, verdict.reference_rows) == (WINDOW * ROWS, REFERENCE * ROWS)
    assert (verdict.alarm, verdict.drifted, verdict.learned) == (False, [], True)
    assert (report.source, report.why_source) == ("features", "no predictions were logged")
    assert not report.newly_learned
    known = report.thresholds.learned
    assert (known.first, known.last, known.days) == (day_of(0), day_of(REFERENCE - 1), REFERENCE)
    assert known.sources == {"features/tiny": 0}
    kept = DriftStore(house.settings, "tiny").folder / "verdict.json"
    assert msgspec.json.decode(kept.read_bytes(), type=DriftVerdict) == verdict

    again = house.watch()
    assert not again.newly_learned
    assert again.thresholds == report.thresholds
    assert again.verdict == verdict


def test_what_the_model_said_is_compared_with_days_that_it_did_not_learn_from(house: House) -> None:
    reference = house.watch().reference_counts
    assert reference.counts["amount"].sum() == REFERENCE * ROWS
    assert reference.counts["prediction"].sum() == (REFERENCE - 10) * ROWS
    assert reference.counts["label_given_prediction"][:10].sum() == 0


def test_an_input_that_moved_raises_one_alarm_by_name_over_the_days(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 6), dearer)
    told = [house.watch(last).verdict for last in range(REFERENCE - 1, REFERENCE + 6)]
    assert [verdict.new for verdict in told].count(True) == 1
    assert not told[0].alarm
    assert told[-1].alarm
    assert {"amount", "per_item"} <= set(told[-1].drifted)
    assert told[-1].columns[0].importance is not None
    state = DriftStore(house.settings, "tiny").state()
    assert state.through == day_of(REFERENCE + 5)
    assert "amount" in state.raised


def test_another_policy_or_version_learns_anew(house: House) -> None:
    house.watch()
    stricter = house.spec.model_copy(update={"drift": POLICY.model_copy(update={"false_alarms_a_year": 0.05})})
    report = watch(stricter, settings=house.settings, lake=house.lake)
    assert report.newly_learned
    assert report.thresholds.false_alarms_a_year == 0.05


def test_a_new_measure_needs_its_row_in_the_table_and_nothing_else(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = Measure(
        words="share far above by",
        of=lambda bins: bins.name == "amount",
        effect=lambda _, before, now: np.where(upper(now) - upper(before) > 0.25, upper(now) - upper(before), 0.0),
        noise=lambda _, per_row: per_row,
        smallest=0.001,
        declared=0.2,
    )
    monkeypatch.setitem(MEASURES, "high", high)
    days = range(REFERENCE, REFERENCE + 6)
    house.publish(days, dearer)
    looks = [house.watch(last) for last in days]
    assert [look.newly_learned for look in looks] == [True, *[False] * 5], "what was known had no threshold of it"
    report = looks[-1]
    [measured] = [each.measures["high"] for each in report.verdict.columns if "high" in each.measures]
    assert measured.value is not None
    assert measured.threshold is not None
    assert measured.value > 0.25 > measured.threshold
    assert "amount (share far above by " in report.verdict.why
    assert "high of amount" in str(drift_checks(report.verdict)[0].metadata["measure"])


def upper(counts: Floats) -> Floats:
    """Share of the rows that are in the upper quarter of the bins."""
    share: Floats = counts[..., -16:-1].sum(axis=-1) / counts.sum(axis=-1)
    return share


def test_logged_predictions_come_before_the_features_and_bring_their_outcomes(house: House) -> None:
    for number in range(REFERENCE, REFERENCE + WINDOW):
        house.log(number, 80, dearer)
    report = house.watch()
    assert report.source == "log"
    assert report.why_source == "240 logged predictions"
    assert report.verdict.last == day_of(REFERENCE + WINDOW - 1), "days are those of the moment, not of the answer"
    assert report.verdict.rows == 240
    assert "amount" in report.verdict.drifted
    counted = report.window_counts.counts["label"]
    assert counted[0].sum() == 80
    assert counted[-1].sum() == 0, "labels of the newest day may not be known yet"


def test_the_night_looks_at_days_of_the_log_that_are_over_and_takes_no_half_begun_one_for_an_incident(
    house: House,
) -> None:
    today = REFERENCE + 10
    for number in range(REFERENCE, today):
        house.log(number, 110)
    house.log(today, 5)
    report = house.watch(now=night_of(today))
    assert (report.source, report.verdict.last) == ("log", day_of(today - 1))
    assert (report.verdict.incident, report.verdict.rows) == ((), WINDOW * 110)
    # Once that day is over, so few rows are one: the service has stopped.
    report = house.watch(now=night_of(today + 1))
    assert (report.verdict.last, report.verdict.incident) == (day_of(today), (day_of(today),))


def test_a_request_asked_days_ahead_neither_hides_the_log_nor_freezes_the_alarms(house: House) -> None:
    today = REFERENCE + WINDOW
    for number in range(REFERENCE, today):
        house.log(number, 80, dearer)
    house.log(today + 5, 1)
    # What an earlier look left, which took the day ahead for the newest.
    ahead = DriftState(through=day_of(today + 5), incidents=(day_of(today - 1), day_of(today + 5)))
    DriftStore(house.settings, "tiny").keep(house.watch(REFERENCE - 1, now=night_of(today)).verdict, ahead)
    report = house.watch(now=night_of(today))
    assert (report.source, report.verdict.last) == ("log", day_of(today - 1))
    assert report.verdict.new, "the window is decided"
    assert (report.state.through, report.state.incidents) == (day_of(today - 1), (day_of(today - 1),))


def test_features_of_days_ahead_wait_for_their_day(house: House) -> None:
    house.publish(range(REFERENCE + WINDOW + 4, REFERENCE + WINDOW + 5), dearer)
    assert house.watch(now=night_of(REFERENCE + WINDOW)).verdict.last == day_of(REFERENCE + WINDOW - 1)


def test_few_logged_predictions_are_no_window(house: House) -> None:
    house.log(REFERENCE, 20)
    report = house.watch()
    assert report.source == "features"
    assert "only 20 predictions were logged in 3 days" in report.why_source


def test_a_log_without_outcomes_compares_no_labels(house: House) -> None:
    for number in range(REFERENCE, REFERENCE + WINDOW):
        house.log(number, 80, outcomes=False)
    assert {each.role for each in house.watch().verdict.columns} == {"input", "prediction"}


def test_with_a_few_days_of_history_declared_thresholds_hold_and_it_says_so(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.publish(range(5))
    verdict = house.watch().verdict
    assert not verdict.learned
    assert "5 days of history are too few to learn from (9 are needed); declared thresholds hold." in verdict.why
    psi = verdict.columns[0].measures["psi"]
    assert psi.threshold is not None
    assert psi.threshold >= 0.25


def test_a_champion_whose_days_are_gone_is_compared_with_its_own_sample(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.publish(range(REFERENCE, REFERENCE + WINDOW))
    verdict = house.watch().verdict
    assert (verdict.learned, verdict.reference_rows, verdict.rows) == (False, 50, WINDOW * ROWS)


def test_a_model_without_days_is_compared_as_one_table(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.lake.replace("features/tiny", dearer(tiny_rows(house.spec, rows=150, seed=3)), note={})
    verdict = house.watch().verdict
    assert (verdict.first, verdict.last, verdict.rows) == (None, None, 150)
    assert "amount" in verdict.drifted


def test_without_a_champion_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"home": tmp_path})
    with pytest.raises(NotReleasable, match="tiny has no champion"):
        watch(tiny_spec(drift=POLICY), settings=settings, lake=Lake(settings.lake))


def test_features_that_lost_a_column_are_refused_by_name(house: House) -> None:
    frame = pl.concat([house.rows(number) for number in range(5)]).drop("amount")
    house.lake.replace("features/tiny", frame, note={})
    with pytest.raises(DataError, match="the features have no column amount, which the champion reads"):
        house.watch()


def test_a_damaged_record_is_named_and_not_taken_for_none(house: House) -> None:
    house.watch()
    path = DriftStore(house.settings, "tiny").folder / "state.json"
    path.write_text('{"raised": 7')
    with pytest.raises(DataError, match=r"state.json can't be read"):
        house.watch()


def test_what_a_feature_matters_is_read_from_the_model_itself(house: House) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    text = (house.settings.home / "bundle" / "model.txt").read_text()
    booster = lightgbm.Booster(model_str=text)
    gain = booster.feature_importance("gain")
    shares = gain_shares(text, booster.feature_name())
    # The text has the gains to six digits.
    for name, value in zip(booster.feature_name(), gain / gain.sum(), strict=True):
        assert shares[name] == pytest.approx(value, rel=1e-4, abs=1e-9)


@pytest.mark.timeout(240)
def test_the_asset_tells_values_thresholds_and_the_window_with_a_picture_and_a_page(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 6), dearer)
    watched = house.spec.model_copy(update={"drift": POLICY.model_copy(update={"multivariate": True})})
    (asset,) = monitoring_assets(watched)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset], instance=instance, resources={"platform": PlatformHome(home=str(house.settings.home))}
        )
    (event,) = result.get_asset_materialization_events()
    told = event.materialization.metadata
    assert told["alarm"].value is True
    assert told["window"].value == f"{day_of(REFERENCE + 3)} … {day_of(REFERENCE + 5)}"
    assert told["source"].value == "features: no predictions were logged"
    assert told["report_rows"].value == WINDOW * ROWS
    rows = {row.data["column"]: row.data for row in told["columns"].records}
    amount: Any = rows["amount"]
    assert amount["raised"] and " of " in amount["farthest"]
    psi: Any = told["measures"].value["amount"]["psi"]
    assert psi["value"] > psi["threshold"]
    assert "data:image/png;base64," in str(told["picture"].value)
    assert "experiments/" in str(told["mlflow_run"].value)
    assert told["together_auc"].value > 0.75

    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert {name: each.passed for name, each in checks.items()} == {
        "stable_inputs": False,
        "stable_predictions_and_labels": False,
        "no_incident": True,
        "expected_performance": True,
    }
    inputs = checks["stable_inputs"]
    assert inputs.severity == dg.AssetCheckSeverity.WARN
    assert inputs.metadata["value"].value > inputs.metadata["threshold"].value
    assert "amount" in str(inputs.metadata["top_columns"].value)
    assert inputs.metadata["window"].value == told["window"].value

    page = (house.settings.reports / "tiny" / "drift.html").read_text()
    body = page[page.index("<body>") :]
    assert body.index("Drift of tiny") < body.index("<script")
    said = f"from {WINDOW * ROWS} rows of the window and 50 of the champion's reference sample"
    assert said in " ".join(body.split())
    assert not re.search(r"""<(script|link|img)[^>]*\b(src|href)=["']https?://""", page)


def test_a_page_without_anything_to_draw_says_so(house: House, tmp_path: Path) -> None:
    report = house.watch()
    nothing = report.current.select(pl.lit(None, pl.Float64).alias(name) for name in report.current.columns)
    rows = write_html(replace(report, current=nothing, reference=nothing), tmp_path / "page" / "drift.html")
    assert rows == nothing.height
    page = (tmp_path / "page" / "drift.html").read_text()
    assert "nothing to draw" in page
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["drift.html"]


def test_a_value_that_was_delivered_is_drawn_and_never_run(house: House, tmp_path: Path) -> None:
    report = house.watch()
    script = "</script><script>alert(1)</script>"
    delivered = pl.DataFrame({"carrier": [script, "UA"] * 20})
    write_html(replace(report, current=delivered, reference=delivered), tmp_path / "drift.html")
    page = (tmp_path / "drift.html").read_text()
    assert "/script>\\u2039script>alert(1)" in page
    assert "<script>alert" not in page
