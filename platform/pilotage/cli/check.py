"""``pilotage check``: loads every declaration, file by file, and says which are fine."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from pilotage.cli.console import out
from pilotage.declaration import Declaration
from pilotage.discovery import load_declaration
from pilotage.errors import PilotageError
from pilotage.settings import PROJECT


def check(project: Path = PROJECT) -> int:
    """Prints one line a file.

    Returns:
        Exit code: 1 if a file is not fine.
    """
    from pilotage.data.source import SourceSpec
    from pilotage.spec import ModelSpec

    kinds: dict[str, tuple[str, type[Declaration]]] = {
        "sources": ("SOURCE", SourceSpec),
        "models": ("MODEL", ModelSpec),
    }
    faults = 0
    read: dict[str, set[str]] = {}
    known: set[str] = set()
    for folder, (attribute, kind) in kinds.items():
        for path in sorted((project / "assets" / folder).glob("*.py")):
            if path.stem == "__init__":
                continue
            found = _load(path, folder, attribute, kind)
            if isinstance(found, SourceSpec):
                known.add(found.name)
            elif isinstance(found, ModelSpec):
                read[found.name] = set(found.sources)
            faults += isinstance(found, PilotageError)
            _say(path.relative_to(project), found)
    for model, needed in read.items():
        for source in sorted(needed - known):
            faults += 1
            fix = f"Write it: pilotage new source {source}"
            _say(
                Path("assets/models") / f"{model}.py", PilotageError(f"No file declares the source {source}.", fix=fix)
            )
    return 1 if faults else 0


def _load(path: Path, folder: str, attribute: str, kind: type[Declaration]) -> Declaration | PilotageError:
    """The declaration in a file, or what is wrong with it."""
    try:
        return load_declaration(f"assets.{folder}", attribute, kind, path=path)
    except PilotageError as error:
        return error


def _say(path: Path, found: Declaration | PilotageError) -> None:
    if isinstance(found, PilotageError):
        out().print(Text.assemble(("✗ ", "bold red"), (str(path), "bold"), f" {found.message} Fix: {found.fix}"))
    else:
        out().print(Text.assemble(("✓ ", "green"), str(path)))
