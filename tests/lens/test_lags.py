"""What is heard of the past: known answers, and the layer differentiated as a whole."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.compare import tolerance
from tests.lens.nets import KINDS, B, D, H, T, eye, inputs, linear, make, orthogonal
from unrolled import Recurrent, cells, lens
from unrolled.layers.base import as_tuple
from unrolled.layers.finding import adapted

FACTORS = [0.5, 0.9, 1.0, -1.1, 1.5]

# Products of up to T steps: what one may be off by, T times.
ROUNDING = T * tolerance(torch.float64, T)


@pytest.mark.parametrize("norm", ["rms", "spectral"])
@pytest.mark.parametrize("a", FACTORS)
def test_a_to_the_k(a, norm):
    steps = 40
    found = lens.lag_matrix(linear(a * eye()), inputs(steps), norm=norm)
    for t in range(steps):
        expected = torch.tensor([abs(a) ** k for k in range(t + 1)], dtype=torch.float64)
        torch.testing.assert_close(found[t, : t + 1], expected, rtol=1e-12, atol=0)
        assert found[t, t + 1 :].isnan().all()
    horizon = lens.horizon(found[-1], fraction=0.1)
    expected = math.log(0.1) / math.log(abs(a)) if abs(a) < 1 else math.inf
    assert horizon == pytest.approx(expected, rel=1e-12)


def test_an_orthogonal_linear_network_keeps_all():
    for norm in ("rms", "spectral"):
        found = lens.lag_matrix(linear(orthogonal()), inputs(30), norm=norm)
        torch.testing.assert_close(
            found.nan_to_num(1.0), torch.ones_like(found), rtol=0, atol=1e-13
        )


def by_autograd(layer, x, t, k, row):
    """∂s_t/∂s_{t-k} of scan ``row``, the layer run over the steps between from its own state there."""
    is_backward = row == 1 and layer_directions(layer) == 2
    before, between = (
        (x[t + k :], x[t : t + k]) if is_backward else (x[: t - k + 1], x[t - k + 1 : t + 1])
    )
    state = as_tuple(layer(before, adapted(layer).as_given(adapted(layer).fresh_state(B, x)))[1])
    sizes = [s.shape[-1] for s in state]

    def after(flat):
        moved = [
            s.index_copy(0, torch.tensor([row]), part.unsqueeze(0))
            for s, part in zip(state, flat.split(sizes, -1), strict=True)
        ]
        return torch.cat(
            [s[row] for s in as_tuple(layer(between, adapted(layer).as_given(moved))[1])], -1
        )

    found = jacobian(after, torch.cat([s[row] for s in state], -1))
    return found[range(B), :, range(B)]


def layer_directions(layer):
    return layer.directions if isinstance(layer, Recurrent) else 1 + layer.bidirectional


@pytest.mark.each_value
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_differentiated_in_its_state(kind, bidirectional):
    """Two levels forward, whose inputs the state above does not change; or two directions."""
    layer = make(kind, 1 if bidirectional else 2, bidirectional=bidirectional).eval()
    x = inputs()
    for row in range(2):
        place = {"direction" if bidirectional else "level": row}
        found = {n: lens.lag_matrix(layer, x, norm=n, **place) for n in ("rms", "spectral")}
        backward = bidirectional and row == 1
        for t in range(T):
            for k in range(1, T):
                exists = t + k < T if backward else t - k >= 0
                if not exists:
                    assert found["rms"][t, k].isnan() and found["spectral"][t, k].isnan()
                    continue
                whole = by_autograd(layer, x, t, k, row)
                rms = whole.square().mean(-1).sum(-1).sqrt().mean()
                spectral = torch.linalg.matrix_norm(whole, 2).mean()
                torch.testing.assert_close(found["rms"][t, k], rms, rtol=ROUNDING, atol=ROUNDING)
                torch.testing.assert_close(
                    found["spectral"][t, k], spectral, rtol=ROUNDING, atol=ROUNDING
                )


def test_few_lags_are_the_first_of_all():
    layer, x = make("LSTM"), inputs(9)
    whole = lens.lag_matrix(layer, x)
    for lags in (1, 2, 4, 9):
        found = lens.lag_matrix(layer, x, lags=lags)
        torch.testing.assert_close(found, whole[:, :lags], rtol=1e-13, atol=0, equal_nan=True)


def test_one_step_and_one_sequence():
    for kind in KINDS:
        layer, x = make(kind), inputs(1, 1)
        assert lens.lag_matrix(layer, x).tolist() == [[1.0]]
        assert lens.influence(layer, x).shape == (1, 1)


def test_sequences_are_averaged():
    layer, x = make("GRU"), inputs()
    for measure in (lens.lag_matrix, lens.influence):
        each = torch.stack([measure(layer, x[:, [b]]) for b in range(B)])
        torch.testing.assert_close(measure(layer, x), each.mean(0), equal_nan=True)


INFLUENCED = (
    {kind: lambda kind=kind: make(kind, 2) for kind in KINDS}
    | {
        "two ways " + kind: lambda kind=kind: make(kind, 2, bidirectional=True)
        for kind in ("Elman", "LRU", "drop-in layer LSTM", "torch GRU")
    }
    | {
        "separate": lambda: make("GRU", 2, bidirectional=True, merge="separate"),
        "mean": lambda: make(
            "LSTM", 2, bidirectional=True, merge="mean", projection=D, residual=True
        ),
        "mul": lambda: make("Elman", 3, bidirectional=True, merge="mul", residual="highway"),
        "reference": lambda: make("GRU", 2, backend="reference"),
    }
)


@pytest.mark.parametrize("kind", INFLUENCED)
def test_influence_is_the_layer_differentiated_in_x(kind):
    layer, x = INFLUENCED[kind]().eval(), inputs()

    def outputs(x):
        y = layer(x)[0]
        return y if isinstance(y, torch.Tensor) else torch.cat(y, -1)

    whole = jacobian(outputs, x)  # [T, B, F, T, B, D]
    own = torch.stack([whole[:, b, :, :, b] for b in range(B)])
    expected = own.square().sum((2, 4)).sqrt().mean(0)
    found = lens.influence(layer, x)
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)
    if layer_directions(layer) == 1:
        assert torch.equal(found, found.tril()) and (found.diagonal() > 0).all()
    else:
        assert (found > 0).all()


def test_influence_by_torch_func():
    """The whole layer under ``torch.func.jacrev``, as far as it can be traced so."""
    for cell in (cells.Elman, cells.LSTM, cells.GRU, cells.MGU):
        layer = Recurrent(cell, D, H, bidirectional=True, backend="reference").double()
        x = inputs(T, 1)
        whole = torch.func.jacrev(lambda x, layer=layer: layer(x)[0])(x)
        expected = whole[:, 0, :, :, 0].square().sum((1, 3)).sqrt().detach()
        torch.testing.assert_close(lens.influence(layer, x), expected, rtol=ROUNDING, atol=ROUNDING)


def test_influence_of_a_linear_network_is_known():
    a = 0.5
    layer = linear(a * eye())
    found = lens.influence(layer, inputs())
    gain = layer.cells[0].weight_ih.norm().item()
    for t in range(T):
        for k in range(T):
            assert found[t, k].item() == pytest.approx(gain * a ** (t - k) if k <= t else 0.0)


def test_horizon():
    assert lens.horizon([1.0, 0.5, 0.25], fraction=0.5) == 1.0
    assert lens.horizon([4.0, 2.0, 1.0], fraction=0.25) == 2.0
    assert lens.horizon([1.0, 0.0, 0.0]) == 0.0
    assert lens.horizon([1.0, 2.0, 0.001]) == pytest.approx(1 + math.log(200) / math.log(2000))
    assert lens.horizon([1.0]) == math.inf
    assert lens.horizon([1.0, math.inf]) == math.inf
    assert lens.horizon(torch.tensor([1.0, 0.1, 0.001], requires_grad=True)) == pytest.approx(1.5)


def test_bad_arguments():
    layer, x = make("GRU"), inputs()
    with pytest.raises(ValueError, match="norm: got 'fro', expected one of rms, spectral"):
        lens.lag_matrix(layer, x, norm="fro")
    with pytest.raises(ValueError, match=f"lags: got {T + 1}, expected at most {T}"):
        lens.lag_matrix(layer, x, lags=T + 1)
    with pytest.raises(ValueError, match="lags: got 0"):
        lens.lag_matrix(layer, x, lags=0)
    for fraction in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="fraction: got"):
            lens.horizon([1.0, 0.5], fraction=fraction)
    with pytest.raises(ValueError, match=r"decay: got shape \[5, 5\].*nanmean"):
        lens.horizon(lens.lag_matrix(layer, x))
    for decay in ([1.0, math.nan], [0.0, 1.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="decay: got NaN, a negative number or 0"):
            lens.horizon(decay)
