"""The pages that a validation leaves for people."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pilotage.data import datadocs
from pilotage.data.lake import Lake
from pilotage.data.validate import validate
from tests.unit.data.readings import day, land, ordinary, row, source


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    land(lake, {day(number): [*ordinary(day(number)), row("x", day(number))] for number in range(9)})
    land(lake, {day(3): [row("a", day(3))], day(8): ordinary(day(8), shift=40.0)})
    return lake


def targets(page: Path) -> list[Path]:
    """The files that a page links to or loads."""
    found = re.findall(r'(?:href|src)="([^"#]+)', page.read_text(encoding="utf-8"))
    return [(page.parent / target).resolve() for target in found if not target.startswith(("http", "data:"))]


def test_every_page_leads_only_to_pages_that_are_there(lake: Lake, tmp_path: Path) -> None:
    report = validate(source(), lake=lake, reports=tmp_path / "reports", days=None, run_id="r1")

    assert report.docs == str(tmp_path / "reports" / "readings" / "r1" / "index.html")
    seen: set[Path] = set()
    ahead = [Path(report.docs).resolve()]
    while ahead:
        page = ahead.pop()
        assert page.is_file(), page
        if page not in seen:
            seen.add(page)
            ahead += targets(page)
    written = {path.resolve() for path in (tmp_path / "reports").rglob("*") if path.suffix == ".html"}
    assert seen == written
    assert len(seen) == 4


def test_the_summary_shows_what_was_refused_what_was_not_met_and_every_rule(lake: Lake, tmp_path: Path) -> None:
    report = validate(source(), lake=lake, reports=tmp_path / "reports", days=None, run_id="r1")

    text = Path(str(report.docs)).read_text(encoding="utf-8")
    assert "9 batches, 1 refused, 2 expectations not met" in text
    assert "readings of 2024-03-04 is 1, below 2 (as declared). Two sensors report at least." in text
    assert "mean_low of 2024-03-09 is" in text
    assert "<td>sensor</td><td>one of a, b, c, d</td><td>7</td>" in text
    assert text.count("<svg") == 2


def test_what_the_data_says_cannot_become_markup(lake: Lake, tmp_path: Path) -> None:
    spec = source(title="<script>alert(1)</script>")

    report = validate(spec, lake=lake, reports=tmp_path / "reports", days=None, run_id="r/1<b>")

    text = Path(str(report.docs)).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert Path(str(report.docs)).parent.name == "r-1-b-"


def test_the_runs_are_listed_the_newest_first_and_the_oldest_go(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadocs, "KEPT", 2)

    for name in ("r1", "r2", "r3"):
        validate(source(), lake=lake, reports=tmp_path, days=[day(0)], run_id=name)

    listed = (tmp_path / "readings" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'href="([^"]+)"', listed) == ["r3/index.html", "r2/index.html"]
    assert sorted(path.name for path in (tmp_path / "readings").iterdir()) == ["index.html", "r2", "r3"]


def test_a_run_that_is_retried_replaces_its_pages(lake: Lake, tmp_path: Path) -> None:
    for days in ([day(0)], [day(0), day(1)]):
        report = validate(source(), lake=lake, reports=tmp_path, days=days, run_id="r1")

    assert "2 batches" in Path(str(report.docs)).read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "readings").iterdir()) == ["index.html", "r1"]
