"""The options of gated cells, against their equations written as loops over steps."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.compare import (
    assert_close_by_name,
    check_derivatives,
    collect,
    leaves,
    named_state,
    scanned,
)
from unrolled import cells
from unrolled.cells import State
from unrolled.cells.cell import GatedCell, Norm
from unrolled.scan import ScanOptions, native, scan

T, B, D, H = 6, 3, 4, 5

CELLS: dict[str, Callable[..., GatedCell]] = {
    "Elman": cells.Elman,
    "relu": functools.partial(cells.Elman, activation="relu"),
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
}
every_cell = pytest.mark.parametrize("kind", CELLS)


def make(kind: str, **options: object) -> tuple[GatedCell, Tensor, State]:
    """A cell, of which no parameter is 0 or 1, an input and a state."""
    cell = CELLS[kind](D, H, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_()
    state = tuple(torch.randn(B, H).double() for _ in cell.state_sizes)
    return cell, torch.randn(T, B, D).double(), state


def normed(z: Tensor, norm: Norm | None) -> Tensor:
    """Layer normalisation of all of ``z`` ``[B, n]`` at once, from the definition."""
    if norm is None:
        return z
    mean = z.sum(1, keepdim=True) / z.shape[1]
    deviation = (((z - mean) ** 2).sum(1, keepdim=True) / z.shape[1] + 1e-5).sqrt()
    z = (z - mean) / deviation * norm.weight
    return z if norm.bias is None else z + norm.bias


def part(norm: Norm | None, rows: slice) -> Norm | None:
    """The gain and shift of some units, as a norm of their own."""
    if norm is None:
        return None
    own = Norm([1], bias=norm.bias is not None)
    own._parameters = {name: p if p is None else p[rows] for name, p in norm._parameters.items()}
    return own


def advanced(cell: GatedCell, x: Tensor, state: State, heard: Tensor) -> State:
    """One step of the plain or normalised equations, in which W sees ``heard``."""
    norms = [getattr(cell, n) if cell.layer_norm else None for n in ("norm_ih", "norm_hh")]
    zero = torch.zeros(len(cell.weight_ih)).double()
    b, b_late = (zero if v is None else v for v in (cell.bias_ih, cell.bias_hh))
    if isinstance(cell, cells.GRU):
        rz, n = slice(0, 2 * H), slice(2 * H, 3 * H)
        u = {
            k: normed(x @ cell.weight_ih[r].T, part(norms[0], r)) + b[r]
            for k, r in enumerate((rz, n))
        }
        w = {
            k: normed(heard @ cell.weight_hh[r].T, part(norms[1], r)) + b_late[r]
            for k, r in enumerate((rz, n))
        }
        r, z = torch.sigmoid(u[0] + w[0]).split(H, 1)
        new = torch.tanh(u[1] + r * w[1])
        return ((1 - z) * new + z * state[0],)
    summed = normed(x @ cell.weight_ih.T, norms[0]) + normed(heard @ cell.weight_hh.T, norms[1])
    summed = summed + b + b_late
    if isinstance(cell, cells.LSTM):
        i, f, g, o = summed.split(H, 1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        shown = normed(c, cell.norm_c if cell.layer_norm else None)
        return torch.sigmoid(o) * torch.tanh(shown), c
    return (torch.relu(summed) if cell.activation == "relu" else torch.tanh(summed),)


def looped(
    cell: GatedCell,
    x: Tensor,
    state: State,
    mask: Tensor | None = None,
    stays: list[Tensor] | None = None,
) -> tuple[Tensor, State]:
    """Step by step: ``mask`` ``[B, H]`` on what W sees; ``stays``, ``[T, B, H]`` for each state tensor."""
    outputs = []
    for t, x_t in enumerate(x):
        after = advanced(cell, x_t, state, state[0] if mask is None else state[0] * mask)
        if stays is not None:
            after = tuple(
                torch.lerp(new, old, k[t]) for new, old, k in zip(after, state, stays, strict=True)
            )
        state = after
        outputs.append(state[0])
    return torch.stack(outputs), state


def run(
    call: Callable[..., tuple[Tensor, State]], cell: GatedCell, x: Tensor, state: State
) -> dict[str, Tensor]:
    """Outputs, final states and every gradient, by name."""
    x, *start = leaves(x, *state)
    y, final = call(cell, x, tuple(start))
    sources = {"x": x} | named_state(tuple(start), "_0") | dict(cell.named_parameters())
    return collect({"y": y} | named_state(final, "_n"), sources)


# --- Layer normalisation -------------------------------------------------------------------------


@pytest.mark.each_value
@pytest.mark.parametrize("bias", [True, False])
@every_cell
def test_layer_norm_is_its_equations_in_every_value_and_gradient(kind: str, bias: bool) -> None:
    cell, x, state = make(kind, layer_norm=True, bias=bias)
    assert_close_by_name(run(scanned, cell, x, state), run(looped, cell, x, state), T)


@every_cell
def test_layer_norm_starts_with_gains_of_one_and_shifts_of_zero_also_when_reset(kind: str) -> None:
    cell = CELLS[kind](D, H, layer_norm=True)
    norms = [module for module in cell.modules() if isinstance(module, Norm)]
    assert len(norms) == (3 if kind == "LSTM" else 2)
    for _ in range(2):
        for norm in norms:
            assert (norm.weight == 1).all() and not norm.bias.any()
        cell.reset_parameters()
    assert cell.bias_ih.any()


@every_cell
def test_with_layer_norm_the_scale_of_either_weight_says_nothing(kind: str) -> None:
    cell, x, state = make(kind, layer_norm=True)
    before = scan(cell, x, state)[0][0]
    with torch.no_grad():
        cell.weight_ih *= 7
        cell.weight_hh *= 3
    # Up to the 1e-5 beside the variance.
    torch.testing.assert_close(scan(cell, x, state)[0][0], before, rtol=1e-3, atol=1e-3)


@pytest.mark.each_value
@pytest.mark.parametrize("options", [{"layer_norm": True}, {"zoneout": 0.3}], ids=str)
@pytest.mark.parametrize("kind", ["Elman", "LSTM", "GRU"])
def test_first_and_second_derivatives_are_those_of_finite_differences(
    kind: str, options: dict[str, object]
) -> None:
    cell = CELLS[kind](2, 2, **options).double().eval()
    x, *state = (torch.randn(*s).double() for s in ((3, 2, 2), *[(2, 2)] * len(cell.state_sizes)))
    check_derivatives(cell, lambda cell, x, *state: scanned(cell, x, state), x, *state)


# --- Noise ---------------------------------------------------------------------------------------


def drawn(cell: GatedCell, x: Tensor) -> Tensor:
    """The noise that the next scan of ``x`` draws."""
    torch.manual_seed(3)
    noise = cell.noise(len(x), x.shape[1], x)
    torch.manual_seed(3)
    assert noise is not None
    return noise


@every_cell
def test_recurrent_dropout_masks_what_the_recurrent_weights_see_and_nothing_else(kind: str) -> None:
    cell, x, state = make(kind, recurrent_dropout=0.4)
    noise = drawn(cell, x)
    assert noise.shape == (1, B, H)
    got = run(scanned, cell, x, state)
    assert_close_by_name(got, run(functools.partial(looped, mask=noise[0]), cell, x, state), T)


@pytest.mark.each_value
@pytest.mark.parametrize("layer_norm", [False, True])
@every_cell
def test_zoneout_keeps_each_state_where_it_was_drawn_to(kind: str, layer_norm: bool) -> None:
    cell, x, state = make(kind, zoneout=0.3, recurrent_dropout=0.4, layer_norm=layer_norm)
    mask, *stays = drawn(cell, x).split(H, -1)
    assert len(stays) == len(state)
    assert torch.equal(mask, mask[:1].expand(T, -1, -1))
    got = run(scanned, cell, x, state)
    by_hand = functools.partial(looped, mask=mask[0], stays=stays)
    assert_close_by_name(got, run(by_hand, cell, x, state), T)


@every_cell
def test_in_evaluation_zoneout_is_its_mean(kind: str) -> None:
    cell, x, state = make(kind, zoneout=0.3, recurrent_dropout=0.4)
    cell.eval()
    assert cell.noise(T, B, x) is None
    means = [torch.full((T, B, H), 0.3, dtype=torch.float64) for _ in state]
    got = run(scanned, cell, x, state)
    assert_close_by_name(got, run(functools.partial(looped, stays=means), cell, x, state), T)


def test_the_mean_of_many_zoned_out_steps_is_the_step_in_evaluation() -> None:
    cell, _, _ = make("LSTM", zoneout=(0.2, 0.6))
    many = 20_000
    x = torch.randn(1, 1, D).double().expand(1, many, D)
    state = tuple(torch.randn(1, H).double().expand(many, H) for _ in "hc")
    drawn = scan(cell, x, state)[1]
    plain = scan(cell.eval(), x[:, :1], tuple(s[:1] for s in state))[1]
    for s, mean, old, p in zip(drawn, plain, state, (0.2, 0.6), strict=True):
        # A coin of variance p (1 - p) between the old and the new: five standard deviations.
        apart = (mean - old[:1]).abs() / (1 - p)
        assert ((s.mean(0) - mean).abs() <= 5 * apart * (p * (1 - p) / many) ** 0.5 + 1e-12).all()


@every_cell
def test_recurrent_dropout_is_off_in_evaluation(kind: str) -> None:
    cell, x, state = make(kind, recurrent_dropout=0.4)
    plain = CELLS[kind](D, H).double()
    plain.load_state_dict(cell.state_dict())
    assert not torch.equal(scan(cell, x, state)[0][0], scan(plain, x, state)[0][0])
    assert torch.equal(scan(cell.eval(), x, state)[0][0], scan(plain, x, state)[0][0])


def test_noise_is_drawn_at_the_rates_that_are_asked_for() -> None:
    steps, batch_size, share, zoneout = 20, 50, 0.3, (0.2, 0.6)
    cell = cells.LSTM(D, 40, recurrent_dropout=share, zoneout=zoneout)
    mask, h, c = cell.noise(steps, batch_size, torch.zeros(1)).split(40, -1)
    assert set(mask.unique().tolist()) == {0, mask.max().item()}
    assert mask.max().item() == pytest.approx(1 / (1 - share))
    rates = {"dropped": (mask[0] == 0, share), "h": (h == 1, zoneout[0]), "c": (c == 1, zoneout[1])}
    for name, (hits, p) in rates.items():
        # Independent draws of variance p (1 - p): five standard deviations.
        allowed = 5 * math.sqrt(p * (1 - p) / hits.numel())
        assert abs(hits.double().mean().item() - p) < allowed, name
    assert not torch.equal(h[0], h[1])


@every_cell
def test_second_derivatives_are_those_of_the_noise_that_was_drawn(kind: str) -> None:
    cell, x, state = make(kind, zoneout=0.3, recurrent_dropout=0.4)
    mask, *stays = drawn(cell, x).split(H, -1)

    def curvature(call: Callable[..., tuple[Tensor, State]]) -> dict[str, Tensor]:
        (u,) = leaves(x)
        y, _ = call(cell, u, state)
        (slope,) = torch.autograd.grad(y.pow(2).sum(), u, create_graph=True)
        return collect({"slope": slope}, {"x": u, "weight_hh": cell.weight_hh})

    torch.manual_seed(3)
    got = curvature(scanned)
    assert got["grad of weight_hh"].any()
    expected = curvature(functools.partial(looped, mask=mask[0], stays=stays))
    assert_close_by_name(got, expected, T)


def test_with_lengths_noise_belongs_to_its_step_and_sequence_in_both_directions() -> None:
    cell, x, state = make("LSTM", zoneout=0.3, recurrent_dropout=0.4)
    mask, *stays = drawn(cell, x).split(H, -1)
    lengths = [4, 0, 6]
    for reverse in (False, True):
        torch.manual_seed(3)
        (y,), _ = scan(cell, x, state, ScanOptions(lengths=torch.tensor(lengths), reverse=reverse))
        for b, n in enumerate(lengths):
            order = range(n - 1, -1, -1) if reverse else range(n)
            times = torch.tensor(list(order), dtype=torch.int64)
            sequence = slice(b, b + 1)
            own = (
                looped(
                    cell,
                    x[times, sequence],
                    tuple(s[sequence] for s in state),
                    mask[0, sequence],
                    [s[times, sequence] for s in stays],
                )[0]
                if n
                else x.new_zeros(0, 1, H)
            )
            assert_close_by_name({"y": y[times, sequence]}, {"y": own}, T)
            assert not y[n:, b].any()


# --- The forget gate, and what is refused --------------------------------------------------------


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, -2.5])
def test_forget_bias_is_the_sum_of_both_biases_also_when_reset(forget_bias: float) -> None:
    cell = cells.LSTM(D, H, forget_bias=forget_bias)
    for _ in range(2):
        b = cell.bias().detach()
        assert (b[H : 2 * H] == forget_bias).all()
        assert b[:H].unique().numel() == b[2 * H : 3 * H].unique().numel() == H
        cell.reset_parameters()


@pytest.mark.parametrize(
    ("kind", "options", "error", "match"),
    [
        ("LSTM", {"zoneout": 1.0}, ValueError, "^zoneout: got 1.0, expected a number from 0"),
        (
            "LSTM",
            {"zoneout": (0.1,)},
            ValueError,
            "^zoneout: got 1 numbers, expected 2, one a state",
        ),
        ("GRU", {"zoneout": (0.1, 0.1)}, ValueError, "^zoneout: got 2 numbers, expected 1"),
        ("GRU", {"recurrent_dropout": -1}, ValueError, "^recurrent_dropout: got -1, expected a n"),
        ("GRU", {"forget_bias": 1.0}, TypeError, "^GRU: got an unknown option, forget_bias"),
        ("Elman", {"nonlinearity": "x"}, TypeError, "^Elman: got an unknown option, nonlinearity"),
        (
            "LSTM",
            {"forget_bias": 1.0, "bias": False},
            ValueError,
            "^forget_bias: got 1.0 with bias=",
        ),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_by_name(
    kind: str, options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        CELLS[kind](D, H, **options)


def test_a_cell_shows_the_options_at_work() -> None:
    assert repr(cells.GRU(3, 5, zoneout=0.1)) == "GRU(3, 5, zoneout=(0.1,))"
    assert "3, 5, layer_norm=True" in repr(cells.LSTM(3, 5, layer_norm=True))
    assert repr(cells.LSTM(3, 5, zoneout=0.0, recurrent_dropout=0)) == "LSTM(3, 5)"


def test_what_is_not_built_in_is_compiled() -> None:
    assert native.kernel_name(cells.LSTM(3, 5, zoneout=0.0)) == "lstm"
    cell = cells.LSTM(3, 5, zoneout=0.1, layer_norm=True)
    assert native.kernel_name(cell) is None
    assert native.reasons_of_cell(cell) == []
    dropping = cells.GRU(3, 5, recurrent_dropout=0.1)
    assert native.kernel_name(dropping) is None
    assert native.kernel_name(dropping.eval()) == "gru"
