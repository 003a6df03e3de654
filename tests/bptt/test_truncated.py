"""Truncated BPTT against loops over single steps that keep every graph and cut it by hand."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

import unrolled
from tests.bptt.carrying import Graphs
from tests.bptt.files import through_safetensors, through_torch
from tests.compare import assert_close_by_name, leaves, parameters_by_torch_name
from unrolled import Recurrent, bptt, cells

D, H = 3, 4
FLOAT64 = torch.float64

CELLS = {"Elman": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell}
OWN = {"Elman": cells.Elman, "LSTM": cells.LSTM, "GRU": cells.GRU}
DROP_INS = {"Elman": unrolled.RNN, "LSTM": unrolled.LSTM, "GRU": unrolled.GRU}
TORCH = {"Elman": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
# k1 = k2; k1 divides k2, and does not; k2 of T or more; T = 11 is no multiple of k1
PAIRS = [(1, 1), (3, 3), (2, 6), (3, 7), (2, 3), (4, 30), (5, 11)]
SOME = [(3, 3), (2, 6), (3, 7), (4, 30)]


def make(family, cell, depth=1, **options):
    if family in ("Recurrent", "learnt"):
        layer = Recurrent(
            OWN[cell], D, H, depth=depth, learn_initial_state=family == "learnt", **options
        )
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if "initial" in name:
                    parameter.normal_()
    else:
        layer = {"drop-in layer": DROP_INS, "torch": TORCH}[family][cell](D, H, depth, **options)
    return layer.double()


# --- By hand -------------------------------------------------------------------------------------


class Hand:
    """A layer of Elman, LSTM or GRU, a step at a time, by torch.nn's cells over the layer's weights."""

    def __init__(self, layer, cell, depth):
        owned = isinstance(layer, Recurrent)
        self.named = parameters_by_torch_name(layer) if owned else dict(layer.named_parameters())
        self.cell, self.depth = cell, depth
        self.steps = [CELLS[cell](D if k == 0 else H, H).double() for k in range(depth)]

    def fresh(self, batch_size):
        count = 2 if self.cell == "LSTM" else 1
        zeros = torch.zeros(batch_size, H, dtype=FLOAT64)
        learnt = [
            [self.named.get(f"initial.{i}_l{k}", zeros) for i in range(count)]
            for k in range(self.depth)
        ]
        return [[s.expand(batch_size, -1) for s in state] for state in learnt]

    def step(self, x, state):
        after = []
        for k, step in enumerate(self.steps):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = {name: self.named[f"{name}_l{k}"] for name in names}
            given = tuple(state[k]) if self.cell == "LSTM" else state[k][0]
            end = torch.func.functional_call(step, weights, (x, given))
            after.append(list(end) if self.cell == "LSTM" else [end])
            x = after[-1][0]
        return x, after

    def window(self, x, start, first, begin, cut, end, resets, lengths):
        """The outputs at the steps ``begin`` … ``end``, from the state ``start`` at the step ``first``.

        The graph of the steps before ``cut`` is kept too, but cut there.
        """
        batch_size = x.shape[1]
        state, ys = start, []
        for t in range(first, end):
            if t == cut and cut > 0:  # at the first step nothing is cut: it may be learnt
                state = [[s.detach() for s in level] for level in state]
            if resets is not None:
                state = self.chosen(resets[t], self.fresh(batch_size), state)
            y, after = self.step(x[t], state)
            real = torch.tensor([t < n for n in lengths or [end] * batch_size])
            state = self.chosen(real, after, state)
            ys.append(torch.where(real.unsqueeze(1), y, 0.0))
        return torch.stack(ys[begin - first :]), state

    @staticmethod
    def chosen(rows, new, old):
        which = rows.unsqueeze(1)
        return [
            [torch.where(which, n, o) for n, o in zip(*levels, strict=True)]
            for levels in zip(new, old, strict=True)
        ]


def by_hand(hand, x, k1, k2, loss, resets=None, lengths=None, update=None):
    """The outputs, and whatever gradient the windows leave in the parameters.

    Without ``update`` each window is read from the first step on, so that the graph is that of the
    whole past, cut exactly k2 steps before the window's end. An ``update`` changes the weights after
    each window: then the steps before it are read with the weights as they are now, from the state in
    which the sequence passed, with the weights of then, at the start of the oldest window that has any
    of the last k2 steps.
    """
    passed, ys = {0: None}, []
    for begin in range(0, len(x), k1):
        end = min(begin + k1, len(x))
        cut = max(0, end - k2)
        first = 0 if update is None else cut // k1 * k1
        start = hand.fresh(x.shape[1]) if passed[first] is None else passed[first]
        y, state = hand.window(x, start, first, begin, cut, end, resets, lengths)
        passed[end] = [[s.detach() for s in level] for level in state]
        loss(y, begin, end).backward()
        ys.append(y.detach())
        if update is not None:
            update()
    return torch.cat(ys)


def weighted(steps, batch_size):
    """A loss in which every output has a weight of its own."""
    weights = torch.randn(steps, batch_size, H, dtype=FLOAT64)
    return lambda y, begin, end: (y * weights[begin:end]).sum()


def by_name(layer):
    own = isinstance(layer, Recurrent)
    named = parameters_by_torch_name(layer) if own else dict(layer.named_parameters())
    return {f"grad of {name}": p.grad for name, p in named.items()}


def check(family, cell, depth, k1, k2, *, resets=None, lengths=None, rate=None):
    """Every output and the gradient of every parameter against those by hand."""
    T, B = 11, 2
    layer = make(family, cell, depth)
    other = copy.deepcopy(layer)
    x, loss = torch.randn(T, B, D, dtype=FLOAT64), weighted(T, B)

    def updated(layer):
        if rate is None:
            return None
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate)  # gradients go on adding up
        return optimizer.step

    expected = by_hand(Hand(other, cell, depth), x, k1, k2, loss, resets, lengths, updated(other))
    ys, update, stops = [], updated(layer), []
    for y, steps in bptt.truncated(layer, x, k1=k1, k2=k2, resets=resets, lengths=lengths):
        loss(y, steps.start, steps.stop).backward()
        if update is not None:
            update()
        ys.append(y.detach())
        stops.append(steps.stop)
    assert stops == [*range(k1, T, k1), T]
    # a step is read again in up to k2 / k1 windows, whose gradients add up
    rounded = T * math.ceil(k2 / k1)
    got = {"y": torch.cat(ys)} | by_name(layer)
    assert_close_by_name(got, {"y": expected} | by_name(other), rounded)


@pytest.mark.each_value(2)
@pytest.mark.parametrize(("k1", "k2"), PAIRS)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", ["Recurrent", "learnt", "drop-in layer", "torch"])
def test_every_gradient_is_cut_k2_steps_back(family, cell, depth, k1, k2):
    check(family, cell, depth, k1, k2)


def boundaries():
    resets = torch.zeros(11, 2).bool()
    resets[2, 0] = resets[3, 1] = resets[7, 1] = resets[8, 1] = True
    return resets


@pytest.mark.parametrize(("k1", "k2"), SOME)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", ["Recurrent", "learnt", "drop-in layer", "torch"])
def test_with_resets(family, cell, k1, k2):
    check(family, cell, 2, k1, k2, resets=boundaries())


@pytest.mark.parametrize(("k1", "k2"), SOME)
@pytest.mark.parametrize("lengths", [[11, 5], [6, 8], [11, 0]])
@pytest.mark.parametrize("family", ["Recurrent", "learnt", "drop-in layer"])
def test_with_lengths_and_resets(family, lengths, k1, k2):
    check(family, "LSTM", 1, k1, k2, lengths=lengths)
    resets = boundaries()
    resets[torch.arange(11).unsqueeze(1) >= torch.tensor(lengths)] = False
    check(family, "GRU", 2, k1, k2, lengths=lengths, resets=resets)


@pytest.mark.parametrize(("k1", "k2"), SOME)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", ["Recurrent", "learnt", "torch"])
def test_weights_that_change_between_windows(family, cell, k1, k2):
    check(family, cell, 2, k1, k2, rate=0.05, resets=boundaries())


def test_the_reference_can_fail():
    """With another k2, and with steps that are not read again, the numbers are others."""
    x, loss = torch.randn(11, 2, D, dtype=FLOAT64), weighted(11, 2)
    found = []
    for k2, rate in ((7, 0.0), (6, 0.0), (7, 0.05), (3, 0.05)):
        torch.manual_seed(1)
        layer = make("torch", "LSTM")
        update = torch.optim.SGD(layer.parameters(), lr=rate).step
        by_hand(Hand(layer, "LSTM", 1), x, 3, k2, loss, update=update)
        found.append(by_name(layer))
    for one, other in itertools.combinations(found, 2):
        with pytest.raises(AssertionError, match="grad of weight_hh_l0"):
            assert_close_by_name(one, other, 44)


@pytest.mark.parametrize("k1", [1, 4, 5, 11])
@pytest.mark.parametrize("family", ["learnt", "drop-in layer", "torch"])
def test_with_k2_of_all_steps_it_is_full_bptt(family, k1):
    layer = make(family, "LSTM", 2)
    other = copy.deepcopy(layer)
    x, full = leaves(*[torch.randn(11, 2, D, dtype=FLOAT64)] * 2)
    loss = weighted(11, 2)
    for y, steps in bptt.truncated(layer, x, k1=k1, k2=11):
        loss(y, steps.start, steps.stop).backward()
    loss(other(full)[0], 0, 11).backward()
    got, expected = by_name(layer) | {"x": x.grad}, by_name(other) | {"x": full.grad}
    assert_close_by_name(got, expected, 11 * math.ceil(11 / k1))


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 4), (3, 3), (3, 5)])
def test_a_system_whose_gradient_is_known(k1, k2):
    """h_t = a h_{t-1} + x_t: ∂h_t/∂x_{t-k} is aᵏ for k < k2, and exactly 0 beyond."""
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False).double()
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        layer.weight_hh_l0.fill_(0.5)
    (x,) = leaves(torch.ones(9, 1, 1, dtype=FLOAT64))
    for y, steps in bptt.truncated(layer, x, k1=k1, k2=k2):
        (grad,) = torch.autograd.grad(y[-1].sum(), x)
        far = [steps.stop - 1 - t for t in range(9)]
        assert grad.flatten().tolist() == [0.5**k if 0 <= k < k2 else 0.0 for k in far]


def test_batch_first():
    layer = unrolled.LSTM(D, H, batch_first=True).double()
    other = unrolled.LSTM(D, H).double()
    other.load_state_dict(layer.state_dict())
    x, resets = torch.randn(11, 2, D, dtype=FLOAT64), boundaries()
    options = {"k1": 3, "k2": 7, "lengths": [11, 9]}
    one = bptt.truncated(layer, x.transpose(0, 1), resets=resets.T, batch_first=True, **options)
    two = bptt.truncated(other, x, resets=resets, **options)
    for (y, steps), (expected, same) in zip(one, two, strict=True):
        assert steps == same
        assert_close_by_name({"y": y.transpose(0, 1).detach()}, {"y": expected.detach()}, 11)
        y.square().sum().backward()
        expected.square().sum().backward()
    assert_close_by_name(by_name(layer), by_name(other), 44)


class Model(nn.Module):
    """Two inputs, two outputs, two recurrent layers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, D)
        self.rnn = nn.Sequential(unrolled.LSTM(2 * D, H))
        self.more = Recurrent(cells.GRU, H, H)
        self.head = nn.Linear(H, 2)

    def forward(self, tokens, x):
        y, _ = self.rnn(torch.cat([self.embedding(tokens), x], -1))
        y, _ = self.more(y)
        return {"y": y, "logits": (self.head(y), None)[:1]}


def test_a_model_of_several_inputs_and_outputs():
    model = Model().double()
    other = copy.deepcopy(model)
    tokens, x = torch.randint(11, (9, 2)), torch.randn(9, 2, D, dtype=FLOAT64)
    for out, steps in bptt.truncated(model, (tokens, x), k1=2, k2=9):
        assert out["y"].shape == (steps.stop - steps.start, 2, H)
        (out["y"].sum() + out["logits"][0].square().sum()).backward()
    out = other(tokens, x)
    (out["y"].sum() + out["logits"][0].square().sum()).backward()
    got, expected = ({name: p.grad for name, p in m.named_parameters()} for m in (model, other))
    assert_close_by_name(got, expected, 9 * 5)


def test_directions_kept_apart_and_both():
    for merge in ("separate", "concat"):
        layer = Recurrent(cells.GRU, D, H, bidirectional=True, merge=merge).double()
        x = torch.randn(6, 2, D, dtype=FLOAT64)
        for y, _ in bptt.truncated(layer, x, k1=2, k2=4):
            parts = y if merge == "separate" else (y,)
            assert [len(part) for part in parts] == [2] * len(parts)
            sum(part.sum() for part in parts).backward()


def test_k1_may_differ_from_window_to_window():
    layer = make("learnt", "LSTM")
    other = copy.deepcopy(layer)
    hand, x, loss = Hand(other, "LSTM", 1), torch.randn(12, 2, D, dtype=FLOAT64), weighted(12, 2)
    learner = bptt.Truncated(layer, 5)
    begin = 0
    for k1 in (1, 5, 2, 3, 1):
        end = begin + k1
        loss(learner(x[begin:end]), begin, end).backward()
        y, _ = hand.window(x, hand.fresh(2), 0, begin, max(0, end - 5), end, None, None)
        loss(y, begin, end).backward()
        begin = end
    assert_close_by_name(by_name(layer), by_name(other), 60)


# --- Randomised ----------------------------------------------------------------------------------


class Coin:
    """Stands for what ``torch.rand`` draws: falls as told, and remembers the odds."""

    def __init__(self, falls):
        self.falls, self.odds = iter(falls), []

    def __call__(self, *_, **__):
        return self

    def __lt__(self, odds):
        self.odds.append(odds)
        return next(self.falls) or odds >= 1


def pattern_gradient(layer, x, k1, k2, loss, falls, monkeypatch, resets=None):
    """The gradient under one pattern of truncations, and its probability."""
    coin = Coin(falls)
    layer.zero_grad()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", coin)
        windows = bptt.truncated(layer, x, k1=k1, k2=k2, randomised=True, resets=resets)
        for y, steps in windows:
            loss(y, steps.start, steps.stop).backward()
    odds = [c if fell else 1 - c for c, fell in zip(coin.odds, falls, strict=True)]
    return by_name(layer), math.prod(odds)


@pytest.mark.parametrize(("k1", "k2", "steps"), [(1, 2, 5), (2, 6, 8), (2, 3, 5), (1, 6, 5)])
@pytest.mark.parametrize("family", ["learnt", "drop-in layer", "torch"])
@pytest.mark.parametrize("with_resets", [False, True])
def test_the_mean_over_every_pattern_of_truncations_is_full_bptt(
    with_resets, family, k1, k2, steps, monkeypatch
):
    layer = make(family, "LSTM", 2)
    x, loss = torch.randn(steps, 2, D, dtype=FLOAT64), weighted(steps, 2)
    resets = torch.zeros(steps, 2).bool()
    resets[2, 0] = with_resets
    windows = math.ceil(steps / k1)
    total, mean, biased = 0.0, {}, {}
    for falls in itertools.product([True, False], repeat=windows):
        found, odds = pattern_gradient(layer, x, k1, k2, loss, falls, monkeypatch, resets)
        total += odds
        for name, grad in found.items():
            mean[name] = mean.get(name, 0) + odds * grad
        if all(falls):
            biased = found
    layer.zero_grad()
    for y, span in bptt.truncated(layer, x, k1=steps, resets=resets):
        loss(y, span.start, span.stop).backward()
    expected = by_name(layer)
    assert total == pytest.approx(1.0, rel=1e-12)
    assert_close_by_name(mean, expected, steps * 2**windows)
    with pytest.raises(AssertionError, match="weight_hh"):
        assert_close_by_name(biased, expected, steps * 2**windows)


@pytest.mark.parametrize(("k1", "k2"), [(1, 2), (2, 3), (1, 1), (5, 10)])
def test_spans_are_k2_steps_on_average(k1, k2, monkeypatch):
    """The mean is the sum of the odds to survive n windows: ∏ (1 - c_δ) over δ = 1 … n."""
    coin = Coin(itertools.repeat(False))
    monkeypatch.setattr(torch, "rand", coin)
    learner = bptt.Truncated(make("drop-in layer", "GRU"), k2, randomised=True)
    with torch.no_grad():
        for _ in range(1000):
            learner(torch.zeros(k1, 1, D, dtype=FLOAT64))
            if learner.truncates:
                break
    L = k2 / k1
    assert coin.odds == pytest.approx([min(1, 4 / (3 * L + d + 1)) for d in range(len(coin.odds))])
    survival = itertools.accumulate((1 - c for c in coin.odds), lambda a, b: a * b, initial=1.0)
    # the odds to survive fall as n⁻⁴, so that what is left out after 1000 windows is below 1e-6
    assert k1 * sum(survival) == pytest.approx(k2, rel=1e-5)


def test_truncations_come_from_the_generator():
    def spans(seed):
        generator = torch.Generator().manual_seed(seed)
        layer = make("drop-in layer", "GRU")
        windows = bptt.truncated(
            layer,
            torch.zeros(400, 1, D, dtype=FLOAT64),
            k1=1,
            k2=4,
            randomised=True,
            generator=generator,
        )
        return [steps.stop - steps.start for _, steps in windows]

    state = torch.get_rng_state()
    first = spans(1)
    make("drop-in layer", "GRU")  # as many weights drawn as in one call
    torch.set_rng_state(state)
    assert spans(1) == first != spans(2)
    assert sum(first) == 400
    # The mean of about 100 spans; their standard deviation is finite, about that of 1.5 means.
    assert 4 / 1.6 < 400 / len(first) < 4 * 1.6


def test_a_span_with_the_optimizer_at_its_end():
    """As the docstring has it: the losses add up, backward at each truncation, and nothing stays."""
    layer = make("drop-in layer", "LSTM")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    learner = bptt.Truncated(layer, 6, randomised=True)
    losses, ends = [], 0
    with Graphs() as alive:
        for k in range(60):
            losses.append(learner(torch.randn(2, 2, D, dtype=FLOAT64)).square().mean())
            if k % 5 == 0:
                learner.reset([1])
            if not learner.truncates:
                with pytest.raises(RuntimeError, match=r"^state_dict: a span is under way"):
                    learner.state_dict()
                continue
            ends += 1
            assert learner.state_dict()
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            losses.clear()
            assert not alive
    assert 5 < ends < 50


def test_evaluation_within_a_span_neither_draws_nor_disturbs():
    layer = make("drop-in layer", "GRU")
    learner = bptt.Truncated(layer, 20, randomised=True)
    x = torch.randn(2, 1, D, dtype=FLOAT64)
    while learner.truncates:
        learner(x)
    before, state = learner.carry.kept["training"], torch.get_rng_state()
    layer.eval()
    with torch.no_grad():
        learner(x)
    layer.train()
    assert torch.equal(torch.get_rng_state(), state)
    assert not learner.truncates
    assert learner.carry.kept["training"][""][0] is before[""][0]
    learner.reset()
    assert learner.truncates and learner.carry.states == {}


# --- States --------------------------------------------------------------------------------------


def test_validation_does_not_disturb_training():
    x = torch.randn(20, 2, D, dtype=FLOAT64)
    found = []
    for validates in (False, True):
        torch.manual_seed(0)
        layer = make("learnt", "LSTM")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        learner = bptt.Truncated(layer, 5)
        shown = []
        for k, part in enumerate(x.split(2)):
            if validates:
                layer.eval()
                for other in (x[:4], x[4:9]):
                    shown.append(learner(other).detach())
                learner.reset([0])
                learner(x[:3])
                if k % 2:
                    learner.reset()
                layer.train()
                expected = layer(x[:9])[0].detach()
                assert_close_by_name({"y": torch.cat(shown[-2:])}, {"y": expected}, 9)
            if k == 4:
                learner.reset([1])
                if validates:
                    layer.eval()  # the reset of training's row waits for training
                    seen = torch.cat([learner(x[:2]), learner(x[2:4])]).detach()
                    layer.train()
                    assert_close_by_name({"y": seen}, {"y": layer(x[:4])[0].detach()}, 4)
            optimizer.zero_grad()
            learner(part).square().sum().backward()
            optimizer.step()
        found.append((layer, learner))
    assert all(map(torch.equal, found[0][0].parameters(), found[1][0].parameters()))
    assert all(map(torch.equal, *(learner.carry.states[""] for _, learner in found)))


@pytest.mark.parametrize("rows", [[1], torch.tensor([False, True])])
def test_rows_are_reset_with_the_gradient_of_what_is_learnt(rows):
    layer = make("learnt", "LSTM")
    x = torch.randn(8, 2, D, dtype=FLOAT64)
    resets = torch.zeros(4, 2).bool()
    resets[0, 1] = True
    grads = []
    for way in ("reset", "resets"):
        layer.zero_grad()
        learner = bptt.Truncated(layer, 6)
        learner.reset(rows)  # nothing has been read yet
        learner(x[:4])
        if way == "reset":
            learner.reset(rows)
            learner.reset([])
            with pytest.raises(IndexError, match=r"^rows: got 2, expected from 0 to 1$"):
                learner.reset([2])
        learner(x[4:], resets=resets if way == "resets" else None)[:, 1].sum().backward()
        grads.append(by_name(layer))
    assert_close_by_name(*grads, 8)
    assert all(g.any() for name, g in grads[0].items() if "initial" in name)


def test_an_initial_state_is_learnt_from_afar():
    layer = make("torch", "GRU")
    (start,) = leaves(torch.randn(1, 1, H, dtype=FLOAT64))
    x = torch.randn(6, 2, D, dtype=FLOAT64)
    for k2, reached in ((4, [True, True, False]), (6, [True, True, True])):
        windows = bptt.truncated(layer, x, k1=2, k2=k2, initial={"": start})
        for (y, _), does in zip(windows, reached, strict=True):
            (grad,) = torch.autograd.grad(y.sum(), start, allow_unused=True)
            assert (grad is not None) == does
    expected = layer(x, start.expand(-1, 2, -1).contiguous())[0][4:]
    assert_close_by_name({"y": y.detach()}, {"y": expected.detach()}, 6)


def test_a_buffer_that_the_caller_fills_anew():
    layer = make("drop-in layer", "LSTM")
    other = copy.deepcopy(layer)
    x, resets = torch.randn(9, 2, D, dtype=FLOAT64), torch.zeros(9, 2).bool()
    resets[4, 0] = True
    buffer, flags = torch.empty(3, 2, D, dtype=FLOAT64), torch.empty(3, 2).bool()
    one, two = bptt.Truncated(layer, 9), bptt.Truncated(other, 9)
    for k in range(3):
        span = slice(3 * k, 3 * k + 3)
        buffer.copy_(x[span])
        flags.copy_(resets[span])
        one(buffer, resets=flags).square().sum().backward()
        two(x[span], resets=resets[span]).square().sum().backward()
    assert_close_by_name(by_name(layer), by_name(other), 27)


@pytest.mark.parametrize("k2", [3, 7, 12])
@pytest.mark.parametrize("backward", [True, False])
def test_memory_stays_flat_over_hundreds_of_windows(k2, backward):
    layer = make("learnt", "LSTM")
    learner = bptt.Truncated(layer, k2)
    counts, held = [], []
    with Graphs() as alive:
        for _ in range(200):
            y = learner(torch.randn(3, 2, D, dtype=FLOAT64))
            counts.append(len(alive))
            held.append(len(learner._history))
            if backward:
                y.square().sum().backward()
                assert not alive
        del y
        assert not alive
    assert len(set(counts[5:])) == 1
    assert max(held) == math.ceil(k2 / 3)


class Erring(nn.Module):
    """A model that fails, or gives no steps, when told to."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.fault = rnn, None

    def forward(self, x):
        y, _ = self.rnn(x)
        if self.fault == "error":
            raise ZeroDivisionError("told to")
        return y.sum() if self.fault == "sum" else y


@pytest.mark.parametrize("options", [{}, {"randomised": True}])
def test_an_error_leaves_all_as_it_was(options):
    layer = make("drop-in layer", "LSTM")
    model = Erring(layer)
    x = torch.randn(4, 2, D, dtype=FLOAT64)
    learner = bptt.Truncated(model, 6, **options)
    learner(x)
    learner.reset([1])
    kept, held = learner.carry.kept["training"], list(learner._history)
    for fault, error, message in (
        ("error", ZeroDivisionError, "^told to$"),
        ("sum", ValueError, r"^model: gave \[\], expected outputs with 4 steps"),
    ):
        model.fault = fault
        with pytest.raises(error, match=message):
            learner(x)
    model.fault = None
    with pytest.raises(ValueError, match=r"^x: got 1 rows"):
        learner(x[:, :1])
    assert learner.carry.kept["training"] is kept
    assert [c is h for c, h in zip(learner._history, held, strict=True)] == [True] * len(held)
    assert "forward" not in vars(layer)
    y = learner(x)  # row 1 is still to begin anew
    assert_close_by_name({"y": y[:, 1].detach()}, {"y": layer(x)[0][:, 1].detach()}, 4)


# --- Save and load -------------------------------------------------------------------------------


def train(layer, learner, optimizer, x, resets, numbers):
    for k in numbers:
        optimizer.zero_grad()
        span = slice(2 * k, 2 * k + 2)
        # a view whose memory is in another order
        part = x[span].transpose(0, 1).contiguous().transpose(0, 1)
        lengths = [2, 1] if k == 3 else [2, 0] if k in (4, 5) else None
        flags = resets[span].T.contiguous().T
        learner(part, resets=flags, lengths=lengths).square().mean().backward()
        optimizer.step()
        if k == 1 or k == 5:  # waits for the next window
            learner.reset([1])


@pytest.mark.parametrize("at", [1, 2, 4, 6])
@pytest.mark.parametrize("through", [through_torch, through_safetensors])
@pytest.mark.parametrize("k2", [2, 3, 7])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(k2, through, at):
    x, resets = torch.randn(20, 2, D, dtype=FLOAT64), torch.zeros(20, 2).bool()
    resets[3, 0] = resets[10, 0] = True
    layer = make("learnt", "LSTM", 2)
    whole = copy.deepcopy(layer)
    runs = []
    for each in (whole, layer):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        runs.append((each, bptt.Truncated(each, k2), optimizer))
    train(*runs[0], x, resets, range(10))
    train(*runs[1], x, resets, range(at))
    other = make("learnt", "LSTM", 2)
    other.load_state_dict(layer.state_dict())
    learner = bptt.Truncated(other, k2)
    learner.load_state_dict(through(runs[1][1].state_dict()))
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    optimizer.load_state_dict(runs[1][2].state_dict())
    train(other, learner, optimizer, x, resets, range(at, 10))
    assert all(map(torch.equal, other.parameters(), whole.parameters()))
    assert all(map(torch.equal, learner.carry.states[""], runs[0][1].carry.states[""]))


def test_a_resumed_randomised_run_too():
    x = torch.randn(40, 2, D, dtype=FLOAT64)
    found = []
    for resumes in (False, True):
        torch.manual_seed(0)
        layer = make("drop-in layer", "LSTM")
        generator = torch.Generator().manual_seed(3)
        learner = bptt.Truncated(layer, 4, randomised=True, generator=generator)
        optimizer, losses, ends = torch.optim.SGD(layer.parameters(), lr=0.1), [], 0
        for part in x.split(2):
            losses.append(learner(part).square().mean())
            if not learner.truncates:
                continue
            ends += 1
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            losses.clear()
            if resumes and ends == 3:
                saved = learner.state_dict()
                learner = bptt.Truncated(layer, 4, randomised=True, generator=generator)
                learner.load_state_dict(saved)
        assert ends > 4
        found.append(list(layer.parameters()))
    assert all(map(torch.equal, *found))


def test_what_does_not_fit_is_refused_and_changes_nothing():
    learner = bptt.Truncated(make("drop-in layer", "LSTM"), 6)
    x = torch.randn(3, 2, D, dtype=FLOAT64)
    learner(x)
    learner(x)
    saved = learner.state_dict()
    other = bptt.Truncated(nn.Sequential(make("drop-in layer", "GRU")), 6)
    with pytest.raises(ValueError, match=r"^saved: got "):
        other.load_state_dict(saved)
    assert other.state_dict() == {}
    with pytest.raises(ValueError, match=r"^saved: got "):
        learner.load_state_dict({k: v for k, v in saved.items() if k != "carry/training//1"})
    now = learner.state_dict()
    assert list(now) == list(saved) and all(torch.equal(now[k], saved[k]) for k in saved)


def test_the_model_is_as_before():
    layer = make("drop-in layer", "LSTM")
    learner = bptt.Truncated(layer, 6)
    x = torch.randn(3, 2, D, dtype=FLOAT64)
    learner(x)
    learner(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])
    assert "forward" not in vars(layer)


# --- What is refused -----------------------------------------------------------------------------


def test_sizes_that_do_not_fit_say_what_would():
    layer, x = make("drop-in layer", "GRU"), torch.randn(11, 2, D, dtype=FLOAT64)
    with pytest.raises(ValueError, match=r"^k1: got 5 with k2 = 3, .* the smallest k2 .* is 5$"):
        bptt.truncated(layer, x, k1=5, k2=3)
    with pytest.raises(ValueError, match=r"^k1: got 12, expected at most 11, the steps of x$"):
        bptt.truncated(layer, x, k1=12, k2=20)
    with pytest.raises(ValueError, match=r"^k1: got 0"):
        bptt.truncated(layer, x, k1=0)
    with pytest.raises(TypeError, match=r"^k2: got 1.5"):
        bptt.Truncated(layer, 1.5)
    learner = bptt.Truncated(layer, 4)
    with pytest.raises(ValueError, match=r"^k1: got a window of 5 steps .*k2 that works is 5$"):
        learner(x[:5])
    with pytest.raises(ValueError, match=r"^x: got \[11\], expected a tensor \[T, B, ...\]$"):
        learner(x[:, 0, 0])
    with pytest.raises(ValueError, match=r"^x: got \[0\] steps"):
        learner(x[:0])
    with pytest.raises(ValueError, match=r"^x: got \[2, 3\] steps, expected one number"):
        learner(x[:2], x[:3])


@pytest.mark.parametrize("options", [{}, {"randomised": True}])
@pytest.mark.parametrize("k2", [3, 6])
def test_a_changed_batch_size_and_a_row_that_has_ended(k2, options):
    layer, x = make("drop-in layer", "GRU"), torch.randn(3, 2, D, dtype=FLOAT64)
    learner = bptt.Truncated(layer, k2, **options)
    learner(x)
    with pytest.raises(ValueError, match=r"^x: got 1 rows.*, expected 2 as in the window before"):
        learner(x[:, :1])
    learner(x, lengths=[3, 2])
    with pytest.raises(ValueError, match=r"^lengths: row 1 ended in an earlier window"):
        learner(x)
    learner(x, lengths=[3, 0])
    learner.reset()
    learner(x[:, :1])


@pytest.mark.parametrize("k2", [3, 6])
def test_rows_that_end_and_begin_anew(k2):
    layer = make("learnt", "LSTM")
    other = copy.deepcopy(layer)
    x, resets = torch.randn(9, 2, D, dtype=FLOAT64), torch.zeros(3, 2).bool()
    x[2, 1] = torch.nan
    resets[0, 1] = True
    learner = bptt.Truncated(layer, k2)
    learner(x[:3], lengths=[3, 2]).sum().backward()
    y = learner(x[3:6], resets=resets)
    y.sum().backward()
    learner(x[6:]).sum().backward()
    assert_close_by_name({"y": y[:, 1].detach()}, {"y": layer(x[3:6])[0][:, 1].detach()}, 3)
    whole = bptt.Truncated(other, k2)
    whole(x[:2]).sum().backward()
    whole(x[2:3, :1].expand(-1, 2, -1), lengths=[1, 0])[:, :1].sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_resets_and_lengths_that_do_not_fit():
    layer, x = make("learnt", "LSTM"), torch.randn(6, 2, D, dtype=FLOAT64)
    for k2 in (3, 6):
        learner = bptt.Truncated(layer, k2)
        learner(x[:3])
        flags = torch.zeros(3, 3).bool()
        with pytest.raises(ValueError, match=r"^resets: got shape \[3, 3\], expected \[3, 2\]"):
            learner(x[3:], resets=flags)
        with pytest.raises(TypeError, match=r"^resets: got torch.float32"):
            learner(x[3:], resets=torch.zeros(3, 2))
        with pytest.raises(ValueError, match=r"^lengths: got 4, expected from 0 to T = 3"):
            learner(x[3:], lengths=[4, 3])
        with pytest.raises(ValueError, match=r"^lengths: got shape \[3\], expected \[2\]"):
            learner(x[3:], lengths=[3, 3, 3])
    with pytest.raises(ValueError, match=r"^resets: got shape \[6, 3\], expected \[6, 2\]"):
        bptt.truncated(layer, x, k1=3, resets=torch.zeros(6, 3).bool())
    with pytest.raises(ValueError, match=r"^lengths: got 7, expected from 0 to T = 6"):
        bptt.truncated(layer, x, k1=3, lengths=[7, 3])


def test_a_drop_in_says_that_a_row_of_it_ends_but_once():
    layer, x = make("drop-in layer", "LSTM"), torch.randn(3, 2, D, dtype=FLOAT64)
    learner = bptt.Truncated(layer, 6)
    learner(x, lengths=[3, 2])
    resets = torch.zeros(3, 2).bool()
    resets[0, 1] = True
    with pytest.raises(ValueError, match=r"^lengths: got rows that begin anew .* use Recurrent$"):
        learner(x, resets=resets)


def test_a_model_in_which_nothing_runs_or_that_gives_no_steps():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = make("drop-in layer", "GRU")

        def forward(self, x):
            return x

    with pytest.raises(RuntimeError, match=r"^window: no recurrent layer of the model ran"):
        bptt.Truncated(Idle(), 3)(torch.randn(3, 2, D, dtype=FLOAT64))

    class State(Idle):
        def forward(self, x):
            return self.rnn(x)[1]

    with pytest.raises(
        ValueError, match=r"^model: gave \[1, 2, 4\], expected outputs with 3 steps"
    ):
        bptt.Truncated(State(), 3)(torch.randn(3, 2, D, dtype=FLOAT64))


# --- With the rest of the library ----------------------------------------------------------------


def test_a_data_loader_over_rows():
    stream = bptt.make_windows([torch.randint(11, (n,)) for n in (23, 9, 14)], 2, 5)
    model = nn.ModuleDict({"embedding": nn.Embedding(11, D), "rnn": unrolled.LSTM(D, H)})

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, tokens):
            return self.parts["rnn"](self.parts["embedding"](tokens))[0]

    language = Language()
    learner = bptt.Truncated(language, 8)
    optimizer = torch.optim.SGD(language.parameters(), lr=0.1)
    for _ in range(2):
        for window in torch.utils.data.DataLoader(stream, batch_size=None):
            optimizer.zero_grad()
            y = learner(window.data, resets=window.resets, lengths=window.lengths)
            assert y.shape == (*window.data.shape, H)
            y.square().mean().backward()
            optimizer.step()
        learner.reset()


def test_dropout_is_drawn_anew_and_evaluation_has_none():
    layer = nn.LSTM(D, H, 2, dropout=0.5).double()
    learner = bptt.Truncated(layer, 6)
    x = torch.randn(6, 2, D, dtype=FLOAT64)
    layer.eval()
    got = torch.cat([learner(x[:3]), learner(x[3:])])
    assert_close_by_name({"y": got.detach()}, {"y": layer(x)[0].detach()}, 6)
    layer.train()
    learner(x[:3])
    learner(x[3:]).sum().backward()
