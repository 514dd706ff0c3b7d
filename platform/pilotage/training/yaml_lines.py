"""YAML with the lines its values stand on, so that an error can say where. Nothing here knows what the values mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pilotage.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Leaves dates as text: of one that is none, such as 2013-02-31, the field says so, and not a traceback."""


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _loader, node: str(node.value))


def read_yaml(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """Reads a file that holds a mapping.

    Returns:
        The values, and the tree that ``line_of`` reads; an empty file gives an empty mapping.

    Raises:
        ConfigError: There is no such file, it is no YAML, no mapping, or it gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "Give the path of a run.yaml."
        raise ConfigError(f"{path} can't be read: {error}.", fix=fix, path=str(path)) from error
    try:
        tree = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path.name}:{mark.line + 1}" if mark else path.name
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place}: is no YAML: {what}.", fix="Correct the file.", path=str(path)) from None
    except ValueError as error:
        # Such as !!int of what is no number.
        raise ConfigError(f"{path.name}: {error}.", fix="Correct the file.", path=str(path)) from None
    if tree is None or values is None:
        return {}, None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path.name}: holds a {type(values).__name__}, not fields.",
            fix="Write `field: value` lines.",
            path=str(path),
        )
    _refuse_twice(tree, path)
    return values, tree


def line_of(tree: yaml.Node | None, loc: Sequence[int | str]) -> int | None:
    """Line (from 1) of the value at a path of keys and positions; of its nearest parent if it is not there."""
    line = None
    for part in loc:
        if isinstance(tree, yaml.MappingNode):
            pair = next((pair for pair in tree.value if pair[0].value == str(part)), None)
            if pair is None:
                break
            line, tree = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
        else:
            break
    return line


def _refuse_twice(node: yaml.Node, path: Path) -> None:
    """YAML keeps the last of two equal keys and says nothing."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(
                    f"{path.name}:{line}: {key.value} is given twice.",
                    fix="Keep one of them.",
                    path=str(path),
                    line=line,
                )
            seen.add(key.value)
            _refuse_twice(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(value, path)
