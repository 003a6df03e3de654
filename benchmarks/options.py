"""What each option costs: a training step with it, over one of the same layer without it.

    python -m benchmarks.options [--rounds N] [--cells NAME …] [--sizes T,B,H …] [--smallest]
                                 [--json FILE]

Forward and backward through ``Recurrent`` in training, float32, D = H. Before anything is timed, the
path that runs is compared with the reference, which meets the same random numbers. What is judged is
what needs a kernel of its own or work beside it: layer normalisation, the dropouts, zoneout. An option
between layers is held against two plain layers. Of mask, resets and lengths, what is masked or beyond
the end costs nothing, so their ratio may be below one.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.cells import seconds
from benchmarks.layers.tables import SMALLEST
from unrolled import Recurrent, cells, explain
from unrolled.scan.native import library

SIZES = ((100, 32, 128), (100, 16, 64))
CHECKED = (12, 5, 24)
CELLS = {"Elman": cells.Elman, "LSTM": cells.LSTM, "GRU": cells.GRU}
AT_MOST = 1.5
TWO: Mapping[str, Any] = {"depth": 2}

Size = tuple[int, int, int]


class Option(NamedTuple):
    """``layer``: what ``Recurrent`` is given; ``call``: its call, for so many steps and sequences."""

    layer: Mapping[str, Any] = {}
    call: Callable[[int, int], Mapping[str, Any]] = lambda _steps, _sequences: {}
    against: Mapping[str, Any] = {}
    judged: bool = False


OPTIONS = {
    "layer norm": Option({"layer_norm": True}, judged=True),
    "variational dropout": Option({"variational_dropout": 0.3}, judged=True),
    "recurrent dropout": Option({"recurrent_dropout": 0.3}, judged=True),
    "weight drop": Option({"weight_drop": 0.5}, judged=True),
    "zoneout": Option({"zoneout": 0.1}, judged=True),
    "forget bias": Option({"forget_bias": 1.0}, judged=True),
    "residual": Option({"residual": True, **TWO}, against=TWO),
    "highway": Option({"residual": "highway", **TWO}, against=TWO),
    "projection to 32": Option({"projection": 32}),
    "learnt initial state": Option({"learn_initial_state": True}),
    "mask, a tenth": Option(
        call=lambda steps, batch_size: {"mask": torch.rand(steps, batch_size) > 0.1}
    ),
    "resets, every 20th": Option(
        call=lambda steps, batch_size: {"resets": torch.rand(steps, batch_size) < 0.05}
    ),
    "lengths, 1 to T": Option(
        call=lambda steps, batch_size: {"lengths": torch.linspace(1, steps, batch_size).long()}
    ),
    "states": Option(call=lambda _steps, _sequences: {"states": True}),
}


class Step:
    """A training step, a layer and its input: outputs and every gradient."""

    def __init__(self, cell: str, size: Size, option: Option, dtype: torch.dtype) -> None:
        T, B, H = size
        torch.manual_seed(0)
        self.layer = Recurrent(CELLS[cell], H, H, **option.layer).to(dtype)
        self.x = torch.randn(T, B, H, dtype=dtype, requires_grad=True)
        self.d_y = torch.randn(T, B, self.layer.output_size, dtype=dtype)
        self.call = option.call(T, B)

    def __call__(self) -> list[Tensor]:
        y = self.layer(self.x, **self.call).y
        wanted = [self.x, *self.layer.parameters()]
        return [y, *torch.autograd.grad(y, wanted, self.d_y)]

    def path(self) -> str:
        """The path that runs and, if it is the reference, why."""
        where = {name: value for name, value in self.call.items() if name != "states"}
        told = explain(self.layer, self.x, **where)
        return ": ".join([told.path, *told.reasons])


def applies(cell: str, option: Option) -> bool:
    """Whether the cell has the option: a forget bias is the LSTM's alone."""
    return cell == "LSTM" or "forget_bias" not in option.layer


def compare(cell: str, option: Option) -> float:
    """How far a step is from the reference's, of the largest number of each tensor; in float64."""
    step = Step(cell, CHECKED, option, torch.float64)
    found = []
    for step.layer.backend in ("auto", "reference"):
        torch.manual_seed(1)
        found.append([tensor.detach() for tensor in step()])
    pairs = zip(*found, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


def size_of(text: str) -> Size:
    T, B, H = map(int, text.split(","))
    return T, B, H


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, time, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.options", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--sizes", nargs="+", type=size_of, default=SIZES, metavar="T,B,H")
    results.add_options(parser)
    given = parser.parse_args(arguments)
    names, sizes, rounds = given.cells, given.sizes, given.rounds
    if given.smallest:
        names, sizes, rounds = ["Elman"], SMALLEST, 1
    print(
        f"{library.instruction_set()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'cell':8}{'T, B, H':>16}  {'option':24}{'ms':>9}{'of plain':>10}  path")
    rows: list[dict[str, Any]] = []
    missed = []
    for cell in names:
        options = {name: o for name, o in OPTIONS.items() if applies(cell, o)}
        for name, option in options.items():
            error = compare(cell, option)
            assert error < 1e-9, f"{cell}, {name}: path and reference differ by {error:.1e}"
        plain = {"plain": Option(), "two layers": Option(TWO)}
        for size in sizes:
            steps = {n: Step(cell, size, o, torch.float32) for n, o in (plain | options).items()}
            times = seconds({name: step.__call__ for name, step in steps.items()}, rounds)
            for name, step in steps.items():
                option = options.get(name, Option())
                against = "two layers" if option.against else "plain"
                ratio = median(times[name]) / median(times[against])
                path = step.path()
                rows.append(
                    {"cell": cell, "size": size, "option": name, "path": path}
                    | {"against": against, "ratio": ratio, "seconds": times[name]}
                )
                print(
                    f"{cell:8}{', '.join(map(str, size)):>16}  {name:24}"
                    f"{median(times[name]) * 1e3:9.3f}"
                    f"{f'{ratio:.2f}' if name in options else '':>10}  {path}",
                    flush=True,
                )
                results.write(given.json, {"machine": results.machine(), "rows": rows})
                if option.judged and ratio > AT_MOST:
                    missed.append(f"{cell} {size}, {name}: {ratio:.2f} of {AT_MOST}")
    print("\nmissed: " + ("; ".join(missed) or "nothing"))


if __name__ == "__main__":
    main()
