"""The kernels as PyTorch operators: their schemas, and what compiles, exports and transforms them."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.export import Dim
from torch.library import opcheck

from tests.compare import (
    assert_close_by_name,
    collect,
    leaves,
    named_state,
    parameters_by_torch_name,
    scanned,
)
from tests.scan.calls import CELLS, make
from unrolled import Recurrent, cells
from unrolled.cells import State
from unrolled.scan import ScanOptions, native, scan
from unrolled.scan.native import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no native library")

FORWARD = torch.ops.unrolled.forward.default
BACKWARD = torch.ops.unrolled.backward.default

# Dynamo makes an instance of an autograd function to look at it, and PyTorch warns of that.
compiled = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def arguments(kind: str, *, given: bool, bias: bool, packed: bool = False) -> tuple[object, ...]:
    """What both operators take first; with start, lengths and resets if ``given``, or of packed rows."""
    cell, x, state = make(kind, 4, 3, 2, 5, dtype=torch.float32, bias=bias)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    weights = [None if w is None else w.detach() for w in weights]
    name = native.kernel_name(cell)
    if packed:
        batch_sizes = torch.tensor([3, 2, 2, 1])
        return (
            name,
            x.flatten(0, 1)[:8],
            *weights,
            list(state),
            None,
            None,
            batch_sizes,
            None,
            True,
        )
    if not given:
        return (name, x, *weights, [], None, None, None, None, False)
    lengths, resets = torch.tensor([3, 0, 4]), torch.rand(4, 3) < 0.4
    return (name, x, *weights, list(state), lengths, resets, None, None, True)


each_call = pytest.mark.parametrize(
    ("kind", "given", "bias"),
    [
        ("RNN relu", True, True),
        ("LSTM", False, True),
        ("LSTM", True, False),
        ("GRU", False, False),
        ("GRU", True, True),
    ],
)


@pytest.mark.parametrize(("every", "keep"), [(False, False), (True, False), (False, True)])
@each_call
def test_the_forward_operator_is_what_it_says(
    kind: str, given: bool, bias: bool, every: bool, keep: bool
) -> None:
    opcheck(FORWARD, (*arguments(kind, given=given, bias=bias), every, keep))


@pytest.mark.parametrize("kind", ["RNN relu", "LSTM", "GRU"])
def test_the_operators_are_what_they_say_of_packed_rows(kind: str) -> None:
    given = arguments(kind, given=True, bias=True, packed=True)
    opcheck(FORWARD, (*given, True, True))
    *states, kept = FORWARD(*given, True, True)
    assert [len(s) for s in states[: len(states) // 2]] == [8] * (len(states) // 2)
    assert len(kept) == 8
    count = len(states) // 2
    d_states = [torch.randn_like(states[0]), *[None] * (count - 1)]
    wanted = [True] * (5 + count)
    opcheck(BACKWARD, (*given, states[:count], kept, d_states, [None] * count, wanted, False, None))


@pytest.mark.parametrize("batch_sizes", [[3, 2, 2, 2], [3, 1, 2, 2], [2, 2, 2, 2], [3, 3, 2, 0]])
def test_batch_sizes_that_do_not_fit_are_refused(batch_sizes: list[int]) -> None:
    given = list(arguments("LSTM", given=True, bias=True, packed=True))
    given[9] = torch.tensor(batch_sizes)
    with pytest.raises(RuntimeError, match=r"^input: got 8 rows of data and batch_sizes whose sum"):
        FORWARD(*given, True, True)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("norms", [False, True], ids=["gradients", "norms"])
@each_call
def test_the_backward_operator_is_what_it_says(
    kind: str, given: bool, bias: bool, norms: bool, clip: float | None
) -> None:
    given_first = arguments(kind, given=given, bias=bias)
    *states, kept = FORWARD(*given_first, True, True)
    count = len(states) // 2
    d_states = [torch.randn_like(states[0]), *[None] * (count - 1)]
    d_final = [*[None] * (count - 1), torch.randn_like(states[-1])]
    tensors = (*given_first[1:6], *given_first[6])
    wanted = [t is not None for t in tensors]
    for asked in (wanted, [False, *wanted[1:]], [True, *[False] * len(wanted[1:])]):
        opcheck(
            BACKWARD, (*given_first, states[:count], kept, d_states, d_final, asked, norms, clip)
        )


def values(
    layer: Callable[..., object], parameters: dict[str, Tensor], x: Tensor, **options: object
) -> dict[str, Tensor]:
    """Output, final state and every gradient of a call, by name."""
    (a,) = leaves(x)
    y, final = layer(a, **options)
    return collect({"y": y} | named_state(final, "_n"), {"x": a} | parameters)


@compiled
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", ["RNN relu", "LSTM", "GRU"])
def test_a_compiled_layer_is_the_layer(kind: str, backend: str) -> None:
    layer = Recurrent(CELLS[kind], 3, 17, depth=2, bidirectional=True, backend="native")
    x, resets = torch.randn(5, 2, 3), torch.rand(5, 2) < 0.3
    sizes = layer.cells[0].state_sizes
    state = tuple(torch.randn(4, 2, size) for size in sizes)
    parameters = dict(parameters_by_torch_name(layer))
    torch._dynamo.reset()
    module = torch.compile(layer, fullgraph=True, backend=backend)
    for options in ({}, {"state": state, "resets": resets}):
        got = values(module, parameters, x, **options)
        assert_close_by_name(got, values(layer, parameters, x, **options), 5)


@compiled
def test_a_compiled_layer_takes_lengths() -> None:
    layer = Recurrent(cells.LSTM, 3, 17, backend="native")
    x, lengths = torch.randn(5, 3, 3), torch.tensor([3, 0, 5])
    parameters = dict(parameters_by_torch_name(layer))
    torch._dynamo.reset()
    module = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got = values(module, parameters, x, lengths=lengths)
    assert_close_by_name(got, values(layer, parameters, x, lengths=lengths), 5)


@compiled
def test_a_compiled_scan_writes_its_norms_and_every_state() -> None:
    cell, x, state = make("LSTM", 5, 3, 4, 7)

    def call(x: Tensor, norms: list[Tensor]) -> tuple[State, State]:
        return scanned(
            cell, x, state, ScanOptions(return_states=True, norms=norms, backend="native")
        )

    torch._dynamo.reset()
    found = []
    for function in (torch.compile(call, fullgraph=True, backend="aot_eager"), call):
        (a,), norms = leaves(x), [torch.zeros(5, 3).double() for _ in state]
        states, final = function(a, norms)
        named = named_state(states, "") | named_state(final, "_n")
        got = collect(named, {"x": a} | dict(cell.named_parameters()))
        found.append(got | named_state(tuple(norms), " norms"))
    assert found[1]["h norms"].all() and found[1]["c norms"].any()
    assert_close_by_name(*found, 5)


@compiled
def test_compiling_says_nothing() -> None:
    layer = Recurrent(cells.GRU, 3, 7, backend="native")
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.compile(layer, fullgraph=True, backend="eager")(torch.randn(5, 2, 3))
    assert not [w for w in said if "unrolled" in str(w.message)]


def operators(exported: torch.export.ExportedProgram) -> list[object]:
    return [n.target for n in exported.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_an_exported_layer_is_one_opaque_operator_for_any_number_of_sequences_and_steps(
    kind: str,
) -> None:
    layer = Recurrent(CELLS[kind], 3, 17, backend="native").eval()
    dynamic = {"x": {0: Dim("steps"), 1: Dim("batch_size")}}
    exported = torch.export.export(layer, (torch.randn(5, 2, 3),), dynamic_shapes=dynamic)
    assert operators(exported).count(FORWARD) == 1
    assert not [t for t in operators(exported) if "mm" in str(t) or "tanh" in str(t)]
    for steps, batch_size in ((5, 2), (7, 9), (2, 3)):
        x = torch.randn(steps, batch_size, 3)
        with torch.no_grad():
            (y, got), (expected, final) = exported.module()(x), layer(x)
        assert torch.equal(y, expected)
        assert all(torch.equal(g, f) for g, f in zip(got, final, strict=True))


def test_an_exported_layer_takes_a_state_and_resets() -> None:
    layer = Recurrent(cells.LSTM, 3, 7, depth=2, bidirectional=True, backend="native").eval()
    x, resets = torch.randn(5, 2, 3), torch.rand(5, 2) < 0.3
    state = (torch.randn(4, 2, 7), torch.randn(4, 2, 7))
    exported = torch.export.export(layer, (x, state), {"resets": resets})
    assert operators(exported).count(FORWARD) == 4
    other = ~resets
    with torch.no_grad():
        y, _ = exported.module()(2 * x, state, resets=other)
        expected, _ = layer(2 * x, state, resets=other)
    assert torch.equal(y, expected)


def test_an_exported_layer_takes_lengths() -> None:
    layer = Recurrent(cells.LSTM, 3, 7, backend="native").eval()
    x, lengths = torch.randn(5, 3, 3), torch.tensor([3, 0, 5])
    exported = torch.export.export(layer, (x,), {"lengths": lengths})
    other = torch.tensor([1, 4, 2])
    with torch.no_grad():
        y, _ = exported.module()(x, lengths=other)
        expected, _ = layer(x, lengths=other)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("kind", CELLS)
def test_vmap_takes_the_reference(kind: str) -> None:
    cell, _, state = make(kind, 5, 3, 4, 7)
    xs = torch.randn(4, 5, 3, 4).double()
    got = torch.vmap(lambda x: scan(cell, x, state)[0][0])(xs)
    each = torch.stack([scan(cell, x, state)[0][0] for x in xs])
    assert_close_by_name({"y": got}, {"y": each}, 5)
    with pytest.raises(RuntimeError, match=r"backend: got 'native', but .*torch\.func"):
        torch.vmap(lambda x: scan(cell, x, state, ScanOptions(backend="native"))[0][0])(xs)


def test_transforms_over_weights_alone_and_states_alone_take_the_reference() -> None:
    cell, x, state = make("GRU", 5, 3, 4, 7)
    weight = cell.weight_hh.detach()

    def of_weight(weight: Tensor) -> Tensor:
        return torch.func.functional_call(_Scan(cell), {"cell.weight_hh": weight}, (x, state))

    def of_state(h: Tensor) -> Tensor:
        return scan(cell, x, (h,))[0][0]

    for function, point in ((of_weight, weight), (of_state, state[0])):
        (leaf,) = leaves(point)
        (expected,) = torch.autograd.grad(function(leaf).sum(), leaf)
        got = torch.func.grad(lambda p, f=function: f(p).sum())(point)
        assert_close_by_name({"gradient": got}, {"gradient": expected}, 5)


class _Scan(torch.nn.Module):
    """A scan as a module, whose weights ``functional_call`` can replace."""

    def __init__(self, cell: cells.Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: State) -> Tensor:
        return scan(self.cell, x, state)[0][0]


def test_autocast_takes_the_reference() -> None:
    cell, x, state = make("LSTM", 5, 3, 4, 7, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        (got,), _ = scan(cell, x, state)
        (expected,), _ = scan(cell, x, state, ScanOptions(backend="reference"))
        assert torch.equal(got, expected)
        with pytest.raises(RuntimeError, match="backend: got 'native', but autocast is on"):
            scan(cell, x, state, ScanOptions(backend="native"))


def test_fake_tensors_take_shapes_alone() -> None:
    with FakeTensorMode():
        layer = Recurrent(cells.LSTM, 3, 7, backend="native")
        y, (h, c) = layer(torch.randn(5, 2, 3))
    assert (y.shape, h.shape, c.shape) == ((5, 2, 7), (1, 2, 7), (1, 2, 7))
