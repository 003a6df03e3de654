"""Sensible weights: what the papers promise of them."""

import pytest
import torch

from unrolled import Recurrent, cells
from unrolled.cells import Cell
from unrolled.remedies import sensible_weights

D, H = 7, 13
GATES = {cells.Elman: 1, cells.GRU: 3, cells.LSTM: 4}


def layer(cell: type[Cell], **options: object) -> Recurrent:
    made = Recurrent(cell, D, H, depth=2, bidirectional=True, **options)  # type: ignore[arg-type]
    return sensible_weights(made.double())


@pytest.mark.parametrize("cell", GATES)
def test_each_gate_of_w_is_orthogonal_in_every_layer_and_direction(cell: type[Cell]) -> None:
    blocks = [w for c in layer(cell).cells for w in c.weight_hh.chunk(GATES[cell])]
    assert len(blocks) == 4 * GATES[cell]
    for w in blocks:
        torch.testing.assert_close(w.T @ w, torch.eye(H, dtype=torch.float64))
    assert not any(torch.equal(a, b) for k, a in enumerate(blocks) for b in blocks[:k])


def test_a_product_of_many_neither_vanishes_nor_explodes() -> None:
    (w, *_) = (c.weight_hh for c in layer(cells.Elman).cells)
    x = torch.randn(H, dtype=torch.float64)
    torch.testing.assert_close((torch.linalg.matrix_power(w, 1000) @ x).norm(), x.norm())


def test_w_is_the_identity_for_relu() -> None:
    for c in layer(cells.Elman, activation="relu").cells:
        assert torch.equal(c.weight_hh, torch.eye(H, dtype=torch.float64))


@pytest.mark.parametrize("cell", GATES)
def test_each_gate_of_u_is_glorot_uniform(cell: type[Cell]) -> None:
    for k, c in enumerate(layer(cell).cells):
        width = D if k < 2 else 2 * H
        bound = (6 / (width + H)) ** 0.5
        for u in c.weight_ih.chunk(GATES[cell]):
            assert u.abs().max() <= bound
            # Of 91 draws and more from U(-b, b): one is above 0.8 b, and they differ in sign.
            assert u.max() > 0.8 * bound and u.min() < -0.8 * bound


@pytest.mark.parametrize("cell", GATES)
def test_biases_are_0_but_the_forget_gates_sum_to_1(cell: type[Cell]) -> None:
    for c in layer(cell).cells:
        total = (c.bias_ih + c.bias_hh).chunk(GATES[cell])
        for gate, bias in enumerate(total):
            forget = cell is cells.LSTM and gate == 1
            assert torch.equal(bias, torch.full_like(bias, float(forget)))


def test_cells_without_a_bias_are_served() -> None:
    (w, *_) = (c.weight_hh for c in layer(cells.LSTM, bias=False).cells)
    torch.testing.assert_close(w[:H].T @ w[:H], torch.eye(H, dtype=torch.float64))


def test_a_cell_of_ones_own_is_left_as_it_is() -> None:
    class Sum(Cell):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__(input_size, hidden_size)
            self.weight_hh = torch.nn.Parameter(torch.ones(hidden_size, hidden_size))

    made = sensible_weights(Recurrent(Sum, D, H))
    assert torch.equal(made.cells[0].weight_hh, torch.ones(H, H))


def test_it_works_in_place_and_parameters_still_learn() -> None:
    made = Recurrent(cells.GRU, D, H)
    assert sensible_weights(made) is made
    assert all(p.requires_grad and p.is_leaf for p in made.parameters())
