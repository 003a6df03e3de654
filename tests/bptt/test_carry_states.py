"""What a window keeps: on the model nothing, of its graph nothing, its states also in a file."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.bptt.carrying import (
    FLOAT64,
    KINDS,
    D,
    Graphs,
    make,
    windows,
)
from tests.bptt.files import through_safetensors, through_torch
from tests.compare import assert_close_by_name
from unrolled import bptt
from unrolled.layers.base import as_tuple

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
