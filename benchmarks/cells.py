"""Every cell, compiled, beside the same step as a Python loop over PyTorch operations.

    python -m benchmarks.cells [--rounds N] [--cells NAME …] [--smallest] [--json FILE]

Training: the scan of a whole sequence, forward and backward, in float32, D = H. Before anything is
timed the two are compared. Two cells are known to this file alone, and ``CopiedLSTM`` is the library's
LSTM as a user would write it, held against the built-in one. Cells without a product are held against
what the memory moves as well.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import results
from benchmarks.layers.tables import SMALLEST, Sizes
from unrolled import cells
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, scan
from unrolled.scan.native import library

SIZES: Sizes = ((100, 16, 64), (100, 64, 256))
AT_LEAST = {SIZES[0]: 10.0, SIZES[1]: 3.0}
COPIED = 2**26  # numbers
COPY_AT_LEAST = 0.95
ELEMENTWISE = ("IndRNN", "UnICORNN", "MinGRU", "MinLSTM", "LRU")
PAUSE = 0.005


class _Affine(Cell):
    """U x_t + b in ``blocks`` blocks, and a weight ``[blocks*H, H]`` for the state."""

    blocks = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        rows = self.blocks * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih, self.bias)


class UGRNN(_Affine):
    """The update-gate network. Source: Collins, Sohl-Dickstein & Sussillo, ICLR 2017."""

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        g, c = (projected + h @ self.weight_hh.T).chunk(2, -1)
        g = torch.sigmoid(g)
        return (g * h + (1 - g) * torch.tanh(c),)


class CFN(_Affine):
    """The chaos-free network, its input as a third block. Source: Laurent & von Brecht, ICLR 2017."""

    blocks = 3

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        w_theta, w_eta, _ = self.weight_hh.chunk(3)
        u_theta, u_eta, u = projected.chunk(3, -1)
        theta = torch.sigmoid(u_theta + h @ w_theta.T)
        eta = torch.sigmoid(u_eta + h @ w_eta.T)
        return (theta * torch.tanh(h) + eta * torch.tanh(u),)


class CopiedLSTM(_Affine):
    """The LSTM, as a user would write it."""

    blocks = 4

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def step(self, projected: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (projected + h @ self.weight_hh.T).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


BUILT_IN = ("Elman", "LSTM", "GRU")
OWN = (UGRNN, CFN, CopiedLSTM)


def every_cell() -> dict[str, Callable[[int, int], Cell]]:
    """All cells of the library, and those of this file."""
    abstract = ("Cell", "GatedCell")
    kinds = [getattr(cells, name) for name in cells.__all__ if name not in abstract]
    kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Cell)]
    return {kind.__name__: kind for kind in (*kinds, *OWN)}


def looped(cell: Cell, x: Tensor) -> Tensor:
    """The states' first tensor at every step, by a Python loop."""
    projected = cell.project(x).unbind(0)
    state = cell.initial_state(x.shape[1], projected[0])
    outputs = []
    for p in projected:
        state = cell.step(p, state)
        outputs.append(state[0])
    return torch.stack(outputs)


def compiled(cell: Cell, x: Tensor) -> Tensor:
    """The same by the kernel."""
    states, _ = scan(cell, x, None, ScanOptions(return_states=True, backend="native"))
    return states[0]


def trained(
    run: Callable[[Cell, Tensor], Tensor], cell: Cell, x: Tensor, d_y: Tensor
) -> list[Tensor]:
    """Outputs and gradients."""
    y = run(cell, x)
    parameters = [x, *cell.parameters()]
    gradients = torch.autograd.grad(y, parameters, d_y, allow_unused=True, materialize_grads=True)
    return [y, *gradients]


def seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Of each call, a round each, one after another so that all meet the same machine."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    counts = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        counts[name] = max(1, int(0.03 / (time.perf_counter() - start)))
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()
            start = time.perf_counter()
            for _ in range(counts[name]):
                call()
            found[name].append((time.perf_counter() - start) / counts[name])
    return found


def compare(kind: Callable[[int, int], Cell], size: tuple[int, int, int]) -> float:
    """How far the kernel is from the loop, of the largest number of each; in float64."""
    T, B, H = size
    torch.manual_seed(0)
    cell = kind(H, H).double()
    x = torch.randn(T, B, H, dtype=torch.float64, requires_grad=True)
    d_y = torch.randn(T, B, H, dtype=torch.float64)
    pairs = zip(trained(compiled, cell, x, d_y), trained(looped, cell, x, d_y), strict=True)
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-300))
        for a, b in pairs
    )


def timed(name: str, size: tuple[int, int, int], rounds: int) -> dict[str, list[float]]:
    """Seconds of a training step by the kernel and by the loop; of the copy, by the built-in cell too."""
    torch.manual_seed(0)
    H = size[-1]
    cell, x = every_cell()[name](H, H), torch.randn(size, requires_grad=True)
    d_y = torch.randn(size)
    calls: dict[str, Callable[[], Any]] = {
        "kernel": lambda: trained(compiled, cell, x, d_y),
        "loop": lambda: trained(looped, cell, x, d_y),
    }
    if name == CopiedLSTM.__name__:
        built_in = cells.LSTM(H, H)
        calls["built-in"] = lambda: trained(compiled, built_in, x, d_y)
    return seconds(calls, rounds)


def bandwidth(rounds: int, numbers: int = COPIED) -> float:
    """GB/s of a large copy, read and written."""
    source = torch.randn(numbers)
    target = torch.empty_like(source)
    times = seconds({"copy": lambda: target.copy_(source)}, rounds)["copy"]
    return 2 * source.numel() * 4 / min(times) / 1e9


def least_bytes(kind: str, size: tuple[int, int, int]) -> int:
    """What a training step of a cell without product moves at least, if nothing is kept twice.

    Forward, the projection is written and read and each state written; backward, what is kept is read
    (as much as the projection), the states and the output's gradient are read, and the projection's
    gradient is written and read once.
    """
    T, B, H = size
    cell = every_cell()[kind](H, H)
    blocks = cell.project(torch.zeros(1, H)).shape[1] // H
    states = len(cell.state_sizes)
    return 4 * T * B * H * (2 * blocks + states + blocks + states + 1 + 2 * blocks)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, time, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cells", nargs="+", choices=sorted(every_cell()), default=None)
    results.add_options(parser)
    given = parser.parse_args(arguments)
    names, sizes, rounds, copied = given.cells or every_cell(), SIZES, given.rounds, COPIED
    if given.smallest:  # a cell without a product, and one held against the built-in
        names, sizes, rounds, copied = ("IndRNN", CopiedLSTM.__name__), SMALLEST, 1, 2**10
    print(
        f"{library.instruction_set()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    moved = bandwidth(rounds, copied)
    print(f"a large copy moves {moved:.0f} GB/s")
    print(f"{'cell':18}{'T, B, H':>16}{'kernel ms':>11}{'loop ms':>10}{'ratio':>8}{'of copy':>9}")
    rows: list[dict[str, Any]] = []
    missed = []
    for name in names:
        kind = every_cell()[name]
        error = compare(kind, (12, 5, 24))
        assert error < 1e-9, f"{name}: kernel and loop differ by {error:.1e}"
        for size in sizes:
            T, B, H = size
            times = timed(name, size, rounds)
            middle = {who: median(found) for who, found in times.items()}
            ratio = middle["loop"] / middle["kernel"]
            row: dict[str, Any] = {"cell": name, "size": size, "ratio": ratio, "seconds": times}
            share = ""
            if name in ELEMENTWISE:
                row["bandwidth"] = least_bytes(name, size) / middle["kernel"] / 1e9
                share = f"{row['bandwidth'] / moved:9.0%}"
            print(
                f"{name:18}{f'{T}, {B}, {H}':>16}{middle['kernel'] * 1e3:11.3f}"
                f"{middle['loop'] * 1e3:10.2f}{ratio:8.1f}{share}",
                flush=True,
            )
            if ratio < AT_LEAST.get(size, 0.0):
                missed.append(f"{name} {size}: {ratio:.1f} of {AT_LEAST[size]:.0f}")
            if "built-in" in middle:
                row["of_built_in"] = middle["built-in"] / middle["kernel"]
                print(f"{'':18}{'of the built-in':>16}{row['of_built_in']:11.2f}")
                if row["of_built_in"] < COPY_AT_LEAST:
                    missed.append(f"CopiedLSTM {size}: {row['of_built_in']:.2f} of the built-in")
            rows.append(row)
            found = {"machine": results.machine(), "copy": moved, "rows": rows}
            results.write(given.json, found)
    print("\nmissed: " + ("; ".join(missed) or "nothing"))


if __name__ == "__main__":
    main()
