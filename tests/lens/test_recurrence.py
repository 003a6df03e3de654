"""A layer taken apart into steps is the layer; its steps' Jacobians are those of each row by itself."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests.cells.papers import jacobian
from tests.compare import tolerance
from tests.lens.nets import KINDS, B, D, H, T, inputs, make
from unrolled import Recurrent, bptt, cells, lens


def assert_close(got, expected, steps=T):
    """Equal up to rounding, relative to the largest entry: see ``tests.compare.tolerance``."""
    allowed = tolerance(expected.dtype, steps)
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=allowed, atol=allowed * max(scale, 1.0))


def outputs(found, directions):
    """The outputs of the last level, the directions side by side."""
    last = found[-directions:]
    return torch.cat([r.in_time(r.cell.read(tuple(s[1:] for s in r.states))) for r in last], -1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_layer(kind, bidirectional):
    layer, x = make(kind, 2, bidirectional=bidirectional), inputs()
    found = lens.recurrences(layer, x)
    directions = 1 + bidirectional
    assert [(r.level, r.direction) for r in found] == [
        (level, direction) for level in range(2) for direction in range(directions)
    ]
    assert_close(outputs(found, directions), layer.eval()(x)[0].detach())
    assert torch.equal(found[0].x, x)
    for r in found:
        assert (r.steps, r.batch_size, r.width) == (T, B, sum(r.cell.state_sizes))
        for t in range(T):
            assert_close(r.step(r.before[t], r.projected[t]), torch.cat(r.states, -1)[t + 1], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_are_those_of_each_row(kind):
    for r in lens.recurrences(make(kind, bidirectional=True), inputs()):
        found = r.jacobians()
        assert found.shape == (T, B, r.width, r.width) and not found.requires_grad
        for t in range(T):
            for b in range(B):
                state = tuple(s[t, b] for s in r.states)
                assert_close(found[t, b], jacobian(r.cell, r.x[t, b], state), 1)


@pytest.mark.parametrize("kind", ["LSTM", "torch GRU"])
def test_memory_is_bounded_and_changes_nothing(kind, monkeypatch):
    layer, x = make(kind, bidirectional=True), inputs()

    def measure():
        return [
            lens.recurrences(layer, x)[1].jacobians(1, 4),
            *(lens.lag_matrix(layer, x, direction=1, norm=n) for n in ("rms", "spectral")),
            lens.influence(layer, x),
            lens.lyapunov(layer, x),
            torch.tensor([list(c.factors.values()) for c in lens.causes(layer, x)]),
        ]

    at_once = measure()
    for module in ("recurrence", "lags", "causes"):
        monkeypatch.setattr(sys.modules[f"unrolled.lens.{module}"], "ROOM", 1)
    for whole, in_parts in zip(at_once, measure(), strict=True):
        torch.testing.assert_close(in_parts, whole, equal_nan=True)


def test_what_is_random_in_training_is_left_out_and_nothing_is_touched():
    options = {"dropout": 0.5, "variational_dropout": 0.3, "weight_drop": 0.3, "depth": 2}
    layer = Recurrent(cells.GRU, D, H, recurrent_dropout=0.5, zoneout=0.2, **options).double()
    x, before = inputs(), torch.get_rng_state()
    kept = {name: p.clone() for name, p in layer.state_dict().items()}
    found = lens.influence(layer, x), lens.causes(layer, x)[1].growth
    lens.recurrences(layer, x)[0].jacobians()
    assert all(module.training for module in layer.modules())
    assert all(p.requires_grad and p.grad is None for p in layer.parameters())
    assert all(torch.equal(p, kept[name]) for name, p in layer.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    layer.eval()
    assert torch.equal(found[0], lens.influence(layer, x))
    assert found[1] == lens.causes(layer, x)[1].growth


@pytest.mark.parametrize("kind", ["GRU", "drop-in layer LSTM", "torch RNN"])
def test_batch_first(kind):
    layer, x = make(kind), inputs()
    turned = make(kind, batch_first=True)
    turned.load_state_dict(layer.state_dict())
    given = x.transpose(0, 1)
    assert torch.equal(lens.influence(turned, given), lens.influence(layer, x))
    for got, expected in zip(
        lens.recurrences(turned, given), lens.recurrences(layer, x), strict=True
    ):
        assert torch.equal(got.before, expected.before)


def test_hooks_and_windows_do_not_see_it():
    for layer in (make("GRU"), make("drop-in layer LSTM")):
        x, seen = inputs(), []
        expected = lens.influence(layer, x)
        layer.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        carry = bptt.Carry(layer)
        with carry.window():
            layer(x)
        seen.clear()
        with carry.window():
            layer(x)
            assert torch.equal(lens.influence(layer, x), expected)
            lens.causes(layer, x)
        assert seen == [1]


def test_weights_that_are_computed():
    for layer in (make("torch GRU"), make("GRU")):
        owner = layer if isinstance(layer, nn.GRU) else layer.cells[0]
        name = "weight_hh_l0" if isinstance(layer, nn.GRU) else "weight_hh"
        expected = lens.lag_matrix(layer, x := inputs())
        parametrizations.weight_norm(owner, name)
        torch.testing.assert_close(lens.lag_matrix(layer, x), expected, equal_nan=True)
        assert torch.isfinite(lens.influence(layer, x)).all()
        assert lens.causes(layer, x)[0].gate is not None
    pruned = make("LSTM")
    prune.l1_unstructured(pruned.cells[0], "weight_hh", 0.5)
    assert lens.causes(pruned, x)[0].cell == "LSTM"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_whatever_mode_the_caller_is_in(mode):
    layer, x = make("LSTM"), inputs()
    expected = lens.lag_matrix(layer, x), lens.influence(layer, x)
    with mode():
        got = lens.lag_matrix(layer, x.clone()), lens.influence(layer, x.clone())
        lens.causes(layer, x.clone())
        lens.lyapunov(layer, x.clone())
        assert lens.recurrences(layer, x.clone())[0].jacobians().shape == (T, B, 2 * H, 2 * H)
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_float32_is_float64_up_to_rounding():
    layer, x = make("LSTM"), inputs()
    expected = lens.lag_matrix(layer, x), lens.influence(layer, x), lens.lyapunov(layer, x)
    layer = layer.float()
    got = lens.lag_matrix(layer, x.float()), lens.influence(layer, x.float())
    allowed = 16 * tolerance(torch.float32, T)  # the products multiply what a step may be off by
    for a, b in zip(got, expected, strict=False):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=allowed, atol=allowed, equal_nan=True)


MEASURES = [lens.recurrences, lens.lag_matrix, lens.influence, lens.lyapunov, lens.causes]


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_layers(measure):
    x = torch.zeros(T, B, D)
    with pytest.raises(
        TypeError, match=r"layer: got Linear, expected a Recurrent.*name one inside"
    ):
        measure(nn.Linear(D, H), x)
    with pytest.raises(TypeError, match="layer: got str"):
        measure("GRU", x)
    with pytest.raises(ValueError, match="layer: got proj_size=2"):
        measure(nn.LSTM(D, H, proj_size=2), x)

    class Own(nn.GRU):
        pass

    with pytest.raises(TypeError, match=r"layer: got Own.*subclass of torch\.nn\.GRU"):
        measure(Own(D, H), x)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (torch.zeros(T, D), ValueError, "x: got shape .* unsqueeze"),
        (torch.zeros(T, B, D + 1), ValueError, "x: got shape"),
        (torch.zeros(0, B, D), ValueError, "x: got shape .* expected at least one step"),
        (torch.zeros(T, 0, D), ValueError, "x: got shape .* one sequence"),
        (torch.zeros(T, B, D, dtype=torch.int64), TypeError, "x: got torch.int64"),
        (torch.zeros(T, B, D).double(), TypeError, "x: got torch.float64, expected torch.float32"),
        ([[[0.0] * D]], TypeError, "x: got list"),
    ],
)
def test_bad_inputs(measure, x, error, text):
    for layer in (Recurrent(cells.GRU, D, H), nn.GRU(D, H)):
        with pytest.raises(error, match=text):
            measure(layer, x)


@pytest.mark.parametrize("measure", [lens.lag_matrix, lens.lyapunov, lens.log_condition])
def test_levels_and_directions_out_of_range(measure):
    layer, x = Recurrent(cells.GRU, D, H, depth=2), torch.zeros(T, B, D)
    with pytest.raises(ValueError, match="level: got 2, expected at most 1"):
        measure(layer, x, level=2)
    with pytest.raises(ValueError, match="level: got -1, expected at least 0"):
        measure(layer, x, level=-1)
    with pytest.raises(ValueError, match="direction: got 1, expected at most 0"):
        measure(layer, x, direction=1)
    with pytest.raises(TypeError, match=r"level: got 0\.5"):
        measure(layer, x, level=0.5)
