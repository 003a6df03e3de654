"""Sequences that begin and end within windows: each as if it were alone."""

import pytest
import torch
from torch import nn

from tests.bptt.carrying import FLOAT64, KINDS, OWN, D, H, detached, gradients, make, named, windows
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, bptt, cells
from unrolled.layers.base import as_tuple
from unrolled.layers.finding import adapted

# --- Resets --------------------------------------------------------------------------------------


def by_rows(layer, x, resets, state=None, fresh=None):
    """The layer over each row alone, from each of its resets to the next; gradients go through."""
    time = 1 if layer.batch_first else 0
    shown, finals = [], []
    for row in range(x.shape[1 - time]):
        own = x.narrow(1 - time, row, 1)
        mine = None if state is None else [s[:, row : row + 1].contiguous() for s in state]
        cuts = [t for t in range(1, len(resets)) if resets[t, row]]
        if resets[0, row] or mine is None:
            mine = fresh
        parts = []
        for begin, end in zip([0, *cuts], [*cuts, len(resets)], strict=True):
            start = fresh if begin else mine
            start = None if start is None else adapted(layer).as_given(start)
            y, mine = layer(own.narrow(time, begin, end - begin), start)
            mine = as_tuple(mine)
            parts.append(y)
        shown.append(torch.cat(parts, time))
        finals.append(mine)
    final = tuple(torch.cat(parts, 1) for parts in zip(*finals, strict=True))
    return named(torch.cat(shown, 1 - time), final)


@pytest.mark.parametrize("later", [False, True], ids=["first window", "later window"])
@pytest.mark.parametrize("given", [False, True], ids=["own", "initial"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_resets_stop_state_and_gradient_where_they_are(kind, batch_first, given, later):
    layer = make(kind, batch_first=batch_first)
    initial = None
    if given:
        initial = leaves(*(torch.randn(s, dtype=FLOAT64) for s in adapted(layer).state_shapes(1)))
    carry = bptt.Carry(layer, initial={"": initial} if given else None, batch_first=batch_first)
    shape = (3, 8, D) if batch_first else (8, 3, D)
    x, other = leaves(*[torch.randn(shape, dtype=FLOAT64)] * 2)
    resets = torch.zeros(8, 3).bool()
    resets[0, 1] = resets[3, 0] = resets[5, 0] = resets[7, 2] = True
    state = None
    if later:
        with carry.window():
            layer(torch.randn(shape, dtype=FLOAT64))
        state = carry.states[""]
    with carry.window(resets.T if batch_first else resets):
        y, end = layer(x)
    sources = dict(layer.named_parameters())
    sources |= {f"initial {k}": s for k, s in enumerate(initial or ())}
    got = collect(named(y, end), {"x": x} | sources)
    expected = collect(by_rows(layer, other, resets, state, initial), {"x": other} | sources)
    assert_close_by_name(got, expected, 8)
    assert_close_by_name(
        {f"state {k}": s for k, s in enumerate(carry.states[""])},
        {name: s for name, s in got.items() if name.startswith("state")},
        0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_crosses_a_reset_and_other_rows_keep_theirs(kind):
    layer = make(kind)
    carry = bptt.Carry(layer)
    (x,) = leaves(torch.randn(8, 2, D, dtype=FLOAT64))
    resets = torch.zeros(8, 2).bool()
    resets[4, 1] = True
    with carry.window(resets):
        y, _ = layer(x)
    (grad,) = torch.autograd.grad(y[4:].sum(), x)
    assert (grad[:4, 1] == 0).all()
    assert (grad[4:, 1] != 0).any(-1).all()
    assert (grad[:, 0] != 0).any(-1).all()


@pytest.mark.parametrize("kind", OWN)
def test_resets_that_the_caller_gives_count_too(kind):
    layer = make(kind)
    initial = tuple(torch.randn(s, dtype=FLOAT64) for s in adapted(layer).state_shapes(1))
    x = torch.randn(6, 2, D, dtype=FLOAT64)
    mine, theirs = torch.zeros(2, 6, 2).bool()
    mine[2, 0] = theirs[4, 1] = theirs[0, 0] = True
    for given in (None, {"": initial}):
        expected = by_rows(layer, x, mine | theirs, None, initial if given else None)
        for outer, inner in ((mine, theirs), (None, mine | theirs)):
            with bptt.Carry(layer, initial=given).window(outer):
                got = named(*layer(x, resets=inner))
            assert_close_by_name(detached(got), detached(expected), 6)


def test_the_own_state_of_a_cell_is_what_sequences_begin_with():
    class Ones(cells.Elman):
        def initial_state(self, batch_size, like):
            return (like.new_ones(batch_size, self.hidden_size),)

    layer = Recurrent(Ones, D, H, backend="reference").double()
    x, resets = torch.randn(6, 2, D, dtype=FLOAT64), torch.zeros(6, 2).bool()
    resets[3, 1] = True
    got = windows(bptt.Carry(layer), layer, x, [2, 4], resets=resets)
    expected = detached(by_rows(layer, x, resets))
    assert_close_by_name(detached(got), expected, 6)


def test_a_learnt_initial_state_gets_its_gradient_by_hand():
    """h_t = a h_{t-1} + x: a state that is learnt has gradient a^t for each row that begins in it."""
    layer = Recurrent(cells.Elman, 1, 1, activation="relu", learn_initial_state=True).double()
    cell, a = layer.cells[0], 0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        cell.weight_hh.fill_(a)
        cell.initial[0].fill_(2.0)
    carry, resets = bptt.Carry(layer), torch.zeros(4, 3).bool()
    x = torch.zeros(4, 3, 1, dtype=FLOAT64)
    with carry.window():
        y, _ = layer(x)
    (grad,) = torch.autograd.grad(y[3].sum(), cell.initial[0])
    assert grad.item() == 3 * a**4
    resets[0, 0] = resets[2, 1] = True
    with carry.window(resets):
        y, _ = layer(x)
    (grad,) = torch.autograd.grad(y[3].sum(), cell.initial[0])
    assert grad.item() == a**4 + a**2
    assert y[3].flatten().tolist() == [2 * a**4, 2 * a**2, 2 * a**8]


# --- Rows that end -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OWN)
def test_rows_end_early_and_begin_anew(kind):
    layer = make(kind)
    carry = bptt.Carry(layer)
    x = torch.randn(4, 3, D, dtype=FLOAT64)
    lengths, resets = torch.tensor([4, 2, 0]), torch.zeros(4, 3).bool()
    with carry.window(lengths=lengths):
        got = named(*layer(x))
    expected = detached(named(*layer(x, lengths=lengths)))
    assert_close_by_name(detached(got), expected, 4)
    state = carry.states[""]
    message = "^lengths: row 1 ended in an earlier window, but goes on in this one; let resets"
    for arguments in ({}, {"lengths": [4, 4, 0]}, {"resets": resets}):
        with pytest.raises(ValueError, match=message), carry.window(**arguments):
            layer(x)
    resets[1:, 1] = True
    resets[0, 2] = True
    with pytest.raises(ValueError, match=message), carry.window(resets):
        layer(x)
    for kept, before in zip(carry.states[""], state, strict=True):
        assert torch.equal(kept, before)
    resets[0, 1], resets[1:] = True, False
    with carry.window(resets, lengths=torch.tensor([4, 3, 0])):
        got = named(*layer(x))
    assert_close_by_name(
        {"y": got["y"][:3, 1].detach()}, {"y": layer(x[:3, 1:2])[0][:, 0].detach()}, 4
    )
    assert (got["y"][3, 1] == 0).all() and (got["y"][:, 2] == 0).all()
    assert not carry.state_dict()["training:ended"][0]
    carry.reset([1])
    with carry.window(lengths=[4, 4, 0]):
        layer(x)
    carry.reset()
    with carry.window():
        layer(x)
    assert "training:ended" not in carry.state_dict()


@pytest.mark.parametrize("kind", ["LSTM", "drop-in layer LSTM", "learnt"])
def test_what_stands_beyond_a_rows_end_is_never_read(kind):
    layer = make(kind)
    x = torch.randn(5, 2, D, dtype=FLOAT64)
    x[3:, 1] = torch.nan
    resets = torch.zeros(5, 2).bool()
    resets[2, 1] = resets[4, 0] = True
    carry = bptt.Carry(layer)
    with carry.window(resets, lengths=[5, 3]):
        y, _ = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(layer).values())
    with carry.window(lengths=[5, 0]):
        layer(x.nan_to_num())


def test_torch_nns_layers_take_lengths_only_if_no_row_ends():
    layer = nn.LSTM(D, H)
    carry = bptt.Carry(layer)
    x = torch.randn(4, 2, D)
    with carry.window(lengths=[4, 4]):
        layer(x)
    message = r"^lengths: got rows that end early, but the layer is a torch\.nn\.LSTM"
    with pytest.raises(ValueError, match=message), carry.window(lengths=[4, 3]):
        layer(x)
