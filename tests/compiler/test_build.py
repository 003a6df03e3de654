"""Compiling and the cache of what has been compiled: of a source as small as can be."""

import ctypes
import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.examples import MANY
from unrolled.compiler import build

SOURCE = """\
extern "C" __attribute__((visibility("default"))) int answer(void) { return 42; }
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and no memory of which compiler there is."""
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNROLLED_COMPILER", raising=False)
    remembered = (build.compiler, build._version, build._temporary)
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "cache"
    for function in remembered:
        function.cache_clear()


@pytest.fixture
def calls(monkeypatch):
    """The calls of a compiler that are made, each still made."""
    made = []
    compile_ = build._compile
    monkeypatch.setattr(build, "_compile", lambda *a: made.append(a) or compile_(*a))
    return made


def run(path: Path) -> int:
    """What the library answers: loaded by a process of its own, since loading it stays."""
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    command = [sys.executable, "-c", code, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_it_is_compiled_once(cache, calls):
    first = build.build(SOURCE, "serial")
    assert build.build(SOURCE, "serial") == first
    assert len(calls) == 1
    assert first.parent == cache
    assert list(cache.iterdir()) == [first]
    assert run(first) == 42


def test_the_name_is_the_digest_of_what_it_was_made_of_and_of_what_it_holds():
    path = build.build(SOURCE, "serial")
    key, content = path.stem.split("-")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == content
    command, folder = build.compiler(), build.sources()
    _, flags = build._instruction_sets(folder)["serial"]
    assert build._key(SOURCE, command, flags, folder) == key


def test_another_source_is_another_library(calls):
    first = build.build(SOURCE, "serial")
    second = build.build(SOURCE.replace("42", "43"), "serial")
    assert (run(first), run(second), len(calls)) == (42, 43, 2)


def test_the_key_depends_on_all_that_a_library_is_made_of(tmp_path, monkeypatch):
    (tmp_path / "kernel.h").write_text("")
    given = (SOURCE, ("g++",), ("-O3",), tmp_path)
    keys = [build._key(*given)]
    assert build._key(*given) == keys[0]
    keys.append(build._key(SOURCE + " ", *given[1:]))
    keys.append(build._key(SOURCE, ("g++", "-m32"), *given[2:]))
    keys.append(build._key(*given[:2], ("-O2",), tmp_path))
    keys.append(build._key(*given[:2], ("-O3", "-g"), tmp_path))
    (tmp_path / "kernel.h").write_text("// changed")
    keys.append(build._key(*given))
    monkeypatch.setattr(build, "_version", lambda _: "another version")
    keys.append(build._key(*given))
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    keys.append(build._key(*given))
    assert len(set(keys)) == len(keys)


def test_what_is_put_together_is_not_taken_for_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_version", lambda _: "")
    assert build._key("ab", ("c",), (), tmp_path) != build._key("a", ("bc",), (), tmp_path)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged"),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "damaged"),
        (lambda path: path.write_text("not a library at all"), "damaged"),
        (lambda path: moved_to_a_link(path).unlink(), "a link, not a file"),
        (lambda path: moved_to_a_link(path), "a link, not a file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file"),
        (lambda path: path.chmod(0o620), "writable by others"),
        (lambda path: path.chmod(0o602), "writable by others"),
    ],
    ids=[
        *("empty", "truncated", "one byte", "longer", "text", "dangling", "link", "pipe"),
        *("group", "others"),
    ],
)
def test_a_library_that_may_not_be_loaded_is_built_anew(cache, calls, caplog, damage, what):
    path = build.build(SOURCE, "serial")
    damage(path)
    assert build.build(SOURCE, "serial") == path
    assert len(calls) == 2
    assert run(path) == 42
    assert list(cache.iterdir()) == [path]
    assert f"{path} is {what}, and is built anew" in caplog.text


def moved_to_a_link(path: Path) -> Path:
    """Put a link to the very same file in its place; where the file is now."""
    elsewhere = path.parent.parent / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    return elsewhere


def test_what_is_not_the_user_s_own_is_told():
    mine = {"st_uid": os.getuid(), "st_mode": 0o644}
    assert build._strange(SimpleNamespace(**mine)) is None
    other = SimpleNamespace(**{**mine, "st_uid": os.getuid() + 1})
    assert f"owned by user {os.getuid() + 1}, not by you" in build._strange(other)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: moved_to_a_link(path), "links"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "it is damaged; remove it"),
        (lambda path: path.chmod(0o666), "it is writable by others; remove it"),
    ],
)
def test_what_was_changed_after_it_was_found_is_not_loaded(change, what):
    path = build.build(SOURCE, "serial")
    change(path)
    with pytest.raises(OSError, match=what):
        build.load(path)


def test_what_was_found_is_loaded():
    for answer in (42, 43):
        path = build.build(SOURCE.replace("42", str(answer)), "serial")
        assert build.load(path).answer() == answer


def test_a_folder_that_others_may_rename_is_not_used(cache, monkeypatch, caplog):
    shared = cache / "shared"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setenv("UNROLLED_CACHE", str(shared / "mine"))
    assert build.build(SOURCE, "serial").parent == build._temporary()
    assert "is not used: it is in a folder that others may write to" in caplog.text


def test_compiling_is_told_and_what_it_took(caplog, cache):
    build.build(SOURCE, "serial", "Leaky for float32")
    first, last = [record.getMessage() for record in caplog.records]
    assert first == f"unrolled: compiling Leaky for float32, at its first use and kept in {cache}"
    assert re.fullmatch(r"unrolled: compiled Leaky for float32 in \d+\.\d s", last)
    build.build(SOURCE, "serial", "Leaky for float32")
    assert len(caplog.records) == 2


def test_a_foreign_library_of_the_right_key_is_never_loaded(cache, calls):
    path = build.build(SOURCE, "serial")
    foreign = cache / f"{path.stem.partition('-')[0]}-{'0' * 64}.so"
    path.rename(foreign)
    foreign.write_bytes(foreign.read_bytes() + b"!")
    assert build.build(SOURCE, "serial") == path
    assert len(calls) == 2
    assert not foreign.exists()


def test_a_half_written_library_is_not_seen(cache, calls):
    path = build.build(SOURCE, "serial")
    path.rename(cache / "tmpabc.tmp")
    assert build.build(SOURCE, "serial") == path
    assert len(calls) == 2


def test_a_folder_in_a_library_s_place_is_passed_by(cache):
    path = build.build(SOURCE, "serial")
    path.unlink()
    (path / "inside").mkdir(parents=True)
    other = build.build(SOURCE, "serial")
    assert other.parent == build._temporary()
    assert run(other) == 42


def test_a_missing_cache_folder_is_made_for_its_owner_alone(cache, monkeypatch):
    monkeypatch.setenv("UNROLLED_CACHE", str(cache / "deep" / "inside"))
    path = build.build(SOURCE, "serial")
    assert path.parent == cache / "deep" / "inside"
    assert path.parent.stat().st_mode & 0o077 == 0


def test_where_no_cache_folder_can_be_made_a_temporary_one_serves(cache):
    cache.write_text("a file in the folder's place")
    path = build.build(SOURCE, "serial")
    assert path.parent == build._temporary()
    assert run(path) == 42


@pytest.mark.parametrize("function", ["tempfile.mkstemp", "os.replace"])
def test_a_folder_that_cannot_be_written_to_is_no_failure(cache, monkeypatch, function):
    cache.mkdir()
    module, name = function.split(".")
    real = getattr(getattr(build, module), name)

    def refuse(*arguments, **options):
        target = str(options.get("dir", arguments[-1] if arguments else ""))
        if target.startswith(str(cache)):
            raise PermissionError(13, "Permission denied")
        return real(*arguments, **options)

    monkeypatch.setattr(getattr(build, module), name, refuse)
    path = build.build(SOURCE, "serial")
    assert path.parent == build._temporary()
    assert not list(cache.iterdir())
    assert run(path) == 42


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="a file has no such owner here")
@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_not_used(cache, caplog, mode):
    planted = build.build(SOURCE, "serial")
    cache.chmod(mode)
    path = build.build(SOURCE, "serial")
    assert path != planted
    assert path.parent == build._temporary()
    assert f"{cache} is not used: it is writable by others" in caplog.text


def test_where_nothing_can_be_written_it_is_told(cache, monkeypatch):
    monkeypatch.setattr(build, "_temporary", lambda: None)
    cache.write_text("a file in the folder's place")
    with pytest.raises(build.CannotBuild, match=f"cannot be written to {cache}, nor to a temp"):
        build.build(SOURCE, "serial")


def test_the_temporary_folder_ends_with_its_process(cache):
    cache.write_text("")
    code = (
        "import sys; from unrolled.compiler import build; print(build.build(sys.argv[1], 'serial'))"
    )
    command = [sys.executable, "-c", code, SOURCE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert path.suffix == ".so"
    assert not path.parent.exists()


# --- The compiler --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (
            "",
            r"there is no C\+\+ compiler to compile the cell with; install g\+\+ or clang\+\+, or: pip",
        ),
        ("/nowhere/g++", r"the compiler /nowhere/g\+\+ cannot be run: .*No such file"),
        ("false", r"the compiler false failed: it ended with 1"),
        ("true", r"the compiler true cannot be run: .*No such file"),  # it leaves no library
        ("sh -c 'echo first; echo the error: no disk >&2; exit 3'", "failed: the error: no disk"),
    ],
    ids=["none", "missing", "failing", "idle", "complaining"],
)
def test_a_compiler_that_is_none_is_told(cache, monkeypatch, command, reason):
    monkeypatch.setenv("UNROLLED_COMPILER", command)
    with pytest.raises(build.CannotBuild, match=reason) as caught:
        build.build(SOURCE, "serial")
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_an_error_in_the_source_is_told():
    with pytest.raises(build.CannotBuild, match=r"^the compiler \S+ failed: .*error"):
        build.build("int x = nothing;", "serial")


def test_the_compiler_is_the_one_that_is_named(monkeypatch):
    monkeypatch.setenv("UNROLLED_COMPILER", "my-compiler --quiet")
    assert build.compiler() == ("my-compiler", "--quiet")


def test_else_the_first_that_is_found(monkeypatch):
    monkeypatch.setenv("CXX", "first -m64")
    present = {"first", "g++", "clang++"}
    monkeypatch.setattr(build.shutil, "which", lambda name: name if name in present else None)
    for name in (("first", "-m64"), ("g++",), ("clang++",)):
        assert build.compiler() == name
        build.compiler.cache_clear()
        present.discard(name[0])
    monkeypatch.setattr(build.util, "find_spec", lambda name: name)
    assert build.compiler() == (sys.executable, "-m", "ziglang", "c++")
    build.compiler.cache_clear()
    monkeypatch.setattr(build.util, "find_spec", lambda _: None)
    assert build.compiler() is None


# --- Several processes at once -------------------------------------------------------------------


def _build(results, cache: str, meeting) -> None:
    """Put what stands where, what it answers, and what was said."""
    os.environ["UNROLLED_CACHE"] = cache
    said, compile_ = [], build._compile

    def compile_slowly(*arguments):
        time.sleep(0.3)  # while the others wait
        return compile_(*arguments)

    build.SILENCE, build._compile = 0.1, compile_slowly
    build._log.addFilter(lambda record: said.append(record.getMessage()))
    meeting.wait(300)  # so that all begin together
    path = build.build(SOURCE, "serial", "Leaky")
    results.put((path, ctypes.CDLL(str(path)).answer(), said))


def test_several_processes_at_once_compile_once_and_the_others_say_that_they_wait(cache):
    count, context = 4 if MANY else 3, multiprocessing.get_context("spawn")
    meeting, results = context.Barrier(count), context.Queue()
    arguments = (results, str(cache), meeting)
    processes = [context.Process(target=_build, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(60)
    assert [answer for _, answer, _ in found] == [42] * count
    assert {path for path, _, _ in found} == set(cache.iterdir())
    said = sorted(tuple(lines)[:1] for _, _, lines in found)
    waiting = ("unrolled: waiting for another process, which compiles Leaky",)
    assert said[1:] == [waiting] * (count - 1)
    assert said[0][0].startswith("unrolled: compiling Leaky")
