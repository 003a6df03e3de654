"""Whatever fails, a file that was there stays, and the error names it."""

import errno
import os
from pathlib import Path

import pytest

from unrolled import files


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_keeps_the_old_file_and_is_named(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if there:
        path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.replace(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    found = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert found == ({"a": b"old"} if there else {})


def test_what_a_link_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path, link = tmp_path / "folder" / "a", tmp_path / "link"
    path.write_bytes(b"old")
    link.symlink_to(path)
    files.replace(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_a_folder_that_is_not_there_is_named_by_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.replace(tmp_path / "no" / "a", b"")
    assert caught.value.filename == str(tmp_path / "no" / "a")
