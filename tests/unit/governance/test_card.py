"""Model cards: everything that was declared and measured is in them, and nothing in it is taken for Markdown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pilotage.data.lake import Lake
from pilotage.errors import BundleCorrupt
from pilotage.governance.card import as_text, model_card
from pilotage.release.records import Provenance
from pilotage.spec import Drift, Fairness, Rollout, Serving
from pilotage.testing.bundles import Run, make_run, tiny_spec
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble
from pilotage.training.evaluate import evaluate
from pilotage.training.gate import judge
from pilotage.training.records import (
    Comparison,
    FairnessReport,
    GroupDifference,
    GroupRate,
    Interval,
    Slice,
    Tried,
)
from pilotage.training.refit import refit
from pilotage.training.train import train
from tests.unit.training.conftest import parcel_spec, parcels, publish

PROVENANCE = Provenance(run_id="r", run_url="http://r", git_commit="g", cause="manual", actor="ana")

SPEC = tiny_spec(
    risk="high",
    limitations=("It is made up.", "Nobody <b>knows</b> | why."),
    rollout=Rollout(approvals=2, approvers=("ana", "ben", "cleo")),
    serving=Serving(refer_between=(0.4, 0.6)),
    protected=("sex",),
    fairness=Fairness(max_difference=0.1, min_group=5),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), spec=SPEC)


def card(run: Run, **changes: Any) -> str:
    names = ("training_set", "candidate", "evaluation", "verdict", "provenance")
    return model_card(run.spec, **{name: changes.get(name, getattr(run, name)) for name in names})


def rows(text: str) -> list[list[str]]:
    """Cells of every row of every table, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline" and token.level >= 4 and found:
            found[-1].append("".join(part.content for part in token.children or ()))
    return found


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.1, high=value + 0.1)


def test_it_says_what_was_declared(run: Run) -> None:
    told = card(run)
    assert told.startswith("# Model card: Late orders\n")
    assert ["owner", "team:tests"] in rows(told)
    assert ["risk", "high"] in rows(told)
    assert "2 different people have to approve it:\n  ana, ben, cleo." in told
    assert "Between a probability of 0.4 and 0.6 nothing is decided: a person does it." in told
    assert "a false yes costs\n  2, a false no 5, a right yes 1, a right no 0 EUR." in told
    assert "- It is made up.\n" in told
    assert "When no model can answer, a rule does. Big ones wait." in told
    assert "Never looked at, by rule: `sex`." in told


def test_it_says_what_it_learned_from_and_what_was_measured(run: Run) -> None:
    told = rows(card(run))
    assert ["validated/orders", "3"] in told
    assert ["holdout", "40", "by a hash of the entity"] in told
    assert ["auc", "0.8 (0.7 to 0.9)", "–"] in told
    assert ["bundle", f"SHA-256 {run.candidate.bundle_sha256}"] in told
    assert ["amount", "Amount, EUR", "100 %"] in told
    assert ["num_leaves", "5"] in told
    assert [row[0] for row in told if row[-1].endswith(" %")] == [feature.name for feature in SPEC.features]


def test_a_refused_candidate_has_one_too_and_it_says_why(tmp_path: Path) -> None:
    told = card(make_run(tmp_path / "refused", spec=SPEC, passed=False))
    assert ["gate", "refused"] in rows(told)
    assert "- **not met**: auc 0.80 is under 0.95" in told


def test_groups_slices_champion_and_policies_are_told(run: Run) -> None:
    fairness = FairnessReport(
        answers=40,
        labelled=40,
        without_group=3,
        rates=[
            GroupRate(column="sex", group="f", rate="selection_rate", rows=20, value=interval(0.5)),
            GroupRate(column="sex", group="x", rate="selection_rate", rows=2, value=None),
        ],
        differences=[
            GroupDifference(
                column="sex", rate="selection_rate", highest="m", lowest="f", value=interval(0.3), limit=0.1
            )
        ],
    )
    evaluation = replace(
        run.evaluation,
        fairness=fairness,
        slices=[Slice(column="shop", value="north|south", rows=20, metrics={"auc": interval(0.75)})],
        reliability=[{"predicted": 0.2, "observed": 0.25, "low": 0.1, "high": 0.4, "rows": 20.0}],
        versus_champion=Comparison(
            champion_version=4,
            rows=30,
            candidate={"auc": 0.8},
            champion={"auc": 0.7},
            difference={"auc": interval(0.1)},
        ),
    )
    tried = [
        Tried(policy="all", rows=120, metric="log_loss", value=0.51, chosen=True),
        Tried(policy="young", rows=0, metric="log_loss", value=None, chosen=False, problem="Too few rows."),
    ]
    text = card(run, evaluation=evaluation, candidate=replace(run.candidate, tried=tried))
    told = rows(text)
    assert ["sex", "selection rate", "m", "f", "30 % (20 % to 40 %)", "too far"] in told
    assert ["sex", "x", "selection rate", "too few", "2"] in told
    assert "the group of 3 of which is not known" in text
    assert ["north|south", "20", "0.75 (0.65 to 0.85)"] in told
    assert ["20 %", "25 % (10 % to 40 %)", "20"] in told
    assert ["auc", "0.8", "0.7", "0.1 (0 to 0.2)"] in told
    assert ["young", "0", "–", "Too few rows."] in told
    problem = replace(evaluation.versus_champion, problem="Too few fresh rows.") if evaluation.versus_champion else None
    assert "could not be compared: Too few fresh rows." in card(
        run, evaluation=replace(evaluation, versus_champion=problem)
    )


def test_a_model_with_time_names_when_its_parts_begin_and_how_drift_is_watched(tmp_path: Path) -> None:
    spec = tiny_spec(with_state=True, drift=Drift(window=timedelta(days=7)))
    made = make_run(tmp_path / "run", spec=spec)
    begins = dict.fromkeys(made.candidate.parts, datetime(2024, 1, 2, 3, tzinfo=UTC))
    told = card(made, candidate=replace(made.candidate, boundaries=begins))
    assert ["holdout", "40", "2024-01-02 03:00 UTC"] in rows(told)
    assert "windows of 7 days, 0.2 false alarms a year" in told
    assert "every row of training" in told


def test_a_value_is_never_markdown_or_html(run: Run) -> None:
    mean = "a|b `c` *d* [e](http://evil) <script>alert(1)</script>\n# heading"
    told = card(run, provenance=replace(run.provenance, cause=mean))
    assert "Nobody &lt;b>knows&lt;/b> \\| why." in told
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(told)
    assert "<script" not in html
    assert "evil" in html
    assert "href" not in html
    assert html.count("<h1>") == 1
    assert next(row for row in rows(told) if row[0] == "trained")[1].count("heading") == 1
    assert MarkdownIt("commonmark").renderInline(as_text("5 < 6 & a_b")) == "5 &lt; 6 &amp; a_b"


def test_a_bundle_that_is_not_the_recorded_one_has_no_card(run: Run) -> None:
    with pytest.raises(BundleCorrupt):
        card(run, candidate=replace(run.candidate, bundle_sha256="0" * 64))


@pytest.mark.parametrize("calibration", ["none", "isotonic"])
def test_it_says_how_this_version_was_made_whatever_is_declared(calibration: str, tmp_path: Path) -> None:
    spec, lake = parcel_spec(), Lake(str(tmp_path / "lake"))
    publish(lake, spec, parcels(40))
    config = TrainConfig.from_values({"calibration": calibration})
    made = assemble(spec, lake=lake, config=config, directory=tmp_path / "run")
    steps: dict[str, Any] = {"config": config, "directory": tmp_path / "run"}
    judged = train(spec, made, threads=1, **steps)
    evaluation = evaluate(spec, made, judged, champion_bundle=None, champion_version=None, **steps)
    released = refit(spec, made, judged, threads=1, **steps)
    parts: dict[str, Any] = {"training_set": made, "evaluation": evaluation, "verdict": judge(spec, evaluation)}
    for candidate in (judged, released):
        told = model_card(spec, candidate=candidate, provenance=PROVENANCE, **parts)
        assert f"probabilities calibrated: {calibration}." in told
        assert "by a hash of the entity" not in told
        assert [row[-1] for row in rows(told) if row[0] == "weight"] == [
            f"{100 * candidate.importance['weight']:.1f} %"
        ]
    assert judged.importance != released.importance


def test_what_is_rare_is_not_nothing(run: Run) -> None:
    few = replace(run.training_set, rows=100_000, positives=12)
    assert "100,000 rows from 2024-01-01 to 2024-01-06, 0.012 % of them" in card(run, training_set=few)


def test_drift_that_is_not_watched_asks_for_no_retraining(run: Run) -> None:
    assert "- **Drift**: not watched." in card(run)
    assert "- **Retraining**: when performance or a person asks for it." in card(run)
