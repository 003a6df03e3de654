"""Where a number broke first; which lag a clipped gradient came from."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import unrolled
from tests.lens.nets import linear
from unrolled import Recurrent, cells, remedies
from unrolled.lens import watch

T, B, D, H = 9, 3, 3, 4


@pytest.mark.parametrize("step", [0, 4, T - 1])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, unrolled.RNN])
def test_the_first_step_forward_is_named(kind: type[nn.RNNBase], step: int) -> None:
    layer, x = kind(D, H, num_layers=2), torch.randn(T, B, D)
    x[step, 1, 0] = math.nan
    with watch(layer) as lens:
        layer(x)[0].sum().backward()
    found = lens.broken()
    assert found is not None
    assert (found.where, found.level, found.step, found.lane) == ("forward", 0, step, 1)
    assert f"NaN came up in the state at step {step} of lane 1" in str(lens.report())


def test_backward_in_time_the_last_step_is_the_first() -> None:
    layer = Recurrent(cells.Elman, D, H, bidirectional=True, activation="relu")
    (forward, backward), x = layer.cells, torch.randn(T, B, D)
    with torch.no_grad():  # so that only the second direction breaks
        backward.weight_ih[:, 0] = 1e30
        forward.weight_ih[:, 0] = 0
    x[..., 0] = 0
    x[5, 2, 0] = 1e30
    with watch(layer) as lens:
        layer(x)
    found = lens.broken()
    assert found is not None and found.direction == 1
    assert (found.where, found.step, found.lane) == ("forward", 5, 2)


def test_through_a_reset_it_is_still_seen() -> None:
    for layer in (Recurrent(cells.LSTM, D, H), unrolled.LSTM(D, H)):
        x, resets = torch.randn(T, B, D), torch.zeros(T, B, dtype=torch.bool)
        x[2, 0], resets[4, 0] = math.nan, True
        with watch(layer) as lens:
            layer(x, resets=resets)
        found = lens.broken()
        assert found is not None and (found.step, found.lane) == (2, 0)


def test_of_packed_rows_the_step_and_the_lane_in_their_order() -> None:
    parts = [torch.randn(n, D) for n in (8, 5, 2)]
    parts[1][3, 0] = math.inf
    layer = nn.RNN(D, H, nonlinearity="relu")
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
    with watch(layer) as lens:
        layer(pack_sequence(parts))
    found = lens.broken()
    assert found is not None
    assert (found.value, found.step, found.lane) == ("inf", 3, 1)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_first_step_of_the_way_back_is_named(backend: unrolled.scan.Backend) -> None:
    layer = Recurrent(cells.LSTM, D, H, depth=2, backend=backend)
    weight = torch.ones(T, B, H)
    weight[3, 2] = math.inf
    with watch(layer) as lens:
        (layer(torch.randn(T, B, D)).y * weight).sum().backward()
    found = lens.broken()
    assert found is not None
    assert (found.where, found.level, found.step, found.lane) == ("backward", 1, 3, 2)


def test_the_first_pass_that_broke_is_named() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as lens:
        for call in range(4):
            x = torch.randn(T, B, D)
            if call in (1, 3):
                x[call] = math.nan
            layer(x)[0].sum().backward()
    found = lens.broken()
    assert found is not None and (found.call, found.step) == (1, 1)


def test_what_is_finite_is_not_broken() -> None:
    layer = Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True)
    with watch(layer) as lens:
        layer(torch.randn(T, B, D), lengths=[T, 3, 0]).y.sum().backward()
        assert lens.broken() is None
    huge = linear(1e200 * torch.eye(H, dtype=torch.float64))  # whose sum alone is infinite
    with watch(huge) as lens:
        huge(torch.full((1, 1, D), 1e308 / D, dtype=torch.float64))
    assert lens.broken() is None


@pytest.mark.parametrize(("a", "lag"), [(1.5, T - 1), (0.5, 0)])
def test_the_lag_of_a_spike(a: float, lag: int) -> None:
    layer = linear(a * torch.eye(H, dtype=torch.float64))
    with watch(layer) as lens:
        for scale in (0.0, 100.0, 1e-9):
            layer.zero_grad()
            y = layer(torch.randn(T, B, D, dtype=torch.float64)).y
            (scale * y[-1, 1].sum()).backward()
            lens.clipped(remedies.clip_norm(layer.parameters(), 1.0), 1.0)
    clipping = lens.clipping()
    assert clipping is not None and (clipping.calls, clipping.clipped) == (3, 1)
    ((call, norm, bound, spike),) = clipping.spikes
    assert spike is not None
    assert (call, bound, spike.lag, spike.step, spike.lane) == (1, 1.0, lag, T - 1 - lag, 1)
    assert clipping.factor == pytest.approx(1 / norm)
    assert spike.norm == pytest.approx(100 * math.sqrt(H) * max(1, a ** (T - 1)))
    assert "acted in 1 of 3 steps" in str(lens.report())


def test_a_loss_at_every_step_is_no_lag() -> None:
    def lag(a: float, loss: Callable[[Tensor], Tensor]) -> int:
        layer = linear(a * torch.eye(H, dtype=torch.float64))
        with watch(layer) as lens:
            loss(layer(torch.randn(30, B, D, dtype=torch.float64)).y).backward()
            lens.clipped(1e9, 1.0)
        clipping = lens.clipping()
        assert clipping is not None and clipping.spikes[0][-1] is not None
        return clipping.spikes[0][-1].lag

    assert (
        lag(0.5, lambda y: 1e6 * y.sum()) == 3
    )  # where 1 + 1/2 + 1/4 + 1/8 of 2 has come together
    assert lag(0.5, lambda y: y.sum() + 1e6 * y[4, 1].sum()) == 0
    assert lag(1.5, lambda y: y.sum()) == 29
    assert lag(1.5, lambda y: y.sum() + 1e9 * y[12, 1].sum()) == 12


def test_in_the_backward_direction_time_runs_the_other_way() -> None:
    layer = Recurrent(cells.Elman, D, H, bidirectional=True, activation="identity").double()
    with torch.no_grad():
        for cell in layer.cells:
            cell.weight_hh.copy_(torch.eye(H))
        layer.cells[1].weight_hh.mul_(2)
    with watch(layer) as lens:
        layer(torch.randn(T, B, D, dtype=torch.float64)).y[2].sum().backward()
        lens.clipped(1e9, 1.0)
    clipping = lens.clipping()
    assert clipping is not None
    spike = clipping.spikes[0][-1]
    assert spike is not None and (spike.direction, spike.step, spike.lag) == (1, T - 1, T - 3)


def test_what_the_lens_was_told_wrongly_is_refused() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as lens:
        assert lens.clipping() is None
        with pytest.raises(ValueError, match="bound: got 0,"):
            lens.clipped(1.0, 0)
        with pytest.raises(ValueError, match=r"norm: got -1\.0"):
            lens.clipped(-1.0, 1.0)
        lens.clipped(torch.tensor(3.0), math.inf)
        lens.clipped(3.0, 1.5)
    clipping = lens.clipping()
    assert clipping is not None
    assert (clipping.calls, clipping.clipped, clipping.factor) == (2, 1, pytest.approx(0.5))
    assert clipping.spikes == ((1, 3.0, 1.5, None),)
