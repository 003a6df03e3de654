"""The gradient as a function of its own, through the kernel: create_graph, twice, and in batches."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.compare import as_function, assert_close_by_name, check_derivatives, leaves, scanned
from tests.compiler.interpret import Leaky
from tests.compiler.staged import SideBySide
from tests.scan.calls import CELLS, make
from unrolled import Recurrent, cells
from unrolled.cells import Cell
from unrolled.scan import Backend, ScanOptions, reference, scan
from unrolled.scan.native import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no native library")

every_cell = pytest.mark.parametrize("kind", CELLS)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
create_graph = pytest.mark.parametrize("create_graph", [False, True], ids=["first", "create_graph"])

BACKENDS: tuple[Backend, Backend] = ("native", "reference")


@pytest.mark.each_value
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0, 3])], ids=["full", "ragged"])
@both_directions
@every_cell
def test_first_and_second_derivatives_are_those_of_finite_differences(
    kind: str, reverse: bool, lengths: Tensor | None
) -> None:
    cell, x, state = make(kind, 3, 3, 1, 2)
    resets = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]]).bool()
    options = {"lengths": lengths, "resets": resets, "reverse": reverse, "backend": "native"}
    check_derivatives(
        cell, lambda cell, x, *state: scanned(cell, x, state, ScanOptions(**options)), x, *state
    )


@both_directions
@every_cell
def test_the_second_derivative_is_that_of_the_reference(kind: str, reverse: bool) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    lengths, resets = torch.tensor([3, 0, 5]), torch.rand(5, 3) < 0.3
    found = []
    for backend in BACKENDS:
        a, *start = leaves(x, *state)
        states, final = scan(
            cell,
            a,
            tuple(start),
            ScanOptions(
                lengths=lengths, resets=resets, reverse=reverse, return_states=True, backend=backend
            ),
        )
        value = sum((s**2).sum() for s in (*states, *final))
        sources = {"x": a, "h_0": start[0]} | dict(cell.named_parameters())
        first = torch.autograd.grad(value, list(sources.values()), create_graph=True)
        square = sum((g**2).sum() for g in first)
        second = torch.autograd.grad(square, list(sources.values()))
        found.append(
            {f"grad of {n}": g.detach() for n, g in zip(sources, first, strict=True)}
            | {f"second of {n}": g for n, g in zip(sources, second, strict=True)}
        )
    assert_close_by_name(*found, 10)  # the steps are taken twice


@create_graph
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_a_state_that_depends_on_the_input_counts_once(kind: str, create_graph: bool) -> None:
    cell, x, _ = make(kind, 5, 3, 4, 7)

    def gradient(backend: Backend) -> dict[str, Tensor]:
        (a,) = leaves(x)
        start = tuple(a[0, :, :1].expand(3, 7) * k for k, _ in enumerate(cell.state_sizes, 2))
        (y,), _ = scan(cell, a, start, ScanOptions(backend=backend))
        return {"x": torch.autograd.grad(y.sum(), a, create_graph=create_graph)[0]}

    assert_close_by_name(gradient("native"), gradient("reference"), 5)


@create_graph
def test_one_tensor_for_both_states_counts_twice_and_not_four_times(create_graph: bool) -> None:
    cell, x, state = make("LSTM", 5, 3, 4, 7)

    def gradient(backend: Backend) -> dict[str, Tensor]:
        (h,) = leaves(state[0])
        (y,), _ = scan(cell, x, (h, h), ScanOptions(backend=backend))
        return {"h": torch.autograd.grad(y.sum(), h, create_graph=create_graph)[0]}

    assert_close_by_name(gradient("native"), gradient("reference"), 5)


@create_graph
def test_one_weight_for_input_and_state_counts_once_for_each(create_graph: bool) -> None:
    cell = cells.Elman(5, 5).double()
    cell.weight_hh = cell.weight_ih
    x = torch.randn(6, 2, 5).double()

    def gradient(backend: Backend) -> dict[str, Tensor]:
        (y,), _ = scan(cell, x, None, ScanOptions(backend=backend))
        (found,) = torch.autograd.grad(y.sum(), cell.weight_ih, create_graph=create_graph)
        return {"weight": found}

    assert_close_by_name(gradient("native"), gradient("reference"), 6)


@create_graph
def test_the_weights_may_be_computed_from_the_input(create_graph: bool) -> None:
    cell, x, _ = make("GRU", 5, 3, 4, 7)
    function = as_function(
        cell, lambda cell, x, backend: scanned(cell, x, None, ScanOptions(backend=backend))
    )

    def gradient(backend: Backend) -> dict[str, Tensor]:
        (a,) = leaves(x)
        parameters = tuple(p.detach() * a.mean() for p in cell.parameters())
        y, _ = function(parameters, (a, backend))
        return {"x": torch.autograd.grad(y.sum(), a, create_graph=create_graph)[0]}

    assert_close_by_name(gradient("native"), gradient("reference"), 5)


@create_graph
def test_norms_are_written_whether_or_not_the_gradient_is_differentiated(
    create_graph: bool,
) -> None:
    cell, x, state = make("LSTM", 5, 3, 4, 7)

    def norms(backend: Backend) -> dict[str, Tensor]:
        found = {name: torch.zeros(5, 3).double() for name in ("h", "c")}
        (y,), _ = scan(cell, x, state, ScanOptions(norms=list(found.values()), backend=backend))
        torch.autograd.grad(y.sum(), list(cell.parameters()), create_graph=create_graph)
        return found

    assert_close_by_name(norms("native"), norms("reference"), 5)


@every_cell
def test_a_graph_that_is_kept_gives_the_same_bits_twice(kind: str) -> None:
    cell, x, state = make(kind, 6, 3, 4, 33)
    sources = leaves(x, *state)
    lengths = torch.tensor([6, 0, 4])
    (y,), final = scan(
        cell, sources[0], sources[1:], ScanOptions(lengths=lengths, backend="native")
    )
    value, wanted = y.exp().sum() + final[0].sum(), [*sources, *cell.parameters()]
    first = torch.autograd.grad(value, wanted, retain_graph=True)
    between = torch.autograd.grad(value, wanted, retain_graph=True, create_graph=True)
    again = torch.autograd.grad(value, wanted)
    names = [str(k) for k in range(len(wanted))]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert_close_by_name(
        dict(zip(names, between, strict=True)), dict(zip(names, first, strict=True)), 6
    )


@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_many_gradients_at_once_are_each_alone(kind: str) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    (a,) = leaves(x)
    (y,), _ = scan(cell, a, state)
    wanted = [a, *cell.parameters()]
    directions = torch.randn(4, *y.shape).double()
    got = torch.autograd.grad(y, wanted, directions, is_grads_batched=True, retain_graph=True)
    for k, direction in enumerate(directions):
        alone = torch.autograd.grad(y, wanted, direction, retain_graph=True)
        assert_close_by_name(
            {str(i): g[k] for i, g in enumerate(got)}, {str(i): g for i, g in enumerate(alone)}, 5
        )


def test_a_vectorized_jacobian_is_the_one_row_by_row() -> None:
    cell, x, _ = make("GRU", 4, 2, 3, 5)
    got, expected = (
        torch.autograd.functional.jacobian(lambda x: scan(cell, x)[0][0], x, vectorize=vectorize)
        for vectorize in (True, False)
    )
    assert_close_by_name({"jacobian": got}, {"jacobian": expected}, 4)


def test_checkpointing_changes_no_bit() -> None:
    cell, x, state = make("LSTM", 5, 3, 4, 7)

    def call(x: Tensor) -> Tensor:
        return scan(cell, x, state, ScanOptions(backend="native"))[0][0]

    (a,) = leaves(x)
    wanted = [a, *cell.parameters()]
    plain = torch.autograd.grad(call(a).sum(), wanted)
    saved = torch.autograd.grad(checkpoint(call, a, use_reentrant=False).sum(), wanted)
    assert all(torch.equal(p, s) for p, s in zip(plain, saved, strict=True))


@pytest.mark.parametrize("what", ["lengths", "resets"])
@create_graph
def test_lengths_and_resets_that_change_after_the_call_do_not_change_its_gradient(
    what: str, create_graph: bool
) -> None:
    cell, x, state = make("GRU", 6, 2, 4, 7)
    options = {"lengths": torch.tensor([6, 3]), "resets": torch.zeros(6, 2, dtype=torch.bool)}
    wanted = list(cell.parameters())
    y, _ = scanned(cell, x, state, ScanOptions(**options, backend="native"))
    expected = torch.autograd.grad(y.sum(), wanted)
    y, _ = scanned(cell, x, state, ScanOptions(**options, backend="native"))
    options[what].fill_(1)  # a buffer that the next batch is written to
    try:
        got = torch.autograd.grad(y.sum(), wanted, create_graph=create_graph)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    names = [str(k) for k in range(len(wanted))]
    assert_close_by_name(
        dict(zip(names, got, strict=True)), dict(zip(names, expected, strict=True)), 6
    )


@create_graph
@pytest.mark.parametrize("what", ["x", "state", "weight"])
def test_what_the_gradient_needs_may_not_be_changed_in_between(
    what: str, create_graph: bool
) -> None:
    cell, x, state = make("LSTM", 5, 3, 4, 7)
    (y,), _ = scan(cell, x, state, ScanOptions(backend="native"))
    with torch.no_grad():
        {"x": x, "state": state[1], "weight": cell.weight_hh}[what].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), cell.weight_ih, create_graph=create_graph)


def _doubled(y: Tensor) -> Tensor:
    return y.mul_(2)


def _doubled_without_gradient(y: Tensor) -> Tensor:
    with torch.no_grad():
        y.mul_(2)
    return y


@pytest.mark.parametrize("write", [_doubled, _doubled_without_gradient])
@pytest.mark.parametrize("every", [False, True], ids=["output", "every state"])
@every_cell
def test_outputs_may_be_written_into_whatever_is_differentiated_then(
    kind: str, every: bool, write: Callable[[Tensor], Tensor]
) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)

    def derivatives(backend: Backend, *, copied: bool) -> dict[str, Tensor]:
        a, *start = leaves(x, *state)
        states, final = scanned(
            cell, a, tuple(start), ScanOptions(return_states=every, backend=backend)
        )
        found = [*states, *final] if every else [states, *final]
        written = [write(s.clone() if copied else s) for s in found]
        sources = {"x": a, "h_0": start[0]} | dict(cell.named_parameters())
        value = sum(s.exp().sum() for s in written)
        first = torch.autograd.grad(value, list(sources.values()), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), list(sources.values()))
        return {f"grad of {n}": g.detach() for n, g in zip(sources, first, strict=True)} | {
            f"second of {n}": g for n, g in zip(sources, second, strict=True)
        }

    expected = derivatives("reference", copied=True)
    for backend in BACKENDS:
        assert_close_by_name(derivatives(backend, copied=False), expected, 10)


def _penalty(cell: Cell, x: Tensor, backend: Backend) -> dict[str, Tensor]:
    """The gradient of the squared gradient, by name."""
    (a,) = leaves(x)
    (y,), _ = scan(cell, a, None, ScanOptions(backend=backend))
    (gradient,) = torch.autograd.grad(y.sum(), a, create_graph=True)
    wanted = dict(cell.named_parameters())
    del wanted["bias_ih"], wanted["bias_hh"]
    found = torch.autograd.grad((gradient**2).sum(), list(wanted.values()))
    return dict(zip(wanted, found, strict=True))


def test_second_derivatives_in_several_threads_at_once_are_each_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [make("LSTM", 6, 2, 3, 5) for _ in range(4)]
    expected = [_penalty(cell, x, "reference") for cell, x, _ in made]
    meeting = threading.Barrier(len(made))

    def scan_when_all_are_here(*args: object, **options: object) -> object:
        with contextlib.suppress(threading.BrokenBarrierError):  # they may take turns
            meeting.wait(timeout=0.5)
        return reference_scan(*args, **options)

    reference_scan = reference.scan
    monkeypatch.setattr(reference, "scan", scan_when_all_are_here)
    with ThreadPoolExecutor(len(made)) as pool:
        got = list(pool.map(lambda m: _penalty(m[0], m[1], "native"), made))
    for g, e in zip(got, expected, strict=True):
        assert_close_by_name(g, e, 12)


def test_a_weight_that_is_no_parameter_is_differentiated_too() -> None:
    cell, x, _ = make("GRU", 5, 3, 4, 7)
    weight, factor = cell.weight_hh.detach(), torch.tensor(0.5).double().requires_grad_()
    del cell.weight_hh
    cell.weight_hh = weight * factor
    found = {
        b: torch.autograd.grad(
            scan(cell, x, None, ScanOptions(backend=b))[0][0].sum(), factor, retain_graph=True
        )[0]
        for b in BACKENDS
    }
    assert_close_by_name({"factor": found["native"]}, {"factor": found["reference"]}, 5)


NOTHING = {
    "no real step": (4, 3, {"lengths": [0, 0, 0]}),
    "all masked": (4, 3, {"mask": torch.zeros(4, 3, dtype=torch.bool)}),
    "no sequences": (4, 0, {}),
    "no sequences, lengths": (4, 0, {"lengths": []}),
    "no steps": (0, 3, {}),
    "no steps, lengths": (0, 3, {"lengths": [0, 0, 0]}),
    "some empty": (4, 3, {"lengths": [0, 3, 0]}),
}


@pytest.mark.each_value
@pytest.mark.parametrize("case", NOTHING)
@pytest.mark.parametrize("cell", [cells.GRU, cells.LSTM, cells.LRU, Leaky, SideBySide])
def test_of_sequences_without_steps_too(cell: type[Cell], case: str) -> None:
    steps, batch_size, options = NOTHING[case]
    layer = Recurrent(cell, 3, 5, depth=2).double()
    x = torch.randn(steps, batch_size, 3, dtype=torch.float64)
    state = [torch.randn(shape, dtype=torch.float64) for shape in layer.state_shapes(batch_size)]
    for given in ((), state):
        found = []
        for backend in ("auto", "reference"):
            layer.backend = backend
            a, *start = leaves(x, *given)
            y, final = layer(a, tuple(start) or None, **options)
            value = y.square().sum() + sum(s.square().sum() for s in final)
            sources = {"x": a} | {f"state {k}": s for k, s in enumerate(start)}
            sources |= dict(layer.named_parameters())
            every = list(sources.values())
            first = torch.autograd.grad(value, every, create_graph=True, materialize_grads=True)
            square = sum((g**2).sum() for g in first) + value
            second = torch.autograd.grad(square, every, materialize_grads=True)
            found.append(
                {"y": y.detach()}
                | {f"final {k}": s.detach() for k, s in enumerate(final)}
                | {f"grad of {n}": g.detach() for n, g in zip(sources, first, strict=True)}
                | {f"second of {n}": g for n, g in zip(sources, second, strict=True)}
            )
        assert_close_by_name(*found, 10)
