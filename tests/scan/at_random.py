"""A call of a kernel of which everything is drawn, held against the reference and the serial kernel.

One that fails names the command that runs it alone:

    python -m tests.scan.at_random --set avx2 --cell LSTM --shape 3 5 2 7 --seed 12
"""

import argparse
import random
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.compare import assert_close_by_name
from tests.examples import rerun
from tests.scan.calls import CELLS, make, run, steps_of_rounding
from unrolled.scan.native import library


class Drawn(NamedTuple):
    """What is drawn by name; ``seed`` draws all the rest."""

    instructions: str
    cell: str
    shape: tuple[int, int, int, int]  # T, B, D, H
    seed: int

    @property
    def command(self) -> str:
        """It, and nothing else, from the root of the repository."""
        shape = " ".join(map(str, self.shape))
        return (
            f".venv/bin/python -m tests.scan.at_random --set {self.instructions} "
            f"--cell {shlex.quote(self.cell)} --shape {shape} --seed {self.seed}"
        )


def check(call: Drawn) -> None:
    """Every number of the call is the reference's, and the serial kernel's; or the line to rerun it."""
    with rerun(call.command):
        _check(call)


def _check(call: Drawn) -> None:
    source, (T, B, D, H) = random.Random(call.seed), call.shape
    torch.manual_seed(call.seed)
    dtype = source.choice([torch.float32, torch.float64])
    bias, start, reverse, every, ragged, reset, strided = source.choices([False, True], k=7)
    cell, x, state = make(call.cell, T, B, D, H, dtype=dtype, bias=bias)
    names = ["x", *(["h_0", "c_0"][: len(state)] if start else []), *dict(cell.named_parameters())]
    options: dict[str, Any] = {
        "lengths": torch.randint(0, T + 1, (B,)) if ragged else None,
        "resets": torch.rand(T, B) < source.choice([0.1, 0.5, 1]) if reset else None,
        "reverse": reverse,
        "return_states": every,
        "wanted": source.sample(names, source.randint(1, len(names))),
    }
    if strided:
        x, options["view"] = x.transpose(0, 1).contiguous(), _transposed
    given, threads = state if start else None, source.randint(1, 3)
    with library.using(call.instructions):
        torch.set_num_threads(threads)
        try:
            got = run(cell, x, given, **options)
        finally:
            torch.set_num_threads(1)
    expected = run(cell, x, given, backend="reference", **options)
    assert_close_by_name(got, expected, steps_of_rounding(cell, T))
    with library.using("serial"):
        serial = run(cell, x, given, **options)
    assert_close_by_name(got, serial, steps_of_rounding(cell, T))


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """One call, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.scan.at_random")
    parser.add_argument("--set", required=True, choices=library.built())
    parser.add_argument("--cell", required=True, choices=sorted(CELLS))
    parser.add_argument("--shape", required=True, type=int, nargs=4, metavar=("T", "B", "D", "H"))
    parser.add_argument("--seed", required=True, type=int)
    given = parser.parse_args(arguments)
    check(Drawn(given.set, given.cell, tuple(given.shape), given.seed))


if __name__ == "__main__":
    main()
