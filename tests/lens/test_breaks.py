"""Where a number that is not finite came up first: the pass, the scan, the step and the sequence."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import unrolled
from tests.lens.nets import linear
from tests.lens.seeing import B, D, H, T, both_backends, every_layer, inputs, made, told, where
from unrolled import Recurrent, bptt, cells
from unrolled.lens import watch
from unrolled.scan import Backend

# --- Forward -------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("step", [0, 5, T - 1])
def test_nan_in_a_sequence_of_the_input(name: str, bidirectional: bool, step: int) -> None:
    """Both directions meet it at the same step; the forward one ran first."""
    layer, x = made(name, bidirectional=bidirectional), inputs()
    x[step, 2, 1] = math.nan
    with watch(layer) as seen:
        layer(x)[0].sum().backward()
    assert where(seen) == ("forward", 0, 0, step, 2)
    found = seen.broken()
    assert found is not None and (found.value, found.call) == ("nan", 0)
    assert str(found) in str(seen.report())


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "drop-in layer LSTM", "torch RNN"])
def test_nan_where_nothing_is_read(name: str) -> None:
    layer, x = made(name, bidirectional=True), inputs()
    x[4:, 1], x[2:, 2] = math.nan, math.inf
    with watch(layer) as seen:
        y = layer(x, lengths=[T, 4, 2])[0]
        y.sum().backward()
    assert y.isfinite().all() and seen.broken() is None and told(seen)["broken"] is None
    if not isinstance(layer, Recurrent):
        return
    mask = x.isfinite().all(-1)
    with watch(layer) as seen:
        layer(x, mask=mask).y.sum().backward()
    assert seen.broken() is None and told(seen)["broken"] is None


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "drop-in layer LSTM", "torch GRU"])
def test_nan_in_a_shorter_sequence(name: str) -> None:
    layer, x, lengths = made(name, bidirectional=True), inputs(), [T, 6, 4]
    x[3, 2, 0] = math.nan
    with watch(layer) as seen:
        layer(x, lengths=lengths)[0].sum().backward()
    assert where(seen) == ("forward", 0, 0, 3, 2)
    if isinstance(layer, nn.RNNBase):
        with watch(layer) as seen:
            layer(pack_padded_sequence(x, lengths))[0].data.sum().backward()
        assert where(seen) == ("forward", 0, 0, 3, 2)


@pytest.mark.parametrize("name", ["Recurrent LSTM", "drop-in layer LSTM", "torch LSTM"])
def test_nan_in_the_initial_state(name: str) -> None:
    layer = made(name)
    h, c = torch.zeros(2, 2, B, H)
    c[1, 1, 0] = math.nan  # of the upper level
    with watch(layer) as seen:
        layer(inputs(), (h, c))[0].sum().backward()
    assert where(seen) == ("forward", 1, 0, 0, 1)


@every_layer
@pytest.mark.parametrize("steps", [1, 2, T])
def test_weights_that_a_bad_step_has_spoilt(name: str, steps: int) -> None:
    layer = made(name)
    optimizer = torch.optim.SGD(layer.parameters(), lr=math.inf)
    with watch(layer) as seen:
        for _ in range(3):
            optimizer.zero_grad()
            layer(inputs(steps))[0].sum().backward()
            optimizer.step()
    assert where(seen) == ("forward", 0, 0, 0, 0)
    found = seen.broken()
    assert found is not None and found.call == 1
    assert all(row["verdict"] is None for row in told(seen)["rows"])


@pytest.mark.parametrize("name", ["Recurrent GRU", "torch GRU"])
def test_only_the_upper_backward_direction_has_nan_weights(name: str) -> None:
    layer: Any = (
        nn.GRU(D, H, 2, bidirectional=True)
        if name == "torch GRU"
        else Recurrent(cells.GRU, D, H, depth=2, bidirectional=True)
    )
    spoilt = layer.cells[3].weight_ih if name != "torch GRU" else layer.weight_ih_l1_reverse
    with torch.no_grad():
        spoilt[0, 0] = math.nan
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    assert where(seen) == ("forward", 1, 1, T - 1, 0)  # it reads from the end
    verdicts = [row["verdict"] is not None for row in told(seen)["rows"]]
    assert verdicts == [True, True, True, False]


@both_backends
def test_an_infinity_that_relu_lets_go_again(backend: Backend) -> None:
    """Through a negative weight the next step is relu(-inf) = 0: it does not stay to the end."""
    layer = Recurrent(cells.Elman, 1, 1, activation="relu", backend=backend)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
        layer.cells[0].weight_hh.fill_(-1.0)
    x = torch.ones(T, B, 1)
    x[2, 1] = math.inf
    with watch(layer) as seen:
        y = layer(x).y
    assert y[2, 1].isinf().all() and y[3:].isfinite().all()
    assert where(seen) == ("forward", 0, 0, 2, 1)


def test_a_state_that_overflows_in_the_last_step() -> None:
    layer = Recurrent(cells.Elman, 1, 1, depth=2, activation="relu", bias=False)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1e15)
    with watch(layer) as seen:
        y = layer(torch.full((2, 1, 1), 1e-10)).y  # 1e5 and 1e20; then 1e20 and 1e35
    assert y.isfinite().all() and seen.broken() is None and told(seen)["broken"] is None
    with watch(layer) as seen:
        y = layer(torch.full((2, 1, 1), 1e9)).y  # 1e24 and 1e39, which is too large
    assert y.isinf().all()
    assert where(seen) == ("forward", 0, 0, 1, 0)


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
    assert (found.where, found.step, found.sequence) == ("forward", 5, 2)


def test_through_a_reset_it_is_still_seen() -> None:
    for layer in (Recurrent(cells.LSTM, D, H), unrolled.LSTM(D, H)):
        x, resets = torch.randn(T, B, D), torch.zeros(T, B, dtype=torch.bool)
        x[2, 0], resets[4, 0] = math.nan, True
        with watch(layer) as lens:
            layer(x, resets=resets)
        found = lens.broken()
        assert found is not None and (found.step, found.sequence) == (2, 0)


def test_of_packed_rows_the_step_and_the_sequence_in_their_order() -> None:
    parts = [torch.randn(n, D) for n in (8, 5, 2)]
    parts[1][3, 0] = math.inf
    layer = nn.RNN(D, H, nonlinearity="relu")
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
    with watch(layer) as lens:
        layer(pack_sequence(parts))
    found = lens.broken()
    assert found is not None
    assert (found.value, found.step, found.sequence) == ("inf", 3, 1)


def test_what_is_finite_is_not_broken() -> None:
    layer = Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True)
    with watch(layer) as lens:
        layer(torch.randn(T, B, D), lengths=[T, 3, 0]).y.sum().backward()
        assert lens.broken() is None
    huge = linear(1e200 * torch.eye(H, dtype=torch.float64))  # whose sum alone is infinite
    with watch(huge) as lens:
        huge(torch.full((1, 1, D), 1e308 / D, dtype=torch.float64))
    assert lens.broken() is None


# --- Backward ------------------------------------------------------------------------------------


@pytest.mark.each_value
@every_layer
@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_the_step_at_which_it_enters_backward(name: str, direction: int, value: float) -> None:
    layer = made(name, bidirectional=True)
    weight = torch.ones(T, B, 2 * H)
    weight[5, 1, direction * H] = value
    with watch(layer) as seen:
        y = layer(inputs())[0]
        y.backward(weight)
    assert where(seen) == ("backward", 1, direction, 5, 1)
    assert "in the gradient of the state at step 5 of sequence 1" in str(seen.report())
    found = seen.broken()
    assert found is not None and found.value == ("inf" if math.isinf(value) else "nan")


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "drop-in layer LSTM", "torch GRU"])
def test_backward_in_a_shorter_sequence(name: str) -> None:
    layer, lengths = made(name), [T, 6, 4]
    weight = torch.ones(T, B, H)
    weight[3, 2], weight[7, 2], weight[8, 1] = math.inf, math.nan, math.nan  # two are padding
    with watch(layer) as seen:
        layer(inputs(), lengths=lengths)[0].backward(weight)
    assert where(seen) == ("backward", 1, 0, 3, 2)
    if isinstance(layer, nn.RNNBase):
        real = pack_padded_sequence(weight, lengths)
        with watch(layer) as seen:
            layer(pack_padded_sequence(inputs(), lengths))[0].data.backward(real.data)
        assert where(seen) == ("backward", 1, 0, 3, 2)


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "drop-in layer LSTM", "torch GRU"])
def test_a_reset_stops_it_backward(name: str) -> None:
    layer, resets = made(name), torch.zeros(T, B, dtype=torch.bool)
    resets[4, 1] = True
    weight = torch.ones(T, B, H)
    weight[6, 1] = math.inf
    with watch(layer) as seen:
        layer(inputs(), resets=resets)[0].backward(weight)
    assert where(seen) == ("backward", 1, 0, 6, 1)
    upper = next(flow for flow in seen.flows if flow.level == 1)
    assert upper.h[:4].isfinite().all() and not upper.h[6, 1].isfinite()


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "torch GRU"])
def test_of_several_training_steps_the_first_is_named(name: str) -> None:
    """A gradient breaks in the second, so that all is NaN, forward too, from the third on."""
    layer = made(name)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with watch(layer) as seen:
        for call in range(5):
            optimizer.zero_grad()
            weight = torch.ones(T, B, H)
            if call == 1:
                weight[2, 0] = math.inf
            layer(inputs())[0].backward(weight)
            optimizer.step()
            seen.clipped(math.nan if call else 1.0, 1.0)
    assert where(seen) == ("backward", 1, 0, 2, 0)
    found = seen.broken()
    assert found is not None and found.call == 1
    assert all(row["verdict"] is None for row in told(seen)["rows"])


def test_windows_and_segments() -> None:
    """A window is a call, its steps count from its beginning; segments are one call of all steps."""
    layer, x = unrolled.GRU(D, H), inputs(12)
    x[6, 1] = math.nan
    with watch(layer) as seen:
        for y, _ in bptt.truncated(layer, x, k1=4):
            y.sum().backward()
    found = seen.broken()
    assert found is not None and (found.where, found.call, found.step) == ("forward", 1, 2)
    with watch(layer) as seen:
        bptt.checkpointed(layer, x, segments=3)[0].sum().backward()
    assert where(seen) == ("forward", 0, 0, 6, 1)

    weight = torch.ones(12, B, H)
    weight[6, 1] = math.inf
    with watch(layer) as seen:
        for y, at in bptt.truncated(layer, inputs(12), k1=4):
            y.backward(weight[at])
    found = seen.broken()
    assert found is not None and (found.where, found.call, found.step) == ("backward", 1, 2)
    with watch(layer) as seen:
        bptt.checkpointed(layer, inputs(12), segments=3)[0].backward(weight)
    assert where(seen) == ("backward", 0, 0, 6, 1)


class EncoderDecoder(nn.Module):
    """The decoder is called three times for each call of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(D, H), nn.GRU(H, H)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.encoder(x)
        return torch.cat([self.decoder(part, h)[0] for part in y.split(3)])


def test_layers_that_are_called_unequally_often() -> None:
    """The gradient breaks in the last call of the decoder, and reaches the encoder after that."""
    model, weight = EncoderDecoder(), torch.ones(T, B, H)
    weight[7, 2] = math.inf
    with watch(model) as seen:
        for at in (torch.ones(T, B, H), weight, torch.ones(T, B, H)):
            model(inputs()).backward(at)
    told(seen)
    found = seen.broken()
    assert found is not None
    assert (found.layer, found.call, found.step, found.sequence) == ("decoder", 5, 1, 2)


def test_a_backward_pass_breaks_before_a_later_forward_pass() -> None:
    """In the second training step the decoder's gradient, in the third the encoder's state."""
    model, weight = EncoderDecoder(), torch.ones(T, B, H)
    weight[0, 0] = math.inf
    with watch(model) as seen:
        model(inputs()).sum().backward()
        model.encoder.requires_grad_(False)
        y, h = model.encoder(inputs())  # through which nothing comes back
        torch.cat([model.decoder(part, h)[0] for part in y.detach().split(3)]).backward(weight)
        x = inputs()
        x[4] = math.nan
        model(x)
    told(seen)
    found = seen.broken()
    assert found is not None
    assert (found.where, found.layer, found.call) == ("backward", "decoder", 3)
