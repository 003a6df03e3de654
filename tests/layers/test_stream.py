"""A stream takes the steps of a whole sequence one by one, and gives the same."""

import pytest
import torch

import unrolled
from tests.compare import assert_close_by_name

KINDS = {"RNN": unrolled.RNN, "LSTM": unrolled.LSTM, "GRU": unrolled.GRU}


def stepped(stream, x):
    return torch.stack([stream(x_t) for x_t in x])


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_whole_sequence(kind, bias, depth, dtype, backend):
    layer = KINDS[kind](4, 17, depth, bias=bias, backend=backend, dtype=dtype)
    x = torch.randn(9, 3, 4, dtype=dtype)
    stream = layer.stream(3)
    y, final = layer(x)
    final = final if isinstance(final, tuple) else (final,)
    got = {"y": stepped(stream, x)} | {f"state {i}": s for i, s in enumerate(stream.state)}
    want = {"y": y} | {f"state {i}": s for i, s in enumerate(final)}
    assert_close_by_name(got, {k: v.detach() for k, v in want.items()}, 9)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_state_is_saved_and_restored(backend):
    layer = unrolled.LSTM(4, 7, 2, backend=backend)
    x = torch.randn(8, 2, 4)
    stream = layer.stream(2)
    stepped(stream, x[:5])
    saved = stream.state
    rest = stepped(stream, x[5:])
    other = layer.stream(2)
    stepped(other, x[:2])
    other.state = saved
    assert torch.equal(stepped(other, x[5:]), rest)


def test_outputs_are_the_callers_own():
    stream = unrolled.GRU(4, 7, backend="native").stream(1)
    first = stream(torch.ones(1, 4))
    kept = first.clone()
    for _ in range(3):
        stream(torch.ones(1, 4))
    assert torch.equal(first, kept)


def test_changed_weights_take_effect():
    layer = unrolled.GRU(4, 7, backend="native")
    x = torch.randn(3, 1, 4)
    stream = layer.stream(1)
    stepped(stream, x)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(0.5)
    start = stream.state
    expected, _ = layer(x, start[0])
    assert_close_by_name({"y": stepped(stream, x)}, {"y": expected.detach()}, 3)


def test_replaced_weights_take_effect():
    layer, other = unrolled.LSTM(4, 7, 2), unrolled.LSTM(4, 7, 2)
    x = torch.randn(5, 1, 4)
    stream = layer.stream(1)
    stepped(stream, x[:2])
    start = stream.state
    layer.load_state_dict(other.state_dict(), assign=True)
    expected, _ = other(x[2:], start)
    assert_close_by_name({"y": stepped(stream, x[2:])}, {"y": expected.detach()}, 3)


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(ValueError, match="bidirectional"):
        unrolled.GRU(4, 7, bidirectional=True).stream(1)
    with pytest.raises(ValueError, match="lanes: got 0"):
        unrolled.GRU(4, 7).stream(0)
    stream = unrolled.GRU(4, 7).stream(2)
    with pytest.raises(ValueError, match=r"x: got shape \[1, 4\], expected \[2, 4\]"):
        stream(torch.ones(1, 4))
    with pytest.raises(TypeError, match=r"x: got torch\.float64"):
        stream(torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="state"):
        stream.state = (torch.ones(1, 1, 7),)
