"""Every file of a package is found, and one that fails to load names itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from assets.models import load_models
from assets.sources import load_sources
from pilotage.declaration import Declaration, Name
from pilotage.discovery import load_declarations
from pilotage.errors import DeclarationError

ROOT = Path(__file__).resolve().parents[2]


class Thing(Declaration):
    name: Name


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Thing]]]:
    name = f"things_{uuid4().hex}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def load(**files: str) -> dict[str, Thing]:
        for stem, text in files.items():
            (folder / f"{stem}.py").write_text(text)
        return load_declarations(name, "THING", Thing, folder=folder)

    yield load


HEADER = "from tests.unit.test_discovery import Thing\n"


def test_every_file_gives_one_declaration(package: Callable[..., dict[str, Thing]]) -> None:
    made = package(a=HEADER + "THING = Thing(name='a')", b=HEADER + "THING = Thing(name='b')")
    assert list(made) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("THING = (", "broken.py, line 1: SyntaxError"),
        ("x = 1\n\n1 / 0", "broken.py, line 3: ZeroDivisionError"),
        (HEADER + "THING = Thing(\n    nom='a',\n)", "broken.py, line 2: Thing: there is no field nom"),
        ("x = 1", "has no THING"),
        ("THING = 3", "has no THING"),
        (HEADER + "THING = Thing(name='Bad Name')", "Bad Name"),
        (HEADER + "THING = Thing(name='other')", "Call the file other.py"),
    ],
)
def test_a_file_that_fails_names_itself_and_the_fix(
    package: Callable[..., dict[str, Thing]], text: str, told: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        package(broken=text)
    assert "/broken.py" in str(caught.value)
    assert told in str(caught.value)
    assert "Fix:" in str(caught.value)


def test_every_file_under_assets_is_discovered() -> None:
    for folder, loaded in (("models", load_models()), ("sources", load_sources())):
        files = {path.stem for path in (ROOT / "assets" / folder).glob("*.py")} - {"__init__"}
        assert set(loaded) == files
