"""``torch.compile``: whole graphs, with no setting changed."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import unrolled
from tests.compare import assert_close_by_name
from tests.composition.layers import (
    CELLS,
    DROP_INS,
    EVERY,
    Model,
    input_of,
    make,
    named,
    values,
)
from tests.examples import some
from unrolled import accelerate, explain
from unrolled.layers import quantize
from unrolled.scan.native import library

# Dynamo makes an instance of every autograd.Function that it traces, and where a graph ends it reads
# the gradient of a tensor that has none: PyTorch warns of both, though they are its own doing.
pytestmark = [
    pytest.mark.skipif(library.missing() is not None, reason="no native library"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(model: nn.Module, backend: str = "aot_eager", **options: object) -> nn.Module:
    return torch.compile(model, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize("kind", some(EVERY, "LSTM", "Recurrent GRU", "Recurrent Leaky"))
def test_a_model_is_one_graph_with_the_same_values_and_gradients(kind: str) -> None:
    model, x = Model(make(kind)), input_of()
    call = compiled(model)
    assert_close_by_name(values(call, model, x), values(model, model, x), 4)
    with torch.no_grad():
        assert_close_by_name(named(call(x)), named(model(x)), 4)
    assert not torch._dynamo.config.allow_rnn


def test_the_default_backend_compiles_it() -> None:
    model, x = Model(make("LSTM", depth=1)), input_of()
    got = values(compiled(model, "inductor"), model, x)
    assert_close_by_name(got, values(model, model, x), 4)


@pytest.mark.parametrize("kind", DROP_INS)
def test_an_initial_state_and_one_sequence_are_taken_too(kind: str) -> None:
    layer = make(kind, depth=1)
    h = torch.randn(2, 5)
    state = (h, torch.randn(2, 5)) if kind == "LSTM" else h
    x, call = input_of()[:, 0], compiled(layer)
    assert_close_by_name(values(call, layer, x, state), values(layer, layer, x, state), 4)


@pytest.mark.parametrize("kind", some(CELLS, "Recurrent Elman", "Recurrent LSTM"))
def test_lengths_and_resets_are_taken_too(kind: str) -> None:
    model, x = Model(make(kind, depth=1)), input_of(5, 3)
    options = {"lengths": torch.tensor([3, 0, 5]), "resets": torch.rand(5, 3) < 0.3}
    got = values(compiled(model), model, x, **options)
    assert_close_by_name(got, values(model, model, x, **options), 5)


@pytest.mark.parametrize("kind", ["LSTM", "Recurrent GRU"])
def test_one_graph_serves_any_number_of_steps_and_sequences(kind: str) -> None:
    model = Model(make(kind, depth=1))
    call = compiled(model, dynamic=True)
    with torch.no_grad():
        call(input_of(4, 2))
        with torch.compiler.set_stance("fail_on_recompile"):
            for steps, batch_size in ((7, 5), (2, 9)):
                x = input_of(steps, batch_size)
                assert_close_by_name(named(call(x)), named(model(x)), steps)


def test_an_accelerated_model_is_one_graph() -> None:
    model = accelerate(nn.ModuleList([nn.GRU(3, 5)]), report=None)[0]
    x = input_of()
    assert_close_by_name(values(compiled(model), model, x), values(model, model, x), 4)


@pytest.mark.parametrize("kind", ["LSTM", "Recurrent GRU", "Recurrent Leaky"])
def test_parametrised_and_quantised_weights_are_parts_of_the_graph(kind: str) -> None:
    layer, x = make(kind, depth=1, both=False), input_of()
    owner, name = (layer, "weight_hh_l0") if kind in DROP_INS else (layer.cells[0], "weight_hh")
    nn.utils.parametrizations.weight_norm(owner, name)
    assert_close_by_name(values(compiled(layer), layer, x), values(layer, layer, x), 4)
    layer = quantize(make(kind))
    with torch.no_grad():
        assert_close_by_name(named(compiled(layer)(x)), named(layer(x)), 4)


def test_torch_nns_own_layers_are_treated_as_ever() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
        compiled(Model(nn.LSTM(3, 5)))(input_of())


@pytest.mark.parametrize("options", [{"backend": "reference"}, {"dtype": torch.bfloat16}])
def test_a_drop_in_that_no_kernel_runs_is_left_out_of_graphs_as_its_parent_is(
    options: dict[str, object],
) -> None:
    layer, x = make("LSTM", **options), input_of().to(options.get("dtype", torch.float32))
    match = "an RNN, LSTM or GRU .* unrolled.explain.* or leave out fullgraph=True"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=match):
        compiled(layer)(x)
    assert explain(layer, x).path == "reference" and explain(layer, x).reasons
    broken = torch.compile(layer, backend="aot_eager")
    with torch.no_grad():
        assert_close_by_name(named(broken(x)), named(layer(x)), 4)


def test_a_cell_of_ones_own_takes_lengths_only_where_a_graph_may_end() -> None:
    layer, x = make("Recurrent Leaky", depth=1, both=False), input_of(5, 3)
    lengths = torch.tensor([3, 0, 5])
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(layer)(x, lengths=lengths)
    got = values(torch.compile(layer, backend="aot_eager"), layer, x, lengths=lengths)
    assert_close_by_name(got, values(layer, layer, x, lengths=lengths), 5)


def test_packed_sequences_are_taken_where_a_graph_may_end() -> None:
    layer = make("GRU")
    packed = pack_padded_sequence(input_of(5, 3), torch.tensor([5, 2, 1]))
    y, h = torch.compile(layer, backend="aot_eager")(packed)
    expected, h_n = layer(packed)
    assert isinstance(y, PackedSequence)
    assert_close_by_name({"y": y.data, "h": h}, {"y": expected.data, "h": h_n}, 5)


OTHERS = {
    "proj_size": lambda: unrolled.LSTM(3, 5, proj_size=2),
    "reference": lambda: unrolled.LSTM(3, 5, backend="reference"),
    "half": lambda: unrolled.LSTM(3, 5).bfloat16(),
}


@pytest.mark.each_value
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a model"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_was_compiled_before_does_not_matter(other: str, inside: bool) -> None:
    """Whether a layer that the kernels do not take went through the compiler first, or between."""
    layer, refused = unrolled.LSTM(3, 5), OTHERS[other]()
    x = torch.randn(4, 2, 3)
    for first in (True, False):
        torch.compiler.reset()
        if not first:
            torch.compile(layer, backend="eager", fullgraph=True)(x)
        dtype = next(refused.parameters()).dtype
        model, like = Model(refused).to(dtype) if inside else refused, x.to(dtype)
        call = torch.compile(model, backend="eager")
        with torch.no_grad():
            for _ in range(2):
                assert_close_by_name(named(call(like)), named(model(like)), 4)
        seen = CompileCounter()
        y, _ = torch.compile(layer, backend=seen, fullgraph=True)(x)
        assert torch.equal(y, layer(x)[0])
        assert seen.frame_count == 1
        native = Model(unrolled.LSTM(3, 5))
        assert_close_by_name(named(compiled(native, "eager")(x)), named(native(x)), 4)


def test_a_mode_in_which_it_was_compiled_before_does_not_matter() -> None:
    layer, x = unrolled.GRU(3, 5), torch.randn(4, 2, 3)
    with torch.autocast("cpu"), torch.no_grad():
        torch.compile(layer, backend="eager")(x)
    y, _ = torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert torch.equal(y, layer(x)[0])


def test_the_compiler_is_imported_by_whoever_compiles_alone() -> None:
    program = """
import sys, torch, unrolled
assert "torch._dynamo" not in sys.modules
layer, x = unrolled.GRU(3, 5), torch.randn(4, 2, 3)
layer(x)[0].sum().backward()
assert "torch._dynamo" not in sys.modules
compiled = torch.compile(layer, backend="eager", fullgraph=True)
with torch.no_grad():
    torch.testing.assert_close(compiled(x), layer(x))
assert not any(type(finder).__name__ == "_Waiting" for finder in sys.meta_path)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
