"""``pilotage new``: writes a first file with blanks, and says which."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

from rich.text import Text

from pilotage.blanks import Blank, blanks
from pilotage.cli.console import out
from pilotage.errors import ConfigError
from pilotage.settings import PROJECT

Kind = Literal["source", "model"]

_MARKED = re.compile(r"^%(\w+) (.*)$")


def scaffold(kind: Kind, name: str, *, flags: set[str], project: Path = PROJECT) -> Path:
    """Writes ``assets/<kind>s/<name>.py`` and prints its blanks.

    Args:
        kind: What it declares.
        name: Its name, and its file's.
        flags: Which variants of the template's lines it takes.
        project: The checkout.

    Raises:
        ConfigError: The name does not fit, or the file is there.
    """
    _require_name(kind, name)
    path = project / "assets" / f"{kind}s" / f"{name}.py"
    text = render(kind, name, flags)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path.relative_to(project)} is there already; nothing was written.",
            fix="Edit it, or choose another name.",
            path=str(path),
        ) from None
    _tell(path.relative_to(project), blanks(path))
    return path


def render(kind: Kind, name: str, flags: set[str]) -> str:
    """The template's text. A line ``%flag …`` is taken if the flag is set, all others always."""
    template = files("pilotage.cli").joinpath(f"templates/{kind}.py.tmpl").read_text(encoding="utf-8")
    lines = []
    for line in template.splitlines():
        marked = _MARKED.match(line)
        if marked is None:
            lines.append(line)
        elif marked[1] in flags:
            lines.append(marked[2])
    title = name.replace("_", " ").capitalize()
    return "\n".join(lines).replace("@name@", name).replace("@title@", title) + "\n"


def source_flags(read: str, *, daily: bool) -> set[str]:
    """Flags of a source's template: how it is read, and whether by day."""
    by_day = daily and read != "sql"
    return {read, f"{read}_{'daily' if by_day else 'whole'}", *(["daily"] if by_day else [])}


def _require_name(kind: Kind, name: str) -> None:
    good = re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) is not None
    if not good or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        proposal = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789") or f"my_{kind}"
        proposal = f"{proposal}_{kind}" if keyword.iskeyword(proposal) or keyword.issoftkeyword(proposal) else proposal
        raise ConfigError(
            f"{name!r} can't name a {kind}: it becomes a file, a table, an asset and a URL.",
            fix=f"Use lower_snake_case that begins with a letter, such as {proposal[:63]}.",
            name=name,
        )


def _tell(path: Path, left: list[Blank]) -> None:
    console = out()
    console.print(Text.assemble("Wrote ", (str(path), "bold"), f". {len(left)} blanks are left:"))
    for blank in left:
        console.print(Text.assemble((f"  line {blank.line:>3}  ", "dim"), blank.what))
    console.print("Replace each FILL_IN(…) by a value, then: pilotage check", highlight=False)
