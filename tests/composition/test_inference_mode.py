"""What lasts may be made within ``torch.inference_mode`` and used outside of it, and the reverse."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import unrolled
from tests.compare import assert_close_by_name, collect
from unrolled import Recurrent, bptt, cells
from unrolled.bptt import RTRL, UORO, SnAp1

LAYERS = {
    "LSTM": lambda: unrolled.LSTM(3, 5, 2),
    "reference": lambda: unrolled.GRU(3, 5, backend="reference"),
    "Recurrent": lambda: Recurrent(cells.GRU, 3, 5, depth=2, residual=True),
    "learnt": lambda: Recurrent(cells.LSTM, 3, 5, learn_initial_state=True),
    "proj_size": lambda: unrolled.LSTM(3, 5, proj_size=2),
}
INSIDE, OUTSIDE = torch.inference_mode, nullcontext
orders = pytest.mark.parametrize(
    "modes",
    [(INSIDE, OUTSIDE, OUTSIDE), (OUTSIDE, INSIDE, OUTSIDE), (INSIDE, INSIDE, OUTSIDE)],
    ids=["made inside", "used inside", "both"],
)


@orders
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_a_stream(name, modes):
    layer, x = LAYERS[name](), torch.randn(4, 2, 3)
    made, first, then = modes
    with made():
        stream = layer.stream(2)
    with first():
        outputs = [stream(x[0]), stream(x[1], resets=torch.tensor([False, False]))]
        stream.join()
        stream.leave([2])
        stream.load_state_dict(stream.state_dict())
    with then():
        outputs += [stream(x[2]), *stream(x[3:])]
        stream.state = stream.state
    expected = layer(x)[0].detach()
    assert_close_by_name({"y": torch.stack(outputs).clone()}, {"y": expected}, 4)


def test_a_stream_of_a_layer_that_was_made_inside():
    with torch.inference_mode():
        layer = unrolled.GRU(3, 5)
    x = torch.randn(2, 2, 3)
    stream = layer.stream(2)
    with torch.no_grad():
        assert torch.allclose(torch.stack([stream(row) for row in x]), layer(x)[0], atol=1e-6)


@pytest.mark.parametrize("name", ["LSTM", "learnt"])
def test_a_carry(name):
    layer, windows, found = LAYERS[name]().double(), torch.randn(3, 4, 2, 3).double(), []
    for inside in (True, False):
        mode = INSIDE if inside else torch.no_grad
        with mode():
            carry = bptt.Carry(layer)
            with carry.window():
                layer(windows[0])
            carry.reset([0])
            with carry.window():
                layer(windows[1])
            carry.load_state_dict(carry.state_dict())
        with carry.window():
            y, _ = layer(windows[2])
        found.append(collect({"y": y}, dict(layer.named_parameters())))
        layer.zero_grad()
    assert_close_by_name(*found, 4)


def test_truncated_bptt():
    layer, windows, found = unrolled.GRU(3, 5).double(), torch.randn(3, 4, 2, 3).double(), []
    for mode in (INSIDE, torch.no_grad):
        truncated = bptt.Truncated(layer, 8)
        with mode():
            truncated(windows[0], resets=torch.zeros(4, 2, dtype=torch.bool))
            truncated.load_state_dict(truncated.state_dict())
            truncated(windows[1])
        y = truncated(windows[2])
        found.append(collect({"y": y}, dict(layer.named_parameters())))
        layer.zero_grad()
    assert_close_by_name(*found, 12)


@pytest.mark.parametrize("kind", [RTRL, SnAp1, UORO])
def test_an_online_learner(kind):
    layer, x, found = Recurrent(cells.GRU, 3, 4).double(), torch.randn(4, 2, 3).double(), []
    for mode in (INSIDE, torch.no_grad):
        torch.manual_seed(1)
        with mode():
            learner = kind(layer)
            learner(x[0])
            learner.reset([0])
            learner(x[1])
            learner.load_state_dict(learner.state_dict())
        y = learner(x[2:])
        found.append(collect({"y": y}, dict(layer.named_parameters())))
        layer.zero_grad()
    assert_close_by_name(*found, 8)


def test_a_quantized_model():
    model, x = nn.Sequential(unrolled.LSTM(3, 5)), torch.randn(4, 2, 3, requires_grad=True)
    with torch.inference_mode():
        unrolled.layers.quantize(model)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(saved)
    y, _ = model(x)
    y.sum().backward()
    assert x.grad.abs().sum() > 0
