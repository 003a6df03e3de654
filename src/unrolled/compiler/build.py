"""From C++ to a shared library: with a compiler found on the machine, once for each source.

What has been built stands in the user's cache folder under a name made of two digests: of all that it
was built from, and of what it holds. So a file of another source, another compiler, other flags or
another processor is never found, and a damaged one is never loaded, nor one that somebody else could have
put there; both are built anew. Several processes that need the same one build it once.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata, util
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from unrolled.errors import UnrolledError

_log = logging.getLogger("unrolled")

SILENCE = 2.0
"""Seconds that a process waits for another one before it says so."""
_COMMON = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-w")

_UNIT = """\
{headers}
namespace {{
template <class T>
using Vector = {vector};
}}
#include "kernel.h"
{struct_text}
namespace {{
using Units = Vector<{number}>;
const unrolled_engine* given_engine;
template <class V>
const unrolled_engine* engine() {{
  return given_engine;
}}
}}

extern "C" {{
// The cell, run by that engine; 0 if it passes another layout than these headers say.
UNROLLED_API const unrolled_kernel* unrolled_own_kernel(const unrolled_engine* engine) {{
  given_engine = engine;
  return engine->layout == layout<Units> ? &Kernel<Units, {struct}>::kernel : nullptr;
}}
}}
"""


class CannotBuild(UnrolledError):  # noqa: N818 - a verdict, not a fault
    """There is no compiler, or it failed; the text is one line that says what to do."""


@cache
def compiler() -> tuple[str, ...] | None:
    """The command of a C++ compiler, or ``None``.

    What UNROLLED_COMPILER names (nothing, if it is empty), else what CXX names, g++, clang++ or c++,
    else the one that the package ``ziglang`` brings.
    """
    named = os.environ.get("UNROLLED_COMPILER")
    if named is not None:
        return tuple(shlex.split(named)) or None
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return tuple(command)
    if util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++")
    return None


@cache
def _version(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"the compiler {command[0]} cannot be run: {error}") from error
    return done.stdout


@cache
def _processor() -> str:
    """The processor's own name and abilities: some compilers build for these alone."""
    path = Path("/proc/cpuinfo")
    names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = dict.fromkeys(line for line in lines if line.startswith(names))
    return "\n".join(found) or platform.processor()


@cache
def sources() -> Path | None:
    """The folder of the C++ sources, csrc/, where it is installed or in the repository."""
    here = Path(__file__).parent.parent
    candidates = [here.parents[1] / "csrc", here / "csrc"]
    try:
        files = metadata.files("unrolled") or []
    except metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(f.locate())).parent for f in files if f.name == "kernel.h"]
    return next((folder for folder in candidates if (folder / "kernel.h").exists()), None)


@cache
def _instruction_sets(folder: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    """What ``flags.txt`` says: the bytes of a vector, and what such a kernel is compiled with."""
    lines = (folder / "flags.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    found = {name: (int(size), tuple(flags)) for name, size, *flags in words}
    _, every = found.pop("every")
    return {name: (size, (*_COMMON, *every, *flags)) for name, (size, flags) in found.items()}


def cache_folder() -> Path:
    """Where what was built is kept: what UNROLLED_CACHE names, or the user's cache folder."""
    named = os.environ.get("UNROLLED_CACHE")
    return Path(named) if named else user_cache_path("unrolled") / "kernels"


def unsupported_reason() -> str | None:
    """Why nothing can be built, in one line; ``None`` if it can."""
    if compiler() is None:
        return (
            "there is no C++ compiler to compile the cell with; "
            "install g++ or clang++, or: pip install 'unrolled[compiler]'"
        )
    return (
        None if sources() is not None else "the C++ sources were not installed; reinstall unrolled"
    )


def unit(struct_text: str, struct: str, instructions: str, number: str) -> str:
    """The source of a library that holds one cell, for an instruction set and "float" or "double".

    Raises:
        CannotBuild: the C++ sources are not there.
    """
    folder = sources()
    if folder is None:
        raise CannotBuild(str(unsupported_reason()))
    lines = struct_text.splitlines()
    kept = [line for line in lines if not line.startswith(('#include "../', "#pragma once"))]
    size, _ = _instruction_sets(folder)[instructions]
    return _UNIT.format(
        headers='#include "vector.h"',
        vector=f"Vec<T, {size} / sizeof(T)>" if size else "Serial<T>",
        struct_text="\n".join(kept),
        struct=struct,
        number=number,
    )


def build(source: str, instructions: str, what: str = "a cell") -> Path:
    """The library of ``source``, from the cache, or built now.

    Args:
        source: all of it.
        instructions: the instruction set, as ``flags.txt`` names it.
        what: what it holds, for those who wait.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """
    command, folder = compiler(), sources()
    if command is None or folder is None:
        raise CannotBuild(str(unsupported_reason()))
    _, flags = _instruction_sets(folder)[instructions]
    key = _key(source, command, flags, folder)
    place = _place()
    if place is None:
        return _built(source, command, flags, folder, key, None, what)
    found = _found(place, key)
    if found is not None:
        return found
    with _alone(place / f"{key}.lock", what):
        return _found(place, key) or _built(source, command, flags, folder, key, place, what)


def _found(place: Path, key: str) -> Path | None:
    """What has been built before; what must not be loaded is taken away."""
    for path in place.glob(f"{key}-*.so"):
        why = _fault(path)
        if why is None:
            return path
        _log.warning("%s is %s, and is built anew", path, why)
        _remove(path)
    return None


def _built(
    source: str,
    command: tuple[str, ...],
    flags: tuple[str, ...],
    folder: Path,
    key: str,
    place: Path | None,
    what: str,
) -> Path:
    """Compile, and keep it in ``place``, or for this process alone."""
    kept = f"and kept in {place}" if place else "for this process alone"
    _log.warning("unrolled: compiling %s, at its first use %s", what, kept)
    begin = time.monotonic()
    content = _compile(source, command, flags, folder)
    _log.warning("unrolled: compiled %s in %.1f s", what, time.monotonic() - begin)
    name = f"{key}-{hashlib.sha256(content).hexdigest()}.so"
    stored = None if place is None else _store(content, place, name)
    if stored is None and (temporary := _temporary()) is not None:
        stored = _store(content, temporary, name)
    if stored is None:
        raise CannotBuild(
            f"the compiled cell cannot be written to {cache_folder()}, nor to a temporary folder"
        )
    return stored


@contextmanager
def _alone(path: Path, what: str) -> Iterator[None]:
    """No other process builds the same meanwhile, where the folder knows locks; a wait is told."""
    lock = FileLock(path, mode=0o600)
    try:
        try:
            lock.acquire(timeout=SILENCE)
        except Timeout:
            _log.warning("unrolled: waiting for another process, which compiles %s", what)
            lock.acquire()
    except (OSError, NotImplementedError):
        _log.debug("%s cannot be locked", path)
    try:
        yield
    finally:
        if lock.is_locked:
            _remove(path)  # whoever waits for it holds it open, and then finds what was built
            lock.release()


def load(path: Path) -> ctypes.CDLL:
    """Load what was built, if it is still that, and the user's own.

    Raises:
        OSError: it is not, or cannot be loaded.
    """
    handle = _opened(path)
    try:
        why = _fault_of(handle, path)
        if why is not None:
            raise OSError(f"it is {why}; remove it")
        if not os.path.samestat(os.fstat(handle), path.lstat()):
            raise OSError("it was replaced meanwhile")
        return ctypes.CDLL(str(path))  # in a folder in which nobody else can replace it
    finally:
        os.close(handle)


def _key(source: str, command: tuple[str, ...], flags: tuple[str, ...], folder: Path) -> str:
    """The digest of all that a library is built from."""
    digest = hashlib.sha256()
    parts = [source, *command, _version(command), *flags, platform.machine(), sys.platform]
    parts.append(_processor())
    for path in sorted(folder.glob("[!.]*.h")):
        parts += [path.name, path.read_text(encoding="utf-8")]
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _place() -> Path | None:
    """The cache folder, if it can be made, and is the user's own."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        why = _strange(folder.stat())
        above = [parent.stat() for parent in folder.resolve().parents]
    except OSError:
        return None
    if any(status.st_mode & 0o1002 == 0o002 for status in above):  # not as /tmp, whose names stay
        why = "in a folder that others may write to"
    if why is not None:
        _log.warning("%s is not used: it is %s", folder, why)
        return None
    return folder


def _strange(status: os.stat_result) -> str | None:
    """What makes a file or folder somebody else's; ``None`` if nothing does."""
    if not hasattr(os, "getuid"):
        return None
    if status.st_uid != os.getuid():
        return f"owned by user {status.st_uid}, not by you, {os.getuid()}"
    return "writable by others" if status.st_mode & 0o022 else None


@cache
def _temporary() -> Path | None:
    """For this process alone, where the cache folder cannot be written to; ``None`` if there is none."""
    import atexit

    try:
        folder = tempfile.mkdtemp(prefix="unrolled-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _opened(path: Path) -> int:
    """The file itself, and not what a link leads to."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _fault(path: Path) -> str | None:
    """Why a library must not be loaded, said after "it is"; ``None`` if it may."""
    if path.is_symlink():
        return "a link, not a file"
    try:
        handle = _opened(path)
    except OSError:
        return "damaged"
    try:
        return _fault_of(handle, path)
    finally:
        os.close(handle)


def _fault_of(handle: int, path: Path) -> str | None:
    """The same of an open file: what is asked of it cannot change with its name."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    why = _strange(status)
    if why is None:
        with os.fdopen(os.dup(handle), "rb") as file:
            content = file.read()
        if path.stem.rpartition("-")[2] != hashlib.sha256(content).hexdigest():
            why = "damaged"
    return why


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        _log.debug("%s cannot be removed", path)


def _store(content: bytes, folder: Path, name: str) -> Path | None:
    """Write a library under its name, all at once; ``None`` if the folder does not allow it."""
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    except OSError:
        return None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, folder / name)  # noqa: PTH105
    except OSError:
        _remove(Path(temporary))
        return None
    return folder / name


def _compile(source: str, command: tuple[str, ...], flags: tuple[str, ...], folder: Path) -> bytes:
    try:
        with tempfile.TemporaryDirectory(prefix="unrolled-") as work:
            path, result = Path(work) / "cell.cpp", Path(work) / "cell.so"
            path.write_text(source, encoding="utf-8")
            call = [*command, *flags, f"-I{folder}", "-o", str(result), str(path)]
            _log.info("%s", shlex.join(call))
            done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=600)
            if not done.returncode:
                return result.read_bytes()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"the compiler {command[0]} cannot be run: {error}") from error
    lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
    reason = lines[0].strip() or f"it ended with {done.returncode}"
    raise CannotBuild(f"the compiler {command[0]} failed: {reason}")
