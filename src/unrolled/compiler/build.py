"""From C++ to a shared library: with a compiler found on the machine, once for each source.

What has been built stands in the user's cache folder under a name made of two digests: of all that it
was built from, and of what it holds. So a file of another source, another compiler, other flags or
another processor is never found, and a damaged one is never loaded; both are built anew.
"""

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata, util
from pathlib import Path

from platformdirs import user_cache_path

from unrolled.errors import UnrolledError

_log = logging.getLogger("unrolled")

FLAGS = {
    "serial": ("-fno-tree-vectorize",),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"),
    "neon": (),
}
"""As in CMakeLists.txt: what each instruction set is compiled with."""
BYTES = {"serial": 0, "avx2": 32, "avx512": 64, "neon": 16}
_COMMON = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-ffp-contract=fast", "-fvisibility=hidden", "-w"),
)

_UNIT = """\
{headers}
namespace {{
template <class T>
using Vector = {vector};
}}
#include "kernel.h"
{struct_text}
#include "team.cpp"

extern "C" {{
UNROLLED_API int64_t unrolled_version(void) {{ return UNROLLED_VERSION; }}
UNROLLED_API const unrolled_kernel* unrolled_own_kernel(void) {{
  return &Kernel<Vector<{number}>, {struct}>::kernel;
}}
UNROLLED_API void unrolled_use_openmp(void* parallel, void* thread_num, void* num_threads) {{
  unrolled::use_openmp(parallel, thread_num, num_threads);
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
    candidates += [Path(str(f.locate())).parent for f in files if f.name == "sweep.h"]
    return next((folder for folder in candidates if (folder / "sweep.h").exists()), None)


def cache_folder() -> Path:
    """Where what was built is kept: what UNROLLED_CACHE names, or the user's cache folder."""
    named = os.environ.get("UNROLLED_CACHE")
    return Path(named) if named else user_cache_path("unrolled") / "kernels"


def obstacle() -> str | None:
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
    """The source of a library that holds one cell, for an instruction set and "float" or "double"."""
    lines = struct_text.splitlines()
    kept = [line for line in lines if not line.startswith(('#include "../', "#pragma once"))]
    size = BYTES[instructions]
    return _UNIT.format(
        headers='#include "vector.h"',
        vector=f"Vec<T, {size} / sizeof(T)>" if size else "Serial<T>",
        struct_text="\n".join(kept),
        struct=struct,
        number=number,
    )


def build(source: str, instructions: str) -> Path:
    """The library of ``source``, from the cache, or built now.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """
    command, folder = compiler(), sources()
    if command is None or folder is None:
        raise CannotBuild(str(obstacle()))
    flags = (*_COMMON, *FLAGS[instructions])
    key = _key(source, command, flags, folder)
    places = _places()
    for place in places:
        for found in place.glob(f"{key}-*.so"):
            if _is_sound(found):
                return found
            _log.warning("%s is damaged, and is built anew", found)
            _remove(found)
    content = _compile(source, command, flags, folder)
    name = f"{key}-{hashlib.sha256(content).hexdigest()}.so"
    stored = next(filter(None, (_store(content, place, name) for place in places)), None)
    if stored is None and (temporary := _temporary()) is not None:
        stored = _store(content, temporary, name)
    if stored is None:
        raise CannotBuild(
            f"the compiled cell cannot be written to {cache_folder()}, nor to a temporary folder"
        )
    return stored


def _key(source: str, command: tuple[str, ...], flags: tuple[str, ...], folder: Path) -> str:
    """The digest of all that a library is built from."""
    digest = hashlib.sha256()
    parts = [source, *command, _version(command), *flags, platform.machine(), sys.platform]
    parts.append(_processor())
    for path in sorted((*folder.glob("[!.]*.h"), folder / "team.cpp")):
        parts += [path.name, path.read_text(encoding="utf-8")]
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _places() -> tuple[Path, ...]:
    """The cache folder, if it can be made, and is the user's own."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError:
        return ()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        _log.warning("%s is not used: others may write to it", folder)
        return ()
    return (folder,)


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


def _is_sound(path: Path) -> bool:
    """Whether a file is the one its name says."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return path.stem.rpartition("-")[2] == hashlib.sha256(content).hexdigest()


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
            _log.info("compiling a cell: %s", shlex.join(call))
            done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=600)
            if not done.returncode:
                return result.read_bytes()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"the compiler {command[0]} cannot be run: {error}") from error
    lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
    reason = lines[0].strip() or f"it ended with {done.returncode}"
    raise CannotBuild(f"the compiler {command[0]} failed: {reason}")
