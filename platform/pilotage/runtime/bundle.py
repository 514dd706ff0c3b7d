"""A bundle: one immutable, self-contained folder a version, which serves after the code has moved on.

    manifest.json     what it is, what made it, and the SHA-256 and size of every other file
    model.txt         the LightGBM model, native text
    calibrator.json   turns the model's probability into one to be taken at its word
    categories.json   categorical feature → its levels
    contract.json     the request's fields
    features.json     as-of and row features; expressions as JSON, never Python
    decision.json     threshold, costs, the fallback rule
    reference.parquet the sample that later data is compared with
    golden.parquet    requests and their as-of state, with the probability this bundle must give

The ledger remembers the SHA-256 of the manifest, so it vouches for every byte. The same inputs give the same bytes.
Only the format lives here; ``probe.py`` decides whether a bundle is fit to serve.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.errors import BundleCorrupt, TrainingError
from pilotage.expressions import from_json, to_json
from pilotage.features.rows import RowFeatures, compute_features
from pilotage.features.view import FeatureView
from pilotage.runtime import declared
from pilotage.runtime.folder import MANIFEST, RESTORE, as_corrupt, publish_folder, read_verified, sha256_of
from pilotage.runtime.scorer import Calibrator, Scorer
from pilotage.spec import AsOf, Feature, ModelSpec, RequestField

FORMAT = 1
FILES = (
    "calibrator.json",
    "categories.json",
    "contract.json",
    "decision.json",
    "features.json",
    "golden.parquet",
    "model.txt",
    "reference.parquet",
)
EXPECTED = "expected"
"""Column of golden.parquet: the calibrated probability, 0..1."""
TOLERANCE = 1e-9
"""How far a golden answer may be off. LightGBM adds the same doubles on every machine; ``exp`` may differ in the last
bit between C libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle in memory."""

    sha256: str
    """Of the manifest."""
    manifest: dict[str, Any]
    request: tuple[RequestField, ...]
    view: FeatureView
    features: tuple[Feature, ...]
    """The view's features with their words, in the model's order."""
    label: str
    threshold: float
    costs: dict[str, float]
    refer_between: tuple[float, float] | None
    """Probabilities (low ≤ p < high) at which a person decides; ``None`` for none."""
    fallback: pl.Expr
    fallback_reason: str
    rows: RowFeatures
    scorer: Scorer
    reference: pl.DataFrame
    golden: pl.DataFrame

    @property
    def model(self) -> str:
        return str(self.manifest["model"])

    @property
    def asof(self) -> tuple[AsOf, ...]:
        """As-of features; where there are any, predicting needs state."""
        return self.view.definition.asof

    @property
    def fingerprint(self) -> str:
        """Of the feature view."""
        return str(self.manifest["feature_fingerprint"])

    def state_types(self) -> dict[str, pl.DataType]:
        """As-of columns with their types."""
        return self.view.state_types

    def score(self, frame: pl.DataFrame) -> np.ndarray:
        """Calibrated probabilities of rows that have the request and as-of columns; shape (rows,)."""
        return self.scorer.score(self.rows.compute(frame))

    def verdict(self, probability: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """What follows from probabilities: the decision (null where a person decides), and whether one does."""
        low, high = self.refer_between or (1.0, 0.0)
        referred = (probability >= low) & (probability < high)
        return pl.when(~referred).then(probability >= self.threshold), referred

    def compute(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The features of rows that have the request and as-of columns, and nothing else."""
        return self.rows.compute(frame).select(self.view.schema.keys())


def write_bundle(
    directory: Path,
    *,
    spec: ModelSpec,
    model_text: str,
    calibrator: Calibrator,
    categories: Mapping[str, list[str]],
    reference: pl.DataFrame,
    golden: pl.DataFrame,
    training: Mapping[str, Any],
    fingerprint: str | None = None,
    created: datetime | None = None,
) -> str:
    """Writes a bundle, whole or not at all, and reads it back.

    Args:
        directory: A folder that does not exist yet.
        spec: The model's declaration.
        model_text: ``Booster.model_to_string()``, trained on ``encode`` of the spec's features, in the spec's order.
        calibrator: Fitted on the calibration part.
        categories: Categorical feature → its levels.
        reference: Feature columns of a sample of the training rows.
        golden: Request and as-of columns of some rows. With a column ``expected`` (the probability that training saw)
            the bundle must give the same; without it the bundle's own answers are written down.
        training: Facts for people and for the registry: rows, days, lake versions… JSON values only.
        fingerprint: Of the feature view that the training rows were made with; it must be the spec's.
        created: When, UTC; default now.

    Returns:
        SHA-256 of the manifest.

    Raises:
        TrainingError: The bundle answers differently from training, the training rows have other features than the
            spec, or the folder exists.
    """
    if directory.exists():
        raise TrainingError(f"There is already a bundle in {directory}.", fix="Write to a new folder.")
    facts = dict(training)
    made_at = created or datetime.now(UTC)
    view = FeatureView(spec)
    scorer = Scorer(model_text, calibrator, dict(categories), list(view.schema))
    if fingerprint is not None and fingerprint != view.fingerprint:
        raise TrainingError(
            f"The rows of {spec.name} were made with the features {fingerprint[:12]}, the spec's are"
            f" {view.fingerprint[:12]}.",
            fix="Build features and training set again.",
        )
    golden = _with_expected(spec, view, scorer, golden)
    contents: dict[str, bytes] = {
        "model.txt": model_text.encode(),
        "calibrator.json": _json({"kind": calibrator.kind, "x": list(calibrator.x), "y": list(calibrator.y)}),
        "categories.json": _json({name: list(levels) for name, levels in categories.items()}),
        "contract.json": _json([declared.field_to_json(field) for field in spec.request]),
        "features.json": _json(
            {
                "view": json.loads(view.to_json()),
                "words": [
                    feature.model_dump(include={"name", "description", "unit", "advice"}) for feature in spec.features
                ],
            }
        ),
        "decision.json": _json(
            {
                "label": spec.label.name,
                "threshold": spec.kpi.cost.threshold,
                "costs": spec.kpi.cost.model_dump(),
                "refer_between": spec.serving.refer_between,
                "fallback": to_json(spec.fallback.rule, name="fallback.rule"),
                "fallback_reason": spec.fallback.reason,
            }
        ),
        "reference.parquet": _parquet(reference),
        "golden.parquet": _parquet(golden),
    }
    manifest = _json(
        {
            "format": FORMAT,
            "model": spec.name,
            "title": spec.title,
            "created": made_at.isoformat(),
            "time_zone": spec.time_zone,
            "feature_fingerprint": view.fingerprint,
            "polars": pl.__version__,
            "lightgbm": installed("lightgbm"),
            "pilotage": installed("pilotage"),
            "training": facts,
            "files": {name: {"sha256": sha256_of(data), "bytes": len(data)} for name, data in contents.items()},
        }
    )
    publish_folder(directory, {**contents, MANIFEST: manifest})
    sha256 = sha256_of(manifest)
    verify_golden(read_bundle(directory, sha256=sha256))
    return sha256


def read_bundle(directory: Path, *, sha256: str | None = None) -> Bundle:
    """Reads a bundle; every byte is checked before anything is parsed.

    Args:
        directory: The bundle's folder.
        sha256: What the ledger remembers of the manifest. Without it, a manifest that was rewritten together with a
            file passes the hashes, and a broken model in it can abort this process: give it, or ``admit`` the bundle.

    Raises:
        BundleCorrupt: A file is missing, is too many, or has other bytes than the manifest says; or the content is
            not a bundle.
    """
    manifest, contents, digest = read_verified(directory, FILES, sha256=sha256)
    with as_corrupt(directory):
        if manifest["format"] != FORMAT:
            raise BundleCorrupt(f"The bundle in {directory} has the unknown format {manifest['format']}.", fix=RESTORE)
        calibrator = json.loads(contents["calibrator.json"])
        features = json.loads(contents["features.json"])
        view = FeatureView.from_json(json.dumps(features["view"]))
        if view.fingerprint != manifest["feature_fingerprint"]:
            raise BundleCorrupt(f"The features in {directory} are not those that the manifest names.", fix=RESTORE)
        decision = json.loads(contents["decision.json"])
        return Bundle(
            sha256=digest,
            manifest=manifest,
            request=tuple(declared.field_from_json(item) for item in json.loads(contents["contract.json"])),
            view=view,
            features=tuple(
                Feature(**words, expr=expr)
                for words, expr in zip(features["words"], view.definition.features.values(), strict=True)
            ),
            rows=RowFeatures(view.definition.features, {**view.request_types, **view.state_types}),
            label=decision["label"],
            threshold=float(decision["threshold"]),
            costs=decision["costs"],
            refer_between=_band(decision.get("refer_between")),
            fallback=from_json(decision["fallback"], name="fallback.rule"),
            fallback_reason=decision["fallback_reason"],
            reference=pl.read_parquet(io.BytesIO(contents["reference.parquet"])),
            golden=pl.read_parquet(io.BytesIO(contents["golden.parquet"])),
            # Last: by now everything else was readable.
            scorer=Scorer(
                contents["model.txt"].decode(),
                Calibrator(**calibrator),
                json.loads(contents["categories.json"]),
                list(view.schema),
            ),
        )


def verify_golden(bundle: Bundle) -> None:
    """Checks that a bundle gives the answers that it was written with.

    Raises:
        BundleCorrupt: An answer is off by more than ``TOLERANCE``, is no probability, or there is no golden row.
    """
    with as_corrupt(f"{bundle.model} {bundle.sha256[:12]}"):
        golden = bundle.golden
        if golden.is_empty() or EXPECTED not in golden.columns:
            raise BundleCorrupt(f"The bundle of {bundle.model} has no golden rows.", fix=RESTORE)
        got, expected = bundle.score(golden), golden[EXPECTED].to_numpy()
        # Written so that a NaN fails.
        right = (np.abs(got - expected) <= TOLERANCE) & (got >= 0) & (got <= 1)
        if not right.all():
            row = int(np.argmin(right))
            raise BundleCorrupt(
                f"The bundle of {bundle.model} answers {got[row]!r} on golden row {row}, not {expected[row]!r}.",
                fix=RESTORE,
                row=row,
            )


def verify_files(directory: Path, *, sha256: str | None = None) -> str:
    """Checks every byte of a bundle, and parses nothing but the manifest. Returns the manifest's SHA-256."""
    return read_verified(directory, FILES, sha256=sha256)[2]


def _with_expected(spec: ModelSpec, view: FeatureView, scorer: Scorer, golden: pl.DataFrame) -> pl.DataFrame:
    if golden.is_empty():
        raise TrainingError(f"{spec.name} has no golden rows.", fix="Give at least one row to write_bundle.")
    columns = [*view.request_types, *view.state_types]
    answers = scorer.score(compute_features(spec, golden.select(columns)))
    if EXPECTED in golden.columns:
        seen = golden[EXPECTED].to_numpy()
        # Written so that a NaN fails.
        if not (np.abs(answers - seen) <= TOLERANCE).all():
            row = int(np.argmax(np.abs(answers - seen)))
            raise TrainingError(
                f"The bundle of {spec.name} answers {answers[row]!r} where training saw {seen[row]!r} (row {row}).",
                fix="Encode with Scorer.encode, and calibrate with the bundle's own Calibrator.",
            )
    return golden.select(columns).with_columns(pl.Series(EXPECTED, answers, dtype=pl.Float64))


def _band(declared: list[float] | None) -> tuple[float, float] | None:
    """Bundles of before there were bands have none."""
    if declared is None:
        return None
    low, high = (float(limit) for limit in declared)
    if not 0.0 <= low <= high <= 1.0:
        raise BundleCorrupt(f"The band {low} to {high} is none of probabilities.", fix=RESTORE)
    return low, high


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()
