"""A long sequence in windows: the same numbers as at once, and a gradient that ends with the window."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

import unrolled
from tests.bptt.carrying import FLOAT64, KINDS, D, H, detached, make, named, windows
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, bptt, cells
from unrolled.layers.base import as_tuple
from unrolled.layers.finding import adapted


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
