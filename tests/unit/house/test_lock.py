"""The locks: complete, with hashes, without an address, and what pyproject.toml asks for."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pilotage.settings import PROJECT

EVERYTHING, DEPLOYED = "requirements.lock", "deploy/requirements.lock"


def project() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Requirement and hashes of each entry of a lock."""
    found: list[tuple[Requirement, list[str]]] = []
    for raw in (PROJECT / lock).read_text().splitlines():
        line = raw.strip().rstrip("\\").strip()
        if line.startswith("--hash="):
            found[-1][1].append(line.removeprefix("--hash="))
        elif line and not line.startswith("#"):
            found.append((Requirement(line), []))
    return found


def pins(lock: str) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for requirement, _ in entries(lock):
        versions.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    return versions


@pytest.mark.parametrize("lock", [EVERYTHING, DEPLOYED])
def test_everything_is_pinned_and_has_hashes(lock: str):
    assert len(entries(lock)) > 150
    for requirement, hashes in entries(lock):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("lock", [EVERYTHING, DEPLOYED])
def test_it_holds_no_address(lock: str):
    text = (PROJECT / lock).read_text()
    assert "://" not in text
    options = [line for line in text.splitlines() if line.startswith("-")]
    assert options == []


def test_it_has_what_the_project_asks_for_in_every_group():
    declared = project()
    wanted = [*declared["project"]["dependencies"], *declared["build-system"]["requires"]]
    for group in (*declared["project"]["optional-dependencies"].values(), *declared["dependency-groups"].values()):
        wanted += group
    pinned = pins(EVERYTHING)
    for line in wanted:
        requirement = Requirement(line)
        versions = pinned[canonicalize_name(requirement.name)]
        for version in versions:
            assert requirement.specifier.contains(version.removeprefix("==")), f"{line}: the lock has {version}"


def test_the_image_gets_the_same_versions_without_the_tools():
    everything, deployed = pins(EVERYTHING), pins(DEPLOYED)
    assert {name: versions for name, versions in deployed.items() if everything.get(name) != versions} == {}
    assert {"dagster", "mlflow", "psycopg2-binary", "dagster-postgres"} <= deployed.keys()
    assert not {"pytest", "mypy", "ruff", "hatchling", "pre-commit"} & deployed.keys()


def test_pandas_stays_below_three_until_evidently_can_follow():
    (version,) = pins(EVERYTHING)["pandas"]
    assert version.startswith("==2.")


def test_what_is_installed_is_what_is_locked():
    different = {}
    for requirement, _ in entries(EVERYTHING):
        if requirement.marker is not None and not Marker(str(requirement.marker)).evaluate():
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = "nothing"
        if f"=={installed}" != str(requirement.specifier):
            different[requirement.name] = f"{installed} instead of {requirement.specifier}"
    assert different == {}, "run make install"


def test_every_supported_python_is_tested_and_found_by_the_installer():
    supported = project()["project"]["requires-python"]
    assert supported == ">=3.11,<3.14"
    workflow = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in (PROJECT / "scripts/install").read_text()
