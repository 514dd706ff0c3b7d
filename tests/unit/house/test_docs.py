"""The documentation: every page can be found, every link leads somewhere, every command exists."""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib

import click
import pytest

from assets.models import load_models
from pilotage.settings import PREFIX, PROJECT, Settings
from tests.unit.house.repository import texts

HOW_TO = PROJECT / "docs" / "how-to"


def pages() -> dict[str, str]:
    return texts(".md")


def links(text: str) -> list[str]:
    """Relative links of a page, without those inside code."""
    plain = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", plain)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def commands(text: str) -> list[list[str]]:
    """Each command line of a page's shell blocks, and each ``pilotage …`` or ``make …`` set in code, as words."""
    blocks = re.findall(r"^[ ]*```(?:bash|sh)\n(.*?)^[ ]*```", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`((?:pilotage|make) [^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = []
    for line in lines:
        for part in re.split(r"&&|\|", line):
            words = part.split(" #")[0].split()
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


def test_the_index_leads_to_every_page():
    index = (PROJECT / "docs" / "README.md").read_text()
    there = {path.relative_to(PROJECT / "docs").as_posix() for path in (PROJECT / "docs").rglob("*.md")} - {"README.md"}
    linked = {link for link in links(index) if not link.startswith("..")}
    assert there - linked == set(), "link these in docs/README.md"


@pytest.mark.parametrize("page", sorted(pages()))
def test_every_link_leads_to_a_file(page: str):
    broken = []
    for link in links(pages()[page]):
        target = (PROJECT / page).parent / link.split("#")[0]
        if link.split("#")[0] and not target.exists():
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", sorted(pages()))
def test_every_command_in_it_exists(page: str):
    from pilotage.cli.main import cli

    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for words in commands(pages()[page]):
        if words[0] == "make" and len(words) > 1 and words[1] not in targets and words[1].isalpha():
            wrong.append(" ".join(words))
        if words[0] in ("pilotage", ".venv/bin/pilotage"):
            command: click.Command | None = cli
            context = click.Context(cli)
            rest = words[1:]
            while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
                # In prose a word may stand for several, or for any: `pilotage new source · model NAME`, `pilotage …`.
                if not re.fullmatch(r"[a-z-]+", rest[0]):
                    break
                command = command.get_command(context, rest.pop(0))
            if command is None:
                wrong.append(" ".join(words))
                continue
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            known |= {"--help", "-h", "--version"}
            used = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
            wrong += [f"{' '.join(words)}: no option {option}" for option in used if option not in known]
    assert wrong == []


def test_a_new_stack_approves_by_name_what_needs_it_before_it_promotes_it():
    """In a container, who gives no name is the user of the image, who trained the version."""
    lines = [" ".join(words) for words in commands((HOW_TO / "take-to-production.md").read_text(encoding="utf-8"))]
    promoted = {
        (name, version): place
        for place, line in enumerate(lines)
        for name, version in re.findall(r"exec code pilotage promote (\w+) (\d+) .*--actor", line)
    }
    needed = {name: spec.approvals for name, spec in load_models().items()}
    assert promoted
    for (name, version), place in promoted.items():
        approved = rf"exec code pilotage approve {name} {version} .*--actor"
        assert sum(bool(re.search(approved, line)) for line in lines[:place]) == needed[name]


def test_every_command_that_exists_is_on_the_page_of_the_command_line():
    from pilotage.cli.main import cli

    told = commands((HOW_TO / "command-line.md").read_text(encoding="utf-8"))
    assert {name for name, each in cli.commands.items() if not each.hidden} - {words[1] for words in told} == set()


@pytest.mark.parametrize("page", sorted(pages()))
def test_every_setting_in_it_exists(page: str):
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", pages()[page]))
    # A part of a setting stands after two underscores.
    assert {name.partition("__")[0] for name in named} - known == set()


@pytest.mark.parametrize("page", sorted(pages()))
def test_every_name_that_its_code_imports_is_there(page: str):
    imported = re.findall(r"^\s*from ((?:pilotage|assets)[\w.]*) import ([\w, ]+)$", pages()[page], re.MULTILINE)
    named = [(module, name.strip()) for module, names in imported for name in names.split(",")]
    assert [each for each in named if not hasattr(importlib.import_module(each[0]), each[1])] == []


def test_the_first_commands_of_the_readme_are_the_ones_that_work():
    shown = re.findall(r"```bash\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert [line.split()[0] for line in shown[0].splitlines()] == ["git", "make"]
    assert shown[0].splitlines()[1] == "make up"
    assert "make test\n" in shown


def test_the_readme_asks_the_service_what_the_model_accepts():
    import json

    from assets.models.flight_delay import MODEL

    (body,) = re.findall(r"--data '(\{.*?\})'", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert json.loads(body) == {field.name: field.example for field in MODEL.request}


def test_the_layout_in_the_readme_is_the_layout():
    (block,) = re.findall(r"## The layout\n\n```\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines():
        for name in line.split("  ")[0].split():
            assert (PROJECT / name).exists(), name


def test_every_shell_block_can_be_read_by_a_shell():
    for page, text in pages().items():
        for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            try:
                shlex.split(block, comments=True)
            except ValueError as error:
                pytest.fail(f"{page}: {error}: {block}")


def test_every_decision_has_a_number_of_its_own_and_says_what_would_change_it():
    records = sorted((PROJECT / "docs" / "adr").glob("*.md"))
    numbers = [path.name[:4] for path in records]
    assert len(set(numbers)) == len(numbers)
    for path in records:
        text = path.read_text()
        assert re.match(rf"# {int(path.name[:4])}\. ", text), path.name
        for part in ("Context", "Decision", "Rejected", "change our mind"):
            assert part in text, f"{path.name} has no {part}"


def test_the_changelog_has_an_entry_for_what_is_not_released():
    text = (PROJECT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert version == "0.1.0" or f"## [{version}]" in text


def test_files_that_a_page_shows_are_ready_to_paste(tmp_path):
    """``make lint`` must not complain about what somebody took from a how-to."""
    shown = {}
    for text in pages().values():
        shown |= dict(re.findall(r"^\*\*`([^`]+)`\*\*\n\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert {"assets/sources/pump_readings.py", "assets/models/pump_trip.py"} <= set(shown)
    for name, code in shown.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    # The packages that the files import would look like somebody else's from there.
    (tmp_path / "platform").symlink_to(PROJECT / "platform")
    (tmp_path / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    for command in (["check", "assets"], ["format", "--check", "--diff", "assets", "pump_export.py"]):
        call = [sys.executable, "-m", "ruff", *command]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
