"""The same bits every time, from any number of Python threads, which run while a kernel does."""

import functools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tests.compare import assert_close_by_name
from tests.scan.calls import make, run, steps_of_rounding
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, scan
from unrolled.scan.native import calls, library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no native library")

some_cells = pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
any_threads = pytest.mark.parametrize("threads", [1, 2, 3])


# Shared out by units, by sequences, and by sequences of unequal length.
@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [((24, 1, 7, 100), None), ((20, 13, 7, 65), None), ((20, 5, 7, 100), [20, 3, 0, 11, 7])],
)
@any_threads
@some_cells
def test_the_same_input_gives_the_same_bits(
    kind: str, threads: int, sizes: tuple[int, int, int, int], lengths: list[int] | None
) -> None:
    cell, x, state = make(kind, *sizes, dtype=torch.float32)
    options = {"lengths": None if lengths is None else torch.tensor(lengths)}
    torch.set_num_threads(threads)
    first = run(cell, x, state, **options)
    for _ in range(4):
        again = run(cell, x, state, **options)
        for name, value in first.items():
            assert torch.equal(again[name], value), name


Call = tuple[tuple[Cell, Tensor, State], dict[str, Tensor | bool]]


def _different_calls() -> list[Call]:
    """Eight calls which share nothing, some alike in shape and some not."""
    chosen: list[Call] = []
    for k, kind in enumerate(["LSTM", "GRU", "LSTM", "RNN tanh", "LSTM", "GRU", "RNN relu", "GRU"]):
        T, B, H = (20, 13, 65) if k % 2 else (24, 2, 100)
        lengths = torch.randint(0, T + 1, (B,)) if k > 3 else torch.full((B,), T)
        resets = torch.rand(T, B) < 0.2
        options = {"lengths": lengths, "resets": resets, "reverse": k % 3 == 0}
        chosen.append((make(kind, T, B, 7, H, dtype=torch.float32), options))
    return chosen


@any_threads
def test_several_python_threads_at_once_each_get_their_own_answer(threads: int) -> None:
    chosen = _different_calls()
    expected = [run(*given, backend="reference", **options) for given, options in chosen]

    def call(k: int) -> tuple[int, dict[str, Tensor]]:
        torch.set_num_threads(threads)  # it holds for the Python thread that says it
        given, options = chosen[k % len(chosen)]
        return k % len(chosen), run(*given, **options)

    with ThreadPoolExecutor(4) as pool:
        for k, got in pool.map(call, range(5 * len(chosen))):
            (cell, x, _), _ = chosen[k]
            assert_close_by_name(got, expected[k], steps_of_rounding(cell, len(x)))


def test_one_cell_may_be_used_by_several_python_threads_at_once() -> None:
    cell, _, state = make("LSTM", 20, 3, 7, 33)
    inputs = [torch.randn(20, 3, 7).double() for _ in range(4)]

    def call(x: Tensor) -> Tensor:
        (y,), _ = scan(cell, x, state, ScanOptions(backend="native"))
        return torch.autograd.grad(y.exp().sum(), cell.weight_hh)[0]

    alone = [call(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = pool.map(call, inputs)
            assert all(torch.equal(t, a) for t, a in zip(together, alone, strict=True))


def test_other_python_threads_run_while_a_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, x, _ = make("LSTM", 100, 64, 32, 256, dtype=torch.float32)
    counted, ticks, done = [], [0], threading.Event()
    look_up = library.kernel

    @functools.cache
    def watched(name: str, dtype: torch.dtype) -> library.Kernel:
        found = look_up(name, dtype)

        def forward(call: bytes) -> None:
            before = ticks[0]
            found.forward(call)
            counted.append(("forward", ticks[0] - before))

        def backward(call: bytes) -> None:
            before = ticks[0]
            found.backward(call)
            counted.append(("backward", ticks[0] - before))

        return found._replace(forward=forward, backward=backward)

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(1e-3)

    monkeypatch.setattr(library, "kernel", watched)
    monkeypatch.setattr(calls, "_work_sizes", {})
    usual = sys.getswitchinterval()
    other = threading.Thread(target=tick)
    other.start()
    sys.setswitchinterval(100)  # no thread is interrupted: one runs only if the other lets go
    try:
        (y,), _ = scan(cell, x, None, ScanOptions(backend="native"))
        y.sum().backward()
    finally:
        sys.setswitchinterval(usual)
        done.set()
        other.join()
    assert [name for name, _ in counted] == ["forward", "backward"]
    assert all(count > 0 for _, count in counted), counted
