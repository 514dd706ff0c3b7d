"""What somebody would write in an afternoon: the year's flights → a calibrated model, in one file, with no platform.

The baseline that the lineage is measured against. It does the same work, from the same files to a registered version:
keeps good rows, as-of features, LightGBM with cross-validation, calibration, evaluation with intervals that respect
days, by slice and by month, four pictures, and a run with a registered model in MLflow. It has nothing of what comes
around that: no quarantine with reasons, no expectations a day, no idempotence, no versions of tables, no bundle that is
verified, no gate, no history of runs.

    python -m tests.bench.bare_script LANDING OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm as lgb
import matplotlib as mpl
import mlflow
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

AIRPORTS = ["EWR", "JFK", "LGA"]
PARAMS = {
    "objective": "binary", "learning_rate": 0.04, "num_leaves": 31, "min_data_in_leaf": 100, "feature_fraction": 0.8,
    "lambda_l2": 5.0, "deterministic": True, "force_row_wise": True, "num_threads": 2, "seed": 1, "verbosity": -1,
}  # fmt: skip
ROUNDS = 200
LOCAL = pl.col("sched_dep_at").dt.convert_time_zone("America/New_York")
NULLS = ["NA", ""]


def read(landing: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    files = sorted((landing / "flights").glob("*.csv.gz"))
    flights = pl.concat(
        [pl.read_csv(path, null_values=NULLS, infer_schema_length=None) for path in files], how="vertical_relaxed"
    )
    flights = flights.with_columns(
        sched_dep_at=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
        + pl.duration(minutes="minute"),
        date=pl.date("year", "month", "day"),
    ).with_columns(dep_at=pl.col("sched_dep_at") + pl.duration(minutes="dep_delay"), late=pl.col("arr_delay") > 15)
    flights = flights.with_columns(arr_known_at=pl.col("dep_at") + pl.duration(minutes=pl.col("air_time") + 60))
    flights = flights.filter(
        pl.col("origin").is_in(AIRPORTS)
        & pl.col("distance").is_between(1, 10_000)
        & (pl.col("dep_delay").is_null() | pl.col("dep_delay").is_between(-180, 2880))
        & (pl.col("arr_delay").is_null() | pl.col("arr_delay").is_between(-240, 2880))
    ).unique(["date", "carrier", "flight", "origin"], keep="first", maintain_order=True)
    files = sorted((landing / "weather").glob("*.csv.gz"))
    weather = pl.concat(
        [pl.read_csv(path, null_values=NULLS, infer_schema_length=None) for path in files], how="diagonal_relaxed"
    )
    weather = weather.with_columns(
        known_at=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC") + pl.duration(minutes=15),
        **{
            name: pl.col(name).cast(pl.Float64)
            for name in ("temp", "dewp", "wind_speed", "precip", "pressure", "visib")
        },
    ).filter(pl.col("wind_speed").is_null() | pl.col("wind_speed").is_between(0, 150))
    return flights, weather


def window(
    rows: pl.DataFrame, flights: pl.DataFrame, on: list[str], at: str, value: str, over: str, name: str
) -> pl.DataFrame:
    totals = (
        flights.filter(pl.col(at).is_not_null() & pl.col(value).is_not_null())
        .sort(at)
        .select(
            *on, at, n=pl.int_range(1, pl.len() + 1).over(on), total=pl.col(value).cast(pl.Int64).cum_sum().over(on)
        )
        .unique([*on, at], keep="last", maintain_order=True)
    )
    now = rows.join_asof(totals, left_on="at", right_on=at, by=on, strategy="backward", check_sortedness=False)
    then = rows.with_columns(before=pl.col("at").dt.offset_by(f"-{over}")).join_asof(
        totals, left_on="before", right_on=at, by=on, strategy="backward", check_sortedness=False
    )
    n = now["n"].fill_null(0) - then["n"].fill_null(0)
    total = now["total"].fill_null(0) - then["total"].fill_null(0)
    return rows.with_columns(n.alias(f"{name}_n"), pl.select(pl.when(n > 0).then(total / n)).to_series().alias(name))


def features(flights: pl.DataFrame, weather: pl.DataFrame, landing: Path) -> pl.DataFrame:
    planes = pl.read_csv(next((landing / "planes").glob("*.csv*")), null_values=NULLS)
    airports = pl.read_csv(next((landing / "airports").glob("*.csv*")), null_values=NULLS)
    rows = flights.with_columns(at=pl.col("sched_dep_at") - pl.duration(hours=2)).sort("at")
    weather = weather.sort("known_at").select(
        "origin", "known_at", "temp", "dewp", "wind_speed", "precip", "pressure", "visib"
    )
    rows = rows.join_asof(
        weather, left_on="at", right_on="known_at", by="origin", tolerance="6h", check_sortedness=False
    )
    rows = window(rows, flights, ["origin"], "dep_at", "dep_delay", "3h", "airport_delay_3h")
    rows = window(rows, flights, ["origin"], "dep_at", "dep_delay", "12h", "airport_delay_12h")
    rows = window(rows, flights, ["carrier", "origin"], "dep_at", "dep_delay", "12h", "carrier_delay_12h")
    rows = window(rows, flights, ["origin", "dest"], "arr_known_at", "late", "28d", "route_late_28d")
    rows = window(rows, flights, ["carrier"], "arr_known_at", "late", "28d", "carrier_late_28d")
    legs = flights.filter(pl.col("dep_at").is_not_null() & pl.col("tailnum").is_not_null()).sort("dep_at")
    legs = legs.select("tailnum", leg_at="dep_at", last_leg_delay="dep_delay", last_leg_sched="sched_dep_at")
    rows = rows.join_asof(legs, left_on="at", right_on="leg_at", by="tailnum", tolerance="7d", check_sortedness=False)
    rows = rows.join(planes.select("tailnum", plane_year="year", plane_seats="seats"), on="tailnum", how="left")
    rows = rows.join(airports.select(dest="faa", lat="lat", lon="lon"), on="dest", how="left")
    return rows.with_columns(
        departure_minute=LOCAL.dt.hour().cast(pl.Int64) * 60 + LOCAL.dt.minute().cast(pl.Int64),
        weekday=LOCAL.dt.weekday(),
        arrival_minute=(pl.col("sched_arr_time") // 100) % 24 * 60 + pl.col("sched_arr_time") % 100,
        dew_point_spread=pl.col("temp") - pl.col("dewp"),
        since_last_leg=(pl.col("at") - pl.col("last_leg_sched")).dt.total_minutes(),
        plane_age=pl.col("year") - pl.col("plane_year"),
        carrier_code=pl.col("carrier").rank("dense").cast(pl.Float64) - 1,
        origin_code=pl.col("origin").rank("dense").cast(pl.Float64) - 1,
    )


COLUMNS = [
    "carrier_code", "origin_code", "departure_minute", "weekday", "arrival_minute", "distance", "lat", "lon", "temp",
    "dew_point_spread", "wind_speed", "precip", "pressure", "visib", "airport_delay_3h_n", "airport_delay_3h",
    "airport_delay_12h", "carrier_delay_12h", "route_late_28d", "carrier_late_28d", "last_leg_delay", "since_last_leg",
    "plane_age", "plane_seats",
]  # fmt: skip


def train(rows: pl.DataFrame) -> lgb.Booster:
    matrix = rows.select(pl.col(COLUMNS).cast(pl.Float64)).to_numpy()
    data = lgb.Dataset(
        matrix, rows["late"].to_numpy(), feature_name=COLUMNS, categorical_feature=["carrier_code", "origin_code"]
    )
    return lgb.train(PARAMS, data, ROUNDS)


def score(model: lgb.Booster, rows: pl.DataFrame) -> np.ndarray:
    return np.asarray(model.predict(rows.select(pl.col(COLUMNS).cast(pl.Float64)).to_numpy()))


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p)).reshape(-1, 1)


def main(landing: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    flights, weather = read(landing)
    table = features(flights, weather, landing)
    table.write_parquet(out / "features.parquet")
    rows = table.filter(pl.col("late").is_not_null()).sort("sched_dep_at")
    last = rows["sched_dep_at"].max()
    holdout_from, calibration_from = (pl.lit(last).dt.offset_by(f"-{days}d") for days in (14, 25))
    train_rows = rows.filter(pl.col("sched_dep_at") < calibration_from.dt.offset_by("-1d"))
    calibration = rows.filter(pl.col("sched_dep_at").is_between(calibration_from, holdout_from.dt.offset_by("-1d")))
    holdout = rows.filter(pl.col("sched_dep_at") >= holdout_from)
    folds = []
    for fold in range(1, 4):
        cut, end = (int(train_rows.height * part / 4) for part in (fold, fold + 1))
        model = train(train_rows[:cut])
        folds.append(log_loss(train_rows[cut:end]["late"].to_numpy(), score(model, train_rows[cut:end])))
    model = train(train_rows)
    calibrator = LogisticRegression(C=1e6).fit(logit(score(model, calibration)), calibration["late"].to_numpy())
    p = calibrator.predict_proba(logit(score(model, holdout)))[:, 1]
    metrics = evaluate(holdout["late"].to_numpy(), p, holdout["date"].to_numpy())
    parts = [*holdout.with_columns(p=p).partition_by("origin"), *holdout.with_columns(p=p).partition_by("carrier")]
    for part in (part for part in parts if part.height >= 100):
        evaluate(part["late"].to_numpy(), part["p"].to_numpy(), part["date"].to_numpy())
    for month in rows.with_columns(p=score(model, rows)).partition_by("month"):
        evaluate(month["late"].to_numpy(), month["p"].to_numpy(), month["date"].to_numpy())
    pictures(out, model, holdout["late"].to_numpy(), p)
    model.save_model(out / "model.txt")
    register(out, model, metrics, folds)


def evaluate(truth: np.ndarray, p: np.ndarray, days: np.ndarray) -> dict[str, float]:
    """AUC; log loss and Brier score with intervals from 300 resamples of whole days."""
    metrics = {"auc": roc_auc_score, "log_loss": log_loss, "brier": brier_score_loss}
    found = {name: float(metric(truth, p)) for name, metric in metrics.items()}
    _, day = np.unique(days, return_inverse=True)
    count = day.max() + 1
    rng = np.random.default_rng(1)
    for name in ("log_loss", "brier"):
        each = (p - truth) ** 2 if name == "brier" else -np.log(np.where(truth, p, 1 - p))
        sums, sizes = np.bincount(day, each), np.bincount(day)
        draws = rng.integers(0, count, (300, count))
        means = sums[draws].sum(1) / sizes[draws].sum(1)
        found[f"{name}_low"], found[f"{name}_high"] = np.quantile(means, [0.025, 0.975])
    return found


def pictures(out: Path, model: lgb.Booster, truth: np.ndarray, p: np.ndarray) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bins = np.quantile(p, np.linspace(0, 1, 11))
    which = np.clip(np.searchsorted(bins, p) - 1, 0, 9)
    drawn = {
        "reliability": lambda axes: axes.plot(
            np.bincount(which, p) / np.bincount(which), np.bincount(which, truth) / np.bincount(which)
        ),
        "scores": lambda axes: axes.hist([p[truth], p[~truth]], bins=40),
        "importance": lambda axes: axes.barh(COLUMNS, model.feature_importance("gain")),
        "order": lambda axes: axes.plot(np.sort(p)),
    }
    for name, draw in drawn.items():
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        draw(axes)
        figure.savefig(out / f"{name}.png", dpi=110)
        plt.close(figure)


def register(out: Path, model: lgb.Booster, metrics: dict[str, float], folds: list[float]) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{out / 'mlflow.db'}")
    experiment = mlflow.create_experiment("flight_delay", artifact_location=(out / "artifacts").absolute().as_uri())
    with mlflow.start_run(experiment_id=experiment):
        mlflow.log_params(PARAMS)
        mlflow.log_metrics(metrics)
        for step, fold in enumerate(folds):
            mlflow.log_metric("fold_log_loss", fold, step=step)
        for picture in out.glob("*.png"):
            mlflow.log_artifact(str(picture))
        mlflow.lightgbm.log_model(
            model, name="model", registered_model_name="flight_delay", pip_requirements=["lightgbm"]
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
