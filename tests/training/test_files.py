"""Files are replaced whole or not at all, whatever fails."""

import errno
import io
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unrolled.errors import RunError
from unrolled.training import files

CODES = [errno.ENOSPC, errno.EIO, errno.EDQUOT]


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"old", b"", b"new" * 100_000):
        files.replace(path, content)
        assert listing(tmp_path) == {"a": content}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("there", [True, False], ids=["over an old file", "a new file"])
def test_a_write_that_fails_at_the_end_keeps_the_old_file(
    code: int, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if there:
        path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError) as caught:
        files.replace(path, b"new" * 1000)
    assert str(caught.value).startswith(f"{path}: cannot write 3,000 bytes ({os.strerror(code)}")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == ({"a": b"old"} if there else {})


def test_a_rename_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunError, match="Read-only file system"):
        files.replace(path, b"new")
    monkeypatch.undo()
    assert listing(tmp_path) == {"a": b"old"}


@pytest.fixture
def short_files() -> Iterator[None]:
    """The system lets no file become longer than 4096 bytes; Python ignores its signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_real_limit_of_the_system_in_the_middle_of_a_write_keeps_the_old_file(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"a": torch.zeros(3)}, {"step": 1})
    before = listing(tmp_path)
    request.getfixturevalue("short_files")
    with pytest.raises(RunError) as caught:
        files.write_tensors(path, {"a": torch.ones(10_000)}, {"step": 2})
    said = str(caught.value)
    assert "\n" not in said
    assert f"{path}: cannot write 40," in said and "what was there before" in said
    assert listing(tmp_path) == before


def test_the_content_is_on_the_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        happened.append("sync")
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"new"
        happened.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    files.replace(tmp_path / "a", b"new")
    assert happened == ["sync", "rename", "sync"]  # the file, the rename, the directory


def test_a_partial_file_left_by_a_kill_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").write_bytes(b"half of something long")
    files.replace(tmp_path / "a", b"new")
    assert listing(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("place", ["nowhere/a", "file/a"])
def test_a_directory_that_is_not_there_is_an_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="cannot write 3 bytes"):
        files.replace(tmp_path / place, b"new")


def test_a_directory_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        files.replace(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# JSON


def test_json_comes_back_with_its_characters(tmp_path: Path) -> None:
    value = {"tokens": ["买", "\u2028", '"', "\x7f", "😀"], "n": 1.5, "none": None}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "买" in (tmp_path / "a.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, not JSON"),
        (b"{", "damaged, not JSON"),
        (b'{"a": 1', "damaged, not JSON"),
        (b"\xff\xfe", "damaged, not JSON"),
        (b"\0" * 100, "damaged, not JSON"),
        (b"[" * 100_000, "damaged, not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "damaged, not JSON"),
        (b"[]", "got a JSON list"),
        (b"null", "got a JSON NoneType"),
        (b'"x"', "got a JSON str"),
    ],
)
def test_what_is_no_json_object_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        files.read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_json_file_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no such file.*unrolled train"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(RunError, match="cannot be read"):
        files.read_json(tmp_path)


# Tensors


def test_tensors_and_notes_come_back_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "turned": torch.randn(4, 2).T,
        "one": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "nan": torch.tensor([torch.nan, torch.inf, -0.0]),
        "whole": torch.arange(3),
    }
    notes = {"step": 3, "best": float("inf"), "stopped_early": False, "name": "买"}
    files.write_tensors(tmp_path / "a", tensors, notes)
    got, told = files.read_tensors(tmp_path / "a")
    assert told == notes
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert got[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    tensors = {name: torch.ones(2) for name in "cab"}
    for k in range(8):
        files.write_tensors(tmp_path / str(k), tensors, dict.fromkeys("hgfedcba", 1))
    assert len(set(listing(tmp_path).values())) == 1


def test_tensors_cut_short_anywhere_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"a": torch.ones(7), "b": torch.ones(2, 2)}, {"step": 1})
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(RunError) as caught:
            files.read_tensors(path)
        assert str(caught.value).startswith(f"{path}: damaged, not whole safetensors")
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"x")
    with pytest.raises(RunError, match="damaged"):
        files.read_tensors(path)


@pytest.mark.parametrize("note", ["{", "NaN?", "", "[1]"])
def test_notes_that_are_no_json_are_refused(note: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "a", {files.NOTES: note})
    with pytest.raises(RunError, match="damaged"):
        files.read_tensors(tmp_path / "a")


def test_missing_tensors_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a: no such file"):
        files.read_tensors(tmp_path / "a")
    with pytest.raises(RunError):
        files.read_tensors(tmp_path)


def test_json_is_checked_by_another_reader(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2]}


class Trickle(io.FileIO):
    """A file that takes three bytes at a time, and after ``room`` of them ``full``."""

    def __init__(self, path: Path, room: int, full: int | OSError | None) -> None:
        super().__init__(path, "ab")
        self.room, self.full = room, full

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        if not self.room and isinstance(self.full, OSError):
            raise self.full
        if not self.room:
            return self.full
        count = super().write(data[: min(3, self.room)])
        self.room -= count
        return count


def test_a_line_is_written_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first\n")
    with Trickle(path, 100, 0) as file:
        files.append(file, path, b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"


@pytest.mark.parametrize("room", [0, 1, 4, 6])
@pytest.mark.parametrize(
    "full", [0, None, OSError(errno.ENOSPC, "No space left")], ids=["0", "None", "ENOSPC"]
)
def test_a_line_that_does_not_fit_is_taken_back(
    room: int, full: int | OSError | None, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first\n")
    expected = "No space left" if isinstance(full, OSError) else f"only {room} of 7 bytes"
    with Trickle(path, room, full) as file:
        with pytest.raises(RunError, match=f"{path}: cannot be written .{expected}"):
            files.append(file, path, b"second\n")
        assert path.read_bytes() == b"first\n"
        file.room = 100
        files.append(file, path, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"
