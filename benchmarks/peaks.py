"""What the machine can do: products of large float32 matrices, and fused multiply-adds.

Sampled many times over a run, since a shared machine is not always as fast. ``sgemm`` is the better
of PyTorch's library (MKL, in PyTorch's own packages) and NumPy's (OpenBLAS, in PyPI's). XLA's
products are sampled too where JAX is installed: they are a library's as well, but stand apart, since
they are not what a PyTorch program can call. FMA is what the native library's own loop of
independent multiply-adds reaches, if it has one.
"""

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from unrolled.scan.native import library

SIDE = 2048
SGEMM = ("torch.mm", "numpy.matmul")
XLA, FMA = "jax.numpy.matmul", "FMA"


class Peaks:
    """Samples in GFLOP/s, with as many threads as PyTorch has."""

    def __init__(self, side: int = SIDE) -> None:
        self.samples: dict[str, list[float]] = {}
        mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        self.libraries = {
            "torch.mm": "MKL" if mkl else "not MKL",
            "numpy.matmul": _numpy_library(),
        }
        a = torch.rand(side, side) - 0.5
        b = a.numpy()
        self._flops = 2 * side**3
        self._products: dict[str, Callable[[], Any]] = {
            "torch.mm": lambda: torch.mm(a, a),
            "numpy.matmul": lambda: np.matmul(b, b),
        }
        if find_spec("jax"):
            import jax

            product, c = jax.jit(jax.numpy.matmul), jax.numpy.asarray(b)
            self._products[XLA] = lambda: product(c, c).block_until_ready()
            self.libraries[XLA] = "XLA"
        self._fma = _fma_peak()

    def sample(self, pause: float) -> None:
        """One sample of each, with ``pause`` seconds of rest before it."""
        for name, product in self._products.items():
            time.sleep(pause)
            product()  # wakes the threads
            start = time.perf_counter()
            product()
            self._add(name, self._flops / (time.perf_counter() - start) / 1e9)
        if self._fma is not None:
            time.sleep(pause)
            self._add(FMA, self._fma())

    def _add(self, name: str, gflops: float) -> None:
        self.samples.setdefault(name, []).append(gflops)

    def typical(self, name: str) -> float | None:
        """The median of a peak; of ``"sgemm"``, that of the better library."""
        names = SGEMM if name == "sgemm" else (name,)
        found = [median(self.samples[n]) for n in names if n in self.samples]
        return max(found, default=None)

    def notes(self) -> dict[str, Any]:
        """For JSON: GFLOP/s, median, best and samples of each; ``sgemm`` is the better library's."""
        notes: dict[str, Any] = {"unit": "GFLOP/s", "sgemm": self.typical("sgemm")}
        for name, samples in self.samples.items():
            notes[name] = {
                "library": self.libraries.get(name, "unrolled"),
                "median": median(samples),
                "best": max(samples),
                "samples": [round(s, 1) for s in samples],
            }
        return notes

    def show(self) -> None:
        print("\nPeaks, GFLOP/s (median and best over the run)")
        for name in (*SGEMM, XLA, FMA):
            if name in self.samples:
                library = self.libraries.get(name, "unrolled")
                samples = self.samples[name]
                print(f"  {name} ({library}): {median(samples):.0f}, {max(samples):.0f}")
            elif name == FMA:
                print("  FMA: not measured (there is no kernel library)")


def set_numpy_threads(threads: int) -> bool:
    """Give PyPI's OpenBLAS so many threads; ``False`` if NumPy has another library."""
    for path in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        library = ctypes.CDLL(str(path))  # the one that NumPy has loaded
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads"):
            if hasattr(library, name):
                getattr(library, name)(threads)
                return True
    return False


def _numpy_library() -> str:
    config: Any = np.show_config(mode="dicts")
    return str(config["Build Dependencies"]["blas"]["name"])


def _fma_peak() -> Callable[[], float] | None:
    """GFLOP/s of multiply-adds over all threads; nothing without the kernel library."""
    if library.missing() is not None:
        return None
    threads = torch.get_num_threads()

    def peak() -> float:
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(lambda _: library.fma_peak(), range(threads)))

    return peak
