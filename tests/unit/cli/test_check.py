"""`pilotage check` carries declarations out on no rows, so that what can't work is said before any data land."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.models import load_models
from assets.sources import load_sources
from pilotage.cli.rehearsal import published, rehearse, sources_of
from pilotage.data.source import Daily, Expectation
from pilotage.errors import PilotageError
from pilotage.spec import Fallback, Kpi, Label, LightGBM, Outcomes, RequestField, Rollout, Window

ROOT = Path(__file__).resolve().parents[3]
MODEL = load_models()["flight_delay"]
SOURCES = load_sources()
FLIGHTS = SOURCES["flights"]


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return {name: published(SOURCES[name]) for name in MODEL.sources}


def no_such_contract() -> Any:
    import pandera.polars as pa

    return pa.DataFrameSchema({"fligth_id": pa.Column(pl.String)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"key": ("fligth_id",)}, "prepare does not give fligth_id"),
        ({"daily": Daily(column="dy", first=FLIGHTS.daily.first)}, "prepare does not give dy"),  # type: ignore[union-attr]
        ({"daily": Daily(column="carrier", first=FLIGHTS.daily.first)}, "gives carrier, which daily names, as String"),  # type: ignore[union-attr]
        ({"contract": no_such_contract}, "the contract names the column fligth_id, which prepare does not give"),
        ({"prepare": lambda rows: rows.select("fligth")}, 'prepare fails: unable to find column "fligth"'),
        (
            {"expectations": (Expectation(name="n", sql="avg(lat)", low=1, severity="warn", why="."),)},
            "Expectation n of flights can't be evaluated",
        ),
    ],
)
def test_what_a_source_can_t_carry_out_is_said_without_data(change: dict[str, Any], told: str) -> None:
    with pytest.raises(PilotageError) as caught:
        published(FLIGHTS.model_copy(update=change))
    assert told in caught.value.message
    assert "Resolved plan" not in caught.value.message


def test_what_a_source_publishes_is_known_without_data(tables: dict[str, pl.DataFrame]) -> None:
    assert tables["flights"].is_empty()
    assert tables["flights"].schema["arr_known_at"] == pl.Datetime("us", "UTC")
    assert "source_file" not in tables["flights"].columns


def outcomes(**changes: Any) -> Outcomes:
    return Outcomes(**{"source": "flights", "expr": pl.col("late"), "known_at": "arr_known_at"} | changes)


def example(**changed: Any) -> tuple[RequestField, ...]:
    """The request with other examples."""
    return tuple(
        field.model_copy(update={"example": changed.get(field.name, field.example)}) for field in MODEL.request
    )


def window(**changes: Any) -> Window:
    declared: dict[str, Any] = {
        "name": "n",
        "source": "flights",
        "on": {"carrier": "carrier"},
        "known_at": "arr_known_at",
        "over": timedelta(days=1),
        "aggregate": "sum",
        "value": pl.col("late"),
    }
    return Window(**declared | changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"asof": (*MODEL.asof, window(known_at="arr_known"))}, "Source flights has no column arr_known"),
        ({"asof": (*MODEL.asof, window(on={"carrier": "carier"}))}, "Source flights has no column carier"),
        ({"asof": (*MODEL.asof, window(value=pl.col("dep_dely")))}, "Source flights has no column dep_dely"),
        ({"event_time": "sched_dep"}, "validated/flights has no column sched_dep"),
        ({"event_time": "day"}, "event_time is Date"),
        ({"protected": ("age",)}, "protected names age, which flights has not"),
        ({"trainer": LightGBM(params={"num_leavs": 3})}, "LightGBM has no parameter num_leavs"),
        (
            {"label": Label(name="l", expr=pl.col("arr_delay"), known_at="arr_known_at", description=".")},
            "label.expr is Int64, not Boolean",
        ),
        (
            {"kpi": Kpi(name="k", unit="u", cost=MODEL.kpi.cost, sql="SELECT avg(costs) AS value FROM labelled")},
            "kpi.sql can't be answered",
        ),
        ({"outcomes": outcomes(expr=pl.col("lat"))}, "outcomes.expr reads lat, which flights has not"),
        ({"outcomes": outcomes(expr=pl.col("arr_delay"))}, "outcomes.expr is Int64, not Boolean"),
        ({"outcomes": outcomes(known_at="day")}, "outcomes.known_at is Date"),
        ({"outcomes": outcomes(on={"flight_id": "flight"})}, "outcomes.on['flight_id'] is Int64, not String"),
        ({"outcomes": Outcomes(no_label_reason=pl.col("late"))}, "outcomes.no_label_reason is Boolean, not String"),
        ({"rollout": Rollout(first_segment=pl.col("distance"))}, "rollout.first_segment is Int64, not Boolean"),
        ({"fallback": Fallback(rule=pl.lit(30), reason=".")}, "fallback.rule answers 30.0 for the examples"),
        ({"fallback": Fallback(rule=pl.col("airport_delay_3h") / 90, reason=".")}, "fallback.rule answers None"),
        ({"last_value": pl.col("carrier")}, "last_value can't be computed"),
        ({"request": example(distance=-1)}, "by its own examples, distance=-1 is out of range"),
        ({"request": example(carrier=None)}, "by its own examples, carrier"),
    ],
)
def test_what_a_model_can_t_find_in_its_sources_is_said_without_data(
    tables: dict[str, pl.DataFrame], change: dict[str, Any], told: str
) -> None:
    rehearse(MODEL, tables)
    with pytest.raises(PilotageError) as caught:
        rehearse(MODEL.model_copy(update=change), tables)
    assert told in caught.value.message


def test_the_kpi_may_read_what_was_asked_and_what_the_model_saw(tables: dict[str, pl.DataFrame]) -> None:
    """A log without rows has none of these columns, and was held against a statement that is right."""
    sql = "SELECT sum(cost) / sum(request_distance + feature_distance) AS value FROM labelled"
    rehearse(MODEL.model_copy(update={"kpi": MODEL.kpi.model_copy(update={"sql": sql})}), tables)


def test_the_source_of_the_outcomes_is_one_that_is_read() -> None:
    assert "claims" in sources_of(MODEL.model_copy(update={"outcomes": outcomes(source="claims")}))


def test_each_file_has_one_line_with_the_line_of_its_mistake(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "assets", tmp_path / "assets", ignore=shutil.ignore_patterns("__pycache__"))

    def mistake(file: str, right: str, wrong: str) -> int:
        path = tmp_path / "assets" / file
        text = path.read_text()
        assert right in text
        path.write_text(text.replace(right, wrong, 1))
        return text[: text.index(right)].count("\n") + 1

    line = mistake("sources/planes.py", "pl.", "pll.")
    mistake("models/loan_approval.py", 'source="loans"', 'source="lones"')
    run = (
        "import sys; from pathlib import Path; from pilotage.cli.check import check; sys.exit(check(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", run, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'platform'}", "COLUMNS": "300"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert f"✗ assets/sources/planes.py line {line}: NameError: name 'pll' is not defined" in done.stdout
    assert (
        "✗ assets/models/loan_approval.py No file declares the source lones. Fix: Write it: pilotage new source lones"
        in lines
    )
    assert "✓ assets/models/flight_delay.py" in lines
    assert len(lines) == len([*tmp_path.glob("assets/sources/[!_]*.py"), *tmp_path.glob("assets/models/[!_]*.py")])
