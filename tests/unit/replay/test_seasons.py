"""A season: predictions by whoever is champion, and policies that see no further than their night."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.errors import ConfigError, TrainingError
from pilotage.policy import CanaryStep, Rollout
from pilotage.replay.history import History
from pilotage.replay.keeper import Pilotage
from pilotage.replay.nights import night
from pilotage.replay.policies import Frozen, Nightly, Threshold, psi
from pilotage.replay.score import score
from pilotage.replay.season import Night, Policy, Season
from pilotage.replay.workshop import Workshop
from pilotage.training.config import TrainConfig
from tests.unit.replay import parcels_year as year

CONFIG = TrainConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seasons")


@pytest.fixture(scope="module")
def changing(folder: Path) -> History:
    return year.history(folder)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> History:
    return year.history(tmp_path_factory.mktemp("steady"), changes=False)


def season(history: History, policy: Policy, cache: Path, *, last: date = year.LAST) -> Season:
    workshop = Workshop(history=history, cache=cache, threads=1)
    return Season(history, workshop, policy, CONFIG).run(year.FIRST, last)


class Spy:
    """Writes down what a night shows."""

    name = "spy"

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def decide(self, night: Night) -> None:
        outcomes, inputs = night.outcomes(year.FIRST), night.inputs(night.day - timedelta(days=3))
        self.seen.append((night.moment, outcomes["label_known_at"].max(), inputs["moment"].max(), inputs.columns))


def test_a_night_shows_nothing_that_was_not_known_by_then(changing: History, folder: Path) -> None:
    spy = Spy()
    season(changing, spy, folder, last=year.FIRST + timedelta(days=5))
    assert len(spy.seen) == 6
    for moment, label, prediction, columns in spy.seen:
        assert label <= moment
        assert prediction < moment
        assert "label" not in columns


def test_every_prediction_of_the_days_is_answered_by_the_champion_of_its_moment(
    changing: History, folder: Path
) -> None:
    run = season(changing, Nightly(CONFIG, every=7), folder)
    rows = changing.between(year.FIRST, year.LAST)
    assert np.isfinite(run.probabilities[rows]).all()
    promoted = [event for event in run.events if event.did == "promoted"]
    for event in promoted:
        assert (run.versions[changing.of_replay_day(event.day)] == event.replaced).all()
        after = changing.of_replay_day(event.day + timedelta(days=1))
        assert (run.versions[after] == event.version).all() or event.day == year.LAST
    outside = np.setdiff1d(np.arange(changing.rows.height), rows)
    assert (run.versions[outside] == 0).all()


def test_a_frozen_model_gets_worse_when_the_world_changes_and_pilotage_follows(changing: History, folder: Path) -> None:
    frozen = score(season(changing, Frozen(), folder), year.FIRST, year.LAST)
    kept = season(changing, Pilotage(changing.spec), folder)
    found = score(kept, year.FIRST, year.LAST)
    assert found.metrics["log_loss"] < frozen.metrics["log_loss"] - 0.02
    assert found.metrics["expected_cost"] < frozen.metrics["expected_cost"]
    assert found.promotions
    assert not any(one.harmful for one in found.promotions)
    # Trained in the nights to Mondays (the first champion in that to the 21st, a Thursday), promoted a day later.
    assert {event.day.isoweekday() for event in kept.events if event.did == "trained"} <= {7, 3}
    assert {event.day.isoweekday() for event in kept.events if event.did == "promoted"} == {1}


def test_nothing_is_promoted_by_chance_while_the_world_stays_as_it_is(steady: History, tmp_path: Path) -> None:
    run = season(steady, Pilotage(steady.spec), tmp_path)
    assert [event.did for event in run.events].count("trained") > 4
    assert not any(one.harmful for one in score(run, year.FIRST, year.LAST).promotions)
    assert not any(one.worse for one in score(run, year.FIRST, year.LAST).promotions)


def test_the_same_season_twice_decides_and_answers_the_same_from_the_cache_or_without(
    changing: History, folder: Path, tmp_path: Path
) -> None:
    last = year.FIRST + timedelta(days=14)
    one = season(changing, Pilotage(changing.spec), folder, last=last)
    two = season(changing, Pilotage(changing.spec), tmp_path, last=last)
    assert one.events == two.events
    assert np.array_equal(one.probabilities, two.probabilities, equal_nan=True)


def test_who_promotes_always_counts_a_training_a_night_and_a_promotion(changing: History, folder: Path) -> None:
    last = year.FIRST + timedelta(days=4)
    found = score(season(changing, Nightly(CONFIG), folder, last=last), year.FIRST, last)
    assert found.trainings == 5
    # The last night has no day after it to look at.
    assert len(found.promotions) == 4
    assert found.rows == len(changing.between(year.FIRST, last))


def test_a_threshold_on_inputs_does_not_see_a_change_of_what_they_mean(changing: History, folder: Path) -> None:
    last = year.CHANGE + timedelta(days=6)
    run = season(changing, Threshold(CONFIG), folder, last=last)
    assert [event for event in run.events if event.did == "promoted"] == []


def test_fitted_on_all_rows_means_all_that_were_known(changing: History, folder: Path) -> None:
    config = TrainConfig.from_values({"calibration": "none"})
    run = season(changing, Nightly(config, all_rows=True), folder, last=year.FIRST + timedelta(days=2))
    for version in run.trained[1:]:
        known = changing.training_rows(version.moment, first=None, last=version.day)
        assert version.candidate.parts == {"train": known.height}
        assert version.learned_until == known["event_time"].max()


def test_a_version_that_was_refitted_learned_its_holdout_too_and_keeps_the_recipe(
    changing: History, folder: Path
) -> None:
    workshop = Workshop(history=changing, cache=folder, threads=1)
    day = date(2024, 4, 7)
    judged = workshop.train(2, "test", moment=night(changing.spec, day), day=day, config=CONFIG)
    released = workshop.refit(judged)
    assert released.learned_until > judged.learned_until + timedelta(days=5)
    assert released.candidate.params == judged.candidate.params
    assert released.candidate.rounds == judged.candidate.rounds
    assert released.bundle.scorer.calibrator == judged.bundle.scorer.calibrator
    assert released.bundle.manifest["training"]["refit_of"] == judged.candidate.bundle_sha256
    assert released.bundle.manifest["training"]["training_set_sha256"] == judged.training_set_sha256


def test_a_night_in_which_an_alarm_asked_trains_once_besides_those_of_the_schedule(
    changing: History, folder: Path
) -> None:
    # The schedule has Mondays, so the nights of Sundays: 24 March is one.
    alarms = {date(2024, 3, 22), date(2024, 3, 24)}
    run = season(changing, Pilotage(changing.spec, alarms=alarms), folder, last=date(2024, 3, 26))
    trained = [(event.day, event.why) for event in run.events if event.did == "trained"][1:]
    assert trained == [(day, "An alarm asked for it.") for day in sorted(alarms)]


def test_a_champion_that_proves_worse_is_taken_back(changing: History, folder: Path) -> None:
    class Harmful(Pilotage):
        """Promotes, once, a version that says the opposite."""

        def decide(self, night: Night) -> None:
            if night.day == year.FIRST + timedelta(days=2):
                worst = replace(night.champion, number=2, bundle=_Opposite(night.champion.bundle))  # type: ignore[arg-type]
                night.season.trained.append(worst)
                self._promote(night, worst, "A mistake.")
            else:
                self._look_back(night)

    run = season(changing, Harmful(changing.spec), folder, last=year.FIRST + timedelta(days=9))
    back = [event for event in run.events if event.did == "rolled_back"]
    assert [(event.version, event.replaced) for event in back] == [(1, 2)]
    assert back[0].day <= year.FIRST + timedelta(days=6)
    assert "is worse" in back[0].why


class _Opposite:
    def __init__(self, bundle: Any) -> None:
        self._bundle = bundle

    def score(self, frame: Any) -> np.ndarray:
        answers: np.ndarray = 1.0 - self._bundle.score(frame)
        return answers


def test_who_answers_already_is_not_promoted_again(changing: History, folder: Path) -> None:
    class Twice:
        name = "twice"

        def decide(self, night: Night) -> None:
            night.promote(night.champion, "again")

    with pytest.raises(TrainingError, match="answers already"):
        season(changing, Twice(), folder)


def test_a_spec_with_a_canary_is_left_to_the_real_replay() -> None:
    step = CanaryStep(share=0.1, predictions=10, at_most=timedelta(days=1))
    with pytest.raises(ConfigError, match="canary"):
        Pilotage(year.spec(rollout=Rollout(canary=(step,))))


def test_the_popular_index_is_the_popular_index() -> None:
    import polars as pl

    reference = pl.Series("x", range(1000), dtype=pl.Float64)
    assert psi(reference, reference) == pytest.approx(0.0, abs=1e-12)
    assert psi(reference, reference + 500) > 1
    # What it is blind to: rows without a value are dropped.
    assert psi(reference, pl.Series("x", [None] * 900 + list(range(0, 1000, 10)), dtype=pl.Float64)) < 0.01
    assert psi(pl.Series("c", ["a"] * 50 + ["b"] * 50), pl.Series("c", ["a"] * 90 + ["b"] * 10)) > 0.8
