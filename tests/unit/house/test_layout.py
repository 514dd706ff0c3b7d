"""What must hold of the tree itself, from the first day."""

import re
import subprocess
import sys

from pilotage.settings import PROJECT
from tests.unit.house.repository import files, texts

SOURCE = ("platform/", "assets/", "jobs/", "sensors/", "resources/", "serving/")


def source() -> dict[str, str]:
    return {path: text for path, text in texts(".py").items() if path.startswith(SOURCE) or path == "definitions.py"}


def test_pythons_own_platform_is_not_shadowed_even_with_both_roots_first_on_the_path():
    code = "import platform, dagster; print(platform.python_version())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT / 'platform'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == ".".join(str(part) for part in sys.version_info[:3]), done.stderr


def test_platform_is_a_source_root_and_no_package():
    assert not (PROJECT / "platform" / "__init__.py").exists(), "it would shadow Python's own platform"
    assert [path.name for path in (PROJECT / "platform").iterdir() if path.is_dir() and path.name != "__pycache__"] == [
        "pilotage"
    ]


def test_every_folder_with_code_is_a_package():
    """A folder without ``__init__.py`` is skipped in silence by discovery, by mypy and by import-linter."""
    folders = {
        path.parent
        for path in files()
        if path.suffix == ".py" and path.relative_to(PROJECT).as_posix().startswith(SOURCE)
    }
    missing = [folder.relative_to(PROJECT).as_posix() for folder in folders if not (folder / "__init__.py").exists()]
    assert missing == [], "these lack an __init__.py"


def test_the_composition_root_stays_small_and_so_does_every_file():
    lengths = {path: text.count("\n") for path, text in source().items()}
    assert lengths["definitions.py"] <= 60
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}, "split what has over 400 lines"


def test_every_module_that_is_named_in_words_is_there():
    """What is renamed or deleted takes the words about it with it."""
    there = [f"/{path}" for path in texts(".py")]
    gone = [
        f"{path}: {name}"
        for path, text in source().items()
        for name in re.findall(r"``([a-z_/]+\.py)``", text)
        if not any(module.endswith(f"/{name}") for module in there)
    ]
    assert gone == []


def test_only_definitions_puts_the_outer_folders_together():
    importing = [path for path, text in source().items() if re.search(r"^\s*(import|from) definitions\b", text, re.M)]
    assert importing == []


def test_imports_point_downward():
    linter = PROJECT / ".venv" / "bin" / "lint-imports"
    command = [str(linter) if linter.exists() else "lint-imports", "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_names_somebodys_machine_or_package_index():
    # Written in parts, so that this file is none of its own findings.
    machine = re.compile("|".join(["/" + "root/", "/" + "work/", "/" + "Users/", "/" + r"home/\w+/", "/" + "tmp/v0"]))
    index = re.compile(
        "|".join(["--(extra-)?" + "index-url", "index" + "-strategy", r"\." + "jfrog", "pypi" + r"\.org/simple"])
    )
    found = []
    for path, text in texts().items():
        for number, line in enumerate(text.splitlines(), start=1):
            if machine.search(line) or index.search(line):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert found == []


def test_nothing_is_pickled():
    pattern = re.compile(r"^\s*(import|from) (pickle|cloudpickle|joblib|dill|shelve)\b", re.M)
    assert [path for path, text in source().items() if pattern.search(text)] == []


def test_state_and_secrets_are_not_under_version_control():
    tracked = {path.relative_to(PROJECT).as_posix() for path in files()}
    assert not [path for path in tracked if path.startswith((".pilotage/", "deploy/secrets/")) or path == ".env"]
    assert not [path for path in tracked if path.endswith((".db", ".sqlite", ".pem", ".key"))]
