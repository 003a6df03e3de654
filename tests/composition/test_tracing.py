"""``torch.fx`` and TorchScript."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tests.compare import assert_close_by_name
from tests.composition.layers import CELLS, DROP_INS, EVERY, Model, input_of, make, named, values

# PyTorch advises against all of TorchScript, and its tracer against every comparison of sizes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class Outputs(nn.Module):
    """A model of the outputs of a layer, without its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        y, final = self.layer(x)
        return self.head(y), final


class Named(nn.Module):
    """A model that reads what ``Recurrent`` returns by its names."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        result = self.layer(x, lengths=lengths)
        return result.y + result.state[0].sum()


@pytest.mark.parametrize("kind", EVERY)
def test_a_layer_is_a_leaf_of_torch_fx(kind: str) -> None:
    model, x = Outputs(make(kind)), input_of()
    model(x)
    traced = fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["layer", "head"]
    assert_close_by_name(values(traced, model, x), values(model, model, x), 4)


@pytest.mark.parametrize("kind", CELLS)
def test_names_and_lengths_go_through_a_leaf(kind: str) -> None:
    model, x, lengths = Named(make(kind)), input_of(5, 3), torch.tensor([3, 0, 5])
    assert torch.equal(fx.symbolic_trace(model)(x, lengths), model(x, lengths))


@pytest.mark.parametrize("kind", EVERY)
def test_a_leaf_alone_is_no_model_to_trace(kind: str) -> None:
    with pytest.raises(TypeError, match=r"^root: got \w+, a leaf of torch.fx"):
        fx.symbolic_trace(make(kind))


@pytest.mark.parametrize("kind", DROP_INS)
def test_torchscript_compiles_a_model_with_a_drop_in_by_its_parents_code(kind: str) -> None:
    model, x = nn.Sequential(make(kind)), input_of()
    assert_close_by_name(named(torch.jit.script(model)(x)), named(model(x)), 4)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in DROP_INS])
def test_torchscript_cannot_compile_recurrent_and_says_what_can(kind: str) -> None:
    for model in (make(kind), nn.Sequential(make(kind))):
        with pytest.raises(
            TypeError, match=r"^Recurrent: got torch.jit.script.*use\s+torch.export"
        ):
            torch.jit.script(model)


@pytest.mark.parametrize("kind", EVERY)
def test_torchscript_traces_a_model_for_the_sizes_of_its_example(kind: str) -> None:
    model, x = Model(make(kind)), input_of()
    traced = torch.jit.trace(model, (x,))
    assert_close_by_name(named(traced(2 * x)), named(model(2 * x)), 4)
