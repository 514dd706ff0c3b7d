"""The gate: what a candidate must show before it may be registered as releasable. Decides; measures nothing.

A refusal gives every reason, not the first. Comparisons are written so that a NaN fails.
"""

from __future__ import annotations

from collections.abc import Iterator

from pilotage.spec import Metric, ModelSpec
from pilotage.training.metrics import HIGHER_IS_BETTER, worse_by
from pilotage.training.records import RATES, Comparison, Criterion, Evaluation, Verdict

NAMES: dict[Metric, str] = {
    "auc": "AUC",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "expected_cost": "Expected cost",
}


def judge(spec: ModelSpec, evaluation: Evaluation) -> Verdict:
    """Holds an evaluation against the spec's gate, and against what the run asked for beyond it.

    Returns:
        The verdict: passed only if every criterion is met.
    """
    criteria = [
        *_floors(spec, evaluation),
        *_ceilings(spec, evaluation),
        *_baselines(spec, evaluation),
        *_champion(spec, evaluation),
        *_fairness(spec, evaluation),
        _budget("latency", "One prediction takes", evaluation.latency_ms, spec.gate.max_latency_ms, "ms"),
        _budget("bundle_size", "The bundle has", evaluation.bundle_mb, spec.gate.max_bundle_mb, "MB"),
    ]
    return Verdict(model=spec.name, passed=all(item.passed for item in criteria), criteria=criteria)


def _floors(spec: ModelSpec, evaluation: Evaluation) -> Iterator[Criterion]:
    floors: dict[Metric, float] = dict(spec.gate.at_least)
    for metric in NAMES:
        if metric in evaluation.at_least:
            floors[metric] = max(evaluation.at_least[metric], floors.get(metric, float("-inf")))
    for metric, floor in floors.items():
        value = _value(evaluation, metric)
        passed = value is not None and value >= floor
        verb = "is at least" if passed else "is below the floor of"
        yield _criterion(
            f"{metric}_floor", metric, passed=passed, value=value, threshold=floor, told=f"{verb} {floor:.4g}"
        )


def _ceilings(spec: ModelSpec, evaluation: Evaluation) -> Iterator[Criterion]:
    ceilings: dict[Metric, float] = dict(spec.gate.at_most)
    for metric in NAMES:
        if metric in evaluation.at_most:
            ceilings[metric] = min(evaluation.at_most[metric], ceilings.get(metric, float("inf")))
    for metric, ceiling in ceilings.items():
        value = _value(evaluation, metric)
        passed = value is not None and value <= ceiling
        verb = "is at most" if passed else "is above the ceiling of"
        yield _criterion(
            f"{metric}_ceiling", metric, passed=passed, value=value, threshold=ceiling, told=f"{verb} {ceiling:.4g}"
        )


def _baselines(spec: ModelSpec, evaluation: Evaluation) -> Iterator[Criterion]:
    metric = spec.gate.beat_baselines_in
    value = _value(evaluation, metric)
    for name, measured in evaluation.baselines.items():
        theirs = measured.get(metric)
        passed = value is not None and theirs is not None and worse_by(metric, value, theirs) < 0
        verb = "beats" if passed else "does not beat"
        yield _criterion(
            f"beats_{name}",
            metric,
            passed=passed,
            value=value,
            threshold=theirs,
            told=f"{verb} the baseline {name} ({_told(theirs)})",
        )


def _champion(spec: ModelSpec, evaluation: Evaluation) -> Iterator[Criterion]:
    versus = evaluation.versus_champion
    if versus is None:
        return
    least = float(spec.gate.min_fresh_rows)
    if versus.problem is not None or versus.rows < spec.gate.min_fresh_rows:
        why = versus.problem or f"{versus.rows:,} rows are new to version {versus.champion_version}"
        message = f"No fresh holdout to compare with the champion on: {why}."
        yield Criterion(
            name="fresh_holdout", passed=False, measured=float(versus.rows), threshold=least, message=message
        )
        return
    message = f"{versus.rows:,} rows are new to the candidate and to version {versus.champion_version}."
    yield Criterion(name="fresh_holdout", passed=True, measured=float(versus.rows), threshold=least, message=message)
    for metric in spec.gate.not_worse_in:
        ours, theirs = versus.candidate.get(metric), versus.champion.get(metric)
        allowed = None if theirs is None else spec.gate.margin * abs(theirs)
        passed = ours is not None and theirs is not None and worse_by(metric, ours, theirs) <= (allowed or 0.0)
        sign = -1 if metric in HIGHER_IS_BETTER else 1
        threshold = None if theirs is None or allowed is None else theirs + sign * allowed
        verb = "is not worse than" if passed else "is worse than"
        margin = f", margin {spec.gate.margin:.1%}" if spec.gate.margin else ""
        told = f"{verb} version {versus.champion_version} ({_told(theirs)}{margin}) on {versus.rows:,} fresh rows"
        yield _criterion(f"not_worse_{metric}", metric, passed=passed, value=ours, threshold=threshold, told=told)
    if evaluation.better_by > 0:
        yield _better(spec, versus, evaluation.better_by)


def _better(spec: ModelSpec, versus: Comparison, wanted: float) -> Criterion:
    """Asked of a retraining: a release costs trust, so one that changes nothing is not worth it."""
    metric = spec.gate.beat_baselines_in
    sure = versus.better.get(metric)
    passed = sure is not None and sure >= wanted
    told = "not measured" if sure is None else f"{sure:.0%}"
    message = (
        f"{NAMES[metric]} better than version {versus.champion_version}: {told} sure by resampled {versus.unit}s, "
        f"{wanted:.0%} is asked."
    )
    return Criterion(name="helps", passed=passed, measured=sure, threshold=wanted, message=message)


def _fairness(spec: ModelSpec, evaluation: Evaluation) -> Iterator[Criterion]:
    """One for each protected column: of its rates, the one whose groups are furthest apart beyond doubt."""
    report = evaluation.fairness
    limit = spec.fairness.max_difference
    for column in spec.protected:
        name = f"alike_{column}"
        if report is None or not any(rate.column == column for rate in report.rates):
            message = (
                f"Whether groups by {column} are treated alike was not measured: validated/{spec.source} names the "
                "group of nobody in the holdout."
            )
            yield Criterion(name=name, passed=False, measured=None, threshold=limit, message=message)
            continue
        gaps = [gap for gap in report.differences if gap.column == column]
        if not gaps:
            message = f"No two groups by {column} have {spec.fairness.min_group} rows, so they can't be compared."
            yield Criterion(name=name, passed=True, measured=None, threshold=limit, message=message)
            continue
        gap = max(gaps, key=lambda each: each.value.low)
        passed = gap.value.low <= limit
        words = "do not differ beyond doubt by more than is allowed" if passed else "differ by more than is allowed"
        message = f"Groups {words}: {gap}."
        compared = {each.rate for each in gaps}
        if left := ", ".join(rate.replace("_", " ") for rate in RATES if rate not in compared):
            message += f" Not compared, as no two groups have {spec.fairness.min_group} rows: {left}."
        yield Criterion(name=name, passed=passed, measured=gap.value.low, threshold=limit, message=message)


def _budget(name: str, words: str, value: float, limit: float, unit: str) -> Criterion:
    passed = value <= limit
    verb = "within" if passed else "over"
    message = f"{words} {value:.3g} {unit}, {verb} the budget of {limit:g} {unit}."
    return Criterion(name=name, passed=passed, measured=value, threshold=limit, message=message)


def _criterion(
    name: str, metric: Metric, *, passed: bool, value: float | None, threshold: float | None, told: str
) -> Criterion:
    message = f"{NAMES[metric]} {_told(value)} {told}."
    return Criterion(name=name, passed=passed, measured=value, threshold=threshold, message=message)


def _value(evaluation: Evaluation, metric: Metric) -> float | None:
    interval = evaluation.metrics.get(metric)
    return None if interval is None else interval.value


def _told(value: float | None) -> str:
    return "(not measured)" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
