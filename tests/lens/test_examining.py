"""The verdict is on the stretch that ran, from the state it began with, over all sequences that ran."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import unrolled
from tests.lens.nets import linear, make, orthogonal
from unrolled import Recurrent, bptt, cells, lens
from unrolled.lens import watch

T, B, D, H = 12, 3, 3, 4


def growth_of(jacobians: Tensor) -> float:
    """A step back, of the product of ``[S, n, n]`` in the root of the mean square over directions."""
    product = torch.eye(jacobians.shape[-1], dtype=torch.float64)
    for jacobian in jacobians:
        product = jacobian @ product
    return math.exp(math.log(product.norm() / math.sqrt(len(product))) / len(jacobians))


def decaying() -> Recurrent:
    """Whose growth depends on where it is: near zero it grows, far from zero it saturates."""
    layer = Recurrent(cells.Elman, D, H).double()
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(3 * orthogonal())
    return layer


def test_padding_is_no_step() -> None:
    layer = linear(0.9 * torch.eye(H, dtype=torch.float64))
    x = torch.randn(200, 2, D, dtype=torch.float64)
    for steps, state in ((20, "healthy"), (100, "vanishing")):
        mask = torch.zeros(200, 2, dtype=torch.bool)
        mask[::2][:steps] = True
        for given in ({"lengths": torch.tensor([steps, 3])}, {"mask": mask}):
            with watch(layer) as seen:
                layer(x, **given).y.sum().backward()
            verdict = seen.report().verdict
            assert verdict is not None and verdict.state == state


@pytest.mark.parametrize("window", [3, 6])
def test_the_verdict_is_from_the_state_that_was_carried(window: int) -> None:
    layer, x = decaying(), 1e-3 * torch.randn(T, 1, D, dtype=torch.float64)
    with watch(layer) as seen:
        for y, _ in bptt.truncated(layer, x, k1=window):
            y.sum().backward()
    (scan,) = lens.recurrences(layer, x)
    want = growth_of(scan.jacobians(T - window + 1)[:, 0])
    (row,) = seen.report().rows
    assert row.verdict is not None and row.verdict.growth == pytest.approx(want)
    assert row.view is not None
    torch.testing.assert_close(row.view.states, scan.states[0][1:, 0][-window:])
    assert want < 0.9 * growth_of(lens.recurrences(layer, x[-window:])[0].jacobians(1)[:, 0])


@pytest.mark.parametrize("kind", ["LSTM", "drop-in layer LSTM", "torch LSTM"])
def test_every_scan_begins_with_its_own_state(kind: str) -> None:
    layer = make(kind, 2, bidirectional=True)
    x = torch.randn(T, B, D, dtype=torch.float64)
    state = tuple(torch.randn(4, B, H, dtype=torch.float64) for _ in range(2))
    with watch(layer) as seen:
        y, _ = layer(x, state)
        y.sum().backward()
    rows = seen.report().rows
    above = torch.cat([row.view.states for row in rows[2:] if row.view is not None], -1)
    torch.testing.assert_close(above, y[:, 0].detach())
    # Fewer steps taken apart: the states shown are still those of all, each from its own start.
    short = seen.report(steps=5).rows
    for few, row in zip(short, rows, strict=True):
        assert few.view is not None and row.view is not None and few.view.lags.shape == (5, 5)
        torch.testing.assert_close(few.view.states, row.view.states)
    # Of the first steps alone the state from behind is another's; forward it is the same.
    assert short[0].view is not None and rows[0].view is not None
    lags = rows[0].view.lags[:5, :5]  # NaN where a step would act on an earlier one
    torch.testing.assert_close(short[0].view.lags, lags, equal_nan=True)


@pytest.mark.parametrize("kind", ["Elman", "drop-in layer RNN"])
def test_the_longest_stretch_without_a_reset_is_looked_at(kind: str) -> None:
    layer, x = make(kind), torch.randn(T, B, D, dtype=torch.float64)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[[4, 6], 0] = resets[::3, 1] = resets[:, 2] = True
    with watch(layer) as seen:
        state = torch.randn(1, B, H, dtype=torch.float64)
        y = layer(x, (state,) if kind == "Elman" else state, resets=resets)[0]
        y.sum().backward()
    (row,) = seen.report().rows
    assert row.view is not None and row.verdict is not None
    torch.testing.assert_close(row.view.states, y[6:, 0].detach())
    want = growth_of(lens.recurrences(layer, x[6:, :1])[0].jacobians(1)[:, 0])
    assert row.verdict.growth == pytest.approx(want)


def test_a_unit_is_dead_only_if_it_is_in_every_sequence() -> None:
    layer = Recurrent(cells.Elman, 2, H, activation="relu").double()
    with torch.no_grad():
        layer.cells[0].weight_hh.zero_()
        layer.cells[0].weight_ih.copy_(torch.tensor([[1.0, -1]] * 2 + [[-1.0, 1]] * 2))
        layer.cells[0].bias_ih.zero_()
    x = torch.zeros(T, 2, 2, dtype=torch.float64)
    x[:, 0, 0] = x[:, 1, 1] = 1.0  # each sequence switches two units on
    for batch_size, dead in ((x, 0.0), (x[:, :1], 0.5)):
        with watch(layer) as seen:
            layer(batch_size).y.sum().backward()
        (row,) = seen.report().rows
        assert row.view is not None and row.view.causes.slopes is not None
        assert row.view.causes.slopes.dead == dead
        assert (row.verdict is not None and row.verdict.state == "dead") is (dead > 0)


def test_what_was_read_and_then_overwritten_is_not_judged() -> None:
    layer, x = unrolled.GRU(D, H), torch.randn(T, B, D)
    with watch(layer) as seen:
        layer(x)[0].sum().backward()
    x.zero_()
    report = seen.report()
    assert report.rows[0].verdict is None and "overwritten" in str(report)


def test_packed_rows_begin_with_their_states() -> None:
    layer = nn.LSTM(D, H).double()
    parts = [torch.randn(n, D, dtype=torch.float64) for n in (5, 8)]
    state = tuple(torch.randn(1, 2, H, dtype=torch.float64) for _ in range(2))
    with watch(layer) as seen:
        layer(pack_sequence(parts, enforce_sorted=False), state)[0].data.sum().backward()
    (row,) = seen.report().rows
    want, _ = layer(parts[1].unsqueeze(1), tuple(s[:, 1:] for s in state))
    assert row.view is not None
    torch.testing.assert_close(row.view.states, want[:, 0].detach())
