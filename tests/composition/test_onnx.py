"""``torch.onnx.export``: ONNX's own recurrent operators, run by ONNX Runtime beside the layer."""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import unrolled
from tests.cells.papers import ResetFirst
from tests.compare import assert_close_by_name
from tests.composition.layers import CELLS, DROP_INS, Model, input_of, make, named
from tests.examples import some
from unrolled import Recurrent, cells
from unrolled.cells.facts import Onnx
from unrolled.scan.native import library

pytestmark = [
    pytest.mark.skipif(library.missing() is not None, reason="no native library"),
    # onnxscript and its converters use what PyTorch and Python have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    # Two inputs have the same number of sequences, and the file names it once.
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]

OPERATORS = {"RNN", "LSTM", "GRU"}
FREE = {0: Dim("T"), 1: Dim("B")}


class Exported:
    """A model written to a file, and run by ONNX Runtime."""

    def __init__(self, model: nn.Module, path: Path, *inputs: Any, **options: Any) -> None:
        torch.onnx.export(model, inputs, path, dynamo=True, verbose=False, **options)
        graph = onnx.load(path).graph
        self.operators = [node.op_type for node in graph.node]
        self.session = onnxruntime.InferenceSession(path)

    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        names = [entry.name for entry in self.session.get_inputs()]
        given = [tensor.numpy() for tensor in pytree.tree_leaves(inputs)]
        found = self.session.run(None, dict(zip(names, given, strict=True)))
        return {f"output {k}": torch.from_numpy(y) for k, y in enumerate(found)}


class WithLengths(nn.Module):
    """A ``Recurrent`` whose lengths are an input like any other."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        return tuple(self.layer(x, lengths=lengths))


@pytest.mark.parametrize("kind", some(DROP_INS, "LSTM"))
def test_one_file_serves_any_number_of_steps_and_sequences(kind: str, tmp_path: Path) -> None:
    model = Model(make(kind)).eval()
    free = {"x": FREE}
    exported = Exported(model, tmp_path / "model.onnx", input_of(), dynamic_shapes=free)
    assert sum(operator in OPERATORS for operator in exported.operators) == 4
    for steps, batch_size in ((4, 2), (7, 5), (1, 1), (30, 3)):
        x = input_of(steps, batch_size)
        assert_close_by_name(exported(x), named(model(x)), steps)


@pytest.mark.parametrize("kind", some(DROP_INS, "RNN", "GRU"))
def test_an_initial_state_is_an_input_and_options_are_kept(kind: str, tmp_path: Path) -> None:
    layer = make(kind, depth=1, bias=False, batch_first=True).eval()
    tensors = 2 if kind == "LSTM" else 1

    def given(steps: int, batch_size: int) -> tuple[Tensor, Any]:
        state = tuple(torch.randn(2, batch_size, 5) for _ in range(tensors))
        x = input_of(batch_size, steps)
        return x, state if kind == "LSTM" else state[0]

    first = {0: FREE[1], 1: FREE[0]}
    batch_size = {1: FREE[1]}
    free = (first, (batch_size, batch_size) if kind == "LSTM" else batch_size)
    exported = Exported(layer, tmp_path / "m.onnx", *given(4, 2), dynamic_shapes=free)
    for steps, count in ((4, 2), (6, 3)):
        inputs = given(steps, count)
        assert_close_by_name(exported(*inputs), named(layer(*inputs)), steps)


@pytest.mark.parametrize("kind", some(CELLS, "Recurrent LSTM"))
def test_lengths_are_an_input_of_the_file(kind: str, tmp_path: Path) -> None:
    model = WithLengths(make(kind, depth=1)).eval()
    free = {"x": FREE, "lengths": {0: FREE[1]}}
    path, example = tmp_path / "m.onnx", torch.tensor([4, 1, 2])
    exported = Exported(model, path, input_of(4, 3), example, dynamic_shapes=free)
    for lengths in ([4, 1, 0], [9, 2, 5, 1], [1]):
        given = (input_of(max(lengths), len(lengths)), torch.tensor(lengths))
        assert_close_by_name(exported(*given), named(model(*given)), max(lengths))


class Stack(nn.Sequential):
    """Layers on each other's outputs."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)[0]
        return x


class FromState(WithLengths):
    """The same from a state that is given."""

    def forward(self, x: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, Any]:  # type: ignore[override]
        return tuple(self.layer(x, state, lengths=lengths))


@pytest.mark.parametrize("kind", some(CELLS, "Recurrent GRU", "Recurrent Elman"))
def test_a_sequence_of_no_steps_ends_in_the_state_it_was_given(kind: str, tmp_path: Path) -> None:
    cell = getattr(cells, kind.split()[-1])
    layer = Recurrent(cell, 3, 5, depth=2, bidirectional=True).eval()
    state = tuple(torch.randn(shape) for shape in layer.state_shapes(3))
    x = torch.randn(4, 3, 3)
    model = FromState(layer).eval()
    exported = Exported(model, tmp_path / "model.onnx", x, torch.tensor([4, 0, 2]), *state)
    for lengths in (torch.tensor([4, 0, 2]), torch.tensor([0, 0, 0]), torch.tensor([1, 4, 0])):
        want = named(model(x, lengths, *state))
        assert_close_by_name(exported(x, lengths, *state), want, 4)


def test_every_activation_of_elman_is_written(tmp_path: Path) -> None:
    stack = Stack(
        *(Recurrent(cells.Elman, 3, 3, activation=a) for a in ("relu", "sigmoid", "identity"))
    )
    exported = Exported(stack.eval(), tmp_path / "m.onnx", input_of(), dynamic_shapes={"x": FREE})
    assert exported.operators.count("RNN") == 3
    x = input_of(6, 3)
    assert_close_by_name(exported(x), {"output 0": stack(x)}, 6)


def test_resets_which_onnx_cannot_express_are_refused() -> None:
    layer, resets = make("Recurrent GRU").eval(), torch.rand(4, 2) < 0.5
    refused = r"resets: got them in torch\.onnx\.export, expected none"
    with pytest.raises(torch.onnx.OnnxExporterError, match=refused):
        torch.onnx.export(layer, (input_of(),), kwargs={"resets": resets}, verbose=False)


def test_a_state_that_is_projected_is_refused() -> None:
    layer = unrolled.LSTM(3, 5, proj_size=2).eval()
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"proj_size: got 2 in torch\.onnx"):
        torch.onnx.export(layer, (input_of(),), verbose=False)


def test_a_cell_of_ones_own_is_unrolled_over_the_steps_it_is_exported_with(tmp_path: Path) -> None:
    layer, batch_size = make("Recurrent Leaky").eval(), {"x": {1: FREE[1]}}
    exported = Exported(layer, tmp_path / "m.onnx", input_of(4, 2), dynamic_shapes=batch_size)
    assert not OPERATORS & set(exported.operators)
    x = input_of(4, 5)
    assert_close_by_name(exported(x), named(layer(x)), 4)


@pytest.mark.parametrize("both", [False, True])
def test_a_cell_of_ones_own_is_the_operator_that_it_says(both: bool, tmp_path: Path) -> None:
    layer = Recurrent(ResetFirst, 3, 4, bidirectional=both).eval()
    x = torch.randn(6, 2, 3)
    exported = Exported(layer, tmp_path / "own.onnx", x)
    assert exported.operators.count("GRU") == 1 + both
    assert_close_by_name(exported(x), named(layer(x)), 6)


def test_a_cell_that_is_no_such_operator_is_refused(tmp_path: Path) -> None:
    class Wrong(ResetFirst):
        onnx = Onnx("GRU", ("z", "r", "n"), {"linear_before_reset": 1})

    with pytest.raises(Exception, match=r"Wrong\.onnx: got GRU .* gives other numbers"):
        Exported(Recurrent(Wrong, 3, 4).eval(), tmp_path / "own.onnx", torch.randn(6, 2, 3))
