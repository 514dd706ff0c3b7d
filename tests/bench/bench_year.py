"""2013 four times: never trained again, every night, at any PSI over 0.2, and as Pilotage does. Engine only.

Prints a table for each policy, and what each promotion was worth in hindsight. Takes more than an hour the first time;
trained versions are kept in ``--home`` and used again, which takes ten minutes. ``python -m tests.bench.bench_year
--help`` lists what a quick look needs: ``--to 2013-04-30 --every 7``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import msgspec

from assets.models.flight_delay import MODEL
from assets.sources import airports, flights, planes, weather
from pilotage.data.lake import Lake
from pilotage.replay.history import History
from pilotage.replay.keeper import Pilotage
from pilotage.replay.policies import Frozen, Nightly, Threshold
from pilotage.replay.score import Score, score
from pilotage.replay.season import Event, Policy, Season
from pilotage.replay.workshop import Workshop
from pilotage.settings import PROJECT, Settings
from pilotage.training.config import TrainConfig

HOME = PROJECT / ".bench" / "year"
FIRST = date(2013, 3, 1)
CONFIG = TrainConfig.from_values(
    {"split": {"folds": 0, "holdout_days": 14, "calibration_days": 10}, "calibration": "sigmoid"}
)
"""As the model's file had it in its first version: a calibrator, and two weeks to be judged on. The first champion of
all. Cross-validation changes nothing of a model and takes most of the time."""
BEFORE = MODEL.model_copy(
    update={
        "split": MODEL.split.model_copy(update={"holdout": timedelta(days=14)}),
        "trainer": MODEL.trainer.model_copy(update={"calibration": "sigmoid"}),
    }
)
"""That version, which the opponents look after."""
EVERYTHING = TrainConfig.from_values({"split": {"folds": 0, "holdout_days": 7}, "calibration": "none"})
"""As the model's file has it now, for the opponents that get Pilotage's recipe too."""


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


def policies(every: int) -> list[Policy]:
    return [
        Frozen(),
        Nightly(CONFIG, every=every),
        Threshold(CONFIG),
        Pilotage(MODEL),
        # The strongest opponent: nightly with Pilotage's own recipe, and nothing held back to be judged on.
        Nightly(EVERYTHING, every=every, all_rows=True),
    ]


def show(found: Score) -> None:
    m = found.metrics
    worse = [one for one in found.promotions if one.worse]
    harmful = [one for one in found.promotions if one.harmful]
    print(
        f"{found.policy:<18}{m['log_loss']:>9.4f}{m['brier']:>9.4f}{m['auc']:>8.4f}{m['expected_cost'] * 1000:>12,.0f}"
        f"{found.trainings:>10}{len(found.promotions):>11}{len(worse):>8}{len(harmful):>9}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--to", type=date.fromisoformat, default=date(2013, 12, 31), help="last day (included)")
    parser.add_argument("--every", type=int, default=1, help="nightly trains only every so many nights")
    parser.add_argument("--only", nargs="*", default=[], help="policies to run")
    parser.add_argument("--out", type=Path, help="writes what came out as JSON")
    parser.add_argument("--figure", type=Path, help="writes the figure")
    given = parser.parse_args()
    settings = prepare(given.home)
    history = History.read(MODEL, Lake(settings.lake), last=given.to)
    print(f"{FIRST} to {given.to}, first champion from January and February")
    print(
        f"{'policy':<18}{'log loss':>9}{'Brier':>9}{'AUC':>8}{'cost/1,000':>12}{'trainings':>10}{'promotions':>11}"
        f"{'worse':>8}{'harmful':>9}"
    )
    results = []
    for policy in policies(given.every):
        if given.only and policy.name not in given.only:
            continue
        began = time.monotonic()
        seen = history if isinstance(policy, Pilotage) else replace(history, spec=BEFORE)
        workshop = Workshop(history=seen, cache=given.home / "versions", threads=settings.threads)
        season = Season(seen, workshop, policy, CONFIG).run(FIRST, given.to)
        results.append(Result(score=score(season, FIRST, given.to), events=season.events))
        show(results[-1].score)
        print(f"{'':18}{time.monotonic() - began:.0f} s", flush=True)
        if given.out:
            given.out.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    for metric in ("log_loss", "expected_cost"):
        print(f"\n{metric} by month")
        for each in results:
            print(
                f"{each.score.policy:<18}" + "".join(f"{month[metric]:>9.4f}" for month in each.score.months.values())
            )
    if given.figure:
        draw(results, given.figure)


class Result(msgspec.Struct, frozen=True):
    """What is written down of a policy's year."""

    score: Score
    events: list[Event]


COLOURS = {"frozen": "0.6", "nightly": "tab:orange", "threshold": "tab:red", "pilotage": "tab:blue"}


def draw(results: list[Result], path: Path) -> None:
    """Cost and log loss by month, beside the frozen model's, with the promotions."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    frozen = next(each.score for each in results if each.score.policy == "frozen")
    figure, axes = plt.subplots(3, 1, figsize=(10, 9), constrained_layout=True, height_ratios=(3, 3, 1.6))
    for axis, metric, scale, words in (
        (axes[0], "log_loss", 1.0, "log loss, less than frozen's"),
        (axes[1], "expected_cost", 1000.0, "USD a 1,000 flights, less than frozen's"),
    ):
        for each in results:
            months = list(each.score.months)
            saved = [(frozen.months[m][metric] - each.score.months[m][metric]) * scale for m in months]
            style = "--" if "all rows" in each.score.policy else "-"
            colour = COLOURS.get(each.score.policy, "tab:green")
            axis.plot(months, saved, style, marker="o", markersize=4, color=colour, label=each.score.policy)
        axis.set_ylabel(words)
        axis.grid(alpha=0.3)
    axes[0].legend(ncols=3, fontsize=9)
    named = [each.score for each in results if each.score.promotions]
    for row, found in enumerate(named):
        for one in found.promotions:
            colour = "tab:red" if one.harmful else "tab:orange" if one.worse else "tab:green"
            axes[2].plot(one.day, row, "|", color=colour, markersize=12, markeredgewidth=1.5)
    axes[2].set_yticks(range(len(named)), [found.policy for found in named])
    axes[2].set_ylim(-0.7, len(named) - 0.3)
    axes[2].set_title(
        "promotions: green made the next 28 days better, orange worse, red worse beyond doubt", fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
