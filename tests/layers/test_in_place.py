"""What a layer has returned belongs to the caller, who may write into it: no gradient changes by it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from tests.compare import assert_close_by_name, scanned
from unrolled import GRU, LSTM, RNN, Recurrent, bptt, cells
from unrolled.scan import ScanOptions

FLOAT64 = torch.float64
Call = Callable[[Tensor], Any]


def tensors(returned: Any) -> list[Tensor]:
    """Every tensor of what a layer returned; of a ``Result`` the states at every step too."""
    if returned is None:
        return []
    if isinstance(returned, Tensor | PackedSequence):
        return [returned if isinstance(returned, Tensor) else returned.data]
    found = [tensor for part in returned for tensor in tensors(part)]
    return found + tensors(getattr(returned, "states", None))


def doubled(written: list[Tensor]) -> None:
    for tensor in written:
        tensor.mul_(2)


def zeroed_beside_autograd(written: list[Tensor]) -> None:
    for tensor in written:
        tensor.detach().zero_()


def raised_without_gradient(written: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor in written:
            tensor[-1:] += 1.0


def gradients(
    module: nn.Module, call: Call, write: Callable[[list[Tensor]], None], *, copied: bool
) -> dict[str, Tensor]:
    """Every gradient of a call whose outputs, or ``copied`` ones, have been written into."""
    torch.manual_seed(1)
    module.zero_grad()
    x = torch.randn(5, 3, 4, dtype=FLOAT64, requires_grad=True)
    written = tensors(call(x))
    written = [tensor.clone() for tensor in written] if copied else written
    write(written)
    weighted = [(t * torch.linspace(0.5, 1.5, t.shape[-1], dtype=FLOAT64)).sum() for t in written]
    torch.stack(weighted).sum().backward()
    named = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"grad of x": x.grad, **named}


def check_writing(module: nn.Module, call: Call) -> None:
    for write in (doubled, zeroed_beside_autograd, raised_without_gradient):
        want = gradients(module, call, write, copied=True)
        assert_close_by_name(gradients(module, call, write, copied=False), want, 5)


def packed(layer: nn.Module) -> Call:
    return lambda x: layer(pack_padded_sequence(x, torch.tensor([5, 3, 1])))


def of_lengths(layer: nn.Module) -> Call:
    return lambda x: layer(x, lengths=[5, 2, 0])


def one_sequence(layer: nn.Module) -> Call:
    return lambda x: layer(x[:, 0])


def whole(layer: nn.Module) -> Call:
    return layer


OPTIONS: list[dict[str, Any]] = [{}, {"num_layers": 2, "dropout": 0.3}, {"bidirectional": True}]


@pytest.mark.parametrize("form", [whole, packed, of_lengths, one_sequence])
@pytest.mark.parametrize("options", OPTIONS, ids=["one", "deep", "both"])
@pytest.mark.parametrize(
    ("kind", "backend"), [(RNN, "native"), (GRU, "native"), (LSTM, "native"), (GRU, "reference")]
)
def test_the_outputs_and_states_of_a_drop_in_may_be_written(
    kind: Any, backend: str, options: dict[str, Any], form: Callable[[nn.Module], Call]
) -> None:
    layer = kind(4, 6, dtype=FLOAT64, backend=backend, **options)
    check_writing(layer, form(layer))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_a_checkpointed_layer_returns_may_be_written(backend: Any) -> None:
    layer = RNN(4, 6, dtype=FLOAT64, backend=backend)
    check_writing(layer, lambda x: bptt.checkpointed(layer, x, segments=2))


@pytest.mark.parametrize("options", [{}, {"depth": 2, "residual": True}, {"merge": "separate"}])
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("kind", [cells.Elman, cells.LSTM, cells.MinGRU, cells.LRU])
def test_the_outputs_and_states_of_recurrent_may_be_written(
    kind: Any, backend: Any, options: dict[str, Any]
) -> None:
    both = options.get("merge") == "separate"
    layer = Recurrent(kind, 4, 4, backend=backend, bidirectional=both, **options).double()
    check_writing(layer, lambda x: layer(x, states=True))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("every", [False, True])
def test_the_states_of_a_scan_may_be_written(backend: Any, every: bool) -> None:
    cell = cells.LSTM(4, 6).double()
    check_writing(
        cell, lambda x: scanned(cell, x, None, ScanOptions(return_states=every, backend=backend))
    )


def test_in_place_within_a_checkpoint_is_done_again_and_changes_nothing() -> None:
    layer = GRU(4, 6, dtype=FLOAT64, backend="native")

    def doubled_output(x: Tensor) -> Tensor:
        y: Tensor = layer(x)[0]
        return y.mul_(2)

    got = gradients(
        layer,
        lambda x: checkpoint(doubled_output, x, use_reentrant=False),
        lambda _: None,
        copied=True,
    )
    want = gradients(layer, lambda x: layer(x)[0] * 2, lambda _: None, copied=True)
    assert_close_by_name(got, want, 5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_that_writes_into_the_outputs_has_the_right_gradient() -> None:
    layer = GRU(4, 6, dtype=FLOAT64, backend="native")
    compiled = torch.compile(
        lambda x: layer(x)[0].mul_(2), backend="aot_eager", fullgraph=True, dynamic=False
    )
    got = gradients(layer, compiled, lambda _: None, copied=True)
    want = gradients(layer, lambda x: layer(x)[0] * 2, lambda _: None, copied=True)
    assert_close_by_name(got, want, 5)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("what", ["x", "state", "weight"])
def test_what_the_backward_pass_reads_must_not_be_overwritten(what: str, backend: Any) -> None:
    layer = Recurrent(cells.GRU, 4, 6, backend=backend)
    given = {"x": torch.randn(5, 3, 4), "state": torch.randn(1, 3, 6)}
    y, _ = layer(given["x"], (given["state"],))
    weight = layer.cells[0].weight_hh
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        {**given, "weight": weight}[what].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_masks_may_be_overwritten_after_the_call() -> None:
    layer = Recurrent(cells.GRU, 4, 6, backend="native").double()
    x = torch.randn(5, 3, 4, dtype=FLOAT64)

    def gradient(overwritten: bool) -> dict[str, Tensor]:
        layer.zero_grad()
        lengths = torch.tensor([5, 2, 0])
        resets = torch.tensor([0, 1, 0, 1, 0], dtype=torch.bool).unsqueeze(1).repeat(1, 3)
        y, _ = layer(x, lengths=lengths, resets=resets)
        if overwritten:
            lengths.fill_(1)
            resets.logical_not_()
        y.square().sum().backward()
        return {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}

    assert_close_by_name(gradient(True), gradient(False), 5)


def test_a_stream_goes_on_from_its_own_state_whatever_is_written_into_its_outputs() -> None:
    layer = LSTM(4, 6)
    x = torch.randn(6, 3, 4)
    want, _ = layer(x)
    stream = layer.stream(3)
    for given, expected in ((x[0], want[0]), (x[1], want[1]), (x[2:4], want[2:4]), (x[4], want[4])):
        y = stream(given)
        torch.testing.assert_close(y, expected.detach(), atol=1e-6, rtol=1e-5)
        y.zero_()
        doubled(list(stream.state))


def test_a_carried_state_is_that_of_the_layer_whatever_the_model_writes_into_it() -> None:
    class Model(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lower, self.upper = GRU(4, 6), Recurrent(cells.LSTM, 6, 5)
            self.in_place = in_place

        def forward(self, x: Tensor) -> Tensor:
            y, h = self.lower(x)
            z, state = self.upper(y)
            if self.in_place:
                doubled([h, *state])
            return z + h.sum() * 0  # type: ignore[no-any-return]

    windows = torch.randn(3, 5, 3, 4)

    def outcome(in_place: bool) -> dict[str, Tensor]:
        model = Model(in_place)
        carry = bptt.Carry(model)
        for x in windows:
            with carry.window():
                y = model(x)
            y.sum().backward()
        loss = bptt.checkpointed_loss(
            model, lambda part: model(part).square().sum(), windows.flatten(0, 1), segments=3
        )
        loss.backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return {"y": y.detach(), "loss": loss.detach(), **found}

    assert_close_by_name(outcome(True), outcome(False), 15)
