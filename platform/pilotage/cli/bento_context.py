"""What goes into a bento: the code that serving needs, the libraries that it needs, and BentoML's build file.

A bento holds no more than that: neither Dagster nor MLflow, nothing that trains, and no secrets.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import yaml

from pilotage.errors import ConfigError

SERVICE = "serving.bento:PredictionService"
BAKED = "baked"
"""Folder of plans and bundles in a bento's code."""
ROOTS = (
    "bentoml",
    "click",
    "filelock",
    "httptools",
    "lightgbm",
    "msgspec",
    "numpy",
    "opentelemetry-exporter-otlp-proto-http",
    "polars",
    "psutil",
    "pydantic",
    "pydantic-settings",
    "pyyaml",
    "sqlalchemy",
    "starlette",
    "tenacity",
    "uvloop",
)
"""What the code of a bento imports."""
OPTIONAL = ("psycopg2-binary",)
"""What it imports if it is installed: the driver of a ledger in Postgres."""
_TRAINS = ("testing", "training")
"""Rooms of the engine that stay behind."""


def write_context(
    context: Path,
    models: Sequence[str],
    *,
    name: str,
    labels: Mapping[str, str],
    declared: Path | None = None,
) -> None:
    """Fills a folder with everything but the plans and bundles.

    Args:
        context: An empty folder.
        models: The models to serve.
        name: Of the bento.
        labels: Shown by ``bentoml list``.
        declared: Folder of the models' files; by default the project's.

    Raises:
        ConfigError: The code or a library can't be found.
    """
    _copy("pilotage", context, without=_TRAINS)
    _copy("serving", context)
    declared = declared or _folder("assets.models")
    place = context / "assets" / "models"
    place.mkdir(parents=True)
    (place.parent / "__init__.py").write_text("")
    for file in ("__init__.py", *(f"{model}.py" for model in models)):
        shutil.copyfile(declared / file, place / file)
    # What is not installed has no version otherwise; importlib.metadata looks along the path.
    version = distribution("pilotage").version
    facts = context / f"pilotage-{version}.dist-info" / "METADATA"
    facts.parent.mkdir()
    facts.write_text(f"Metadata-Version: 2.1\nName: pilotage\nVersion: {version}\n")
    pins = [f"{library}=={version}" for library, version in sorted(closure(ROOTS, OPTIONAL).items())]
    (context / "requirements.txt").write_text("\n".join(pins) + "\n")
    build = {
        "service": SERVICE,
        "name": name,
        "labels": dict(labels),
        "include": ["*"],
        # Every version is pinned here: nothing is resolved while it is built.
        "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},
        "docker": {
            "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
            # LightGBM's threads.
            "system_packages": ["libgomp1"],
        },
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(build, sort_keys=False))


def closure(roots: Iterable[str], optional: Iterable[str] = ()) -> dict[str, str]:
    """Installed libraries with all that they need, each with its version.

    Raises:
        ConfigError: One is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    left: list[tuple[str, str]] = [(name, "") for name in roots]
    seen: set[tuple[str, str]] = set()
    for name in optional:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        left.append((name, ""))
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise ConfigError(f"{name} is not installed.", fix="scripts/install, or pip install -e .") from None
        found[canonicalize_name(name)] = installed.version
        for line in installed.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(needed.name, one) for one in ("", *needed.extras)]
    return found


def _copy(package: str, context: Path, *, without: Sequence[str] = ()) -> None:
    """A package, as it is installed here."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", *without)
    shutil.copytree(_folder(package), context / package, ignore=ignored)


def _folder(package: str) -> Path:
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"The project's package {package} can't be found.",
            fix="Install the checkout: scripts/install, or pip install -e .",
        )
    return Path(found.submodule_search_locations[0])
