"""`pilotage new` writes a file that says what is missing, and that loads once that is filled in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pilotage.blanks import blanks
from pilotage.cli.scaffold import Kind, render, scaffold, source_flags
from pilotage.data.source import Files, RestEndpoint, SourceSpec, SqlTable
from pilotage.discovery import load_declaration
from pilotage.errors import ConfigError
from pilotage.spec import HashSplit, ModelSpec, TimeSplit

ANSWERS = {
    "what somebody": '"Call them before they leave."',
    "an e-mail": '"team:care"',
    '"minimal", "limited"': '"limited"',
    "who uses": '"The care team, to choose whom to call."',
    '("What it must not': '("Knows nothing of prices.",)',
    "the business number": '"Lost revenue"',
    "its unit": '"EUR per customer"',
    "CostMatrix": "CostMatrix(true_positive=1, false_positive=2, true_negative=0, false_negative=5)",
    "name of the source": '"customers"',
    '("id",): columns that identify': '("customer_id",)',
    "column (UTC) of the event": '"event_at"',
    'pl.col("event_at")': 'pl.col("event_at") - pl.duration(hours=1)',
    "the entity column": '"customer_id"',
    "pl.Int64 or": "pl.Int64",
    "what it is": '"Number of the customer."',
    "a valid value": "7",
    "RequestField(": 'RequestField(name="event_at", dtype=pl.Datetime("us", "UTC"), description="When.",\n'
    '                     example="2026-01-01T00:00:00Z")',
    "name of what is predicted": '"left"',
    'pl.col("delay")': 'pl.col("left")',
    "column (UTC) that says": '"known_at"',
    "what true means": '"The customer left."',
    "Feature(": 'Feature(name="customer_id", expr=pl.col("customer_id"), description="Number")',
    "pl.lit(": "pl.lit(0.2)",
    "why this rule": '"One in five leaves."',
    '{"id": pa.Column': '{"id": pa.Column(pl.Int64, pa.Check.ge(1))}',
    "what a row is": '"One customer a row."',
    '{"id": pl.Int64': '{"id": pl.Int64, "day": pl.Date}',
    '("id",): the columns': '("id",)',
    "the date column": '"day"',
    "the first day": "date(2026, 1, 1)",
    "name of the database": '"loans"',
    "the table, or": '"customers"',
    "a column that only grows": '"id"',
    "the endpoint's address, with": '"https://example.org/{day}"',
    "the endpoint's": '"https://example.org/rows"',
    "key of the list": '"items"',
}


def filled(text: str) -> str:
    """The text with every blank replaced by the answer whose key its hint begins with."""
    calls = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "FILL_IN"
    ]
    original = text
    for call in calls:
        source = ast.get_source_segment(original, call) or ""
        hint = ast.literal_eval(call.args[0])
        text = text.replace(source, next(answer for key, answer in ANSWERS.items() if hint.startswith(key)))
    return text


def load(kind: Kind, flags: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> SourceSpec | ModelSpec:
    package = "filled_" + "_".join(sorted(flags))
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")
    path = folder / package / "customers.py"
    path.write_text(filled(render(kind, "customers", flags)))
    assert blanks(path) == []
    monkeypatch.syspath_prepend(folder)
    if kind == "model":
        return load_declaration(package, "MODEL", ModelSpec, path=path)
    return load_declaration(package, "SOURCE", SourceSpec, path=path)


@pytest.mark.parametrize(("flag", "split"), [("time", TimeSplit), ("notime", HashSplit)])
def test_a_model_loads_once_its_blanks_are_filled(
    flag: str, split: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load("model", {flag}, tmp_path, monkeypatch)
    assert isinstance(spec, ModelSpec)
    assert (spec.name, spec.title, spec.owner) == ("customers", "Customers", "team:care")
    assert isinstance(spec.split, split)
    assert spec.gate.at_least == {"auc": 0.60}


@pytest.mark.parametrize(
    ("read", "daily", "kind"),
    [
        ("files", True, Files),
        ("files", False, Files),
        ("sql", True, SqlTable),
        ("rest", True, RestEndpoint),
        ("rest", False, RestEndpoint),
    ],
)
def test_a_source_loads_once_its_blanks_are_filled(
    read: str, daily: bool, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load("source", source_flags(read, daily=daily), tmp_path, monkeypatch)
    assert isinstance(spec, SourceSpec)
    assert isinstance(spec.read, kind)
    assert (spec.daily is not None) == (daily and read != "sql")
    assert spec.key == ("id",)
    assert set(spec.contract().columns) == {"id"}


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("model", {"time"}),
        ("model", {"notime"}),
        *(("source", source_flags(read, daily=True)) for read in ("files", "sql", "rest")),
    ],
)
def test_a_filled_file_passes_the_projects_lint_for_imports_and_width(
    kind: Kind, flags: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "customers.py"
    text = filled(render(kind, "customers", flags)).replace("from pilotage.blanks import FILL_IN\n", "")
    path.write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=F,E", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("sources", "models"):
        (tmp_path / "assets" / folder).mkdir(parents=True)
    return tmp_path


def test_the_command_prints_which_blanks_are_left(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scaffold("model", "churn", flags={"notime"}, project=project)
    printed = capsys.readouterr().out
    assert path == project / "assets" / "models" / "churn.py"
    left = blanks(path)
    assert f"Wrote assets/models/churn.py. {len(left)} blanks are left:" in printed
    assert all(blank.what in printed for blank in left)


def test_a_file_that_is_there_is_not_overwritten(project: Path) -> None:
    path = project / "assets" / "sources" / "mine.py"
    path.write_text("SOURCE = 1\n")
    with pytest.raises(ConfigError, match=r"assets/sources/mine\.py is there already"):
        scaffold("source", "mine", flags=source_flags("files", daily=True), project=project)
    assert path.read_text() == "SOURCE = 1\n"


@pytest.mark.parametrize("name", ["Churn", "9lives", "a-b", "class", "match", "../x", "", "a" * 64, "naïve"])
def test_a_name_that_can_not_be_a_table_and_a_url_is_refused_with_one_that_can(name: str, project: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        scaffold("model", name, flags={"time"}, project=project)
    assert list((project / "assets" / "models").iterdir()) == []
    proposal = caught.value.fix.removesuffix(".").rsplit(" ", 1)[1]
    scaffold("model", proposal, flags={"time"}, project=project)
