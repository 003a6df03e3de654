"""What watching costs: a training step inside ``unrolled.watch``, over the same step without it.

    python -m benchmarks.lens [--rounds N] [--sizes T,B,H …] [--smallest] [--json FILE]

Forward and backward of the drop-in layers, float32, D = H, on the sizes of ``benchmarks.layers``. Both are
timed in turn, and the median of the ratios counts. When nothing watches, a layer looks at one attribute a
call.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import geometric_mean, median
from typing import Any

import torch
from torch import nn

import unrolled
from benchmarks import results
from benchmarks.cells import seconds
from benchmarks.layers.tables import SIZES, SMALLEST

LAYERS: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "RNN": unrolled.RNN,
    "LSTM": unrolled.LSTM,
    "GRU": unrolled.GRU,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of each size (7)")
    parser.add_argument("--sizes", nargs="+", metavar="T,B,H", help="by default all")
    results.add_options(parser)
    given = parser.parse_args(arguments)
    sizes = [tuple(map(int, text.split(","))) for text in given.sizes] if given.sizes else SIZES
    rounds = given.rounds
    if given.smallest:
        sizes, rounds = SMALLEST, 1
    rows = []
    print(f"{'T, B, H':<16} " + " ".join(f"{name:>7}" for name in LAYERS))
    for steps, batch_size, units in sizes:
        ratios = {n: measured(kind, steps, batch_size, units, rounds) for n, kind in LAYERS.items()}
        rows.append({"T": steps, "B": batch_size, "H": units, **ratios})
        results.write(given.json, rows)
        shown = " ".join(f"{ratio:>7.3f}" for ratio in ratios.values())
        print(f"{f'{steps}, {batch_size}, {units}':<16} {shown}", flush=True)
    means = " ".join(f"{geometric_mean(float(row[n]) for row in rows):>7.3f}" for n in LAYERS)
    print(f"{'geometric mean':<16} {means}")


def measured(
    kind: Callable[[int, int], nn.RNNBase], steps: int, batch_size: int, units: int, rounds: int
) -> float:
    """The median ratio of a watched step to a plain one."""
    torch.manual_seed(0)
    layer, x = kind(units, units), torch.randn(steps, batch_size, units)

    def step(around: Callable[[], Any]) -> Callable[[], None]:
        def once() -> None:
            layer.zero_grad()
            with around():
                torch.autograd.backward(layer(x)[0].sum())

        return once

    calls = {"plain": step(nullcontext), "watched": step(lambda: unrolled.watch(layer))}
    found = seconds(calls, rounds)
    return median(w / p for w, p in zip(found["watched"], found["plain"], strict=True))


if __name__ == "__main__":
    main()
