"""The training set: labelled rows of the lake, frozen as one Parquet file with its SHA-256. Nothing here learns."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import StorageFull, TrainingError
from pilotage.features.build import DAY, EVENT_TIME, FINGERPRINT, LABEL, LABEL_KNOWN_AT, made_of_others
from pilotage.features.view import FeatureView
from pilotage.spec import ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.records import Cut, TrainingSet

FILE = "training_set.parquet"


def assemble(
    spec: ModelSpec,
    *,
    lake: Lake,
    config: TrainConfig,
    directory: Path,
    cut: Cut | None = None,
    as_then: bool = False,
    now: datetime | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> TrainingSet:
    """Freezes the labelled rows of ``features/<model>``; the same rows give the same bytes.

    A label that is to become known is none yet: *no complaint in thirty days* is not true before they are over. Where
    one of the two is known sooner, those that are known of a new day are not like its others, so days of which fewer
    than ``outcomes.coverage`` are known are left out.

    Args:
        spec: The model.
        lake: Where its features are.
        config: Which days and which version of the table; see ``DataConfig``.
        directory: Folder for ``training_set.parquet``; made if missing.
        cut: The days, as another set was cut. Default: what the configuration and the spec say.
        as_then: Whether rows and labels may be declared otherwise now than when that version of the table was built.
        now: By when labels are known, UTC; ``None`` for now.
        progress: Called with short sentences.

    Returns:
        The record of the set.

    Raises:
        UnpublishedData: There are no features yet.
        TrainingError: No row has a label, all labels are the same, or an entity stands in two rows.
        StorageFull: No room for the file.
    """
    config.check(spec)
    table = f"features/{spec.name}"
    version = lake.version(table) if config.data.version is None else config.data.version
    fingerprint = _same_definition(spec, lake, table, version, as_then=as_then)
    columns = set_columns(spec)
    rows = lake.scan(table, version=version)
    if missing := sorted(set(columns) - set(rows.collect_schema().names())):
        raise TrainingError(
            f"{table} (version {version}) has no column {missing[0]}, which {spec.name} declares.",
            fix="Build the features again: their definition has changed since.",
            table=table,
            missing=missing,
        )
    cut = cut or _known(spec, rows, _cut(spec, lake, rows, config), now or datetime.now(UTC), progress)
    rows = _within(spec, lake, rows, cut, table=table, version=version)
    order = [*([EVENT_TIME] if spec.event_time else []), *spec.entity]
    frame = rows.filter(pl.col(LABEL).is_not_null()).select(columns).sort(order, maintain_order=True).collect()
    _refuse_unusable(spec, frame, table, cut)
    progress(f"{frame.height:,} labelled rows, {_share(frame):.1%} positive: writing {FILE}")
    record = freeze(spec, frame, directory=directory, versions={table: version}, fingerprint=fingerprint, cut=cut)
    progress(f"Training set {record.sha256[:12]} from {table} version {version}")
    return record


def freeze(
    spec: ModelSpec,
    frame: pl.DataFrame,
    *,
    directory: Path,
    versions: dict[str, int],
    fingerprint: str,
    cut: Cut | None = None,
) -> TrainingSet:
    """Writes rows that are there already as a training set; the same rows give the same bytes.

    Args:
        spec: The model.
        frame: Labelled rows with ``set_columns``, in the order of event time and entity.
        directory: Folder for ``training_set.parquet``; made if missing.
        versions: Lake table → Delta version that the rows are from.
        fingerprint: Of the feature view that made them.
        cut: The days that were read from there.

    Raises:
        StorageFull: No room for the file.
    """
    path = directory / FILE
    return TrainingSet(
        model=spec.name,
        path=str(path),
        sha256=_write(frame, path),
        rows=frame.height,
        positives=int(frame[LABEL].sum()),
        first=_day(spec, frame, 0),
        last=_day(spec, frame, -1),
        lake_versions=versions,
        feature_fingerprint=fingerprint,
        cut=cut,
    )


def _cut(spec: ModelSpec, lake: Lake, rows: pl.LazyFrame, config: TrainConfig) -> Cut:
    """The days that a run reads of a version's rows.

    Days that were withdrawn since their features were built are left out: their rows are known to be wrong. A run that
    asks for a version of the features by its number gets that version as it was.
    """
    first, last = config.data.first or _window_start(spec, rows, config), config.data.last
    table = f"validated/{spec.source}"
    if config.data.version is not None or DAY not in rows.collect_schema() or not lake.exists(table):
        return Cut(first=first, last=last)
    there = rows.select(pl.col(DAY).unique()).collect().to_series().to_list()
    gone = sorted(set(there) - set(lake.days(table)))
    return Cut(
        first=first, last=last, without=[d for d in gone if (not first or d >= first) and (not last or d <= last)]
    )


def _known(spec: ModelSpec, rows: pl.LazyFrame, cut: Cut, now: datetime, progress: Callable[[str], None]) -> Cut:
    """The cut, without labels that are not known by now, and without the days of which too few are."""
    if spec.event_time is None:
        return cut
    later = (pl.col(LABEL_KNOWN_AT) > now).fill_null(value=False)
    day = _day_column(spec, rows)
    labelled = rows.filter(
        pl.col(LABEL).is_not_null(),
        *([day >= cut.first] if cut.first else []),
        *([day <= cut.last] if cut.last else []),
    )
    days = labelled.group_by(day.alias(DAY)).agg(pl.len().alias("rows"), later.sum().alias("later")).sort(DAY).collect()
    if not (unknown := int(days["later"].sum())):
        return cut
    early = days.filter(pl.col("rows") - pl.col("later") < spec.outcomes.coverage * pl.col("rows"))[DAY].to_list()
    left = "" if not early else f", and {len(early)} days from {early[0]} on, of which too few are"
    progress(f"Leaves out {unknown:,} labels that are not known yet{left}")
    return replace(cut, known_by=now, without=sorted({*cut.without, *early}))


def _within(spec: ModelSpec, lake: Lake, rows: pl.LazyFrame, cut: Cut, *, table: str, version: int) -> pl.LazyFrame:
    if DAY in rows.collect_schema():
        rows = lake.scan(table, first=cut.first, last=cut.last, version=version)
    else:
        for bound, within in ((cut.first, _local_day(spec).ge), (cut.last, _local_day(spec).le)):
            rows = rows if bound is None else rows.filter(within(bound))
    if cut.without:
        rows = rows.filter(~_day_column(spec, rows).is_in(cut.without))
    if cut.known_by is not None:
        rows = rows.filter((pl.col(LABEL_KNOWN_AT) <= cut.known_by).fill_null(value=True))
    return rows


def _day_column(spec: ModelSpec, rows: pl.LazyFrame) -> pl.Expr:
    return pl.col(DAY) if DAY in rows.collect_schema() else _local_day(spec)


def _local_day(spec: ModelSpec) -> pl.Expr:
    return pl.col(EVENT_TIME).dt.convert_time_zone(spec.time_zone).dt.date()


def set_columns(spec: ModelSpec) -> list[str]:
    """Columns of a training set, in order; a name that stands for a column in two roles stands once."""
    timed = [EVENT_TIME, LABEL_KNOWN_AT] if spec.event_time else []
    return list(
        dict.fromkeys(
            [
                *spec.entity,
                *timed,
                *spec.request_types(),
                *spec.state_types(),
                *(feature.name for feature in spec.features),
                LABEL,
            ]
        )
    )


def read_set(training_set: TrainingSet, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of a training set, in its order, when its bytes are still the recorded ones.

    Raises:
        TrainingError: The file is gone or was changed. (Parquet with a flipped bit reads without an error.)
    """
    path = Path(training_set.path)
    if not path.is_file():
        raise TrainingError(f"The training set {path} is gone.", fix="Assemble it again.", path=str(path))
    if (found := _sha256(path)) != training_set.sha256:
        raise TrainingError(
            f"The training set {path} has SHA-256 {found[:12]}…, not the recorded {training_set.sha256[:12]}….",
            fix="Assemble it again; never edit it.",
            path=str(path),
        )
    return pl.read_parquet(path, columns=None if columns is None else list(columns))


def _same_definition(spec: ModelSpec, lake: Lake, table: str, version: int, *, as_then: bool) -> str:
    """Fingerprint of the features, when the table's version was built by the definition that the spec now gives."""
    ours = FeatureView(spec).fingerprint
    history = lake.history(table, limit=10_000)
    built = [entry for entry in history if entry["version"] <= version and FINGERPRINT in entry]
    others = bool(built) and not as_then and made_of_others(built[0], spec)
    if others or (built and built[0][FINGERPRINT] != ours):
        what = "rows or labels" if others else "features"
        raise TrainingError(
            f"{table} (version {version}) was built by another definition of its {what} than {spec.name} has now.",
            fix=f"Materialise the asset {spec.name}/features for any day, which builds all of them again, or train on "
            "a newer version of the table.",
            table=table,
            version=version,
        )
    return ours


def _window_start(spec: ModelSpec, rows: pl.LazyFrame, config: TrainConfig) -> date | None:
    """First day of the spec's retraining window, counted back from the last day that is read of the version's rows."""
    if spec.retraining.window is None or spec.event_time is None:
        return None
    day = _day_column(spec, rows)
    last = config.data.last or rows.select(day.max()).collect().item()
    return None if last is None else last - spec.retraining.window + timedelta(days=1)


def _refuse_unusable(spec: ModelSpec, frame: pl.DataFrame, table: str, cut: Cut) -> None:
    span = f"from {cut.first or 'the first day'} to {cut.last or 'the last'}"
    where = f"{table} {span}" if spec.event_time else table
    if frame.is_empty():
        raise TrainingError(
            f"No row of {where} has a label ({spec.label.name})" + (" that is known by now." if cut.known_by else "."),
            fix="Ingest and validate more data, or widen data.first and data.last.",
            table=table,
            rows=0,
        )
    positives = int(frame[LABEL].sum())
    if positives in (0, frame.height):
        only, lacking = ("true", "false") if positives else ("false", "true")
        raise TrainingError(
            f"All {frame.height:,} labels of {where} are {only}: no row has {spec.label.name} {lacking}.",
            fix="Give more data, or correct label.expr.",
            table=table,
            rows=frame.height,
            positives=positives,
        )
    twice = frame.select(spec.entity).is_duplicated()
    if twice.any():
        culprit = frame.filter(twice).row(0, named=True)
        named = ", ".join(f"{column}={culprit[column]!r}" for column in spec.entity)
        raise TrainingError(
            f"{named} stands in {int(twice.sum()):,} rows of {table} more than once.",
            fix="Give entity columns that identify a row, or build the features again.",
            table=table,
        )


def _share(frame: pl.DataFrame) -> float:
    return int(frame[LABEL].sum()) / frame.height


def _day(spec: ModelSpec, frame: pl.DataFrame, row: int) -> date | None:
    if spec.event_time is None:
        return None
    day: date = frame[[row]].select(_local_day(spec)).item()
    return day


def _write(frame: pl.DataFrame, path: Path) -> str:
    """Writes beside the place and renames, so that a half-written set never has the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        frame.write_parquet(work, compression="zstd", compression_level=1, row_group_size=100_000)
        digest = _sha256(work)
        work.rename(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise StorageFull(
                f"No room for the training set in {path.parent}.", fix="Free some space, and run again.", path=str(path)
            ) from error
        raise
    finally:
        work.unlink(missing_ok=True)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
