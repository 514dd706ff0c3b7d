"""A file with blanks says which are left, by line, wherever they are, and is not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pilotage.blanks import Blank, blanks, require_filled
from pilotage.discovery import load_declaration
from pilotage.errors import DeclarationError
from pilotage.spec import ModelSpec

TEXT = '''"""Says FILL_IN("not a blank") in words."""
from pilotage.blanks import FILL_IN

def prepare(rows):
    return FILL_IN("a column")

MODEL = FILL_IN('a "model"')
'''


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "blankpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "it.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "blankpackage", raising=False)
    monkeypatch.delitem(sys.modules, "blankpackage.it", raising=False)
    return package / "it.py"


def test_blanks_are_found_by_line_and_words_about_them_are_not(path: Path) -> None:
    assert blanks(path) == [Blank(line=5, what="a column"), Blank(line=7, what='a "model"')]


def test_a_file_with_blanks_is_refused_with_every_line(path: Path) -> None:
    with pytest.raises(DeclarationError) as caught:
        load_declaration("blankpackage", "MODEL", ModelSpec, path=path)
    assert caught.value.message == '2 blanks are left in blankpackage/it.py: line 5: a column; line 7: a "model".'
    assert caught.value.details["lines"] == [5, 7]


def test_importing_such_a_file_by_hand_says_the_same(path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"2 blanks are left in it\.py: line 5"):
        import blankpackage.it  # noqa: F401


def test_a_file_without_blanks_or_with_broken_syntax_is_left_to_the_import(path: Path) -> None:
    path.write_text("MODEL = 1\n")
    require_filled(path)
    path.write_text('FILL_IN("x") = = 3\n')
    require_filled(path)
