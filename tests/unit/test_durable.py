"""A file is replaced whole, on the disk, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pilotage import durable
from pilotage.durable import replacing


def test_the_new_file_is_there_when_the_block_ends_and_the_old_one_before(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    for content, before in ((b"one", None), (b"two", b"one")):
        with replacing(path) as aside:
            aside.write_bytes(content)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["plans.json"]


@pytest.mark.parametrize("failing", ["the block", "the disk", "the place"])
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plans.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "the disk":
        monkeypatch.setattr(durable.os, "fsync", fail)
    if failing == "the place":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"), replacing(path) as aside:
        aside.write_text("new")
        if failing == "the block":
            fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_its_name_and_the_name_before_the_block_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "content")
        sync(file)

    def renamed(path: Path, to: Path) -> Path:
        done.append("name")
        return replace(path, to)

    monkeypatch.setattr(durable.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing(tmp_path / "plans.json") as aside:
        aside.write_text("new")
    assert done == ["content", "name", "folder"]
