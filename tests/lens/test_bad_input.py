"""What goes wrong in training: the lens says where, its report stands, the layers are as before."""

import errno
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from tests.lens.nets import linear
from unrolled import Recurrent, bptt, cells, lens, remedies
from unrolled.lens import Lens, watch
from unrolled.scan import Backend

T, B, D, H = 9, 3, 3, 4

MAKES: dict[str, Callable[..., nn.Module]] = {
    "Recurrent Elman": lambda **o: Recurrent(cells.Elman, D, H, depth=2, **o),
    "Recurrent relu": lambda **o: Recurrent(cells.Elman, D, H, depth=2, activation="relu", **o),
    "Recurrent LSTM": lambda **o: Recurrent(cells.LSTM, D, H, depth=2, **o),
    "reference": lambda **o: Recurrent(cells.GRU, D, H, depth=2, backend="reference", **o),
    "twin LSTM": lambda **o: unrolled.LSTM(D, H, 2, **o),
    "torch RNN": lambda **o: nn.RNN(D, H, 2, **o),
    "torch LSTM": lambda **o: nn.LSTM(D, H, 2, **o),
    "torch GRU": lambda **o: nn.GRU(D, H, 2, **o),
}
every_layer = pytest.mark.parametrize("name", MAKES)
both_backends = pytest.mark.parametrize("backend", ["auto", "reference"])


def make(name: str, **options: object) -> Any:
    return MAKES[name](**options)


def told(seen: Lens) -> dict[str, Any]:
    """The record, after the report was made in every form; JSON must be strict."""
    report = seen.report()
    with Console(width=200, quiet=True).capture():
        Console(width=200).print(report)
    assert len(str(report).splitlines()) > len(report.rows)
    read = strict(report.to_json())
    assert read == report.record()
    return read


def strict(text: str) -> dict[str, Any]:
    """JSON, in which NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    read: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return read


def test_strict_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="NaN is no JSON"):
        strict('{"norm": NaN}')


def where(seen: Lens) -> tuple[str, int, int, int, int]:
    """Of the first that is not finite: the pass, level, direction, step, lane."""
    told(seen)
    found = seen.broken()
    assert found is not None
    return found.where, found.level, found.direction, found.step, found.lane


def is_unwatched(layer: nn.Module, kind: type) -> bool:
    return type(layer) is kind and "watcher" not in vars(layer)


def inputs(steps: int = T, lanes: int = B) -> Tensor:
    return torch.randn(steps, lanes, D)


# --- The loop itself -------------------------------------------------------------------------------


def test_only_recurrent_layers_can_be_watched() -> None:
    for model in (nn.LSTMCell(D, H), nn.ModuleList(), nn.Sequential(nn.Linear(D, H), nn.ReLU())):
        expected = f"model: got {type(model).__name__}, which holds no recurrent layer"
        with pytest.raises(ValueError, match=expected), watch(model):
            pass


@every_layer
def test_without_a_backward_pass(name: str) -> None:
    layer = make(name)
    with watch(layer) as seen:
        with torch.no_grad():
            layer(inputs())
        layer(inputs())
        seen.clipped(2.0, 1.0)
    record = told(seen)
    assert [row["calls"] for row in record["rows"]] == [0, 0]
    assert all(row["norms"] == [None] * T for row in record["rows"])
    assert any("no backward pass" in note for note in record["notes"])
    assert record["clipping"]["spikes"] == [{"call": 0, "norm": 2.0, "bound": 1.0}]
    assert seen.broken() is None


@both_backends
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_of_two_backward_passes_the_last_counts(
    cell: Callable[..., cells.Cell], backend: Backend
) -> None:
    layer, x = Recurrent(cell, D, H, depth=2, backend=backend), inputs()

    def norms(*losses: Callable[[Tensor], Tensor]) -> list[dict[str, Tensor]]:
        with watch(layer) as seen:
            y = layer(x).y
            for loss in losses:
                loss(y).backward(retain_graph=True)
        assert len(seen.flows) == 2 and told(seen)["rows"][0]["calls"] == 1
        return [{n: v.nan_to_num(0) for n, v in flow.norms.items()} for flow in seen.flows]

    def first(y: Tensor) -> Tensor:
        return 5 * y[-1].sum()

    def second(y: Tensor) -> Tensor:
        return y[2].square().sum()

    for got, alone in zip(norms(first, second), norms(second), strict=True):
        assert got.keys() == alone.keys()
        for name in got:
            assert got[name][:3].any() and not got[name][3:].any()
            torch.testing.assert_close(got[name], alone[name])


@every_layer
def test_an_exception_leaves_no_trace(name: str) -> None:
    layer = make(name)
    model, kind = nn.ModuleDict({"rnn": layer, "head": nn.Linear(H, 2)}), type(layer)
    x = inputs()
    with torch.no_grad():
        expected = layer(x)[0]

    def fails(gradient: Tensor) -> Tensor:
        raise KeyError("backward")

    errors = {
        "block": "in the block",
        "forward": "expected|Expected",
        "head": "mat1",
        "backward": "back",
    }
    for place in errors:
        with (
            pytest.raises((KeyError, ValueError, RuntimeError), match=errors[place]),
            watch(model) as seen,
        ):
            y = layer(x)[0]
            if place == "forward":
                layer(x[..., :2])
            elif place == "head":
                model["head"](y[..., :1])
            elif place == "backward":
                twice = y * 2
                twice.register_hook(fails)
                twice.sum().backward()
            raise RuntimeError("in the block")
        assert is_unwatched(layer, kind)
        rows = told(seen)["rows"]
        assert [row["calls"] for row in rows] == [0, 0] and seen.broken() is None
        layer.zero_grad()
        with watch(model) as again:
            layer(x)[0].sum().backward()
        assert [row["calls"] for row in told(again)["rows"]] == [1, 1]
        assert is_unwatched(layer, kind)
        assert all(p.grad.isfinite().all() for p in layer.parameters())
    torch.testing.assert_close(layer(x)[0].detach(), expected)


def test_one_layer_of_two_has_no_gradient() -> None:
    model = nn.ModuleDict({"used": nn.GRU(D, H), "cut": nn.LSTM(D, H), "idle": nn.GRU(D, H)})
    x = inputs()
    with watch(model) as seen:
        (model["used"](x)[0].sum() + model["cut"](x)[0].detach().sum()).backward()
    record = told(seen)
    assert [(row["layer"], row["calls"]) for row in record["rows"]] == [("used", 1), ("cut", 0)]
    assert record["rows"][1]["norms"] == [None] * T and None not in record["rows"][0]["norms"]
    used, cut = (line for line in str(seen.report()).splitlines() if ", 0 " in line)
    assert "no gradient came" in cut and "no gradient came" not in used


# --- Short and empty -------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lanes", [1, B])
def test_one_step(name: str, bidirectional: bool, lanes: int) -> None:
    layer = make(name, bidirectional=bidirectional)
    with watch(layer) as seen:
        layer(inputs(1, lanes))[0].sum().backward()
        seen.clipped(remedies.clip_norm(layer.parameters(), 1e-3), 1e-3)
    record = told(seen)
    assert len(record["rows"]) == 2 * (1 + bidirectional)
    for row in record["rows"]:
        assert len(row["norms"]) == 1 and row["norms"][0] >= 0
        assert row["verdict"]["growth"] is row["verdict"]["horizon"] is None
        assert "too few" in row["verdict"]["evidence"] and row["view"]["lags"] == [[1.0]]
    assert record["clipping"]["spikes"][0]["lag"] == 0 and record["broken"] is None


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "twin LSTM", "torch GRU"])
@pytest.mark.parametrize("lengths", [[0, T, 2], [0, 0, 0]])
def test_lanes_of_length_0(name: str, lengths: list[int]) -> None:
    layer = make(name, bidirectional=True)
    with watch(layer) as seen:
        y = layer(inputs(), lengths=lengths)[0]
        if y.requires_grad:  # by the reference nothing is computed of lanes that are all empty
            y.sum().backward()
        seen.clipped(1e9, 1.0)
    assert all(flow.real.sum(0).tolist() == lengths for flow in seen.flows)
    record = told(seen)
    some = any(lengths)
    assert [row["verdict"] is not None for row in record["rows"]] == [some] * 4
    assert [row["norms"] != [None] * T for row in record["rows"]] == [some] * 4
    ((spike),) = record["clipping"]["spikes"]
    assert spike.get("lane") in ((1, 2) if some else (None,))


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "twin LSTM", "torch GRU"])
@pytest.mark.parametrize(("steps", "lanes"), [(0, B), (T, 0)])
def test_nothing_to_read(name: str, steps: int, lanes: int) -> None:
    layer = make(name)
    with watch(layer) as seen:
        layer(inputs(steps, lanes))
    record = told(seen)
    assert all(row["verdict"] is row["view"] is None for row in record["rows"])
    assert [row["norms"] for row in record["rows"]] == [[None] * steps] * 2


# --- What is not finite, forward -------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("step", [0, 5, T - 1])
def test_nan_in_a_lane_of_the_input(name: str, bidirectional: bool, step: int) -> None:
    """Both directions meet it at the same step; the forward one ran first."""
    layer, x = make(name, bidirectional=bidirectional), inputs()
    x[step, 2, 1] = math.nan
    with watch(layer) as seen:
        layer(x)[0].sum().backward()
    assert where(seen) == ("forward", 0, 0, step, 2)
    found = seen.broken()
    assert found is not None and (found.value, found.call) == ("nan", 0)
    assert str(found) in str(seen.report())


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "twin LSTM", "torch RNN"])
def test_nan_where_nothing_is_read(name: str) -> None:
    layer, x = make(name, bidirectional=True), inputs()
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


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "twin LSTM", "torch GRU"])
def test_nan_in_a_shorter_lane(name: str) -> None:
    layer, x, lengths = make(name, bidirectional=True), inputs(), [T, 6, 4]
    x[3, 2, 0] = math.nan
    with watch(layer) as seen:
        layer(x, lengths=lengths)[0].sum().backward()
    assert where(seen) == ("forward", 0, 0, 3, 2)
    if isinstance(layer, nn.RNNBase):
        with watch(layer) as seen:
            layer(pack_padded_sequence(x, lengths))[0].data.sum().backward()
        assert where(seen) == ("forward", 0, 0, 3, 2)


@pytest.mark.parametrize("name", ["Recurrent LSTM", "twin LSTM", "torch LSTM"])
def test_nan_in_the_initial_state(name: str) -> None:
    layer = make(name)
    h, c = torch.zeros(2, 2, B, H)
    c[1, 1, 0] = math.nan  # of the upper level
    with watch(layer) as seen:
        layer(inputs(), (h, c))[0].sum().backward()
    assert where(seen) == ("forward", 1, 0, 0, 1)


@every_layer
@pytest.mark.parametrize("steps", [1, 2, T])
def test_weights_that_a_bad_step_has_spoilt(name: str, steps: int) -> None:
    layer = make(name)
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


# --- What is not finite, backward ------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_the_step_at_which_it_enters_backward(name: str, direction: int, value: float) -> None:
    layer = make(name, bidirectional=True)
    weight = torch.ones(T, B, 2 * H)
    weight[5, 1, direction * H] = value
    with watch(layer) as seen:
        y = layer(inputs())[0]
        y.backward(weight)
    assert where(seen) == ("backward", 1, direction, 5, 1)
    assert "in the gradient of the state at step 5 of lane 1" in str(seen.report())
    found = seen.broken()
    assert found is not None and found.value == ("inf" if math.isinf(value) else "nan")


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "twin LSTM", "torch GRU"])
def test_backward_in_a_shorter_lane(name: str) -> None:
    layer, lengths = make(name), [T, 6, 4]
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


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "twin LSTM", "torch GRU"])
def test_a_reset_stops_it_backward(name: str) -> None:
    layer, resets = make(name), torch.zeros(T, B, dtype=torch.bool)
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
    layer = make(name)
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
    assert (found.layer, found.call, found.step, found.lane) == ("decoder", 5, 1, 2)


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


# --- Numbers that are only large or small ----------------------------------------------------------

# In float32 the square of a number beyond 1e19 overflows, and that of one under 1e-23 is 0.


@both_backends
@pytest.mark.parametrize("a", [0.5, 2.0])
def test_norms_whose_squares_float32_does_not_have(a: float, backend: Backend) -> None:
    steps = 90
    layer = Recurrent(cells.Elman, 1, H, activation="identity", bias=False, backend=backend)
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(a * torch.eye(H))
        layer.cells[0].weight_ih.zero_()
    with watch(layer) as seen:
        layer(torch.randn(steps, 1, 1)).y[-1].sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    expected = 2 * a ** torch.arange(steps - 1, -1, -1.0).unsqueeze(1)
    torch.testing.assert_close(seen.flows[0].h.double(), expected.double(), rtol=1e-5, atol=0)
    assert seen.broken() is None and told(seen)["broken"] is None


@pytest.mark.parametrize("a", [1e30, 1e-30, 0.0])
def test_a_report_of_extreme_weights(a: float) -> None:
    """The growth is known where the products of Jacobians leave float32, also float64."""
    layer = Recurrent(cells.Elman, 1, H, activation="identity", bias=False)
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(a * torch.eye(H))
    with watch(layer) as seen:
        layer(torch.zeros(30, 1, 1)).y[-1].sum().backward()
    (row,) = told(seen)["rows"]
    assert row["verdict"]["state"] == ("exploding" if a > 1 else "vanishing")
    assert row["verdict"]["growth"] == pytest.approx(a, rel=1e-4)
    lags = row["view"]["lags"][-1]
    assert lags[1] == pytest.approx(a, rel=1e-4) and lags[-1] == (None if a > 1 else 0.0)


# --- What the lens is told -------------------------------------------------------------------------


def test_clipped_refuses_what_are_no_numbers() -> None:
    with watch(make("torch GRU")) as seen:
        for norm, bound, match in (
            (1.0, math.nan, "bound: got nan"),
            (1.0, -1.0, "bound: got -1.0"),
            ("much", 1.0, "norm: got"),
            (torch.ones(2), 1.0, "norm: got"),
            (1.0, None, "bound: got"),
        ):
            with pytest.raises((TypeError, ValueError), match=match):
                seen.clipped(norm, bound)  # type: ignore[arg-type]
        assert seen.clipping() is None  # none of these counts


def test_clipped_with_norms_of_a_broken_model() -> None:
    layer = make("torch GRU")
    with watch(layer) as seen:
        for norm in (math.nan, math.inf, torch.tensor([3.0])):
            layer(inputs())[0].sum().backward()
            seen.clipped(norm, 1.0)
    clipping = told(seen)["clipping"]
    assert (clipping["calls"], clipping["clipped"]) == (3, 2)
    assert [s["norm"] for s in clipping["spikes"]] == [None, 3.0]


@both_backends
def test_a_spike_of_an_exploding_system_in_a_shorter_lane(backend: Backend) -> None:
    """W = 1.5 I: the gradient is longest at the first step, as far back as the lane is long."""
    layer = Recurrent(cells.Elman, D, H, depth=2, activation="identity", backend=backend)
    with torch.no_grad():
        for cell in layer.cells:
            cell.weight_hh.copy_(1.5 * torch.eye(H))
        layer.cells[1].weight_ih.mul_(1e-3)  # so that the upper level's is the longest
    lengths = [T, 6, 1]
    with watch(layer) as seen:
        y = layer(inputs(), lengths=lengths).y
        (y[T - 1, 0].sum() + 100 * y[5, 1].sum() + y[0, 2].sum()).backward()
        seen.clipped(remedies.clip_norm(layer.parameters(), 1.0), 1.0)
    (spike,) = told(seen)["clipping"]["spikes"]
    assert (spike["level"], spike["step"], spike["lane"], spike["lag"]) == (1, 0, 1, 5)
    assert "longest 5 steps back" in str(seen.report())


@both_backends
@pytest.mark.parametrize("step", [0, 4, T - 1])
def test_a_spike_of_the_loss_in_a_healthy_system(step: int, backend: Backend) -> None:
    """A tenth of the gradient is lost a step: the longest is what the loss itself sends."""
    layer = linear(0.9 * torch.eye(H, dtype=torch.float64))
    layer.backend = backend
    with watch(layer) as seen:
        (1e6 * layer(inputs().double()).y[step, 2].sum()).backward()
        seen.clipped(remedies.clip_norm(layer.parameters(), 1.0), 1.0)
    (spike,) = told(seen)["clipping"]["spikes"]
    assert (spike["step"], spike["lane"], spike["lag"]) == (step, 2, 0)


def test_spikes_are_looked_for_since_the_last_clip() -> None:
    layer = linear(torch.eye(H, dtype=torch.float64))
    with watch(layer) as seen:
        for step, scale in ((T - 1, 1e6), (3, 10.0)):
            for part in range(2):  # gradients are added up over two backward passes
                (scale * layer(inputs().double()).y[step, part].sum()).backward()
            seen.clipped(1e9, 1.0)
        seen.clipped(1e9, 1.0)
    spikes = told(seen)["clipping"]["spikes"]
    assert [s.get("norm") for s in spikes] == [1e9] * 3
    clipping = seen.clipping()
    assert clipping is not None
    found = [spike and spike.norm for *_, spike in clipping.spikes]
    assert found == [pytest.approx(2e6), pytest.approx(20.0), None]
    # Of steps that are alike, where the gradient came in.
    assert [s.get("step") for s in spikes] == [T - 1, 3, None]
    assert [s.get("lag") for s in spikes] == [0, 0, None]


# --- Saving ----------------------------------------------------------------------------------------


def broken_reports() -> dict[str, Lens]:
    """NaN in the input, an infinity backward, NaN weights; and no backward pass at all."""
    layer = make("torch LSTM", bidirectional=True)
    found = {}
    for name in ("input", "backward", "weights", "none"):
        x, weight = inputs(), torch.ones(T, B, 2 * H)
        if name == "input":
            x[0, 0] = math.nan
        if name == "backward":
            weight[T - 1] = math.inf
        if name == "weights":
            with torch.no_grad():
                layer.weight_hh_l0.fill_(math.nan)
        with watch(layer) as seen:
            y = layer(x)[0]
            if name != "none":
                y.backward(weight)
        found[name] = seen
    return found


@pytest.mark.parametrize("name", ["input", "backward", "weights", "none"])
def test_reports_of_broken_models_are_saved(name: str, tmp_path: Path) -> None:
    seen = broken_reports()[name]
    record, report = told(seen), seen.report()
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == record
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    for suffix in ("html", "svg", "png"):
        report.save(tmp_path / f"report.{suffix}")
        assert (tmp_path / f"report.{suffix}").stat().st_size > 1000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    assert strict(data)


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    layer, x = make("torch GRU"), inputs()
    x[0] = math.nan
    with watch(layer) as seen:
        layer(x)
    for suffix in ("svg", "png"):
        with pytest.raises(ValueError, match="record: got no gradient and no lags to draw"):
            seen.report().save(tmp_path / f"report.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_nan_did_come() -> None:
    seen = broken_reports()["weights"]
    assert all(flow.reached for flow in seen.flows)
    assert "no gradient came" not in str(seen.report())


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.json.gz"])
def test_an_unknown_suffix(name: str, tmp_path: Path) -> None:
    report = broken_reports()["input"].report()
    expected = rf"path: got '{name}', expected a name that ends in \.html, \.svg, \.png or \.json"
    with pytest.raises(ValueError, match=expected):
        report.save(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["json", "html", "svg", "png", "PNG"])
def test_on_a_full_disk_what_was_saved_before_is_kept(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix != "json":
        pytest.importorskip("altair")
        pytest.importorskip("vl_convert")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    layer, path = make("torch GRU"), tmp_path / f"report.{suffix}"
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    seen.report().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        seen.report().save(path)
    assert caught.value.filename == str(path) and path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["json", "html", "svg", "png"])
def test_a_path_that_cannot_be_written(suffix: str, tmp_path: Path) -> None:
    if suffix != "json":
        pytest.importorskip("altair")
        pytest.importorskip("vl_convert")
    layer = make("torch GRU")
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    report = seen.report()
    with pytest.raises(FileNotFoundError):
        report.save(tmp_path / "missing" / f"report.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(OSError, match="folder"):
        report.save(tmp_path / f"folder.{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [f"folder.{suffix}"]


# --- What is odd, and works or is refused ------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, -1, 2.5, "a", True])
def test_how_many_steps_is_checked(steps: Any) -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    with pytest.raises((TypeError, ValueError), match="steps: got"):
        seen.report(steps=steps)


def test_nothing_is_in_the_way_of_many_gradients_at_once() -> None:
    for layer in (nn.GRU(D, H), Recurrent(cells.Elman, D, H, backend="reference")):
        x = inputs().requires_grad_()
        with watch(layer) as seen:
            y = layer(x)[0]
            units = torch.eye(H).unsqueeze(1).unsqueeze(1).expand(H, *y.shape)
            (found,) = torch.autograd.grad(y, x, units, is_grads_batched=True)
        assert found.shape == (H, *x.shape)
        assert not seen.flows[0].reached
        with watch(layer):
            jacobian = torch.func.jacrev(lambda x, layer=layer: layer(x)[0])(x.detach())
        assert jacobian.shape == (*y.shape, *x.shape)


def test_no_lanes_are_as_outside() -> None:
    layer = nn.GRU(D, H)
    with watch(layer) as seen:
        layer(torch.zeros(T, 0, D))[0].sum().backward()
    assert layer.weight_hh_l0.grad is not None and not layer.weight_hh_l0.grad.any()
    assert seen.report().rows[0].verdict is None


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_complex_weights_are_left_alone() -> None:
    layer = nn.RNN(D, H).to(torch.complex64)
    with watch(layer) as seen:
        layer(inputs().to(torch.complex64))[0].abs().sum().backward()
    assert seen.unseen and type(layer) is nn.RNN
    with pytest.raises(RuntimeError, match="its weights are complex"):
        seen.report()


def test_a_device_without_numbers_is_no_obstacle() -> None:
    layer = Recurrent(cells.GRU, D, H).to("meta")
    with watch(layer) as seen:
        assert layer(torch.zeros(T, B, D, device="meta")).y.shape == (T, B, H)
    assert not seen.flows and "without numbers" in next(iter(seen.unseen.values()))


def test_a_parametrised_layer_gets_its_own_class_back() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.GRU(D, H), "weight_hh_l0")
    kind = type(layer)
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    assert type(layer) is kind and seen.flows[0].reached


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_is_not_watched_and_not_in_the_way() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        torch.compile(layer, fullgraph=True, backend="eager")(inputs())[0].sum().backward()
        with pytest.raises(RuntimeError, match="not a compiled one"):
            seen.report()


def test_a_path_is_a_path(tmp_path: Path) -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    report = seen.report()
    with pytest.raises(TypeError, match="path: got NoneType, expected a path"):
        report.save(None)  # type: ignore[arg-type]
    report.save(tmp_path / "A.JSON", trials=lens.try_remedies(layer, inputs()))
    assert json.loads((tmp_path / "A.JSON").read_text())["trials"]
    with pytest.raises(ValueError, match="norm: got a number beyond every float"):
        seen.clipped(10**400, 1.0)


def test_an_infinite_gradient_has_no_spread() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        (layer(inputs())[0] * math.inf).sum().backward()
    assert "nan" not in seen.report().rows[0].ends.replace("NaN", "")
