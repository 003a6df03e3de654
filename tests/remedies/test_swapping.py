"""Swaps: how near the new layer is to the old one, and that it takes everything else over."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import unrolled
from unrolled import Recurrent, cells, layers
from unrolled.remedies import as_gru, as_lstm, sensible_weights_, with_activation
from unrolled.remedies.weights import cells_of

T, B, D, H = 12, 3, 4, 7
OPTIONS = {"num_layers": 2, "bidirectional": True, "batch_first": True}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Recurrent": lambda: Recurrent(cells.Elman, D, H, depth=2, bidirectional=True, merge="mean"),
    "sizes": lambda: Recurrent(cells.Elman, D, [H, 3], learn_initial_state=True),
    "drop-in layer": lambda: unrolled.RNN(D, H, **OPTIONS),
    "torch": lambda: nn.RNN(D, H, **OPTIONS),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
both = pytest.mark.parametrize("swap", [as_gru, as_lstm], ids=["GRU", "LSTM"])


def one(**options: object) -> Recurrent:
    return Recurrent(cells.Elman, D, H, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("gate_bias", [2.0, 5.0, 20.0])
def test_a_step_of_the_gru_is_within_2z_of_the_old_one(gate_bias: float) -> None:
    layer = one()
    swapped = as_gru(layer, gate_bias=gate_bias)
    x = 3 * torch.randn(1, 200, D).double()
    start = 2 * torch.rand(1, 200, H).double() - 1
    (y, _), (expected, _) = swapped(x, (start,)), layer(x, (start,))
    z = 1 / (1 + math.exp(gate_bias))
    difference = (y - expected).abs()
    assert difference.max() <= 2 * z + 1e-15
    assert difference.max() > 0.5 * z  # so the limit is no idle one
    torch.testing.assert_close(y, (1 - z) * expected + z * start)


@pytest.mark.parametrize("gate_bias", [3.0, 8.0])
def test_many_steps_of_the_gru_are_within_the_sum_of_the_norms(gate_bias: float) -> None:
    layer = one()
    x, z = torch.randn(T, B, D).double(), 1 / (1 + math.exp(gate_bias))
    difference = (as_gru(layer, gate_bias=gate_bias)(x)[0] - layer(x)[0]).abs()
    gain = layer.cells[0].weight_hh.abs().sum(1).max().item()
    for t in range(T):
        assert difference[t].max() <= 2 * z * sum(gain**k for k in range(t + 1)) + 1e-14


@pytest.mark.parametrize("gate_bias", [2.0, 5.0, 20.0])
def test_a_step_of_the_lstm_is_within_3_epsilon_of_tanh_of_the_old_one(gate_bias: float) -> None:
    layer = one()
    swapped = as_lstm(layer, gate_bias=gate_bias)
    x = 3 * torch.randn(1, 200, D).double()
    h = 2 * torch.rand(1, 200, H).double() - 1
    c = 2 * torch.rand(1, 200, H).double() - 1  # |c| ≤ 1, as it stays
    (y, (_, c_n)), (s, _) = swapped(x, (h, c)), layer(x, (h,))
    epsilon = 1 / (1 + math.exp(gate_bias))
    difference = (y - s.tanh()).abs()
    assert epsilon < difference.max() <= 3 * epsilon + 1e-15
    assert c_n.abs().max() <= 1
    assert ((y - s).abs() <= s.abs() ** 3 / 3 + 3 * epsilon + 1e-15).all()


@both
@every_layer
def test_every_layer_and_direction_is_swapped(name: str, swap: Callable[..., nn.Module]) -> None:
    layer = LAYERS[name]().double()
    if name == "sizes":
        with torch.no_grad():
            for cell in layer.cells:
                cell.initial[0].uniform_(-0.5, 0.5)
    x = torch.randn(B, T, D).double()
    swapped = swap(layer, gate_bias=30.0)
    y, expected = swapped(x)[0], layer(x)[0]
    assert y.shape == expected.shape
    if swap is as_gru:
        torch.testing.assert_close(y, expected, atol=1e-10, rtol=0)
    for old, new in zip(cells_of(layer), cells_of(swapped), strict=True):
        assert torch.equal(new.inputs()[2], old.weight_ih)
        torch.testing.assert_close(new.recurrent()[2], old.weight_hh)
    y.square().sum().backward()
    assert all(p.grad is not None for p in swapped.parameters())


def test_every_gate_can_learn() -> None:
    for swap in (as_gru, as_lstm):
        swapped = swap(one())
        swapped(torch.randn(T, B, D).double())[0].square().sum().backward()
        for cell in cells_of(swapped):
            assert all((block.norm(dim=1) > 0).all() for block in cell.weight_ih.grad.chunk(3))


@both
def test_options_are_taken_over(swap: Callable[..., nn.Module]) -> None:
    layer = one(
        depth=2,
        projection=H,
        residual=True,
        dropout=0.1,
        variational_dropout=0.2,
        weight_drop=0.3,
        learn_initial_state=True,
        batch_first=True,
        backend="reference",
        recurrent_dropout=0.4,
        zoneout=0.5,
    ).eval()
    swapped = swap(layer)
    assert swapped.extra_repr() == layer.extra_repr()
    assert swapped.batch_first and not swapped.training
    for cell in swapped.cells:
        assert cell.recurrent_dropout == 0.4
        assert cell.zoneout == (0.5,) * len(cell.state_sizes)
        assert cell.learns_initial_state and cell.weight_hh.dtype == torch.float64
    for a, b in zip(swapped.projections.parameters(), layer.projections.parameters(), strict=True):
        assert torch.equal(a, b) and a is not b
    drop_in = unrolled.RNN(D, H, 2, dropout=0.1, backend="reference").eval()
    swapped = swap(drop_in)
    assert type(swapped) is (layers.GRU if swap is as_gru else layers.LSTM)
    assert (swapped.dropout, swapped.backend, swapped.training) == (0.1, "reference", False)


@every_layer
def test_the_old_layer_is_left_as_it_was(name: str) -> None:
    layer = LAYERS[name]()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    for swapped in (as_gru(layer), as_lstm(layer), with_activation(layer, "relu")):
        with torch.no_grad():
            for parameter in swapped.parameters():
                parameter.fill_(7)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@every_layer
def test_another_activation_over_the_same_weights(name: str) -> None:
    layer = LAYERS[name]()
    swapped = with_activation(layer, "relu")
    assert type(swapped) is type(layer)
    assert swapped.state_dict().keys() == layer.state_dict().keys()
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in swapped.state_dict().items())
    x = torch.randn(B, T, D)
    back = with_activation(swapped, "tanh")
    torch.testing.assert_close(back(x)[0], layer(x)[0])
    if name in ("drop-in layer", "torch"):
        expected = nn.RNN(D, H, nonlinearity="relu", **OPTIONS)
        expected.load_state_dict(layer.state_dict())
        torch.testing.assert_close(swapped(x)[0], expected(x)[0])
        assert (swapped.nonlinearity, swapped.mode) == ("relu", "RNN_RELU")
    else:
        assert all(cell.activation == "relu" for cell in swapped.cells)


def test_any_elementwise_function_will_do() -> None:
    def softsign(z: Tensor) -> Tensor:
        return z / (1 + z.abs())

    layer, x = one(), torch.randn(1, B, D).double()
    y, _ = with_activation(layer, softsign)(x)
    z = layer.cells[0].project(x)
    torch.testing.assert_close(y, softsign(z))


def test_what_cannot_be_swapped_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^as_gru: got cells of LSTM, expected Elman cells"):
        as_gru(nn.LSTM(2, 3))
    with pytest.raises(TypeError, match=r"^with_activation: got cells of GRU"):
        with_activation(Recurrent(cells.GRU, 2, 3), "relu")
    with pytest.raises(ValueError, match=r"^as_lstm: got the activation 'relu', expected 'tanh'"):
        as_lstm(nn.RNN(2, 3, nonlinearity="relu"))
    with pytest.raises(ValueError, match=r"^as_gru: got a layer with bias=False"):
        as_gru(nn.RNN(2, 3, bias=False))
    with pytest.raises(ValueError, match=r"^as_gru: got layer_norm"):
        as_gru(one(layer_norm=True))
    with pytest.raises(ValueError, match=r"^activation: got 'sigmoid' for an RNN of torch.nn"):
        with_activation(nn.RNN(2, 3), "sigmoid")
    with pytest.raises(ValueError, match=r"^activation: got 'gelu', expected 'tanh'"):
        with_activation(one(), "gelu")
    with pytest.raises(TypeError, match=r"^layer: got Linear"):
        as_lstm(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"^gate_bias: got -1"):
        as_gru(one(), gate_bias=-1)


def test_sensible_weights_after_a_swap_are_those_of_a_new_layer() -> None:
    made = sensible_weights_(as_lstm(nn.RNN(D, H)))
    torch.testing.assert_close(made.weight_hh_l0[:H].T @ made.weight_hh_l0[:H], torch.eye(H))
