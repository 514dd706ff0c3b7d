"""2013 four times: never trained again, every night, at any PSI over 0.2, and as Pilotage does. Engine only.

Prints a table for each policy, and what each promotion was worth in hindsight. Takes some minutes the first time;
trained versions are kept in ``--home`` and used again. ``python -m tests.bench.bench_year --help`` lists what a quick
look needs: ``--to 2013-04-30 --every 7``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from assets.models.flight_delay import MODEL
from assets.sources import airports, flights, planes, weather
from pilotage.data.lake import Lake
from pilotage.replay.history import History
from pilotage.replay.keeper import Pilotage
from pilotage.replay.policies import Frozen, Nightly, Threshold
from pilotage.replay.score import Score, score
from pilotage.replay.season import Policy, Season
from pilotage.replay.workshop import Workshop
from pilotage.settings import PROJECT, Settings
from pilotage.spec import ModelSpec, Rollout, ShadowStage, TimeSplit
from pilotage.training.config import TrainConfig

HOME = PROJECT / ".bench" / "year"
FIRST = date(2013, 3, 1)
CONFIG = TrainConfig.from_values(
    {"split": {"folds": 0, "holdout_days": 14, "calibration_days": 10}, "calibration": "sigmoid"}
)
"""As the model's file has it (in its first version), and the first champion of all. Cross-validation changes nothing of
a model and takes most of the time."""
EVERYTHING = TrainConfig.from_values({"split": {"folds": 0, "holdout_days": 7}, "calibration": "none"})
"""What Pilotage trains with, for the opponents that get its recipe too."""


def prepare(home: Path, *, last: date = date(2013, 12, 31)) -> Settings:
    """The year through the engine: landed, ingested, validated, with features. A home made before is used again."""
    from pilotage.data import sample
    from pilotage.data.ingest import ingest
    from pilotage.data.validate import validate
    from pilotage.features.build import build_features

    settings = Settings(home=home)
    lake = Lake(settings.lake)
    done = home / f"prepared-{last}"
    if done.exists():
        return settings
    began = date(2013, 1, 1)
    sample.publish_flights(settings.landing, first=began, last=last)
    sample.publish_weather(settings.landing, first=began, last=last)
    sample.publish_reference(settings.landing)
    for module in (flights, weather, planes, airports):
        source = module.SOURCE.model_copy(update={"expectations": ()})
        ingest(source, lake=lake, settings=settings, days=None, run_id="year")
        validate(source, lake=lake, reports=settings.reports, days=None, run_id="year")
    build_features(MODEL, lake=lake, days=None, run_id="year")
    done.touch()
    return settings


def looked_after(spec: ModelSpec) -> ModelSpec:
    """The spec as Pilotage runs it: how it was found on January to June stands in docs/the-year-2013.md."""
    split = spec.split
    assert isinstance(split, TimeSplit)
    return spec.model_copy(
        update={
            "split": split.model_copy(update={"holdout": timedelta(days=7)}),
            "trainer": spec.trainer.model_copy(update={"calibration": "none"}),
            "retraining": spec.retraining.model_copy(update={"schedule": "0 4 * * 1", "refit": True}),
            "rollout": Rollout(
                automatic=True, shadow=ShadowStage(predictions=500, at_most=timedelta(days=7)), canary=()
            ),
        }
    )


def policies(every: int) -> list[Policy]:
    return [
        Frozen(),
        Nightly(CONFIG, every=every),
        Threshold(CONFIG),
        Pilotage(looked_after(MODEL)),
        # The same two with what Pilotage trains on: nothing held back, not even to be judged on.
        Nightly(EVERYTHING, every=every, all_rows=True),
        Threshold(EVERYTHING, all_rows=True),
    ]


def show(found: Score) -> None:
    m = found.metrics
    worse = [one for one in found.promotions if one.worse]
    harmful = [one for one in found.promotions if one.harmful]
    print(
        f"{found.policy:<12}{m['log_loss']:>9.4f}{m['brier']:>9.4f}{m['auc']:>8.4f}{m['expected_cost'] * 1000:>12,.0f}"
        f"{found.trainings:>10}{len(found.promotions):>11}{len(worse):>8}{len(harmful):>9}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--to", type=date.fromisoformat, default=date(2013, 12, 31), help="last day (included)")
    parser.add_argument("--every", type=int, default=1, help="nightly trains only every so many nights")
    parser.add_argument("--only", nargs="*", default=[], help="policies to run")
    given = parser.parse_args()
    settings = prepare(given.home)
    history = History.read(MODEL, Lake(settings.lake), last=given.to)
    print(f"{FIRST} to {given.to}, first champion from January and February")
    print(
        f"{'policy':<12}{'log loss':>9}{'Brier':>9}{'AUC':>8}{'cost/1,000':>12}{'trainings':>10}{'promotions':>11}"
        f"{'worse':>8}{'harmful':>9}"
    )
    scores = []
    for policy in policies(given.every):
        if given.only and policy.name not in given.only:
            continue
        began = time.monotonic()
        # Pilotage has its own spec: what it declares of training, retraining and rollout is its policy.
        seen = replace(history, spec=looked_after(MODEL)) if isinstance(policy, Pilotage) else history
        workshop = Workshop(history=seen, cache=given.home / "versions", threads=settings.threads)
        season = Season(seen, workshop, policy, CONFIG).run(FIRST, given.to)
        scores.append(score(season, FIRST, given.to))
        show(scores[-1])
        print(f"{'':12}{time.monotonic() - began:.0f} s", flush=True)
    for metric in ("log_loss", "expected_cost"):
        print(f"\n{metric} by month")
        for found in scores:
            print(f"{found.policy:<12}" + "".join(f"{month[metric]:>9.4f}" for month in found.months.values()))


if __name__ == "__main__":
    main()
