"""The kernel library: found, checked, loaded once, its kernels looked up by name."""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

VERSION = 5  # UNROLLED_VERSION in csrc/unrolled.h
PREFERENCE = ("avx512", "avx2", "neon", "serial")


class Kernel(NamedTuple):
    """One compiled cell for one dtype; the numbers are those of ``unrolled_cell``."""

    forward: Callable[[bytes], None]
    backward: Callable[[bytes], None]
    packed_bytes: Callable[[bytes], int]
    work_bytes: Callable[[bytes, int], int]
    name: str
    biases: tuple[str, ...]
    vectors: str
    projected: int
    states: int
    slots: int
    staged: bool


class Entropy(NamedTuple):
    """Softmax and cross-entropy for one dtype, as ``unrolled_entropy``."""

    run: Callable[[bytes], None]
    work_bytes: Callable[[bytes], int]


class _Entropy(ctypes.Structure):
    _fields_ = [
        ("run", ctypes.CFUNCTYPE(None, ctypes.c_char_p)),
        ("work_bytes", ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)),
    ]


class _Cell(ctypes.Structure):
    _fields_ = [
        *((field, ctypes.c_char_p) for field in ("name", "projection", "weight", "vector_names")),
        *(
            (field, ctypes.c_int64)
            for field in (
                "transposed",
                "staged",
                "noise",
                "projected",
                "products",
                "vectors",
                "states",
                "kept",
                "grads",
            )
        ),
    ]


class _Kernel(ctypes.Structure):
    _fields_ = [
        ("cell", ctypes.POINTER(_Cell)),
        ("forward", ctypes.CFUNCTYPE(None, ctypes.c_char_p)),
        ("backward", ctypes.CFUNCTYPE(None, ctypes.c_char_p)),
        ("packed_bytes", ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)),
        ("work_bytes", ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64)),
    ]


def _path() -> Path | None:
    """Where the library is: named by UNROLLED_LIBRARY, or among the files that were installed."""
    named = os.environ.get("UNROLLED_LIBRARY")
    if named is not None:
        return Path(named) if named else None
    names = ("libunrolled.so", "libunrolled.dylib")
    for name in names:
        beside = Path(__file__).parent.parent / name
        if beside.exists():
            return beside
    try:
        files = metadata.files("unrolled") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name in names:
            path = Path(str(file.locate()))
            return path if path.exists() else None
    return None


@cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    path = _path()
    if path is None:
        return (
            "the kernel library is not built: no C++ compiler was found at install; "
            "install g++ or clang++, then unrolled again"
        )
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.unrolled_version.restype = ctypes.c_int64
        version = loaded.unrolled_version()
    except (OSError, AttributeError) as error:
        return f"the kernel library {path} cannot be loaded ({error}); reinstall unrolled"
    if version != VERSION:
        return f"the kernel library {path} has interface {version}, expected {VERSION}; reinstall unrolled"
    loaded.unrolled_built.restype = ctypes.c_char_p
    loaded.unrolled_supports.restype = ctypes.c_int64
    loaded.unrolled_supports.argtypes = [ctypes.c_char_p]
    loaded.unrolled_kernel_at.restype = ctypes.POINTER(_Kernel)
    loaded.unrolled_kernel_at.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64]
    loaded.unrolled_entropy_of.restype = ctypes.POINTER(_Entropy)
    loaded.unrolled_entropy_of.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    loaded.unrolled_fma_peak.restype = ctypes.c_double
    loaded.unrolled_fma_peak.argtypes = [ctypes.c_char_p]
    loaded.unrolled_use_openmp.argtypes = [ctypes.c_void_p] * 3
    _share_threads(loaded)
    return loaded


def _share_threads(loaded: ctypes.CDLL) -> None:
    """Let the kernels run on the OpenMP threads that PyTorch itself uses, if it uses OpenMP.

    Two runtimes in one process fight over the cores. Looking the functions up from PyTorch's own
    library finds the runtime that it was linked with, whatever file that is in.
    """
    for candidate in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            torch_library = ctypes.CDLL(str(candidate))
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            found = [ctypes.cast(getattr(torch_library, name), ctypes.c_void_p) for name in names]
        except (OSError, AttributeError):
            continue
        loaded.unrolled_use_openmp(*found)
        return


def missing() -> str | None:
    """Why there is no native library, in one line; None if there is one."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def _library() -> ctypes.CDLL:
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


def built() -> tuple[str, ...]:
    """The instruction sets that the library holds, and this processor has; worst first."""
    library = _library()
    names = library.unrolled_built().decode().split()
    return tuple(name for name in names if library.unrolled_supports(name.encode()))


@cache
def instruction_set() -> str:
    """The best instruction set there is, or the one that UNROLLED_INSTRUCTION_SET names."""
    usable = built()
    forced = os.environ.get("UNROLLED_INSTRUCTION_SET")
    if forced:
        if forced not in usable:
            raise ValueError(
                f"UNROLLED_INSTRUCTION_SET: got {forced!r}, expected one of {', '.join(usable)}"
            )
        return forced
    return next(name for name in PREFERENCE if name in usable)


_forced: list[str] = []


class using:  # noqa: N801
    """Run the kernels of one instruction set within a ``with`` block: for tests and benchmarks.

    It holds for the whole process, not for one thread.
    """

    def __init__(self, name: str) -> None:
        if name not in built():
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(built())}")
        self.name = name

    def __enter__(self) -> None:
        _forced.append(self.name)

    def __exit__(self, *_: object) -> None:
        _forced.pop()


def kernel(name: str, dtype: torch.dtype) -> Kernel:
    """The kernel of that name for that dtype, of the instruction set in use."""
    instructions = _in_use()
    return (
        _own_kernel(name, instructions, dtype)
        if name in _own
        else _kernels(instructions, dtype)[name]
    )


def entropy(dtype: torch.dtype) -> Entropy:
    """The cross-entropy for that dtype, of the instruction set in use."""
    return _entropy(_in_use(), dtype)


def _in_use() -> str:
    return _forced[-1] if _forced else instruction_set()


@cache
def _entropy(instructions: str, dtype: torch.dtype) -> Entropy:
    native = _library().unrolled_entropy_of(instructions.encode(), dtype.itemsize).contents
    return Entropy(native.run, native.work_bytes)


@cache
def _kernels(instructions: str, dtype: torch.dtype) -> dict[str, Kernel]:
    library, found = _library(), {}
    i = 0
    while pointer := library.unrolled_kernel_at(instructions.encode(), dtype.itemsize, i):
        made = _described(pointer.contents)
        found[made.name] = made
        i += 1
    return found


def _described(native: _Kernel) -> Kernel:
    cell = native.cell.contents
    together = (cell.projected, cell.kept)
    return Kernel(
        native.forward,
        native.backward,
        native.packed_bytes,
        native.work_bytes,
        cell.name.decode(),
        tuple(cell.projection.decode().split()[1:]),
        cell.vector_names.decode(),
        cell.projected,
        cell.states,
        sum(together) if cell.staged else max(together),
        bool(cell.staged),
    )


# --- Cells of one's own --------------------------------------------------------------------------

_own: dict[str, tuple[str, str]] = {}
_building = threading.Lock()


def add_own(name: str, text: str, struct: str) -> None:
    """Make ``kernel(name, …)`` find the cell that C++ ``text`` defines as ``struct``."""
    _own[name] = (text, struct)


def _own_kernel(name: str, instructions: str, dtype: torch.dtype) -> Kernel:
    """As ``kernel``; compiled now, if it never was.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """
    with _building:  # one thread at a time
        found = _loaded(name, instructions, dtype)
    if isinstance(found, str):
        from unrolled.compiler.build import CannotBuild

        raise CannotBuild(found)
    return found


@cache
def _loaded(name: str, instructions: str, dtype: torch.dtype) -> Kernel | str:
    """The kernel, or why there is none: what has failed is not tried at every call."""
    from unrolled.compiler import build

    text, struct = _own[name]
    number = {4: "float", 8: "double"}[dtype.itemsize]
    try:
        path = build.build(build.unit(text, struct, instructions, number), instructions)
    except build.CannotBuild as error:
        return str(error)
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.unrolled_use_openmp.argtypes = [ctypes.c_void_p] * 3
        loaded.unrolled_own_kernel.restype = ctypes.POINTER(_Kernel)
    except (OSError, AttributeError) as error:
        return f"the compiled cell {path} cannot be loaded: {error}"
    _share_threads(loaded)
    return _described(loaded.unrolled_own_kernel().contents)


def fma_peak() -> float:
    """GFLOP/s of multiply-adds that one thread reaches in registers, in float32."""
    return float(_library().unrolled_fma_peak(instruction_set().encode()))
