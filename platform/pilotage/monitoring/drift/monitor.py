"""The drift of a model, from its champion, its features and its log to a verdict. Puts the parts together.

What is learned is learned once a version, and kept; a day's run reads the days of the window and the weeks before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import DataError, NotReleasable
from pilotage.monitoring.drift.bins import Bins
from pilotage.monitoring.drift.counting import Days, count_days
from pilotage.monitoring.drift.deciding import until
from pilotage.monitoring.drift.expected import LEAST, MEANS
from pilotage.monitoring.drift.importance import gain_shares
from pilotage.monitoring.drift.incidents import LONG, find_incidents
from pilotage.monitoring.drift.learning import column_weights, learn
from pilotage.monitoring.drift.measures import declared
from pilotage.monitoring.drift.multivariate import ROWS, past_effects, tell_apart
from pilotage.monitoring.drift.observed import (
    LEAST_LOGGED,
    Frames,
    Log,
    Observer,
    block_days,
    feature_frames,
    label_delay,
    last_days,
)
from pilotage.monitoring.drift.records import DriftState, DriftVerdict, Multivariate, Thresholds
from pilotage.monitoring.drift.store import DriftStore, Reference
from pilotage.monitoring.drift.window import UNDATED, judge_window
from pilotage.release.champions import champion
from pilotage.release.stages import Release
from pilotage.runtime.bundle import read_bundle
from pilotage.settings import Settings
from pilotage.spec import Drift, ModelSpec

SEEN = 5_000
"""Rows of the window, and of the reference, that are kept for a person to look at."""

Source = Literal["log", "features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """One look at a model's drift."""

    verdict: DriftVerdict
    state: DriftState
    thresholds: Thresholds
    source: Source
    why_source: str
    reference: pl.DataFrame
    """The bundle's reference sample, features only, for a person to look at."""
    current: pl.DataFrame
    """A sample of the window, features only, ``SEEN`` rows at most."""
    bins: list[Bins]
    reference_counts: Days
    window_counts: Days
    learned_file: Path
    newly_learned: bool


def watch(
    spec: ModelSpec,
    *,
    settings: Settings,
    lake: Lake,
    last: date | None = None,
    now: datetime | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> DriftReport:
    """Looks at the newest window of a model, decides, and remembers what it decided.

    The window is of the predictions that the service logged, where it logged enough; else of the features table, with
    what the champion says to it.

    Args:
        spec: The model. Without ``drift`` it is looked at with the defaults.
        settings: Where ledger, log and drift's own records are.
        lake: Where the features are.
        last: Last day of the window; by default the newest that has rows. Of the log only days count that are over.
        now: What time it is (UTC); ``None`` for the wall clock.
        progress: Called with short sentences.

    Raises:
        NotReleasable: There is no champion.
        UnpublishedData: There are no features.
        DataError: The features are not what the champion reads, or there are none so early.
    """
    policy = spec.drift or Drift(window=timedelta(days=7))
    release = champion(spec.name, settings=settings)
    if release is None:
        raise NotReleasable(
            f"{spec.name} has no champion.", fix=f"Promote a version: pilotage promote {spec.name} VERSION."
        )
    bundle = read_bundle(Path(release.bundle), sha256=release.bundle_sha256)
    today = (now or datetime.now(UTC)).astimezone(ZoneInfo(spec.time_zone)).date()
    looked = _Look(spec, policy, release, Observer(bundle, spec.kpi.cost), settings, lake, progress, today)
    return looked.run(last)


@dataclass(slots=True)
class _Look:
    spec: ModelSpec
    policy: Drift
    release: Release
    observer: Observer
    settings: Settings
    lake: Lake
    progress: Callable[[str], None]
    today: date
    """In the model's time zone, by the wall clock. The data's own clock stands still within the last day of a replay,
    which is over, and of a service that stopped."""

    def run(self, last: date | None) -> DriftReport:
        store = DriftStore(self.settings, self.spec.name)
        state = until(store.state(), self.today)
        reference, new = self._reference(store, state)
        bins, past = reference.bins, reference.counted()
        used = past.without(reference.thresholds.learned.left_out)
        source, why, frames_of, days = self._source(last)
        if last is not None and days[-1] not in (last, UNDATED):
            self.progress(f"{last} has no rows: this is the window that ends with {days[-1]}.")
        begin = len(days) - self.policy.days
        window_days = days[begin:]
        samples: list[tuple[date, pl.DataFrame]] = []
        rate = max(1, ROWS // max(1, len(past.days)))

        def remembered(frames: Frames) -> Frames:
            for day, rows in frames:
                if day in window_days:
                    samples.append((day, rows.sample(min(max(rate, SEEN // len(window_days)), rows.height), seed=0)))
                yield day, rows

        seen = count_days(self.observer.counted(remembered(frames_of(days)), bins), bins, MEANS)
        seen = self._known(seen, days[-1])
        if not seen.only(window_days).days:
            raise DataError(
                f"{self.spec.name}: no rows from {window_days[0]} to {window_days[-1]}.",
                fix="Choose days that have rows.",
                model=self.spec.name,
            )
        features = self.observer.features
        kept = {day: rows.select(features) for day, rows in samples}
        cost = self.spec.kpi.cost

        def together(compared: Days) -> Multivariate | None:
            return self._together(store, reference, [(day, kept[day]) for day in compared.days], rate)

        verdict, later, compared = judge_window(
            used,
            seen,
            bins,
            reference.thresholds,
            state,
            days=window_days,
            importance=reference.importance,
            incident_days=self.policy.incident_days,
            declared_rise=LEAST
            * min(cost.false_positive - cost.true_negative, cost.false_negative - cost.true_positive),
            together=together if self.policy.multivariate else None,
        )
        store.keep(verdict, later)
        drawn = [kept[day] for day in compared.days]
        shown = pl.concat(drawn) if drawn else self.observer.bundle.reference.select(features).clear()
        return DriftReport(
            verdict=verdict,
            state=later,
            thresholds=reference.thresholds,
            source=source,
            why_source=why,
            reference=self.observer.bundle.reference.select(features),
            current=shown.sample(min(SEEN, shown.height), seed=0),
            bins=bins,
            reference_counts=used,
            window_counts=compared,
            learned_file=store.folder / f"reference-v{self.release.version}.json",
            newly_learned=new,
        )

    def _source(self, last: date | None) -> tuple[Source, str, Callable[[Sequence[date]], Frames], list[date]]:
        """Where the window is read, why there, and its days with those of the weeks before it."""
        log = Log(self.spec, self.observer, settings=self.settings, lake=self.lake)
        # The first hours of a day are few rows and all from the morning: beside whole days they look like an incident.
        over = {day: rows for day, rows in log.rows_of_days().items() if day < self.today}
        logged = {day: rows for day, rows in over.items() if last is None or day <= last}
        length = self.policy.days + LONG
        if logged:
            newest = last_days(max(logged), self.policy.days)
            rows = sum(logged.get(day, 0) for day in newest)
            if rows >= LEAST_LOGGED:
                return "log", f"{rows:,} logged predictions", log.frames, last_days(newest[-1], length)
            why = f"only {rows} predictions were logged in {self.policy.days} days ({LEAST_LOGGED} are needed)"
        else:
            why = "no predictions were logged"
        table = f"features/{self.spec.name}"
        known = self.lake.days(table)
        there = [day for day in known if day <= min(self.today, last or self.today)]
        if known and last is not None and not there:
            raise DataError(
                f"{self.spec.name}: no rows up to {last}; its features begin {known[0]}.",
                fix="Choose days that have rows.",
                model=self.spec.name,
            )
        if not there:
            return "features", f"{why}, and the features have no days", self._undated, [UNDATED] * self.policy.days

        def frames(days: Sequence[date]) -> Frames:
            return feature_frames(self.observer, self.lake, days)

        return "features", why, frames, last_days(there[-1], length)

    def _undated(self, _: Sequence[date]) -> Frames:
        yield UNDATED, self.observer.of_features(self.lake.scan(f"features/{self.spec.name}").collect())

    def _known(self, days: Days, newest: date) -> Days:
        """Without labels of days whose truth can't be known yet, or isn't told at all."""
        late = newest - label_delay(self.spec) if newest != UNDATED else newest
        for name in (self.observer.label, self.observer.concept):
            if (counts := days.counts.get(name)) is not None:
                unknown = np.array([day > late for day in days.days]) | (counts[:, :-1].sum(axis=1) == 0)
                counts[unknown] = 0
        return days

    # What is learned once a version

    def _reference(self, store: DriftStore, state: DriftState) -> tuple[Reference, bool]:
        version = self.release.version
        key = self._key()
        limits = declared(self.policy.alert_psi)
        known = store.reference(version)
        # What knows no threshold of a measure that came since is learned again, too.
        if known is not None and (known.bundle_sha256, known.key, known.thresholds.declared) == (
            self.release.bundle_sha256,
            key,
            limits,
        ):
            return known, False
        model_text = (Path(self.release.bundle) / "model.txt").read_text(encoding="utf-8")
        importance = gain_shares(model_text, self.observer.features)
        days, late = self._reference_days()
        if days:
            rows = [(day, frame) for day, frame in feature_frames(self.observer, self.lake, days)]
        else:
            rows = [(UNDATED, self.observer.of_features(self.observer.bundle.reference))]
        # What the model says to rows that it learned from is surer than what it says to new ones.
        fresh = [(day, frame) for day, frame in rows if late is None or day >= late] or rows
        bins = self._fit([frame for _, frame in rows], [frame for _, frame in fresh])
        counted = count_days(self.observer.counted(iter(rows), bins), bins, MEANS)
        self._known(counted, days[-1] if days else UNDATED)
        seen = {day for day, _ in fresh}
        stale = np.array([day not in seen for day in counted.days])
        for each in bins:
            if each.role in ("prediction", "concept"):
                counted.counts[each.name][stale] = 0
        for sums in counted.sums.values():
            sums[stale] = 0
        odd = find_incidents(counted, bins, column_weights(bins, importance), at_most=self.policy.incident_days)
        left_out = {day for each in odd for day in each.days} | set(state.incidents)
        self.progress(f"Learns what is much for version {version} from {len(counted.days)} days")
        table = f"features/{self.spec.name}"
        thresholds = learn(
            counted,
            bins,
            model=self.spec.name,
            version=version,
            window_days=self.policy.days,
            block_days=self.policy.block_days or block_days(self.spec),
            false_alarms_a_year=self.policy.false_alarms_a_year,
            importance=importance,
            declared=limits,
            left_out=left_out,
            sources={table: self.lake.version(table)},
        )
        effects = self._sample(store, rows, left_out) if self.policy.multivariate and days else ()
        reference = Reference(
            bundle_sha256=self.release.bundle_sha256,
            key=key,
            bins=bins,
            importance=importance,
            thresholds=thresholds,
            past_effects=list(effects),
            **Reference.lists(counted),
        )
        store.keep_reference(version, reference)
        return reference, True

    def _fit(self, rows: list[pl.DataFrame], fresh: list[pl.DataFrame]) -> list[Bins]:
        """Bins of inputs and labels by all rows, of predictions by those that the model did not learn from."""
        by_all = {each.name: each for each in self.observer.fit(pl.concat(rows))}
        by_fresh = {each.name: each for each in self.observer.fit(pl.concat(fresh))}
        return [by_fresh[name] if each.role in ("prediction", "concept") else each for name, each in by_all.items()]

    def _reference_days(self) -> tuple[list[date], date | None]:
        """The days of the champion's training set that the features table still has, and the first of those that the
        model was not fitted on."""
        training = self.observer.bundle.manifest["training"]
        if not training.get("first") or not training.get("last"):
            return [], None
        first, last = date.fromisoformat(training["first"]), date.fromisoformat(training["last"])
        there = [day for day in self.lake.days(f"features/{self.spec.name}") if first <= day <= last]
        begins = training.get("boundaries", {}).get("calibration") or training.get("boundaries", {}).get("holdout")
        if begins is None:
            return there, None
        return there, datetime.fromisoformat(begins).astimezone(ZoneInfo(self.spec.time_zone)).date()

    def _key(self) -> str:
        told = self.policy.model_dump(mode="json") | {"cost": self.spec.kpi.cost.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    # The columns together

    def _sample(
        self, store: DriftStore, rows: list[tuple[date, pl.DataFrame]], left_out: set[date]
    ) -> tuple[float, ...]:
        """Keeps a sample of the reference for the classifier; gives the effects of its own windows."""
        rate = max(1, ROWS // len(rows))
        parts = [
            frame.select(self.observer.features).sample(min(rate, frame.height), seed=0).with_columns(_day=pl.lit(day))
            for day, frame in rows
            if day not in left_out
        ]
        sample = pl.concat(parts)
        path = store.sample(self.release.version)
        path.parent.mkdir(parents=True, exist_ok=True)
        sample.write_parquet(path)
        return past_effects(self._encoded(sample), _ordinals(sample), window_days=self.policy.days)

    def _together(
        self, store: DriftStore, reference: Reference, drawn: list[tuple[date, pl.DataFrame]], rate: int
    ) -> Multivariate | None:
        path = store.sample(self.release.version)
        if not path.exists() or not drawn or drawn[0][0] == UNDATED:
            return None
        sample = pl.read_parquet(path)
        window = pl.concat(
            [rows.sample(min(rate, rows.height), seed=0).with_columns(_day=pl.lit(day)) for day, rows in drawn]
        )
        return tell_apart(
            self._encoded(sample),
            _ordinals(sample),
            self._encoded(window),
            _ordinals(window),
            names=self.observer.features,
            past=reference.past_effects,
            false_alarms_a_year=self.policy.false_alarms_a_year,
            windows_a_year=365 / self.policy.days,
        )

    def _encoded(self, frame: pl.DataFrame) -> np.ndarray:
        return self.observer.bundle.scorer.encode(frame.select(self.observer.features))


def _ordinals(frame: pl.DataFrame) -> np.ndarray:
    return frame["_day"].to_physical().to_numpy()
