"""A long sequence in windows: the same numbers as at once, and a gradient that ends with the window."""

import copy
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

import unrolled
from tests.bptt.files import through_safetensors, through_torch
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, bptt, cells
from unrolled.layers.base import as_tuple
from unrolled.layers.finding import adapted

D, H = 3, 5
FLOAT64 = torch.float64

KINDS = {
    "Elman": lambda **o: Recurrent(cells.Elman, D, H, depth=2, **o),
    "LSTM": lambda **o: Recurrent(cells.LSTM, D, H, depth=2, **o),
    "GRU": lambda **o: Recurrent(cells.GRU, D, H, **o),
    "uneven LSTM": lambda **o: Recurrent(cells.LSTM, D, [H, 4], **o),
    "learnt": lambda **o: learnt(Recurrent(cells.LSTM, D, H, learn_initial_state=True, **o)),
    "IndRNN": lambda **o: Recurrent(cells.IndRNN, D, H, depth=2, **o),
    "LRU": lambda **o: Recurrent(cells.LRU, D, 6, **o),
    "reference": lambda **o: Recurrent(cells.GRU, D, H, backend="reference", **o),
    "drop-in layer RNN": lambda **o: unrolled.RNN(D, H, **o),
    "drop-in layer LSTM": lambda **o: unrolled.LSTM(D, H, 2, **o),
    "drop-in layer GRU": lambda **o: unrolled.GRU(D, H, **o),
    "torch RNN": lambda **o: nn.RNN(D, H, 2, **o),
    "torch LSTM": lambda **o: nn.LSTM(D, H, 2, **o),
    "torch GRU": lambda **o: nn.GRU(D, H, **o),
}
OWN = [kind for kind in KINDS if not kind.startswith("torch")]


def learnt(layer):
    """The layer with initial states that are not zero."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "initial" in name:
                parameter.normal_()
    return layer


def make(kind, **options):
    return KINDS[kind](**options).double()


def named(y, state):
    return {"y": y} | {f"state {k}": s for k, s in enumerate(as_tuple(state))}


def detached(tensors):
    return {name: tensor.detach() for name, tensor in tensors.items()}


def windows(carry, layer, x, sizes, time=0, **masks):
    """The layer over windows of ``sizes`` steps: all outputs, and the final states."""
    ys, begin = [], 0
    for part in x.split(sizes, time):
        span = slice(begin, begin := begin + part.shape[time])
        with carry.window(**{name: mask[span] for name, mask in masks.items()}):
            ys.append(layer(part)[0])
    return named(torch.cat(ys, time), carry.states[""])


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Nested(nn.Module):
    """Recurrent layers at several depths, one of them in two places."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, D)
        self.blocks = nn.ModuleList([nn.ModuleDict({"rnn": nn.LSTM(D, H)}), unrolled.GRU(H, H)])
        self.inner = nn.Sequential(Wrapped(Recurrent(cells.LSTM, H, [4, H])), nn.Linear(H, D))
        self.again = self.blocks[1]

    def forward(self, tokens, states=None):
        states = states or {}
        x = self.embedding(tokens)
        x, self.ends = x, {}
        for name in ("blocks.0.rnn", "blocks.1", "inner.0.layer"):
            x, self.ends[name] = self.get_submodule(name)(x, states.get(name))
        return self.inner[1](x)


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


# --- Windows are one sequence --------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_give_what_one_pass_gives(kind, batch_first):
    layer = make(kind, batch_first=batch_first)
    time = 1 if batch_first else 0
    x = torch.randn(9, 2, D, dtype=FLOAT64)
    x = x.transpose(0, 1) if batch_first else x
    expected = detached(named(*layer(x)))
    for sizes in ([9], [4, 5], [1, 6, 1, 1]):
        got = detached(windows(bptt.Carry(layer), layer, x, sizes, time))
        assert_close_by_name(got, expected, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_cut_at_the_windows_beginning(kind):
    layer = make(kind)
    x, state = torch.randn(7, 2, D, dtype=FLOAT64), None
    carry = bptt.Carry(layer)
    for part in x.split([4, 3]):
        part, other = leaves(part, part)
        with carry.window():
            y, end = layer(part)
        sources = dict(layer.named_parameters())
        got = collect(named(y, end), {"x": part} | sources)
        y, state = layer(other, state)
        expected = collect(named(y, state), {"x": other} | sources)
        assert_close_by_name(got, expected, 7)
        state = adapted(layer).as_given([s.detach() for s in as_tuple(state)])
    assert not any(s.requires_grad for s in carry.states[""])


def test_every_layer_of_a_model_is_carried_at_any_depth():
    model = Nested()
    carry = bptt.Carry(model)
    assert list(carry.layers) == ["blocks.0.rnn", "blocks.1", "inner.0.layer"]
    tokens = torch.randint(11, (8, 3))
    expected, ends = model(tokens), model.ends
    ys = []
    for part in tokens.split([3, 1, 4]):
        with carry.window():
            ys.append(model(part))
    want = {"y": expected.detach()}
    got = {"y": torch.cat(ys).detach()}
    for name, end in ends.items():
        want |= {f"{name} {k}": s.detach() for k, s in enumerate(as_tuple(end))}
        got |= {f"{name} {k}": s for k, s in enumerate(carry.states[name])}
    assert_close_by_name(got, want, 8)


def test_a_shared_layer_may_be_called_again_with_a_state_of_the_callers():
    layer = make("GRU")
    carry = bptt.Carry(layer)
    x = torch.randn(6, 2, D, dtype=FLOAT64)
    with carry.window():
        y, state = layer(x[:2])
        z, state = layer(x[2:4], state)
    with carry.window():
        w, state = layer(x[4:])
    expected = detached(named(*layer(x)))
    got = {"y": torch.cat([y, z, w])} | {f"state {k}": s for k, s in enumerate(carry.states[""])}
    assert_close_by_name(detached(got), expected, 6)


@pytest.mark.parametrize("kind", ["drop-in layer LSTM", "torch LSTM", "torch GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence_without_rows(kind, batch_first):
    layer = make(kind, batch_first=batch_first)
    x, resets = torch.randn(8, D, dtype=FLOAT64), torch.zeros(8, 1).bool()
    expected = detached(named(*layer(x)))
    carry = bptt.Carry(layer)
    got = windows(carry, layer, x, [3, 5])
    got |= {k: s.squeeze(1) for k, s in got.items() if k != "y"}
    assert_close_by_name(detached(got), expected, 8)
    resets[5] = True
    carry.reset()
    got = windows(carry, layer, x, [3, 5], resets=resets)
    parts = [layer(x[:5])[0], layer(x[5:])[0]]
    assert_close_by_name({"y": got["y"].detach()}, {"y": torch.cat(parts).detach()}, 8)


@pytest.mark.parametrize("kind", ["drop-in layer LSTM", "torch LSTM"])
def test_packed_sequences(kind):
    layer = make(kind)
    x, lengths = torch.randn(4, 3, D, dtype=FLOAT64), torch.tensor([2, 4, 3])
    more = torch.randn(2, 3, D, dtype=FLOAT64)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    carry = bptt.Carry(layer)
    with carry.window():
        y, _ = layer(packed)
    assert isinstance(y, PackedSequence)
    with carry.window():
        z, _ = layer(more)
    for row, length in enumerate(lengths.tolist()):
        whole = torch.cat([x[:length, row], more[:, row]]).unsqueeze(1)
        expected, _ = layer(whole)
        got = torch.cat([pad_packed_sequence(y)[0][:length, row], z[:, row]])
        assert_close_by_name({"y": got.detach()}, {"y": expected[:, 0].detach()}, 6)
    with (
        pytest.raises(ValueError, match="resets: got them, but the layer reads a PackedSequence"),
        carry.window(torch.ones(4, 3).bool()),
    ):
        layer(packed)


def both_ways(kind):
    if kind == "Recurrent":
        return Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True).double()
    return {"drop-in layer": unrolled.LSTM, "torch": nn.LSTM}[kind](
        D, H, 2, bidirectional=True
    ).double()


@pytest.mark.parametrize("kind", ["Recurrent", "drop-in layer", "torch"])
def test_of_a_bidirectional_layer_the_forward_direction_is_carried(kind):
    layer = both_ways(kind)
    carry = bptt.Carry(layer)
    state = tuple(torch.zeros(4, 2, H, dtype=FLOAT64) for _ in range(2))
    for _ in range(3):
        x = torch.randn(4, 2, D, dtype=FLOAT64)
        with carry.window():
            y, end = layer(x)
        expected, state = layer(x, state)
        assert_close_by_name(detached(named(y, end)), detached(named(expected, state)), 4)
        forward = torch.tensor([1.0, 0, 1, 0], dtype=FLOAT64).view(4, 1, 1)
        state = tuple(s.detach() * forward for s in state)


@pytest.mark.parametrize("kind", ["Recurrent", "drop-in layer"])
def test_resets_of_a_bidirectional_layer_stop_both_directions(kind):
    layer = both_ways(kind)
    carry = bptt.Carry(layer)
    x = torch.randn(10, 2, D, dtype=FLOAT64)
    resets = torch.zeros(10, 2).bool()
    resets[5, 1] = resets[7, 0] = True  # the first is at a window's beginning
    got = windows(carry, layer, x, [5, 5], resets=resets)["y"].detach()
    whole = bptt.Carry(layer)
    with whole.window():
        first = layer(x[:5])[0]
    with whole.apart(), whole.window():
        row = layer(x[5:, 1:])[0]  # begins anew
    after = layer(x[7:, :1])[0]
    before = bptt.Carry(layer)
    with before.window():
        layer(x[:5, :1])
    with before.window():
        middle = layer(x[5:7, :1])[0]
    other = torch.cat([middle, after])
    expected = torch.cat([first, torch.cat([other, row], 1)]).detach()
    assert_close_by_name({"y": got}, {"y": expected}, 10)


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


# --- Rows that end ------------------------------------------------------------------------------


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


# --- Apart, burn in, reset -----------------------------------------------------------------------


def test_evaluation_begins_anew_and_leaves_training_alone():
    model = nn.ModuleDict({"rnn": make("LSTM"), "dropout": nn.Dropout()})
    rnn, carry = model["rnn"], bptt.Carry(model)
    x = torch.randn(9, 2, D, dtype=FLOAT64)
    expected, _ = rnn(x)

    def window(part):
        with carry.window():
            return rnn(part)[0].detach()

    got = [window(x[:3])]
    for _ in range(2):
        before = carry.states["rnn"]
        model.eval()
        assert carry.states == {}
        seen = torch.cat([window(x[:4]), window(x[4:])])
        assert_close_by_name({"y": seen}, {"y": expected.detach()}, 9)
        model.train()
        assert all(map(torch.equal, carry.states["rnn"], before))
        got.append(window(x[3 * len(got) : 3 * len(got) + 3]))
    assert_close_by_name({"y": torch.cat(got)}, {"y": expected.detach()}, 9)


def test_an_evaluation_of_another_batch_size_is_no_matter():
    layer = make("drop-in layer GRU")
    carry = bptt.Carry(layer)
    for _ in range(2):
        with carry.window(lengths=[4, 4]):
            layer(torch.randn(4, 2, D, dtype=FLOAT64))
        layer.eval()
        with carry.window(lengths=[1, 4, 0]):
            layer(torch.randn(4, 3, D, dtype=FLOAT64))
        layer.train()


def test_apart_begins_anew_and_brings_back_what_was():
    layer = make("GRU")
    carry = bptt.Carry(layer)
    x = torch.randn(4, 2, D, dtype=FLOAT64)
    with carry.window(lengths=[4, 2]):
        y, _ = layer(x)
    before = carry.state_dict()
    for error in (False, True):
        try:
            with carry.apart():
                assert carry.states == {}
                with carry.window():
                    z, _ = layer(x)
                assert torch.equal(z[:, 0], y[:, 0])
                if error:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        after = carry.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[k], before[k]) for k in before)


def test_burn_in_brings_the_states_up_without_gradient():
    layer = make("LSTM")
    x = torch.randn(9, 2, D, dtype=FLOAT64)
    carry = bptt.Carry(layer)
    resets = torch.zeros(5, 2).bool()
    resets[2, 1] = True
    with carry.burn_in(resets):
        y, _ = layer(x[:5])
    assert not y.requires_grad and torch.is_grad_enabled()
    with carry.window():
        z, _ = layer(x[5:])
    assert z.requires_grad
    other = bptt.Carry(layer)
    got = torch.cat([y, z]).detach()
    rest = torch.zeros(4, 2).bool()
    want = windows(other, layer, x, [5, 4], resets=torch.cat([resets, rest]))
    assert torch.equal(got, want["y"])
    with pytest.raises(ZeroDivisionError), carry.burn_in():
        1 / 0  # noqa: B018
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("rows", [[1], torch.tensor([1]), torch.tensor([False, True]), range(1, 2)])
@pytest.mark.parametrize("kind", ["learnt", "uneven LSTM", "torch LSTM"])
def test_some_rows_are_reset(kind, rows):
    layer = make(kind)
    carry = bptt.Carry(layer)
    x = torch.randn(4, 2, D, dtype=FLOAT64)
    carry.reset(rows)  # nothing yet
    with carry.window():
        layer(x)
    before = carry.states[""]
    carry.reset(rows)
    fresh = adapted(layer).fresh_state(2, x)
    for now, then, new in zip(carry.states[""], before, fresh, strict=True):
        assert torch.equal(now[:, 0], then[:, 0])
        assert torch.equal(now[:, 1], new[:, 1])
        assert not now.requires_grad
    carry.reset([])
    assert all(map(torch.equal, carry.states[""][0][:, 0], before[0][:, 0]))
    carry.reset()
    assert carry.states == {}


def test_rows_that_there_are_not():
    layer = make("GRU")
    carry = bptt.Carry(layer)
    with carry.window():
        layer(torch.randn(4, 2, D, dtype=FLOAT64))
    before = carry.states[""]
    for rows in ([2], [-1], [0, 5]):
        with pytest.raises(IndexError, match=r"^rows: got .*, expected from 0 to 1$"):
            carry.reset(rows)
    for rows in ([0.5], 1, torch.ones(3).bool()):
        with pytest.raises(TypeError, match=r"^rows: got "):
            carry.reset(rows)
    assert all(map(torch.equal, carry.states[""], before))


# --- What the window leaves behind ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["LSTM", "drop-in layer LSTM", "torch LSTM"])
def test_nothing_of_the_window_stays_on_the_model(kind):
    model = nn.Sequential(make(kind))
    before = {key: value for key, value in vars(model[0]).items() if not key.startswith("_")}
    carry = bptt.Carry(model)
    x = torch.randn(4, 2, D, dtype=FLOAT64)
    with carry.window():
        assert "forward" in vars(model[0])
        model(x)
    assert {k: v for k, v in vars(model[0]).items() if not k.startswith("_")} == before
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x)[0], model(x)[0])
        with bptt.Carry(other).window():
            other(x)
    with carry.window():
        y, _ = model(x)
    assert not torch.equal(y, model(x)[0])


def test_a_forward_that_was_replaced_before_is_kept():
    layer = make("torch GRU")
    calls = []

    def forward(*arguments, **options):
        calls.append(1)
        return nn.GRU.forward(layer, *arguments, **options)

    layer.forward = forward
    carry = bptt.Carry(layer)
    x = torch.randn(6, 2, D, dtype=FLOAT64)
    got = windows(carry, layer, x, [3, 3])
    assert layer.forward is forward and len(calls) == 2
    assert_close_by_name({"y": got["y"].detach()}, {"y": layer(x)[0].detach()}, 6)


@pytest.mark.parametrize("kind", ["LSTM", "torch LSTM"])
def test_an_error_inside_changes_nothing(kind):
    layer = make(kind)
    carry = bptt.Carry(layer)
    x = torch.randn(4, 2, D, dtype=FLOAT64)
    with carry.window():
        layer(x)
    before = carry.state_dict()
    with pytest.raises(ZeroDivisionError), carry.window():
        layer(x)
        1 / 0  # noqa: B018
    with pytest.raises((RuntimeError, ValueError)), carry.window():
        layer(torch.randn(4, 2, D + 1, dtype=FLOAT64))
    assert "forward" not in vars(layer)
    after = carry.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    with carry.window():
        layer(x)


def test_what_the_caller_writes_into_the_result_is_not_meant():
    x = torch.randn(8, 2, D, dtype=FLOAT64)
    for kind in KINDS:
        layer = make(kind)
        carry = bptt.Carry(layer)
        with torch.no_grad(), carry.window():
            y, state = layer(x[:4])
        y.zero_()
        for tensor in as_tuple(state):
            tensor.zero_()
        with carry.window():
            z, _ = layer(x[4:])
        expected = layer(x)[0][4:].detach()
        assert_close_by_name({kind: z.detach()}, {kind: expected}, 8)


def test_states_are_copies():
    layer = make("GRU")
    carry = bptt.Carry(layer)
    with carry.window():
        layer(torch.randn(4, 2, D, dtype=FLOAT64))
    carry.states[""][0].zero_()
    saved = carry.state_dict()
    carry.load_state_dict(saved)
    saved["training//0"].zero_()
    assert carry.states[""][0].any()


# --- Memory --------------------------------------------------------------------------------------


class Saved:
    """What autograd keeps for the backward pass: alive as long as a graph is."""

    def __init__(self, tensor):
        self.tensor = tensor


class Graphs:
    """Inside it, how many tensors the graphs that are alive keep."""

    def __init__(self):
        self.alive = weakref.WeakSet()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda s: s.tensor)

    def pack(self, tensor):
        saved = Saved(tensor.detach())  # an output would hold the graph that holds it
        self.alive.add(saved)
        return saved

    def __enter__(self):
        self.hooks.__enter__()
        return self.alive

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def test_graphs_that_stay_are_counted():
    layer, state = make("torch GRU"), None
    with Graphs() as alive:
        counts = []
        for _ in range(3):
            _, state = layer(torch.randn(2, 1, D, dtype=FLOAT64), state)
            counts.append(len(alive))
    assert 0 < counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "learnt", "drop-in layer GRU", "torch LSTM"])
def test_memory_stays_flat_over_hundreds_of_windows(kind, backward):
    layer = make(kind)
    carry = bptt.Carry(layer)
    resets = torch.zeros(3, 2).bool()
    resets[1, 0] = True
    with Graphs() as alive:
        counts = []
        for k in range(300):
            with carry.window(resets if k % 3 == 0 else None):
                y = layer(torch.randn(3, 2, D, dtype=FLOAT64))[0]
            counts.append(len(alive))
            if backward:
                y.sum().backward()
                assert not alive
    assert set(counts[3:]) == set(counts[3:6])
    del y
    assert not alive


# --- Save and load -------------------------------------------------------------------------------


FILES = [through_torch, through_safetensors]


def train(layer, carry, optimizer, numbers):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(4, 2, D, dtype=FLOAT64, generator=generator)
        resets = torch.rand(4, 2, generator=generator) < 0.1
        optimizer.zero_grad()
        with carry.window(resets):
            y, _ = layer(x)
        y.square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("through", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(kind, through):
    runs = []
    first = make(kind)
    for layer in (first, copy.deepcopy(first)):
        runs.append((layer, bptt.Carry(layer), torch.optim.Adam(layer.parameters(), lr=0.01)))
    (layer, carry, optimizer), whole = runs
    train(*whole, range(8))
    train(layer, carry, optimizer, range(4))
    other = make(kind)
    other.load_state_dict(layer.state_dict())
    resumed = (other, bptt.Carry(other), torch.optim.Adam(other.parameters(), lr=0.01))
    resumed[2].load_state_dict(optimizer.state_dict())
    resumed[1].load_state_dict(through(carry.state_dict()))
    train(*resumed, range(4, 8))
    assert all(map(torch.equal, other.parameters(), whole[0].parameters()))
    assert all(map(torch.equal, resumed[1].states[""], whole[1].states[""]))


@pytest.mark.parametrize("through", FILES)
def test_both_modes_and_ended_rows_are_saved(through):
    model = nn.ModuleDict({"a": make("uneven LSTM"), "b": nn.Sequential(make("drop-in layer GRU"))})
    layer = model["a"]
    carry = bptt.Carry(model)
    x = torch.randn(6, 2, D, dtype=FLOAT64)
    with carry.window(lengths=[3, 3]):
        layer(x[:3])
        model["b"](x[:3])
    model.eval()
    with carry.window(lengths=[3, 2]):
        layer(x[:3])
    saved = through(carry.state_dict())
    assert sorted(saved) == sorted(
        [f"{mode}/a/{k}" for mode in ("training", "evaluation") for k in range(4)]
        + ["training/b.0/0", "evaluation:ended"]
    )
    other = bptt.Carry(model)
    other.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"^lengths: row 1 ended"), other.window():
        layer(x[3:])
    with other.window(lengths=[3, 0]):
        y, _ = layer(x[3:])
    expected = layer(x)[0][3:, 0].detach()
    assert_close_by_name({"y": y[:, 0].detach()}, {"y": expected}, 6)
    model.train()
    assert sorted(other.states) == ["a", "b.0"]
    with other.window():
        y, _ = layer(x[3:])
    assert_close_by_name({"y": y.detach()}, {"y": layer(x)[0][3:].detach()}, 6)
    model.eval()
    assert other.states == {}


def test_what_does_not_fit_is_refused_and_changes_nothing():
    layer = make("uneven LSTM")
    carry = bptt.Carry(layer)
    with carry.window():
        layer(torch.randn(3, 2, D, dtype=FLOAT64))
    saved = carry.state_dict()
    other = bptt.Carry(nn.ModuleDict({"rnn": make("uneven LSTM")}))
    with pytest.raises(ValueError, match=r"^saved: got '/0', but the .* layers are 'rnn'$"):
        other.load_state_dict(saved)
    for wrong, message in (
        ({"training//0": saved["training//0"]}, "^saved: got shapes"),
        (saved | {"training//1": torch.zeros(2, 2, 4)}, "^saved: got shapes"),
        (saved | {"training//4": torch.zeros(2, 2, 4)}, "^saved: got shapes"),
        (saved | {"epoch": torch.zeros(())}, "^saved: got 'epoch', which no Carry saves"),
        (saved | {"training//x": torch.zeros(2)}, "^saved: got '/x', but"),
    ):
        with pytest.raises(ValueError, match=message):
            carry.load_state_dict(wrong)
    now = carry.state_dict()
    assert all(torch.equal(now[key], saved[key]) for key in saved)


# --- What is refused -----------------------------------------------------------------------------


def test_a_model_that_cannot_be_carried():
    with pytest.raises(TypeError, match=r"^model: got str"):
        bptt.Carry("model")
    with pytest.raises(ValueError, match=r"^model: got Linear, which holds no recurrent layer"):
        bptt.Carry(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would have nobody use TorchScript
        scripted = nn.Sequential(torch.jit.script(nn.GRU(D, H)))
    with pytest.raises(ValueError, match=r"^layer '0': got "):
        bptt.Carry(scripted)


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "compiled",
    [
        lambda: torch.compile(nn.Sequential(nn.GRU(D, H)), backend="eager"),
        lambda: nn.Sequential(torch.compile(nn.GRU(D, H), backend="eager")),
        lambda: nn.Sequential(torch.compile(nn.Sequential(unrolled.GRU(D, H)), backend="eager")),
        lambda: compiled_in_place(nn.Sequential(nn.GRU(D, H))),
        lambda: nn.Sequential(compiled_in_place(Recurrent(cells.GRU, D, H))),
    ],
)
def test_a_compiled_model_is_refused(compiled):
    with pytest.raises(ValueError, match=r"^model: got one compiled by torch\.compile"):
        bptt.Carry(compiled())


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler looks at .grad of what it is given
def test_what_stands_around_may_be_compiled():
    head = torch.compile(nn.Linear(H, 1), backend="eager")
    model = nn.ModuleDict({"rnn": unrolled.GRU(D, H), "head": head})
    with bptt.Carry(model).window():
        model["head"](model["rnn"](torch.randn(3, 2, D))[0]).sum().backward()


def test_a_window_in_which_nothing_runs():
    model = nn.ModuleDict({"rnn": make("GRU")})
    carry = bptt.Carry(model)
    with (
        pytest.raises(RuntimeError, match=r"^window: no recurrent layer .* ran inside \('rnn'\)"),
        carry.window(),
    ):
        make("GRU")(torch.randn(3, 2, D, dtype=FLOAT64))


@pytest.mark.parametrize("kind", ["GRU", "torch GRU"])
def test_a_layer_that_is_called_twice(kind):
    layer = make(kind)
    carry = bptt.Carry(layer)
    x = torch.randn(3, 2, D, dtype=FLOAT64)
    with (
        pytest.raises(
            RuntimeError, match=r"^the layer: called twice in one window without a state"
        ),
        carry.window(),
    ):
        layer(x)
        layer(x)
    assert carry.states == {}
    assert "forward" not in vars(layer)


def test_a_window_inside_another():
    model = nn.Sequential(make("GRU"))
    outer, inner = bptt.Carry(model), bptt.Carry(model[0])
    x = torch.randn(3, 2, D, dtype=FLOAT64)
    with outer.window():
        with pytest.raises(RuntimeError, match=r"^window: got one inside another"), inner.window():
            pass
        model(x)
    assert "forward" not in vars(model[0])
    assert inner.states == {} and list(outer.states) == ["0"]


def test_arguments_that_the_layer_does_not_take():
    layer = make("drop-in layer GRU")
    x = torch.randn(3, 2, D, dtype=FLOAT64)
    carry = bptt.Carry(layer)
    with pytest.raises(TypeError, match=r"^the layer: got 3 arguments by position"), carry.window():
        layer(x, None, [3, 2])
    for call in (lambda: layer(x, size=3), lambda: make("torch GRU")(x, lengths=[3, 2])):
        with pytest.raises(TypeError, match="unexpected keyword"), carry.window():
            call()
    with pytest.raises(ValueError, match=r"^x: got \[3\], expected \[T, B, D\]"), carry.window():
        layer(x[:, 0, 0])


@pytest.mark.parametrize("kind", ["LSTM", "drop-in layer LSTM", "torch LSTM"])
def test_a_changed_batch_size_says_which_would_work(kind):
    layer = make(kind)
    carry = bptt.Carry(layer)
    with carry.window():
        layer(torch.randn(3, 4, D, dtype=FLOAT64))
    with (
        pytest.raises(
            ValueError, match=r"^x: got 2 rows in the layer, expected 4 as in the window"
        ),
        carry.window(),
    ):
        layer(torch.randn(3, 2, D, dtype=FLOAT64))
    carry.reset()
    with carry.window():
        layer(torch.randn(3, 2, D, dtype=FLOAT64))


def test_resets_and_lengths_that_do_not_fit():
    layer = make("drop-in layer GRU")
    carry = bptt.Carry(layer)
    x = torch.randn(4, 3, D, dtype=FLOAT64)
    for resets in ([True], torch.zeros(4, 3), torch.zeros(4).bool(), torch.zeros(4, 3, 1).bool()):
        with (
            pytest.raises(TypeError, match=r"^resets: got .*, expected a boolean tensor"),
            carry.window(resets),
        ):
            layer(x)
    for resets in (torch.ones(3, 4).bool(), torch.zeros(3, 3).bool()):
        with (
            pytest.raises(ValueError, match=r"^resets: got T, B = .* reads \[4, 3\]$"),
            carry.window(resets),
        ):
            layer(x)
    for lengths, message in (
        ([5, 1, 1], "^lengths: got 5, expected from 0 to T = 4"),
        ([-1, 1, 1], "^lengths: got -1"),
        ([4, 4], r"^lengths: got shape \[2\], expected \[3\]"),
    ):
        with pytest.raises(ValueError, match=message), carry.window(lengths=lengths):
            layer(x)
    with carry.window(lengths=[4, 4, 1]):
        layer(x)
    with (
        pytest.raises(ValueError, match=r"^resets: got 2 rows, expected 3 as in the window"),
        carry.window(torch.ones(4, 2).bool()),
    ):
        layer(x)


def test_an_initial_state_that_does_not_fit():
    model = nn.ModuleDict({"rnn": unrolled.LSTM(D, H)})
    with pytest.raises(ValueError, match=r"^initial: got 'gru', expected one of rnn$"):
        bptt.Carry(model, initial={"gru": torch.zeros(1, 1, H)})
    with pytest.raises(ValueError, match=r"^initial: got shapes \[1, 1, 5\] for layer 'rnn', exp"):
        bptt.Carry(model, initial={"rnn": torch.zeros(1, 1, H)})


def test_resets_that_a_layer_cannot_take():
    x, resets = torch.randn(4, 2, D), torch.zeros(4, 2).bool()
    resets[2, 0] = True
    layer = nn.LSTM(D, H, bidirectional=True)
    with (
        pytest.raises(ValueError, match=r"^resets: got some within the window, which the layer"),
        bptt.Carry(layer).window(resets),
    ):
        layer(x)
    drop_in, start = unrolled.GRU(D, H), {"": torch.zeros(1, 1, H)}
    with (
        pytest.raises(ValueError, match=r"^resets: got some within the window, which the layer"),
        bptt.Carry(drop_in, initial=start).window(resets, lengths=[4, 3]),
    ):
        drop_in(x)


# --- With the rest of the library ----------------------------------------------------------------


def test_a_checkpointed_layer_is_carried():
    layer = make("LSTM")
    carry = bptt.Carry(layer)
    (x,) = leaves(torch.randn(8, 2, D, dtype=FLOAT64))
    ys = []
    for part in x.split(4):
        with carry.window():
            ys.append(bptt.checkpointed(layer, part, segments=2)[0])
    got = collect({"y": torch.cat(ys)}, {"x": x} | dict(layer.named_parameters()))
    carry.reset()
    y = windows(carry, layer, x, [4, 4])["y"]
    expected = collect({"y": y}, {"x": x} | dict(layer.named_parameters()))
    assert_close_by_name(got, expected, 8)


def test_documents_in_rows_are_read_as_if_each_were_alone():
    documents = [torch.randint(11, (n,)) for n in (5, 13, 1, 7, 9, 2)]
    stream = bptt.make_windows(documents, 3, 4, whole=True)
    embedding, layer = nn.Embedding(11, D).double(), make("drop-in layer LSTM")
    model = nn.ModuleList([embedding, layer])
    carry = bptt.Carry(model)
    shown = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(2):  # the second epoch begins anew by its resets
        running = [[] for _ in range(3)]
        for window in DataLoader(stream, batch_size=None):
            optimizer.zero_grad()
            with carry.window(window.resets, lengths=window.lengths):
                y, _ = layer(embedding(window.data))
            y.square().mean().backward()
            optimizer.step()
            for row, length in enumerate(window.lengths.tolist()):
                for t in range(length):
                    if window.resets[t, row]:
                        running[row].append(([], []))
                    running[row][-1][0].append(int(window.data[t, row]))
                    running[row][-1][1].append(y[t, row].detach())
        for tokens, ys in (document for row in running for document in row):
            shown[tuple(tokens)] = torch.stack(ys)
        assert sorted(map(len, shown)) == [1, 2, 5, 7, 9, 13]
        for tokens, y in shown.items():
            expected, _ = layer(embedding(torch.tensor(tokens)).unsqueeze(1))
            assert_close_by_name({"y": y}, {"y": expected[:, 0].detach()}, len(tokens))
        shown.clear()


def test_a_model_learns_what_only_the_state_can_tell():
    """Two windows before, a row was told what to say: the state alone has it."""
    layer, head = unrolled.GRU(2, 8), nn.Linear(8, 1)
    model = nn.ModuleList([layer, head])
    carry = bptt.Carry(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    told = torch.tensor([[-1.0], [1.0]] * 4)
    first = torch.zeros(3, 8, 2)
    first[0, :, :1], first[:, :, 1] = told, 1.0
    losses = []
    for _ in range(60):
        carry.reset()
        for k in range(3):
            optimizer.zero_grad()
            with carry.window():
                y, _ = layer(first if k == 0 else torch.zeros(3, 8, 2))
            loss = (head(y[-1]) - told).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 < 0.5 < losses[0]
