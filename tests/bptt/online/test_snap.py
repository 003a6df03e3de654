"""SnAp-1 is dense RTRL whose influence is cut to the pattern after every step."""

import pytest
import torch
from torch import nn

from tests.bptt.online.test_rtrl import B, D, H, T, drawn, gradients, some_resets
from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells
from unrolled.bptt import RTRL, SnAp1
from unrolled.cells import Cell

COUPLED = {"Elman": {}, "LSTM": {}, "GRU": {"zoneout": 0.3}, "PeepholeLSTM": {}, "CoRNN": {}}
ELEMENTWISE = ["IndRNN", "MinGRU", "MinLSTM", "LRU", "UnICORNN"]


def rows_of(outputs, tensor):
    """∂outputs_i/∂tensor for each number of ``outputs``, as one tensor."""
    if not outputs.requires_grad:
        return tensor.new_zeros(outputs.numel(), *tensor.shape)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.stack([torch.autograd.grad(o, tensor, **options)[0] for o in outputs.flatten()])


def masked_influences(cell, x, resets):
    """After each step of one row ``[T, D]``: the state, and J ``[k H, *shape]`` of each parameter.

    By the book: the dense J of RTRL, of which all that a parameter does not reach in one step is set to
    zero after every step.
    """
    parameters = list(cell.parameters())
    k = len(cell.state_sizes)
    masks = []
    for p in parameters:
        own = (torch.arange(p.shape[0]) % H == torch.arange(k * H).unsqueeze(1) % H).double()
        masks.append(own.view(*own.shape, *[1] * (p.dim() - 1)))
    found = []
    for t, x_t in enumerate(x):
        if t == 0 or resets[t]:
            start = torch.cat(cell.initial_state(1, x), -1)
            influence = [rows_of(start, p) for p in parameters]
            vector = start.detach()
        before = vector.clone().requires_grad_()
        after = torch.cat(cell.step(cell.project(x_t[None]), before.split(H, -1)), -1)
        through = rows_of(after, before)[:, 0]
        influence = [
            mask * (torch.tensordot(through, past, 1) + rows_of(after, p))
            for mask, past, p in zip(masks, influence, parameters, strict=True)
        ]
        vector = after.detach()
        found.append((vector, influence))
    return found


def gradient_of_the_book(layer, found, weights):
    """The gradient of Σ weights_t · y_t over the steps and rows in ``found``."""
    (cell,) = layer.cells
    total = [torch.zeros_like(p) for p in cell.parameters()]
    for (vector, influence), weight in zip(found, weights, strict=True):
        state = vector.clone().requires_grad_()
        loss = (cell.read(state.split(H, -1))[0] * weight).sum()
        (v, *direct) = torch.autograd.grad(
            loss, [state, *cell.parameters()], allow_unused=True, materialize_grads=True
        )
        for target, past, own in zip(total, influence, direct, strict=True):
            target += torch.tensordot(v[0], past, 1) + own
    names = [f"grad of {name}" for name, _ in layer.named_parameters()]
    return dict(zip(names, total, strict=True))


def check_by_the_book(layer, learner, sizes):
    x, resets = torch.randn(T, B, D, dtype=torch.float64), some_resets()
    by_row = [masked_influences(layer.cells[0], x[:, b], resets[:, b]) for b in range(B)]
    done = 0
    for size in sizes:
        now = range(done, done + size)
        done += size
        y = learner(x[now.start : now.stop], resets=resets[now.start : now.stop])
        weights = torch.randn_like(y)
        got = gradients((y * weights).sum(), layer)
        steps = [by_row[b][t] for t in now for b in range(B)]
        want = gradient_of_the_book(layer, steps, weights.flatten(0, 1))
        assert_close_by_name(got, want, done)


@pytest.mark.parametrize("sizes", [[1] * T, [1, 3, 2]])
@pytest.mark.parametrize("name", COUPLED)
def test_single_steps_and_chunks_are_those_of_the_book(name, sizes):
    options = {"learn_initial_state": sizes[1] == 3, "backend": "reference"} | COUPLED[name]
    layer = drawn(Recurrent(getattr(cells, name), D, H, **options)).eval()
    learner = SnAp1(layer)
    assert learner.form == "by unit, approximate"
    check_by_the_book(layer, learner, sizes)


def test_the_book_notices_what_is_not_cut():
    layer = drawn(Recurrent(cells.Elman, D, H))
    with pytest.raises(AssertionError, match="grad of"):
        check_by_the_book(layer, RTRL(layer), [1] * T)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_where_units_do_not_hear_of_one_another_it_is_rtrl(name):
    layer = drawn(Recurrent(getattr(cells, name), D, H, backend="reference"))
    x = torch.randn(T, B, D, dtype=torch.float64)
    both = SnAp1(layer), RTRL(layer)
    assert [learner.form for learner in both] == ["by unit"] * 2
    for x_t in x:
        got, want = (gradients(learner(x_t).square().sum(), layer) for learner in both)
        assert_close_by_name(got, want, T)


@pytest.mark.parametrize("name", ["GRU", "LRU"])
def test_a_deep_layer_is_a_chain_of_learners(name):
    kind = getattr(cells, name)
    deep = drawn(Recurrent(kind, D, H, depth=2, backend="reference"))
    chain = [Recurrent(kind, size, H, backend="reference").double() for size in (D, H)]
    for layer, cell in zip(chain, deep.cells, strict=True):
        layer.cells[0] = cell
    learner, (below, above) = SnAp1(deep), map(SnAp1, chain)
    for x in torch.randn(T, B, D, dtype=torch.float64).split([1, 1, 3, 1]):
        got = gradients(learner(x).square().sum(), deep)
        want = gradients(above(below(x)).square().sum(), deep)
        assert_close_by_name(got, want, T)
    assert learner.form == "by unit, approximate"


def test_the_influence_is_linear_in_the_parameters():
    for k, kind in ((1, cells.GRU), (2, cells.LSTM)):
        layer = Recurrent(kind, 5, 7)
        assert SnAp1(layer).size == k * sum(p.numel() for p in layer.parameters())


class Uneven(Cell):
    @property
    def state_sizes(self):
        return (self.hidden_size, 1)

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.ones(hidden_size, input_size))

    def project(self, x):
        return x @ self.weight_ih.T

    def step(self, projected, state):
        h, mean = state
        h = torch.tanh(projected + h + mean)
        return h, h.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("cell", "options", "names"),
    [
        ("MGU", {}, "weight_ih, weight_hh, bias_ih, bias_hh"),
        ("LEM", {}, "weight_ih"),
        ("AntisymmetricRNN", {}, "weight_hh"),
        ("LSTM", {"layer_norm": True}, "weight_ih, weight_hh"),
    ],
)
def test_parameters_that_reach_other_units_are_refused(cell, options, names):
    with pytest.raises(
        ValueError, match=f"^layer: got {cell}, of which {names}.* take RTRL or UORO"
    ):
        SnAp1(Recurrent(getattr(cells, cell), D, H, **options))


def test_states_of_other_sizes_are_refused():
    layer = Recurrent(Uneven, D, H)
    with pytest.raises(ValueError, match=r"^layer: got Uneven with a state of sizes \[4, 1\]"):
        SnAp1(layer)
    assert RTRL(layer).form == "dense"
