"""A model's drift from its lake and its log to the page: what is read, what is remembered, what is said."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.monitoring import monitoring_assets
from pilotage.data.lake import Lake
from pilotage.errors import DataError, NotReleasable
from pilotage.features.state import microseconds
from pilotage.monitoring.alerts import Alarm, AlertBook
from pilotage.monitoring.drift import DriftReport, DriftState, DriftStore, read_verdict, watch
from pilotage.monitoring.drift.importance import gain_shares
from pilotage.monitoring.evidently_report import write_html
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.answer import OutcomeRecord
from pilotage.settings import Settings
from pilotage.spec import Drift, ModelSpec
from pilotage.testing.bundles import make_bundle, tiny_rows, tiny_spec
from resources.platform_home import PlatformHome
from tests.unit.monitoring.logs import prediction, write_segment
from tests.unit.release.lives import draft, registered

FIRST = date(2024, 1, 1)
REFERENCE, WINDOW, ROWS = 42, 3, 60
POLICY = Drift(window=timedelta(days=WINDOW), block_days=3, multivariate=False)
Rows = Callable[[pl.DataFrame], pl.DataFrame]


def day_of(number: int) -> date:
    return FIRST + timedelta(days=number)


def night_of(number: int) -> datetime:
    """When the schedule looks: a quarter to four in the morning."""
    return datetime.combine(day_of(number), datetime.min.time(), UTC) + timedelta(hours=3, minutes=45)


class House:
    """A champion, the days that it learned from, and what came after."""

    def __init__(self, home: Path, *, released: bool = True, **changes: Any) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.lake = Lake(self.settings.lake)
        self.spec: ModelSpec = tiny_spec(with_state=True, **{"drift": POLICY, **changes})
        if released:
            self._release(home)

    def _release(self, home: Path) -> None:
        training = {
            "first": day_of(0).isoformat(),
            "last": day_of(REFERENCE - 1).isoformat(),
            "boundaries": {"calibration": f"{day_of(10)}T00:00:00+00:00"},
        }
        bundle = home / "bundle"
        sha256 = make_bundle(bundle, spec=self.spec, training=training)
        ledger = SqlLedger(self.settings.ledger)
        ledger.append(registered("tiny", 1, bundle=str(bundle), sha256=sha256))
        ledger.append(draft("promoted", 1, model="tiny"))
        ledger.close()

    def rows(self, number: int, change: Rows = lambda rows: rows) -> pl.DataFrame:
        made = tiny_rows(self.spec, rows=ROWS, seed=number)
        return change(made).with_columns(day=pl.lit(day_of(number)))

    def publish(self, numbers: range, change: Rows = lambda rows: rows) -> None:
        frame = pl.concat([self.rows(number, change) for number in numbers])
        self.lake.replace_days("features/tiny", frame, [day_of(number) for number in numbers], note={})

    def log(self, number: int, rows: int, change: Rows = lambda rows: rows, *, outcomes: bool = True) -> None:
        """Predictions of one day's moments, all answered on 1 June, and their outcomes a day later."""
        records: list[Any] = []
        made = change(tiny_rows(self.spec, rows=rows, seed=1000 + number))
        features = [feature.name for feature in self.spec.features]
        for place, row in enumerate(made.iter_rows(named=True)):
            moment = datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)
            identity = f"d{number}-{place}"
            record = prediction(
                place,
                prediction_id=identity,
                at=microseconds(datetime(2024, 6, 1, tzinfo=UTC)) + 1000 * number + place,
                moment=microseconds(moment),
                probability=0.3 + 0.4 * (row["amount"] > 500),
                features={name: row[name] for name in features},
            )
            records.append(record)
            if outcomes:
                known = microseconds(moment + timedelta(days=1))
                records.append(
                    OutcomeRecord(
                        outcome_id=f"o{identity}",
                        model="tiny",
                        prediction_id=identity,
                        entity=None,
                        label=bool(row["label"]),
                        known_at=known,
                        received_at=known,
                        caller="",
                    )
                )
        write_segment(self.settings.prediction_log, records, number=number + 1)

    def watch(self, last: int | None = None, *, now: datetime | None = None) -> DriftReport:
        day = None if last is None else day_of(last)
        return watch(self.spec, settings=self.settings, lake=self.lake, last=day, now=now)


def dearer(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("amount") * 3, pl.col("per_item") * 3)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a model whose thresholds were learned, which takes a second or two."""
    home = tmp_path_factory.mktemp("learned")
    made = House(home)
    made.publish(range(REFERENCE + WINDOW))
    assert made.watch().newly_learned
    return home


@pytest.fixture
def house(learned: Path, tmp_path: Path) -> House:
    """A copy of that home; the bundle stays where the ledger says that it is."""
    home = tmp_path / "home"
    shutil.copytree(learned, home)
    for name in ("state.json", "verdict.json"):
        (home / "drift" / "tiny" / name).unlink()
    return House(home, released=False)


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
    assert read_verdict(house.settings, "tiny") == verdict

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


@pytest.mark.slow
def looked_at(house: House, last: int | None = None) -> dict[str, Any]:
    """The asset, without its page: what its checks say of the alarm."""
    (asset,) = monitoring_assets(house.spec)
    config: dict[str, Any] = {"report": False} | ({} if last is None else {"last": day_of(last).isoformat()})
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset],
            instance=instance,
            resources={"platform": PlatformHome(home=str(house.settings.home))},
            run_config={"ops": {asset.op.name: {"config": config}}},
        )
    told = {each.check_name: each.metadata.get("alarm_since") for each in result.get_asset_check_evaluations()}
    return {name: value and value.value for name, value in told.items()}


def known_alarms(house: House) -> dict[str, Alarm]:
    with AlertBook.of(house.settings) as book:
        return {alarm.key.kind: alarm for alarm in book.alarms(open_only=False)}


def test_a_night_before_the_first_release_judges_nothing_and_fails_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, released=False)
    assert looked_at(house) == dict.fromkeys(
        ("stable_inputs", "stable_predictions_and_labels", "expected_performance", "no_incident")
    )
    assert known_alarms(house) == {}


def test_an_alarm_is_in_the_book_from_the_window_that_opens_it_to_the_one_that_closes_it(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 4), dearer)
    house.publish(range(REFERENCE + 4, REFERENCE + 12))
    since = day_of(REFERENCE + 1).isoformat()
    house.watch(REFERENCE - 1)
    assert set(looked_at(house, REFERENCE + 1).values()) == {since}
    alarm = known_alarms(house)["drift"]
    assert (alarm.key.model, alarm.tier, alarm.open, alarm.count) == ("tiny", "warning", True, 1)
    assert "amount" in alarm.alert.summary
    assert (alarm.alert.evidence["since"], alarm.alert.evidence["champion"]) == (since, 1)
    assert "/runs/" in alarm.alert.run_url

    looked_at(house, REFERENCE - 1)  # An older window, looked at again, changes nothing.
    assert known_alarms(house)["drift"] == alarm

    # A run that was killed after it decided, and before it told: the next one tells.
    closed = next(last for last in range(REFERENCE + 2, REFERENCE + 12) if house.watch(last).verdict.cleared)
    assert set(looked_at(house, closed).values()) == {None}
    alarm = known_alarms(house)["drift"]
    assert (alarm.open, alarm.episode) == (False, 1)


def test_an_incident_is_one_alarm_of_its_own_until_the_window_has_left_it(house: House) -> None:
    house.publish(range(REFERENCE, REFERENCE + 8))
    house.publish(range(REFERENCE, REFERENCE + 1), lambda rows: rows.with_columns(amount=pl.lit(None, pl.Float64)))
    looked_at(house, REFERENCE)
    looked_at(house, REFERENCE + 1)
    [alarm] = known_alarms(house).values()
    assert (alarm.key.kind, alarm.open, alarm.count) == ("incident", True, 1)
    assert alarm.alert.summary.startswith(f"{house.spec.title}: {day_of(REFERENCE)} is unlike all of the weeks before.")
    looked_at(house, REFERENCE + WINDOW)
    [alarm] = known_alarms(house).values()
    assert not alarm.open


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
