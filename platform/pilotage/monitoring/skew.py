"""Is what was served what training would have computed? A sample of logged predictions, computed again and compared.

Features are computed again by the version's own view, offline, from the lake as it was: at the Delta versions that the
online state of the prediction had been built from. So a correction that came later is no difference, and a difference
is one of computation. How stale the state was is told apart. What a person is told of it is up to the callers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import BundleCorrupt, ConfigError, NotReleasable, PilotageError
from pilotage.features.reading import ValidatedRows
from pilotage.features.view import FeatureView
from pilotage.monitoring.log_frames import column_as, feature_column
from pilotage.monitoring.predictions import read_log, read_states
from pilotage.monitoring.served import Requests, depending_on, requests_of
from pilotage.pseudonyms import PREFIX, Pseudonyms, read_key
from pilotage.runtime.bundle import TOLERANCE, Bundle
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from pilotage.release.stages import ModelState

SAMPLE = 200
"""Predictions that are computed again, unless told otherwise."""
EXAMPLES = 5
"""Differences of each feature that a report names."""
BY_A_MODEL = ("model", "previous_champion")
"""The answers that a version gave itself, from features of their own."""

Bundles = Callable[[int], Bundle]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSkew:
    """One feature, over the sample."""

    feature: str
    compared: int
    different: int
    not_comparable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A feature that was served as something else than the lake gives."""

    prediction_id: str
    version: int
    feature: str
    served: Any
    recomputed: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """How far the state that predictions were made with lagged behind their moments, seconds."""

    median_s: float
    p95_s: float
    largest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewReport:
    """What one check found."""

    model: str
    predictions: int
    """Answers of a model that the sample was drawn from."""
    sampled: int
    versions: dict[int, int]
    """Version → how many of the sample it answered."""
    features: tuple[FeatureSkew, ...]
    differences: tuple[Difference, ...]
    """Up to ``EXAMPLES`` of each feature."""
    probabilities: int
    """Answers whose probability was computed again: those with all features compared and equal."""
    other_probabilities: tuple[str, ...]
    """Predictions among them whose probability was another one."""
    other_decisions: tuple[str, ...]
    """Predictions whose probability leads to another decision, by the threshold and the band of their version."""
    not_comparable: dict[str, int]
    """Reason → predictions of which it kept at least one feature from being compared."""
    staleness: Staleness | None
    """``None`` for a model without as-of features."""

    @property
    def skewed(self) -> list[str]:
        """Features that were served differently at least once, the most often first."""
        found = [each for each in self.features if each.different]
        return [each.feature for each in sorted(found, key=lambda each: (-each.different, each.feature))]

    @property
    def compared(self) -> int:
        """Values that were compared."""
        return sum(each.compared for each in self.features)


def released_bundles(model: str, settings: Settings) -> Bundles:
    """Gives the bundle of each version of a model that the ledger knows, read once: from the service's copies, if it is
    still there, or from the registry. Both are the bytes that the ledger remembers.

    Raises:
        NotReleasable: It knows no such version.
        BundleCorrupt: The bundle is not what the ledger remembers.
    """
    from pilotage.release.ledger import SqlLedger
    from pilotage.release.state import fold

    ledger = SqlLedger.of(settings)
    try:
        state = fold(ledger.events()).get(model)
    finally:
        ledger.close()
    return bundles_of(model, state, settings)


def bundles_of(model: str, state: ModelState | None, settings: Settings) -> Bundles:
    """``released_bundles``, by what the ledger is known to say; ``None`` if it says nothing of the model."""
    from pilotage.runtime.bundle import read_bundle

    read: dict[int, Bundle] = {}

    def bundle(version: int) -> Bundle:
        if version not in read:
            known = state.versions.get(version) if state else None
            if known is None:
                raise NotReleasable(f"{model} has no version {version}.", fix=f"See pilotage status {model}.")
            try:
                read[version] = read_bundle(settings.bundles / model / str(version), sha256=known.bundle_sha256)
            except BundleCorrupt:
                read[version] = read_bundle(Path(known.bundle), sha256=known.bundle_sha256)
        return read[version]

    return bundle


def check_skew(
    spec: ModelSpec,
    *,
    settings: Settings,
    lake: Lake,
    bundles: Bundles | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    since: datetime | None = None,
) -> SkewReport:
    """Computes the features of a sample of logged predictions again, and compares.

    Args:
        spec: The model.
        settings: Where the log is, and the key of the pseudonyms.
        lake: Where the validated tables are, with the versions that the states name.
        bundles: Version → its bundle; by default those that the ledger knows.
        sample: Predictions to compare; all, if there are fewer.
        seed: The same seed draws the same sample of the same log.
        since: Leaves out what was answered earlier (UTC).

    Raises:
        LedgerUnavailable: The ledger can't be read, and no bundles were given.
    """
    asked = read_log(settings, spec.name, lake=lake, since=since, columns=("prediction_id", "version", "answered_by"))
    asked = asked.filter(pl.col("answered_by").is_in(BY_A_MODEL), pl.col("version").is_not_null())
    asked = asked.sort("prediction_id")
    drawn = asked.sample(min(sample, asked.height), seed=seed, shuffle=False)["prediction_id"]
    rows = read_log(settings, spec.name, lake=lake, since=since, only=drawn, spec=spec)
    states = {row["state"]: row for row in read_states(settings, spec.name, lake=lake).iter_rows(named=True)}
    comparison = _Comparison(
        spec=spec, lake=lake, states=states, pseudonyms=_pseudonyms(settings), tally=_Tally(), stale=[]
    )
    of = bundles or released_bundles(spec.name, settings)
    for (version, state), group in rows.group_by("version", "state", maintain_order=True):
        comparison.compare(int(str(version)), None if state is None else str(state), group, of)
    tally = comparison.tally
    names = list(dict.fromkeys([*tally.compared, *tally.blind]))
    return SkewReport(
        model=spec.name,
        predictions=asked.height,
        sampled=rows.height,
        versions=dict(sorted(rows["version"].value_counts().iter_rows())),
        features=tuple(
            FeatureSkew(
                feature=name,
                compared=tally.compared[name],
                different=tally.different[name],
                not_comparable=tally.blind[name],
            )
            for name in names
        ),
        differences=tuple(tally.examples),
        probabilities=tally.probabilities,
        other_probabilities=tuple(tally.others),
        other_decisions=tuple(tally.otherwise),
        not_comparable=dict(tally.reasons),
        staleness=_staleness(comparison.stale),
    )


@dataclass(slots=True)
class _Tally:
    compared: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    blind: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[Difference] = field(default_factory=list)
    probabilities: int = 0
    others: list[str] = field(default_factory=list)
    otherwise: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Comparison:
    spec: ModelSpec
    lake: Lake
    states: Mapping[str, Mapping[str, Any]]
    pseudonyms: Pseudonyms | None
    tally: _Tally
    stale: list[float]

    def compare(self, version: int, state: str | None, rows: pl.DataFrame, bundles: Bundles) -> None:
        """Compares predictions of one version and one state."""
        try:
            bundle = bundles(version)
        except PilotageError as error:
            self.tally.reasons[f"version {version} can't be read: {error.message}"] += rows.height
            self.tally.blind.update({feature.name: rows.height for feature in self.spec.features})
            return
        self.tally.otherwise += _decided_otherwise(bundle, rows)
        requests = requests_of(rows, bundle, spec=self.spec, lake=self.lake, pseudonyms=self.pseudonyms)
        known = self.states.get(state) if state is not None else None
        self._note_staleness(rows, known)
        # Rows that lack the same values go together; nearly always that is all of them, and they lack nothing.
        groups: dict[frozenset[str], list[str]] = {}
        for prediction in rows["prediction_id"]:
            groups.setdefault(requests.missing.get(prediction, frozenset()), []).append(prediction)
        for missing, predictions in groups.items():
            some = rows.filter(pl.col("prediction_id").is_in(predictions))
            self._compare(bundle, requests, known, missing, some)

    def _compare(
        self,
        bundle: Bundle,
        requests: Requests,
        state: Mapping[str, Any] | None,
        missing: frozenset[str],
        rows: pl.DataFrame,
    ) -> None:
        view = bundle.view
        why = [requests.why[name] for name in sorted(missing)]
        frame = rows.select("prediction_id").join(requests.frame, on="prediction_id", maintain_order="left")
        blind = missing
        computed: pl.DataFrame | None = None
        if view.lookups:
            if state is None:
                why.append("the state that its as-of features are from is not in the log")
            else:
                try:
                    computed = self._offline(view, frame, state)
                except (PilotageError, OSError, pl.exceptions.PolarsError) as error:
                    said = error.message if isinstance(error, PilotageError) else str(error).splitlines()[0]
                    why.append(f"its as-of features can't be computed again: {said}")
            if computed is None:
                blind = blind | frozenset(view.state_types)
                computed = view.rows.compute(
                    frame.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in view.state_types.items())
                )
        else:
            computed = view.offline(frame, lambda source, *_: self.lake.scan(f"validated/{source}"))
        for reason in why:
            self.tally.reasons[reason] += rows.height
        hidden = depending_on(view, blind)
        equal = np.full(rows.height, not hidden)
        for name, dtype in view.schema.items():
            if name in hidden:
                self.tally.blind[name] += rows.height
            else:
                equal &= self._one(name, dtype, rows, computed)
        self._probabilities(bundle, rows.filter(pl.Series(equal)), computed.filter(pl.Series(equal)))

    def _offline(self, view: FeatureView, frame: pl.DataFrame, state: Mapping[str, Any]) -> pl.DataFrame:
        versions = {each["table"]: each["version"] for each in state["versions"]}
        return view.offline(frame, ValidatedRows(self.lake, view.lookups, versions).read)

    def _one(self, name: str, dtype: pl.DataType, rows: pl.DataFrame, computed: pl.DataFrame) -> np.ndarray:
        served, recomputed = column_as(rows, feature_column(name), dtype), computed[name]
        if dtype == pl.String() and self.pseudonyms is not None and served.str.starts_with(PREFIX).any():
            hidden = [self.pseudonyms.apply(name, value) for value in recomputed]
            recomputed = pl.Series(name, hidden, dtype=pl.String())
        same = same_values(served, recomputed)
        self.tally.compared[name] += rows.height
        self.tally.different[name] += int((~same).sum())
        told = sum(each.feature == name for each in self.tally.examples)
        for index in np.flatnonzero(~same)[: max(EXAMPLES - told, 0)]:
            row = int(index)
            self.tally.examples.append(
                Difference(
                    prediction_id=rows["prediction_id"][row],
                    version=rows["version"][row],
                    feature=name,
                    served=served[row],
                    recomputed=recomputed[row],
                )
            )
        return same

    def _probabilities(self, bundle: Bundle, rows: pl.DataFrame, computed: pl.DataFrame) -> None:
        """Of predictions with the same features: the same probability, but for the last bits of another machine."""
        if rows.is_empty():
            return
        again = bundle.scorer.score(computed)
        served = rows["probability"].to_numpy()
        # Written so that a NaN fails.
        wrong = ~(np.abs(again - served) <= TOLERANCE)
        self.tally.probabilities += rows.height
        self.tally.others += rows["prediction_id"].filter(pl.Series(wrong)).to_list()

    def _note_staleness(self, rows: pl.DataFrame, state: Mapping[str, Any] | None) -> None:
        if state is not None and state["through"] is not None:
            lags = (rows["moment"].drop_nulls() - state["through"]).dt.total_microseconds() / 1e6
            self.stale += [max(0.0, lag) for lag in lags]


def _decided_otherwise(bundle: Bundle, rows: pl.DataFrame) -> list[str]:
    """Predictions whose decision does not follow from the probability that was served."""
    decision, referred = bundle.verdict(pl.col("probability"))
    wrong = pl.col("referred").ne_missing(referred) | pl.col("decision").ne_missing(decision)
    return rows.filter(wrong)["prediction_id"].to_list()


def same_values(served: pl.Series, recomputed: pl.Series) -> np.ndarray:
    """Row by row, whether two columns of one type hold the same bits. Null, NaN and infinities are one: the log is
    JSON, which has no other word for what is no finite number; what they did to the answer shows in its probability."""
    if not served.dtype.is_float():
        return served.eq_missing(recomputed).to_numpy()
    one, other = (series.fill_null(float("nan")).to_numpy().astype(np.float64) for series in (served, recomputed))
    none_here, none_there = ~np.isfinite(one), ~np.isfinite(other)
    same: np.ndarray = (one.view(np.int64) == other.view(np.int64)) | (none_here & none_there)
    return same


def _staleness(lags: list[float]) -> Staleness | None:
    if not lags:
        return None
    median, p95 = (float(value) for value in np.quantile(lags, [0.5, 0.95]))
    return Staleness(median_s=median, p95_s=p95, largest_s=max(lags))


def _pseudonyms(settings: Settings) -> Pseudonyms | None:
    """Reads the key, and never makes one: a new one would stand for nobody in the log."""
    try:
        return Pseudonyms(read_key(settings.pseudonym_key, make=False))
    except ConfigError:
        return None
