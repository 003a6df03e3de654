"""The causes of a decay: known ones are found, and all of them together account for what is measured."""

import math

import pytest
import torch
from torch import nn

from tests.compare import tolerance
from tests.lens.nets import KINDS, D, H, T, eye, inputs, linear, make, orthogonal, uncompiled
from unrolled import Recurrent, cells, lens
from unrolled.cells.facts import Retain

# Sums of T logarithms of norms, each off by a step's rounding.
ROUNDING = T * tolerance(torch.float64, T)
TAKEN_APART = [k for k in KINDS if k not in ("LRU", "MinGRU", "LEM")]


@pytest.mark.parametrize("kind", KINDS)
def test_growth_is_what_the_lag_matrix_says(kind):
    layer, x = make(kind, 2, bidirectional=True), inputs(T, 1)
    for found in lens.causes(layer, x):
        lags = lens.lag_matrix(layer, x, level=found.level, direction=found.direction)
        corner = lags[0 if found.direction else -1, -1]
        assert math.exp((T - 1) * found.growth) == pytest.approx(corner.item(), rel=ROUNDING)


@pytest.mark.parametrize("kind", TAKEN_APART)
def test_the_parts_account_for_the_whole(kind):
    layer, x = make(kind, 2, bidirectional=True), inputs()
    for found in lens.causes(layer, x):
        assert sum(found.factors.values()) == pytest.approx(found.growth, abs=ROUNDING)
        assert sum(found.shares.values()) == pytest.approx(1.0, abs=ROUNDING)


@pytest.mark.parametrize("kind", ["LRU", "MinGRU", "LEM"])
def test_of_other_cells_the_jacobian_alone(kind):
    layer, x = make(kind), inputs()
    (found,) = lens.causes(layer, x)
    assert found.cell == type(layer.cells[0]).__name__
    assert found.factors is found.shares is found.slopes is found.gate is None
    assert found.matrices == {}
    jacobians = lens.recurrences(layer, x)[0].jacobians()
    radius = torch.linalg.eigvals(jacobians).abs().amax(-1).mean().item()
    assert found.radius == pytest.approx(radius)
    assert found.norm == pytest.approx(torch.linalg.matrix_norm(jacobians, 2).mean().item())


def test_a_subclass_with_other_equations_is_taken_apart_by_these():
    class Own(cells.GRU):
        def equations(self, u, w, state):
            return (torch.tanh(u + w).chunk(3, -1)[0],)

    (found,) = lens.causes(Recurrent(Own, D, H).double(), inputs())
    assert found.cell == "Own" and found.growth < 0
    assert sum(found.factors.values()) == pytest.approx(found.growth, abs=ROUNDING)
    assert found.shares == pytest.approx(
        {"direct": 0.0, "r": 1.0, "z": 0.0, "n": 0.0}, abs=ROUNDING
    )


def test_a_step_of_ones_own_is_not_taken_apart():
    class Own(cells.GRU):
        def step(self, projected, state):
            return (torch.tanh(projected.chunk(3, -1)[0] + state[0]),)

    (found,) = lens.causes(Recurrent(Own, D, H, backend="reference"), torch.randn(T, 2, D))
    assert found.factors is None and found.gate is None


def test_where_w_meets_more_than_h_its_blocks_are_one_path():
    """An MGU: what stays is 1 - f, and W_h sees f ⊙ h."""
    layer, x = uncompiled(cells.MGU).double(), inputs()
    (found,) = lens.causes(layer, x)
    assert sum(found.factors.values()) == pytest.approx(found.growth, abs=ROUNDING)
    assert list(found.shares) == ["direct", "W"]
    assert sum(found.shares.values()) == pytest.approx(1.0, abs=ROUNDING)
    assert list(found.matrices) == ["f", "h"]
    (cell,), scan = layer.cells, lens.recurrences(layer, x)[0]
    u, w = scan.projected.chunk(2, -1)[0], cell.weight_hh.chunk(2)[0]
    f = torch.sigmoid(u + scan.before @ w.T)
    assert found.gate.name == "1 - f"
    assert found.gate.mean == pytest.approx((1 - f).mean().item())


def test_a_leaky_cell_of_ones_own_with_facts_alone():
    """h_t = (1 - f) h_{t-1} + f tanh(u + w): by its blocks and its retain."""

    class Leaky(cells.GatedCell):
        blocks, candidate = ("f", "n"), "n"
        retain = Retain("f", keeps=False)

        def project(self, x):
            return self.of_input(x, self.bias())

        def equations(self, u, w, state):
            f, n = (u + w).chunk(2, -1)
            f = torch.sigmoid(f)
            return ((1 - f) * state[0] + f * torch.tanh(n),)

    layer = uncompiled(Leaky).double()
    (found,) = lens.causes(layer, inputs())
    assert list(found.factors) == ["direct", "others"]
    assert list(found.shares) == ["direct", "f", "n"]
    assert sum(found.shares.values()) == pytest.approx(1.0, abs=ROUNDING)
    with torch.no_grad():
        layer.cells[0].weight_hh.zero_()
        layer.cells[0].weight_ih.zero_()
        for bias in (layer.cells[0].bias_ih, layer.cells[0].bias_hh):
            bias.zero_()
    (found,) = lens.causes(layer, inputs())  # f = 1/2 everywhere, and W = 0
    assert found.gate.name == "1 - f" and found.gate.mean == pytest.approx(0.5)
    assert found.growth == pytest.approx(-math.log(2), abs=ROUNDING)
    assert found.factors == pytest.approx({"direct": -math.log(2), "others": 0.0}, abs=ROUNDING)


# --- Elman -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 1.0, 1.5])
def test_the_matrix_alone(a):
    (found,) = lens.causes(linear(a * orthogonal()), inputs())
    assert found.growth == pytest.approx(math.log(a), abs=1e-12)
    assert found.factors == pytest.approx({"activation": 0.0, "matrix": math.log(a)}, abs=1e-12)
    assert found.shares == pytest.approx({"direct": 0.0, "s": 1.0})
    w = found.matrices["s"]
    assert (w.radius, w.norm, w.geometric_mean) == pytest.approx((a, a, a))
    torch.testing.assert_close(w.eigenvalues.abs(), torch.full((H,), a, dtype=torch.float64))
    assert found.slopes == lens.Slopes(1.0, 0.0, 0.0)
    assert (found.radius, found.norm, found.gate) == pytest.approx((a, a, None))


def test_the_matrix_by_itself():
    values = torch.tensor([0.5, -2.0, 1.0, 4.0], dtype=torch.float64)
    weight = values.diag()
    weight[0, 1] = 3.0
    w = lens.causes(linear(weight), inputs())[0].matrices["s"]
    assert w.eigenvalues.real.tolist() == pytest.approx([4.0, -2.0, 1.0, 0.5])
    assert w.radius == pytest.approx(4.0)
    assert w.norm == pytest.approx(torch.linalg.matrix_norm(weight, 2).item())
    assert w.geometric_mean == pytest.approx(4.0**0.25)  # |det|^(1/H)


def test_the_factors_along_the_way_written_another_way():
    layer, x = make("Elman"), inputs(T, 1)
    states = layer(x)[0].detach()[:, 0]
    w = layer.cells[0].weight_hh.detach()
    a, activation, matrix = eye(), [], []
    for t in range(T - 1, 0, -1):
        middle = a * (1 - states[t] ** 2)
        activation.append((middle.norm() / a.norm()).log())
        a, before = middle @ w, middle
        matrix.append((a.norm() / before.norm()).log())
    (found,) = lens.causes(layer, x)
    assert found.factors["activation"] == pytest.approx(torch.stack(activation).mean().item())
    assert found.factors["matrix"] == pytest.approx(torch.stack(matrix).mean().item())
    slopes = 1 - states**2
    assert found.slopes.mean == pytest.approx(slopes.mean().item())
    assert found.slopes.saturated == pytest.approx((slopes < 0.1).double().mean().item())


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", torch.tanh])
def test_a_saturated_network(activation):
    layer = Recurrent(cells.Elman, D, H, activation=activation).double()
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(orthogonal())
        layer.cells[0].bias_ih.fill_(8.0)
    (found,) = lens.causes(layer, 0.1 * inputs())
    assert found.slopes.saturated == 1.0 and found.slopes.dead == 0.0
    assert found.slopes.mean < 0.01
    assert found.factors["matrix"] == pytest.approx(0.0, abs=0.5)
    assert found.factors["activation"] < math.log(0.01)
    layer.cells[0].bias_ih.data.fill_(0.0)
    layer.cells[0].weight_ih.data.fill_(0.0)
    assert lens.causes(layer, inputs())[0].slopes.saturated == 0.0


def test_dead_units():
    layer = Recurrent(cells.Elman, D, H, activation="relu").double()
    nn.init.eye_(layer.cells[0].weight_hh)
    nn.init.constant_(layer.cells[0].bias_ih, -99.0)
    (found,) = lens.causes(layer, inputs())
    assert found.slopes == lens.Slopes(0.0, 1.0, 1.0)
    assert found.growth == found.factors["activation"] == -math.inf
    assert found.factors["matrix"] == 0.0
    assert math.isnan(found.shares["s"])  # nothing arrives anywhere
    layer.cells[0].bias_ih.data[0] = 99.0
    (found,) = lens.causes(layer, inputs())
    assert found.slopes.dead == 0.75
    assert found.growth == pytest.approx(
        math.log(0.5) / (T - 1)
    )  # three of four, once, then no more


def test_a_unit_that_wakes_once_is_not_dead():
    layer = Recurrent(cells.Elman, 1, 2, activation="relu", bias=False).double()
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    layer.cells[0].weight_ih.data[0] = 1.0
    x = torch.tensor([-1.0, -1.0, 1.0, -1.0], dtype=torch.float64).view(4, 1, 1)
    assert lens.causes(layer, x)[0].slopes == lens.Slopes(0.125, 0.875, 0.5)


# --- Gates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [0.5, 0.9, 0.99])
def test_a_gate_that_stands_still(f):
    for cell, block, name in ((cells.LSTM, 1, "f"), (cells.GRU, 1, "z")):
        layer = Recurrent(cell, D, H).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
            layer.cells[0].bias_ih.chunk(cell.gates)[block].fill_(math.log(f / (1 - f)))
        (found,) = lens.causes(layer, inputs())
        assert found.gate.name == name
        assert found.gate.mean == pytest.approx(f)
        expected = torch.full((H,), 1 / (1 - f), dtype=torch.float64)
        torch.testing.assert_close(found.gate.time_scale, expected)
        assert found.shares["direct"] == pytest.approx(1.0)
        assert found.radius == pytest.approx(f)
        if name == "z":
            assert found.growth == found.factors["direct"] == pytest.approx(math.log(f))


def test_a_gate_that_is_open_never_forgets():
    layer = Recurrent(cells.GRU, D, H).double()
    nn.init.constant_(layer.cells[0].bias_ih.data.chunk(3)[1], 99.0)
    gate = lens.causes(layer, inputs())[0].gate
    assert gate.mean == 1.0 and gate.time_scale.isinf().all()


def test_the_share_of_a_path_written_another_way():
    """A GRU's step from s_0 to s_1, of which A is the identity."""
    layer, x = nn.GRU(D, H).double(), inputs(2, 1)
    h = layer(x)[0][0, 0].detach()
    u = (x[1, 0] @ layer.weight_ih_l0.T + layer.bias_ih_l0).detach()
    w = (h @ layer.weight_hh_l0.T + layer.bias_hh_l0).detach()
    w_r, w_z, w_n = layer.weight_hh_l0.detach().chunk(3)
    r, z = torch.sigmoid(u + w).chunk(3)[:2]
    n = torch.tanh(u[2 * H :] + r * w[2 * H :])
    slope = (1 - z) * (1 - n**2)
    paths = {
        "direct": z.diag(),
        "r": (slope * w[2 * H :] * r * (1 - r)).unsqueeze(1) * w_r,
        "z": ((h - n) * z * (1 - z)).unsqueeze(1) * w_z,
        "n": (slope * r).unsqueeze(1) * w_n,
    }
    whole = sum(paths.values())
    (found,) = lens.causes(layer, x)
    for name, path in paths.items():
        expected = (path * whole).sum() / whole.square().sum()
        assert found.shares[name] == pytest.approx(expected.item()), name
    assert found.factors["direct"] == pytest.approx(math.log(z.norm().item() / 2))
    first = torch.sigmoid(
        (x[0, 0] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0)[H : 2 * H]
    )
    torch.testing.assert_close(found.gate.units, torch.stack([first, z]).mean(0).detach())


def test_zoneout_is_a_direct_path():
    layer = Recurrent(cells.Elman, D, H, zoneout=0.4).double()
    nn.init.zeros_(layer.cells[0].weight_hh)
    (found,) = lens.causes(layer, inputs())
    assert set(found.factors) == {"direct", "others"}
    assert found.growth == found.factors["direct"] == pytest.approx(math.log(0.4))


# --- Edges -----------------------------------------------------------------------------------------


def test_one_step():
    for kind in KINDS:
        (found,) = lens.causes(make(kind), inputs(1, 1))
        assert math.isnan(found.growth)
        assert found.norm > 0
        if found.factors is not None:
            assert all(map(math.isnan, found.factors.values()))


def test_no_gradient_is_too_small():
    """Nothing underflows on a way of 300 steps, not even in float32."""
    layer = linear(1e-3 * orthogonal()).float()
    (found,) = lens.causes(layer, torch.randn(300, 1, D))
    assert found.growth == pytest.approx(math.log(1e-3), rel=1e-5)


def test_sequences_count_alike():
    layer, x = make("LSTM"), inputs()
    whole = lens.causes(layer, x)[0]
    each = [lens.causes(layer, x[:, [b]])[0] for b in range(x.shape[1])]
    assert whole.growth == pytest.approx(sum(c.growth for c in each) / len(each))
    assert whole.gate.mean == pytest.approx(sum(c.gate.mean for c in each) / len(each))
