"""What the how-to about landing data says is what happens."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from pilotage.data.lake import Lake
from pilotage.data.query import query
from pilotage.data.sample import publish_flights
from pilotage.settings import Settings

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "land-data.md").read_text()


def test_the_commands_of_the_page_work_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    settings = Settings.load()
    publish_flights(settings.landing, first=date(2013, 3, 1), last=date(2013, 3, 1))
    (settings.landing / "flights" / "notes.txt").write_text("hello")
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(program, "land-data.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("notes.txt: its name does not match")
    assert said[0].endswith("Rename it, or correct read.pattern of the source flights.")
    assert said[1] == "958 [datetime.date(2013, 3, 1)] [] []"
    [sql] = re.findall(r'pilotage sql "(.*?)"', PAGE)
    assert query(Lake(settings.lake), sql).select("source_file", "rows").rows() == [("flights_2013-03-01.csv.gz", 958)]
