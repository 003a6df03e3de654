"""The Hamiltonian oscillators against their equations: volume, inverse, Hamiltonian."""

import math

import numpy as np
import torch
from torch import Tensor

from tests.cells.papers import (
    B,
    D,
    H,
    assert_uniform,
    check_equations,
    check_gradients,
    drawn,
    inputs,
    jacobian,
    sigmoid,
)
from tests.compare import assert_close_by_name, run_by_hand
from unrolled.cells import UnICORNN

DT, ALPHA = 0.4, 1.3


def unicornn(w, x, y, z):
    tau = DT * sigmoid(w["time"])
    z = z - tau * (np.tanh(w["weight_hh"] * y + x @ w["weight_ih"].T + w["bias"]) + ALPHA * y)
    return y + tau * z, z


def test_it_is_its_equations() -> None:
    check_equations(UnICORNN(D, H, dt=DT, alpha=ALPHA), unicornn)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(UnICORNN(2, 3, dt=DT, alpha=ALPHA))


def test_a_step_preserves_volume_and_does_not_mix_units() -> None:
    cell = drawn(UnICORNN(D, H, dt=DT, alpha=ALPHA))
    x, (y, z) = inputs(cell)
    found = jacobian(cell, x[0, 0], (y[0], z[0]))
    torch.testing.assert_close(torch.linalg.det(found), torch.tensor(1.0).double())
    for block in (found[:H, :H], found[:H, H:], found[H:, :H], found[H:, H:]):
        assert torch.equal(block, torch.diag(block.diagonal()))
        assert block.any()


def test_its_steps_can_be_taken_back() -> None:
    cell = drawn(UnICORNN(D, H, dt=DT, alpha=ALPHA))
    x, start = inputs(cell, steps=100)
    _, (y, z) = run_by_hand(cell, x, start)
    tau = DT * torch.sigmoid(cell.time)
    for u in cell.project(x).flip(0):
        y = y - tau * z
        z = z + tau * (torch.tanh(cell.weight_hh * y + u) + ALPHA * y)
    assert_close_by_name({"y": y, "z": z}, dict(zip("yz", start, strict=True)), 100)


def hamiltonian(cell: UnICORNN, u: Tensor, y: Tensor, z: Tensor) -> Tensor:
    w = cell.weight_hh
    return (cell.alpha * y**2 + z**2) / 2 + torch.log(torch.cosh(w * y + u)) / w


def test_with_a_constant_input_the_hamiltonian_drifts_by_the_order_of_the_step_alone() -> None:
    drifts = []
    for dt in (0.05, 0.025):
        cell = drawn(UnICORNN(D, H, dt=dt, alpha=ALPHA))
        with torch.no_grad():
            cell.weight_hh.copy_(torch.linspace(0.5, 2, H))
            cell.time.zero_()
        u = torch.linspace(-1, 1, H).double().expand(B, H)
        state = (torch.ones(B, H).double(), torch.ones(B, H).double())
        start, worst = hamiltonian(cell, u, *state), 0.0
        for _ in range(round(20 / dt)):
            state = cell.step(u, state)
            drift = (hamiltonian(cell, u, *state) - start).abs().max().item()
            worst = max(worst, drift)
        drifts.append(worst / start.min().item())
    assert drifts[0] < 0.1
    assert 0.4 < drifts[1] / drifts[0] < 0.6


def test_its_weights_are_drawn_as_in_the_authors_code() -> None:
    cell = UnICORNN(200, 500)
    bound = math.sqrt(6 / (1 + 8**2) / 200)
    assert_uniform(cell.weight_ih.detach(), -bound, bound)
    assert_uniform(cell.weight_hh.detach(), 0, 1)
    assert_uniform(cell.time.detach(), -0.1, 0.1)
    assert not cell.bias.any()


def test_it_shows_its_constants() -> None:
    assert repr(UnICORNN(D, H, alpha=9)) == "UnICORNN(8, 5, dt=0.1, alpha=9)"
