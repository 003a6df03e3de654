"""RTRL's gradient at every step is that of BPTT through the whole past."""

import pytest
import torch
from torch import nn

import unrolled
from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells
from unrolled.bptt import RTRL
from unrolled.cells import Cell

T, B, D, H = 6, 2, 3, 4
COUPLED = ["Elman", "LSTM", "GRU", "LEM", "MGU", "PeepholeLSTM", "CoRNN", "RecurrentHighway"]
ELEMENTWISE = ["IndRNN", "MinGRU", "MinLSTM", "LRU", "UnICORNN"]


def drawn(layer):
    """``layer`` in float64, none of whose parameters is small or zero."""
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def some_resets():
    resets = torch.zeros(T, B).bool()
    resets[0, 0] = resets[3, 1] = resets[5, 0] = True
    return resets


def gradients(loss, layer):
    named = dict(layer.named_parameters())
    found = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, materialize_grads=True
    )
    return {f"grad of {name}": g for name, g in zip(named, found, strict=True)}


def check_every_loss(layer, learner, sizes, resets=None):
    """Hold each call's gradient against autograd's, through the whole past."""
    x = torch.randn(T, B, layer.input_size, dtype=torch.float64)
    done = 0
    for size in sizes:
        now = slice(done, done + size)
        done += size
        flags = None if resets is None else resets[now]
        if size == 1:
            y = learner(x[now][0], resets=None if flags is None else flags[0])[None]
        else:
            y = learner(x[now], resets=flags)
        options = {} if resets is None else {"resets": resets[:done]}
        whole = layer(x[:done], **options)[0][now]
        weights = torch.randn_like(y)
        got = {"y": y} | gradients((y * weights).sum(), layer)
        want = {"y": whole} | gradients((whole * weights).sum(), layer)
        assert_close_by_name(got, want, done)


@pytest.mark.each_value(2)
@pytest.mark.parametrize("sizes", [[1] * T, [1, 3, 2]])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", COUPLED + ELEMENTWISE)
def test_the_gradient_is_that_of_bptt_at_every_step(name, depth, sizes):
    for learnt in (False, True):
        options = {"learn_initial_state": learnt, "backend": "reference"}
        layer = drawn(Recurrent(getattr(cells, name), D, H, depth=depth, **options))
        learner = RTRL(layer)
        assert learner.form == ("by unit" if name in ELEMENTWISE and depth == 1 else "dense")
        check_every_loss(layer, learner, sizes, some_resets() if learnt else None)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        {"depth": 3, "residual": True},
        {"depth": 2, "residual": "highway"},
        {"depth": 2, "projection": 3},
        {"hidden_size": [2, 5]},
        {"layer_norm": True},
        {"zoneout": 0.3},
    ],
    ids=str,
)
def test_every_option_of_a_layer(options, backend):
    given = {"input_size": D, "hidden_size": H, "backend": backend} | options
    if "layer_norm" in options or "zoneout" in options:
        given["backend"] = "reference"
    layer = drawn(Recurrent(cells.LSTM, **given)).eval()
    check_every_loss(layer, RTRL(layer), [1, 1, 2, 2], some_resets())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RNN(D, H, nonlinearity="relu"),
        lambda: nn.LSTM(D, H, 2),
        lambda: nn.GRU(D, H, bias=False),
        lambda: unrolled.LSTM(D, H, 2),
        lambda: unrolled.GRU(D, H, backend="native"),
        lambda: unrolled.RNN(D, H, backend="reference"),
    ],
)
def test_layers_of_torch_nn_and_drop_ins(make):
    layer = drawn(make())
    check_every_loss(layer, RTRL(layer), [1, 1, 3, 1])


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def test_parametrised_cells():
    layer = drawn(Recurrent(cells.Elman, D, H, backend="reference"))
    nn.utils.parametrize.register_parametrization(layer.cells[0], "weight_hh", Symmetric())
    check_every_loss(layer, RTRL(layer), [1, 2, 3])


def test_tied_parameters():
    layer = drawn(Recurrent(cells.GRU, H, H, depth=2))
    layer.cells[1].weight_hh = layer.cells[0].weight_hh
    check_every_loss(layer, RTRL(layer), [1, 2, 3])


def test_a_wrong_influence_is_noticed():
    layer = drawn(Recurrent(cells.Elman, D, H))
    learner = RTRL(layer)
    pull = learner._influence.pull
    learner._influence.pull = lambda *a: tuple(1.0001 * g for g in pull(*a))
    with pytest.raises(AssertionError, match="grad of"):
        check_every_loss(layer, learner, [1] * T)


# --- Which form ----------------------------------------------------------------------------------


class Leaky(Cell):
    """A cell whose units do not hear of one another, unless ``shift`` moves one to the next."""

    def __init__(self, input_size, hidden_size, *, shift=0, start=False):
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.rate = nn.Parameter(torch.empty(hidden_size))
        self.first = nn.Parameter(torch.empty(hidden_size)) if start else None
        self.shift = shift
        self.reset_parameters()

    def project(self, x):
        return x @ self.weight_ih.T

    def initial_state(self, batch_size, like):
        if self.first is None:
            return super().initial_state(batch_size, like)
        return (torch.tanh(self.first).expand(batch_size, -1).to(like),)

    def step(self, projected, state):
        (h,) = state
        heard = torch.cat([h[..., :-1], h[..., -1:] + self.shift * h[..., :1]], -1)
        return (torch.tanh(self.rate * heard + projected),)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("shift", [0, 0.1])
@pytest.mark.parametrize("units", [1, 2, 7, 33])
def test_a_cell_of_your_own_is_judged_by_what_it_does(units, shift, start):
    options = {"shift": shift, "start": start, "backend": "reference"}
    layer = drawn(Recurrent(Leaky, D, units, **options))
    learner = RTRL(layer)
    assert learner.form == ("by unit" if units == 1 or not shift else "dense")
    check_every_loss(layer, learner, [1, 2, 3], some_resets())


def test_what_read_alone_sees_takes_no_room():
    layer = Recurrent(cells.LRU, D, H)
    rows = layer.cells[0]
    reached = [rows.weight_ih, rows.nu, rows.theta, rows.gamma]
    assert RTRL(layer).size == 2 * sum(p.numel() for p in reached)


def test_the_influence_by_unit_is_linear_in_the_parameters():
    sizes = [RTRL(Recurrent(cells.IndRNN, D, units)).size for units in (8, 16, 32)]
    assert sizes[1] == 2 * sizes[0] and sizes[2] == 2 * sizes[1]
