"""The files of the workers' numbers, on disks that take only some of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from serving.metrics_files import _ROOM, _SLOT, MetricsFiles


def test_a_write_that_was_cut_off_leaves_the_numbers_before_it(tmp_path: Path):
    files = MetricsFiles(tmp_path, merge=b"".join)
    files.write(b"first")
    files.write(b"second")
    [path] = [each for each in tmp_path.rglob("*.metrics") if each.name.startswith(f"{os.getpid()}-")]
    whole = path.read_bytes()
    # The second write is in the first place, since they take turns.
    assert whole.index(b"second") < _SLOT
    path.write_bytes(whole.replace(b"second", b"se\0\0nd"))
    assert files.read() == [(b"first", True)]
    files.close()


def test_numbers_that_do_not_fit_are_refused_and_those_before_stay(tmp_path: Path):
    files = MetricsFiles(tmp_path, merge=b"".join)
    files.write(b"small")
    with pytest.raises(OSError, match="don't fit"):
        files.write(b"x" * _SLOT)
    assert files.read() == [(b"small", True)]
    files.close()


def test_a_disk_without_room_leaves_the_last_numbers_that_were_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = MetricsFiles(tmp_path, merge=b"".join)
    files.write(b"first")
    files.write(b"second")
    write = os.pwrite
    with monkeypatch.context() as full:
        # As a full disk does, which takes what still fits.
        full.setattr(os, "pwrite", lambda file, data, at: write(file, data[:10], at))
        for _ in range(3):
            with pytest.raises(OSError, match="only 10 of"):
                files.write(b"later")
            assert files.read() == [(b"later", True)]
            assert MetricsFiles(tmp_path, merge=b"".join).read() == [(b"second", True)], "to the others"
    files.write(b"last")
    assert files.read() == [(b"last", True)]
    files.close()


def test_a_worker_starts_on_a_full_disk_and_what_those_before_it_counted_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    died = MetricsFiles(tmp_path, merge=b"".join)
    died.write(b"before")
    died.close()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as no_room:
        no_room.setattr(os, "pwrite", full)
        if hasattr(os, "posix_fallocate"):
            no_room.setattr(os, "posix_fallocate", full)
        refused = MetricsFiles(tmp_path, merge=b"".join)
        with pytest.raises(OSError, match="No space"):
            refused.write(b"after")
        assert refused.read() == [(b"after", True), (b"before", False)]
        refused.close()
    files = MetricsFiles(tmp_path, merge=b"".join)
    files.write(b"now")
    assert sorted(files.read()) == [(b"before", False), (b"now", True)]
    files.close()


def test_numbers_that_can_not_be_read_are_no_page_without_numbers(tmp_path: Path):
    files = MetricsFiles(tmp_path, merge=b"".join)
    files.write(b"first")
    (files.folder / "lock").unlink()
    (files.folder / "lock").mkdir()
    with pytest.raises(OSError, match="lock"):
        files.read()
    files.close()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room can't be made before there")
def test_the_room_of_metrics_is_on_the_disk_before_they_are_written(tmp_path: Path):
    files = MetricsFiles(tmp_path, merge=b"".join)
    files.write(b"first")
    taken = {path.stat().st_blocks * 512 for path in tmp_path.rglob("*.metrics")}
    assert min(taken) >= 2 * _ROOM
    files.close()
