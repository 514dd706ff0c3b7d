"""``pilotage check``: loads every declaration, file by file, tries each on tables without rows, says which are fine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from pilotage.cli.console import out
from pilotage.discovery import load_declaration, naming
from pilotage.errors import DeclarationError, PilotageError
from pilotage.settings import PROJECT

if TYPE_CHECKING:
    import polars as pl


def check(project: Path = PROJECT) -> int:
    """Prints one line a file.

    Returns:
        Exit code: 1 if a file is not fine.
    """
    from pilotage.cli.rehearsal import published, rehearse, sources_of
    from pilotage.data.source import SourceSpec
    from pilotage.spec import ModelSpec

    faulty: list[Path] = []
    tables: dict[str, pl.DataFrame] = {}
    sources, models = (sorted((project / "assets" / folder).glob("[!_]*.py")) for folder in ("sources", "models"))
    for path in sources:
        with _told(path, project, faulty):
            tables[path.stem] = published(load_declaration("assets.sources", "SOURCE", SourceSpec, path=path))
    there = {path.stem for path in sources}
    for path in models:
        with _told(path, project, faulty):
            spec = load_declaration("assets.models", "MODEL", ModelSpec, path=path)
            read = sources_of(spec)
            if unknown := [name for name in read if name not in there]:
                raise DeclarationError(
                    f"No file declares the source {unknown[0]}.", fix=f"Write it: pilotage new source {unknown[0]}"
                )
            # Of a source that is not fine its own line says what is wrong, and what it would publish is not known.
            if tables.keys() >= set(read):
                rehearse(spec, tables)
    return 1 if faulty else 0


@contextmanager
def _told(path: Path, project: Path, faulty: list[Path]) -> Iterator[None]:
    """Prints how it went with a file; one with which something is wrong is added to the faulty."""
    shown = str(path.relative_to(project))
    try:
        with naming(path, shown):
            yield
    except PilotageError as error:
        faulty.append(path)
        what = error.message.removeprefix(shown).lstrip(":, ")
        out().print(Text.assemble(("✗ ", "bold red"), (shown, "bold"), f" {what} Fix: {error.fix}"))
    else:
        out().print(Text.assemble(("✓ ", "green"), shown))
