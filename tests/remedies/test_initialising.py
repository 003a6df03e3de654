"""Initial weights and biases: what the papers promise of them, for every kind of layer."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import unrolled
from unrolled import Recurrent, cells, remedies
from unrolled.cells import Cell
from unrolled.remedies import sensible_weights_
from unrolled.remedies.initialising import critical_gain
from unrolled.remedies.weights import cells_of
from unrolled.scan import ScanOptions, scan

D, H = 7, 13
GATES = {cells.Elman: 1, cells.GRU: 3, cells.LSTM: 4}
OPTIONS = {"num_layers": 2, "bidirectional": True}
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "Elman": lambda **o: Recurrent(cells.Elman, D, H, depth=2, bidirectional=True, **o),
    "LSTM": lambda **o: Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True, **o),
    "GRU": lambda **o: Recurrent(cells.GRU, D, H, depth=2, bidirectional=True, **o),
    "MGU": lambda **o: Recurrent(cells.MGU, D, H, depth=2, bidirectional=True, **o),
    "CoupledLSTM": lambda **o: Recurrent(cells.CoupledLSTM, D, H, depth=2, bidirectional=True, **o),
    "torch RNN": lambda **o: nn.RNN(D, H, **OPTIONS, **o),
    "torch LSTM": lambda **o: nn.LSTM(D, H, **OPTIONS, **o),
    "torch GRU": lambda **o: nn.GRU(D, H, **OPTIONS, **o),
    "drop-in layer RNN": lambda **o: unrolled.RNN(D, H, **OPTIONS, **o),
    "drop-in layer LSTM": lambda **o: unrolled.LSTM(D, H, **OPTIONS, **o),
    "drop-in layer GRU": lambda **o: unrolled.GRU(D, H, **OPTIONS, **o),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def layer(cell: type[Cell], **options: object) -> Recurrent:
    made = Recurrent(cell, D, H, depth=2, bidirectional=True, **options)  # type: ignore[arg-type]
    return sensible_weights_(made.double())


def named(kind: str, *names: str) -> bool:
    return any(kind.endswith(name) for name in names)


# --- Sensible weights ----------------------------------------------------------------------------


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
    made = sensible_weights_(nn.RNN(D, H, nonlinearity="relu"))
    assert torch.equal(made.weight_hh_l0, torch.eye(H))


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


class Sum(Cell):
    """A cell of one's own: its weights have no gates."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = torch.nn.Parameter(torch.ones(hidden_size, hidden_size))


def test_a_cell_of_ones_own_is_left_as_it_is() -> None:
    made = sensible_weights_(Recurrent(Sum, D, H))
    assert torch.equal(made.cells[0].weight_hh, torch.ones(H, H))


def test_it_works_in_place_and_parameters_still_learn() -> None:
    made = Recurrent(cells.GRU, D, H)
    assert sensible_weights_(made) is made
    assert all(p.requires_grad and p.is_leaf for p in made.parameters())


def test_a_layer_of_torch_nn_gets_the_same_weights() -> None:
    torch.manual_seed(3)
    ours = sensible_weights_(Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True))
    torch.manual_seed(3)
    theirs = sensible_weights_(nn.LSTM(D, H, **OPTIONS))
    for a, b in zip(cells_of(ours), cells_of(theirs), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[2:6], b[2:6], strict=True))


# --- Each by itself ------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_all_singular_values_of_every_gate_are_the_gain(kind: str, gain: float) -> None:
    made = LAYERS[kind]().double()
    kept = [c.weight_ih.clone() for c in cells_of(made)]
    assert remedies.orthogonal_weights_(made, gain=gain) is made
    for cell, u in zip(cells_of(made), kept, strict=True):
        for block in cell.recurrent():
            values = torch.linalg.svdvals(block)
            torch.testing.assert_close(values, torch.full_like(values, gain))
        assert torch.equal(cell.weight_ih, u)


@pytest.mark.parametrize("kind", [k for k in LAYERS if named(k, "Elman", "RNN")])
def test_the_irnn_keeps_its_state_and_its_gradient(kind: str) -> None:
    options = {"activation": "relu"} if kind == "Elman" else {"nonlinearity": "relu"}
    made = remedies.identity_weights_(LAYERS[kind](**options))
    for cell in cells_of(made):
        assert torch.equal(cell.weight_hh, torch.eye(H))
        assert not (cell.bias_ih + cell.bias_hh).any()
    cell = remedies.identity_weights_(Recurrent(cells.Elman, D, H, activation="relu")).cells[0]
    start = torch.rand(2, H, requires_grad=True)
    (_,), (final,) = scan(cell, torch.zeros(50, 2, D), (start,))
    assert torch.equal(final, start)
    assert torch.equal(torch.autograd.grad(final.sum(), start)[0], torch.ones(2, H))
    remedies.identity_weights_(made, scale=0.01)
    assert torch.equal(next(iter(cells_of(made))).weight_hh, 0.01 * torch.eye(H))


@every_layer
def test_glorots_bound_holds_and_w_stays(kind: str) -> None:
    made = LAYERS[kind]()
    kept = [c.weight_hh.clone() for c in cells_of(made)]
    remedies.glorot_weights_(made, gain=2.0)
    for cell, w in zip(cells_of(made), kept, strict=True):
        for block in cell.inputs():
            bound = 2 * math.sqrt(6 / sum(block.shape))
            assert 0.8 * bound < block.abs().max() <= bound * (1 + 1e-6)
        assert torch.equal(cell.weight_hh, w)


@pytest.mark.parametrize("kind", [k for k in LAYERS if named(k, "LSTM")])
def test_the_forget_gates_bias_is_one_number_and_others_stay(kind: str) -> None:
    made = LAYERS[kind]()
    gate = 0 if kind == "CoupledLSTM" else 1
    kept = [(c.bias_ih + c.bias_hh).detach().clone() for c in cells_of(made)]
    remedies.forget_bias_(made, 2.5)
    for cell, before in zip(cells_of(made), kept, strict=True):
        now = list((cell.bias_ih + cell.bias_hh).chunk(cell.kind.gates))
        assert torch.equal(now.pop(gate), torch.full((H,), 2.5))
        was = list(before.chunk(cell.kind.gates))
        del was[gate]
        assert all(torch.equal(a, b) for a, b in zip(now, was, strict=True))


@pytest.mark.parametrize("longest", [2, 50, 1000])
@pytest.mark.parametrize("kind", [k for k in LAYERS if not named(k, "Elman", "RNN")])
def test_chrono_biases_are_logarithms_of_1_to_the_longest(kind: str, longest: int) -> None:
    made = LAYERS[kind]().double()
    remedies.chrono_bias_(made, longest)
    for cell in cells_of(made):
        total = (cell.bias_ih + cell.bias_hh).chunk(cell.kind.gates)
        gate = 0 if kind in ("CoupledLSTM", "MGU") else 1
        keep = -total[gate] if kind == "MGU" else total[gate]
        assert keep.min() >= 0 and keep.max() <= math.log(max(longest - 1, 1)) + 1e-12
        # How long a unit remembers, 1 / (1 - σ(b)) = 1 + u, is uniform from 2 to the longest.
        memory = 1 / (1 - torch.sigmoid(keep))
        assert memory.min() >= 2 - 1e-9 and memory.max() <= longest + 1e-6
        if named(kind, "LSTM") and kind != "CoupledLSTM":
            assert torch.equal(total[0], -keep)


def test_chrono_memories_are_uniform() -> None:
    made = remedies.chrono_bias_(nn.GRU(1, 4000), 101)
    memory = made.bias_ih_l0.chunk(3)[1].exp().sort().values
    # Kolmogorov and Smirnov: of 4000 draws the distribution is within 1.63 / √4000 with p = 0.99.
    expected = torch.linspace(1, 100, 4000)
    assert ((memory - expected).abs() / 99).max() < 1.63 / math.sqrt(4000)


# --- Critical weights ----------------------------------------------------------------------------


def mean_field(f: Callable[[Tensor], Tensor], sigma: float, given: float) -> tuple[float, float]:
    """q after many steps of its map, and χ there, both from a million draws."""
    draws = torch.randn(1_000_000, dtype=torch.float64)
    q = given
    for _ in range(200):
        q = sigma**2 * f(math.sqrt(q) * draws).square().mean().item() + given
    z = (math.sqrt(q) * draws).requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return q, sigma**2 * slope.square().mean().item()


@pytest.mark.parametrize("given", [0.01, 0.3, 2.0, 30.0])
def test_at_the_fixed_point_the_expected_squared_gain_is_1(given: float) -> None:
    sigma, moment = critical_gain(torch.tanh, given)
    q, chi = mean_field(torch.tanh, sigma, given)
    # A mean of a million draws of a quantity of order 1 errs by 0.001, ever more where few are not 0.
    assert abs(chi - 1) < 0.01
    assert math.isclose(q, sigma**2 * moment + given, rel_tol=0.01)


def test_what_is_known_in_closed_form() -> None:
    assert math.isclose(critical_gain(torch.tanh, 0.0)[0], 1.0, rel_tol=1e-3)
    assert math.isclose(critical_gain(torch.relu, 1.0)[0], math.sqrt(2), rel_tol=1e-12)
    assert math.isclose(critical_gain(lambda z: z, 1.0)[0], 1.0, rel_tol=1e-12)
    assert critical_gain(torch.tanh, 0.1)[0] < critical_gain(torch.tanh, 1.0)[0]


@pytest.mark.each_value
@pytest.mark.parametrize("variance", [0.3, 3.0])
@pytest.mark.parametrize("level", [0, 1])
def test_the_gradient_of_a_wide_network_neither_grows_nor_fades_over_100_steps(
    variance: float, level: int
) -> None:
    wide, steps, batch_size = 1024, 150, 8
    made = remedies.critical_weights_(
        Recurrent(cells.Elman, 16, wide, depth=2), input_variance=variance
    )
    x = torch.randn(steps, batch_size, 16) * math.sqrt(variance)
    with torch.no_grad():
        for below in made.cells[:level]:
            (x,), _ = scan(below, x)

    def growth() -> float:
        norms = [torch.zeros(steps, batch_size)]
        (y,), _ = scan(made.cells[level], x, None, ScanOptions(norms=norms))
        (y[-1] * torch.randn(batch_size, wide)).sum().backward()
        return (norms[0][-101].square().mean() / norms[0][-1].square().mean()).sqrt().item()

    # A step's squared gain is a mean over 1024 units, so off by some percent of its spread, and by
    # the finite width for all steps alike: measured, 100 steps come to 0.75 to 1.4.
    assert 0.6 < growth() < 1.7
    for scale, low, high in ((1 / 1.2, 0, 0.1), (1.2**2, 3, math.inf)):
        with torch.no_grad():
            made.cells[level].weight_hh.mul_(scale)
        assert low < growth() < high  # a fifth beside it is far away from 1


def test_critical_relu_is_he_s() -> None:
    made = remedies.critical_weights_(nn.RNN(D, H, nonlinearity="relu", **OPTIONS).double())
    for cell in cells_of(made):
        values = torch.linalg.svdvals(cell.weight_hh)
        torch.testing.assert_close(values, torch.full_like(values, math.sqrt(2)))


# --- What is refused -----------------------------------------------------------------------------

EVERY = {
    "orthogonal_weights_": remedies.orthogonal_weights_,
    "identity_weights_": remedies.identity_weights_,
    "glorot_weights_": remedies.glorot_weights_,
    "forget_bias_": remedies.forget_bias_,
    "chrono_bias_": lambda layer: remedies.chrono_bias_(layer, 10),
    "critical_weights_": remedies.critical_weights_,
}


@pytest.mark.parametrize("name", EVERY)
def test_cells_without_gates_and_what_is_no_layer_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"^layer: got cells of Sum, .*expected a GatedCell"):
        EVERY[name](Recurrent(Sum, D, H))
    with pytest.raises(TypeError, match=r"^layer: got Linear, expected a Recurrent"):
        EVERY[name](nn.Linear(2, 3))
    made = Recurrent(cells.GRU, D, H)
    spectral_norm(made.cells[0], "weight_hh")
    with pytest.raises(ValueError, match=r"^layer: got .* parametrised weights"):
        EVERY[name](made)


def test_the_wrong_kind_of_cell_is_refused() -> None:
    gru, elman = Recurrent(cells.GRU, D, H), Recurrent(cells.Elman, D, H)
    for name in ("identity_weights_", "critical_weights_"):
        with pytest.raises(TypeError, match=rf"^{name}: got cells of GRU, expected Elman cells"):
            EVERY[name](gru)
    with pytest.raises(TypeError, match=r"^forget_bias_: got cells of GRU, expected an LSTM"):
        remedies.forget_bias_(gru)
    with pytest.raises(TypeError, match=r"^chrono_bias_: got cells of Elman, expected gated ones"):
        remedies.chrono_bias_(elman, 10)
    with pytest.raises(ValueError, match=r"^longest: got 1, expected at least 2"):
        remedies.chrono_bias_(gru, 1)


@pytest.mark.parametrize("name", ["forget_bias_", "chrono_bias_"])
def test_without_biases_there_is_none_to_set(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got a layer with bias=False"):
        EVERY[name](nn.LSTM(D, H, bias=False))


@pytest.mark.parametrize(
    "options", [{"residual": True}, {"projection": H}, {"bidirectional": True, "merge": "sum"}]
)
def test_a_stack_whose_second_layer_reads_something_else_is_not_critical(
    options: dict[str, object],
) -> None:
    for depth in (1, 2):
        made = Recurrent(cells.Elman, H, H, depth=depth, **options)
        if depth == 1:
            remedies.critical_weights_(made)
            continue
        with pytest.raises(ValueError, match=r"^layer: got (residual|projection|merge)="):
            remedies.critical_weights_(made)
    with pytest.raises(ValueError, match=r"^layer: got cells with layer_norm"):
        remedies.critical_weights_(Recurrent(cells.Elman, D, H, layer_norm=True))
