"""Hold a cell to its paper: to equations written in NumPy, and to finite differences."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tests.compare import check_derivatives, scanned
from unrolled.cells import Cell, GatedCell, State
from unrolled.cells.facts import Onnx, Retain
from unrolled.scan import ScanOptions, scan

T, B, D, H = 6, 3, 8, 5

Weights = Mapping[str, np.ndarray]
Step = Callable[..., tuple[np.ndarray, ...]]
"""(weights by name, x_t ``[B, D]``, *state) -> the next state."""


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def blocks(weight: np.ndarray, count: int) -> list[np.ndarray]:
    """The ``count`` blocks of rows of a weight, or of entries of a bias."""
    return np.split(weight, count)


def drawn(cell: Cell) -> Cell:
    """``cell`` in float64, every parameter random, so that none is hidden by a zero."""
    cell = cell.double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.5)
    return cell


def weights_of(cell: Cell) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in cell.named_parameters()}


def inputs(cell: Cell, steps: int = T, batch_size: int = B) -> tuple[Tensor, State]:
    """A random x and a random state to start from, in float64."""
    x = torch.randn(steps, batch_size, cell.input_size, dtype=torch.float64)
    return x, tuple(torch.randn(batch_size, size, dtype=x.dtype) for size in cell.state_sizes)


def check_equations(cell: Cell, step: Step) -> None:
    """Fail unless every state at every step of a scan is that of a loop of ``step``, to 1e-12.

    In float64, with states of about 1 and T = 6, rounding explains about 1e-14.
    """
    cell = drawn(cell)
    x, start = inputs(cell)
    states, final = scan(cell, x, start, ScanOptions(return_states=True, backend="reference"))
    weights, state = weights_of(cell), tuple(s.numpy() for s in start)
    for t in range(T):
        state = step(weights, x[t].numpy(), *state)
        for k, expected in enumerate(state):
            got = states[k][t].detach().numpy()
            np.testing.assert_allclose(got, expected, 1e-12, 1e-12, err_msg=f"state {k}, step {t}")
    for k, (got, expected) in enumerate(zip(final, state, strict=True)):
        np.testing.assert_allclose(
            got.detach().numpy(), expected, 1e-12, 1e-12, err_msg=f"final {k}"
        )


def check_gradients(cell: Cell) -> None:
    """Fail unless the scan's first and second derivatives are those of finite differences."""
    cell = drawn(cell)
    x, start = inputs(cell, steps=3, batch_size=2)
    check_derivatives(
        cell,
        lambda cell, x, *state: scanned(cell, x, state, ScanOptions(backend="reference")),
        x,
        *start,
    )


def jacobian(cell: Cell, x: Tensor, state: State) -> Tensor:
    """∂(next state)/∂(state) of one step with x ``[D]``, all the state's tensors in one row."""
    sizes = list(cell.state_sizes)
    projected = cell.project(x.unsqueeze(0))

    def step(flat: Tensor) -> Tensor:
        return torch.cat(cell.step(projected, flat.unsqueeze(0).split(sizes, 1)), 1).squeeze(0)

    return torch.func.jacrev(step)(torch.cat(state))


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Fail unless ``values`` look drawn from U(low, high): their ends, mean and spread.

    The bounds on mean and spread are 5 standard errors, those on the ends 20 gaps wide.
    """
    n, width = values.numel(), high - low
    assert values.min() >= low and values.max() <= high
    assert values.min() <= low + 20 * width / n
    assert values.max() >= high - 20 * width / n
    spread = width / math.sqrt(12)
    assert abs(values.mean().item() - (low + high) / 2) < 5 * spread / math.sqrt(n)
    assert abs(values.std().item() - spread) < 5 * spread / math.sqrt(n)


def assert_normal(values: Tensor, std: float) -> None:
    """Fail unless ``values`` look drawn from N(0, std²): mean, spread, and share within one std.

    The bounds are 5 standard errors.
    """
    error = 5 / math.sqrt(values.numel())
    assert abs(values.mean().item()) < error * std
    assert abs(values.std().item() - std) < error * std
    assert abs((values.abs() < std).double().mean().item() - 0.6827) < error / 2


class ResetFirst(GatedCell):
    """The GRU of the final version of Cho et al., EMNLP 2014: r multiplies h before the product."""

    blocks, candidate = ("r", "z", "n"), "n"
    retain = Retain("z")
    onnx = Onnx("GRU", ("z", "r", "n"), {"linear_before_reset": 0})

    def project(self, x):
        return self.of_input(x, self.bias())

    def next_state(self, u, h, state):
        (before,) = state
        u_r, u_z, u_n = u.chunk(3, -1)
        w_r, w_z, w_n = self.weight_hh.chunk(3)
        r, z = torch.sigmoid(u_r + h @ w_r.T), torch.sigmoid(u_z + h @ w_z.T)
        n = torch.tanh(u_n + (r * h) @ w_n.T)
        return (z * before + (1 - z) * n,)
