"""Training and inference: every cell, size and number of directions."""

from collections.abc import Iterator, Sequence

import torch

from benchmarks.layers import on_torch
from benchmarks.layers.measuring import Contestant, Problem, Row, compare, fixed_input, timed
from benchmarks.layers.peers import installed

Sizes = Sequence[tuple[int, int, int]]
SIZES: Sizes = (
    (100, 1, 32),
    (100, 1, 128),
    (100, 16, 64),
    (100, 32, 128),
    (100, 64, 256),
    (50, 64, 512),
    (20, 128, 1024),
)
SMALLEST: Sizes = ((3, 2, 5),)


def problems(mode: str, cells: Sequence[str], sizes: Sizes) -> Iterator[Problem]:
    for directions in (1, 2):
        for cell in cells:
            for T, B, H in sizes:
                yield Problem(mode, cell, T, B, H, directions, mode)


def measure(problem: Problem, rounds: int) -> list[Row]:
    with torch.set_grad_enabled(problem.mode == "training"):
        found = contestants(problem)
        compare(problem, found)
        return timed(problem, found, rounds)


def contestants(problem: Problem) -> list[Contestant]:
    """``torch.nn`` first: the others are compared with it."""
    layer = on_torch.layer_of(problem)
    drop_in = on_torch.drop_in_of(layer, problem.cell)
    x, cotangent = fixed_input(problem)
    if problem.mode == "training":
        found = [
            on_torch.training("torch.nn", layer, x, cotangent),
            on_torch.training("unrolled", drop_in, x, cotangent),
        ]
        if installed("JAX"):
            from benchmarks.layers import on_jax

            found.append(on_jax.training(problem.cell, layer, x, cotangent))
        return found
    found = [
        on_torch.inference("torch.nn", layer.eval(), x),
        on_torch.inference("unrolled", drop_in.eval(), x),
    ]
    if installed("JAX"):
        from benchmarks.layers import on_jax

        found.append(on_jax.inference(problem.cell, layer, x))
    if installed("ONNX Runtime"):
        from benchmarks.layers import on_onnx

        found.append(on_onnx.inference(problem.cell, layer, x))
    return found
