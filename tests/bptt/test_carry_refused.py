"""What a ``Carry`` refuses, and how it says so."""

import warnings

import pytest
import torch
from torch import nn

import unrolled
from tests.bptt.carrying import FLOAT64, D, H, make
from unrolled import Recurrent, bptt, cells


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
