"""Finds what people declared: every file of a package must hold one declaration, and one that fails names its file.

Nothing is skipped in silence: a file without the declaration, or two files that declare the same name, is an error.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pilotage.blanks import require_filled
from pilotage.declaration import Declaration
from pilotage.errors import DeclarationError, PilotageError

D = TypeVar("D", bound=Declaration)


def load_declarations(package: str, attribute: str, kind: type[D], *, folder: Path) -> dict[str, D]:
    """Imports every module of a package and collects one declaration from each.

    Args:
        package: Dotted name of the package, e.g. ``assets.models``.
        attribute: Name that each module binds its declaration to, e.g. ``MODEL``.
        kind: The class that it must be an instance of.
        folder: Folder of the package.

    Returns:
        Name → declaration, in the order of the file names.

    Raises:
        DeclarationError: A file can't be imported, holds no declaration, or one of another name. Names the file.
    """
    found: dict[str, D] = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem == "__init__":
            continue
        # A declaration has the name of its file, so none can repeat another's.
        found[path.stem] = load_declaration(package, attribute, kind, path=path)
    return found


def load_declaration(package: str, attribute: str, kind: type[D], *, path: Path) -> D:
    """Imports one file of a package and takes the declaration out of it.

    Raises:
        DeclarationError: The file has blanks, can't be imported, holds no declaration, or declares another name.
    """
    shown = f"{package.replace('.', '/')}/{path.name}"
    require_filled(path, shown=shown)
    with naming(path, shown):
        try:
            module = importlib.import_module(f"{package}.{path.stem}")
        except DeclarationError as error:
            raise DeclarationError(
                f"{shown}{_line(error, path)}: {error.message}", fix=error.fix, file=shown, **error.details
            ) from error
    declaration = getattr(module, attribute, None)
    if not isinstance(declaration, kind):
        raise DeclarationError(
            f"{shown} has no {attribute}.", fix=f"Bind {attribute} = {kind.__name__}(…) in it.", file=shown
        )
    name = str(getattr(declaration, "name"))  # noqa: B009 - every kind has a name; Declaration itself has none
    if name != path.stem:
        raise DeclarationError(
            f"{shown} declares {name!r}.", fix=f"Call the file {name}.py, so that a name leads to its file.", file=shown
        )
    return declaration


@contextmanager
def naming(path: Path, shown: str) -> Iterator[None]:
    """Makes an error that comes of a file one that names it, and the line, if the code of the file was running.

    Raises:
        DeclarationError: Instead of whatever is no error of ours.
    """
    try:
        yield
    except PilotageError:
        raise
    except Exception as error:
        raise DeclarationError(
            f"{shown}{_line(error, path)}: {type(error).__name__}: {error}.", fix="Correct it there.", file=shown
        ) from error


def _line(error: Exception, path: Path) -> str:
    """The line of a file that an error comes from, in words."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
