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
from torch import Tensor

from unrolled.scan.native import interface

PREFERENCE = ("avx512", "avx2", "neon", "serial")


class Kernel(NamedTuple):
    """One compiled cell for one dtype; the numbers are those of ``unrolled_cell``.

    Each function takes the address of an ``interface.Call``.
    """

    forward: Callable[[int], None]
    backward: Callable[[int], None]
    packed_bytes: Callable[[int], int]
    work_bytes: Callable[[int, int], int]
    name: str
    biases: tuple[str, ...]
    vectors: str
    projected: int
    states: int
    slots: int
    staged: bool

    def units(self, inputs: int, weight_ih: Tensor | None) -> int:
        """H; without a weight what is read is the projection."""
        return (inputs if weight_ih is None else len(weight_ih)) // self.projected


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
    if version != interface.VERSION:
        return (
            f"the kernel library {path} has interface {version}, expected {interface.VERSION}; "
            "reinstall unrolled"
        )
    loaded.unrolled_built.restype = ctypes.c_char_p
    loaded.unrolled_supports.restype = ctypes.c_int64
    loaded.unrolled_supports.argtypes = [ctypes.c_char_p]
    loaded.unrolled_kernel_at.restype = ctypes.POINTER(interface.Kernel)
    loaded.unrolled_kernel_at.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64]
    loaded.unrolled_engine_of.restype = ctypes.c_void_p
    loaded.unrolled_engine_of.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    loaded.unrolled_cross_entropy_of.restype = ctypes.POINTER(interface.CrossEntropy)
    loaded.unrolled_cross_entropy_of.argtypes = [ctypes.c_char_p, ctypes.c_int64]
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


def cross_entropy(dtype: torch.dtype) -> interface.CrossEntropy:
    """Softmax and cross-entropy for that dtype, of the instruction set in use.

    Each function takes the address of an ``interface.CrossEntropyCall``.
    """
    return _library().unrolled_cross_entropy_of(_in_use().encode(), dtype.itemsize).contents  # type: ignore[no-any-return]


def _in_use() -> str:
    return _forced[-1] if _forced else instruction_set()


@cache
def _kernels(instructions: str, dtype: torch.dtype) -> dict[str, Kernel]:
    """Those in the library: by name, or by the digest of what they were compiled from."""
    library, found = _library(), {}
    i = 0
    while pointer := library.unrolled_kernel_at(instructions.encode(), dtype.itemsize, i):
        made = _described(pointer.contents)
        name, _, digest = made.name.partition(" ")
        found[digest or name] = made
        i += 1
    return found


def _described(native: interface.Kernel) -> Kernel:
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


class Own(NamedTuple):
    """A cell of one's own."""

    cell: str
    """What it is called."""
    text: str
    """The C++ that defines it."""
    struct: str
    digest: str
    """Of the C++: the library's kernel of the same code is its kernel too."""


_own: dict[str, Own] = {}
_found: dict[tuple[str, str, torch.dtype], Kernel | str] = {}
"""What was compiled and loaded, or why it could not be: what has failed is not tried at every call."""
_building = threading.Lock()


def add_own(name: str, own: Own) -> None:
    """Make ``kernel(name, …)`` find the kernel of a cell of one's own."""
    _own[name] = own


def unsupported_reason_of(name: str, dtype: torch.dtype) -> str | None:
    """Why there is no kernel of ``add_own``, and can be none; nothing is compiled."""
    from unrolled.compiler import build

    instructions = _in_use()
    found = _found.get((name, instructions, dtype))
    if found is None and _own[name].digest not in _kernels(instructions, dtype):
        return build.unsupported_reason()
    return found if isinstance(found, str) else None


def _own_kernel(name: str, instructions: str, dtype: torch.dtype) -> Kernel:
    """As ``kernel``; compiled now, if it never was.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """
    key = (name, instructions, dtype)
    found = _found.get(key)
    if found is None:
        with _building:  # one thread at a time
            found = _found.setdefault(key, _found.get(key) or _loaded(*key))
    if isinstance(found, str):
        from unrolled.compiler.build import CannotBuild

        raise CannotBuild(found)
    return found


def _loaded(name: str, instructions: str, dtype: torch.dtype) -> Kernel | str:
    """The kernel, or why there is none."""
    own = _own[name]
    brought = _kernels(instructions, dtype).get(own.digest)
    if brought is not None:
        return brought
    from unrolled.compiler import build

    number = {4: "float", 8: "double"}[dtype.itemsize]
    what = f"{own.cell} for {str(dtype).removeprefix('torch.')} and {instructions}"
    try:
        source = build.unit(own.text, own.struct, instructions, number)
        path = build.build(source, instructions, what)
    except build.CannotBuild as error:
        return str(error)
    try:
        loaded = build.load(path)
        loaded.unrolled_own_kernel.restype = ctypes.POINTER(interface.Kernel)
        loaded.unrolled_own_kernel.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError) as error:
        return f"the compiled cell {path} cannot be loaded: {error}"
    engine = _library().unrolled_engine_of(instructions.encode(), dtype.itemsize)
    found = loaded.unrolled_own_kernel(engine)
    if not found:
        return "the kernel library is older than its sources; reinstall unrolled"
    return _described(found.contents)


def fma_peak() -> float:
    """GFLOP/s of multiply-adds that one thread reaches in registers, in float32."""
    return float(_library().unrolled_fma_peak(instruction_set().encode()))
