"""∂L/∂state_t clipped within the backward pass: by the reference, and by every kernel."""

import math

import pytest
import torch
from torch import Tensor

from tests.compare import as_function, assert_close_by_name, check_derivatives, leaves, scanned
from tests.compiler.interpret import Traces
from tests.compiler.staged import Deep, Normed, SideBySide
from tests.scan.calls import CELLS, make, run, steps_of_rounding
from unrolled.cells import Cell, MinGRU, State
from unrolled.scan import Backend, ScanOptions, scan
from unrolled.scan.native import library

OWN = {"simple": Traces, "staged": SideBySide, "deep": Deep, "normed": Normed}
T, B = 6, 4
BOUND = 0.7
OPTIONS = {
    "nothing": {},
    "reverse": {"reverse": True},
    "all": {
        "lengths": torch.tensor([2, 6, 0, 5]),
        "resets": torch.arange(T * B).view(T, B) % 4 == 2,
    },
}

native = pytest.mark.skipif(library.missing() is not None, reason="no native library")
both_backends = pytest.mark.parametrize(
    "backend", ["reference", pytest.param("native", marks=native)]
)
each_set = pytest.mark.parametrize("name", library.built() if library.missing() is None else [])
every_cell = pytest.mark.parametrize("kind", [*CELLS, *OWN])
options = pytest.mark.parametrize("chosen", OPTIONS)


def draw(
    kind: str,
    batch_size: int = B,
    hidden: int = 7,
    dtype: torch.dtype = torch.float64,
    steps: int = T,
) -> tuple[Cell, Tensor, State]:
    if kind in CELLS:
        return make(kind, steps, batch_size, 3, hidden, dtype=dtype)
    cell = OWN[kind](3, hidden).to(dtype)
    x = torch.randn(steps, batch_size, 3, dtype=dtype)
    return cell, x, tuple(torch.randn(batch_size, n, dtype=dtype) for n in cell.state_sizes)


def by_hand(cell: Cell, x: Tensor, state: State, bound: float) -> dict[str, Tensor]:
    """The gradients of the sum of all outputs' squares, each step's own taken by itself and clipped."""
    x, *start = leaves(x, *state)
    projected, states = cell.project(x), [tuple(start)]
    for given in projected:
        states.append(cell.step(given, states[-1]))
    parameters = dict(cell.named_parameters())
    sums = {n: torch.zeros_like(p) for n, p in parameters.items()} | {"x": torch.zeros_like(x)}
    after = [torch.zeros_like(s) for s in start]
    for t in reversed(range(len(x))):
        after[0] = after[0] + 2 * states[t + 1][0].detach()
        after = [d * (bound / d.norm(dim=-1, keepdim=True)).clamp(max=1) for d in after]
        before = leaves(*states[t])
        (seen,) = leaves(x)
        step = cell.step(cell.project(seen)[t], before)
        found = torch.autograd.grad(
            step, [*before, seen, *parameters.values()], after, materialize_grads=True
        )
        after = list(found[: len(before)])
        for total, part in zip(("x", *parameters), found[len(before) :], strict=True):
            sums[total] += part
    return sums | {f"start {k}": d for k, d in enumerate(after)}


@both_backends
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_each_steps_gradient_is_clipped_before_it_goes_on(kind: str, backend: Backend) -> None:
    cell, x, state = draw(kind)
    x, *start = leaves(x, *state)
    (y,), _ = scan(cell, x, tuple(start), ScanOptions(backend=backend, clip=BOUND))
    names = ["x", *dict(cell.named_parameters()), *(f"start {k}" for k in range(len(start)))]
    sources = [x, *cell.parameters(), *start]
    found = torch.autograd.grad(y.square().sum(), sources)
    got = dict(zip(names, found, strict=True))
    assert_close_by_name(got, by_hand(cell, x.detach(), state, BOUND), T)
    (plain,), _ = scan(cell, x, tuple(start), ScanOptions(backend=backend))
    assert torch.equal(y, plain)
    with pytest.raises(AssertionError, match="weight_hh"):  # the bound is at work
        assert_close_by_name(got, by_hand(cell, x.detach(), state, math.inf), T)


@pytest.mark.each_value(2)
@both_backends
@options
@every_cell
def test_no_norm_is_above_the_bound_and_those_below_stay(
    kind: str, chosen: str, backend: Backend
) -> None:
    cell, x, state = draw(kind)
    found = run(cell, x, state, backend=backend, clip=BOUND, **OPTIONS[chosen])
    plain = run(cell, x, state, backend=backend, **OPTIONS[chosen])
    norms, before = (
        torch.stack([v for name, v in side.items() if name.endswith("norms")])
        for side in (found, plain)
    )
    assert norms.max() <= BOUND * (1 + 4 * torch.finfo(norms.dtype).eps)  # the division's rounding
    assert (before > BOUND).any()
    assert (norms > 0).any() and (norms.isclose(torch.tensor(BOUND).double())).any()


@native
@options
@every_cell
def test_the_kernel_clips_as_the_reference_does(kind: str, chosen: str) -> None:
    cell, x, state = draw(kind)
    for start in (state, None):
        got, expected = (
            run(cell, x, start, backend=backend, clip=BOUND, **OPTIONS[chosen])
            for backend in ("native", "reference")
        )
        assert_close_by_name(got, expected, steps_of_rounding(cell, T))


@pytest.mark.each_value
@each_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@every_cell
def test_so_does_every_instruction_set(kind: str, dtype: torch.dtype, name: str) -> None:
    cell, x, state = draw(kind, batch_size=5, hidden=19, dtype=dtype)
    lengths = torch.tensor([6, 1, 0, 4, 6])
    expected = run(cell, x, state, backend="reference", clip=BOUND, lengths=lengths)
    with library.using(name):
        got = run(cell, x, state, clip=BOUND, lengths=lengths)
    assert_close_by_name(got, expected, steps_of_rounding(cell, T))


@pytest.mark.each_value
@native
@pytest.mark.parametrize("batch_size", [1, 5, 17])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU", "staged"])
def test_so_do_several_threads_which_share_sequences_or_units(
    kind: str, threads: int, batch_size: int
) -> None:
    # So much work that it is shared out, and with one sequence, or five, by units.
    cell, x, state = draw(kind, batch_size=batch_size, hidden=300, steps=40)
    expected = run(cell, x, state, backend="reference", clip=BOUND)
    torch.set_num_threads(threads)
    got = run(cell, x, state, clip=BOUND)
    assert_close_by_name(got, expected, steps_of_rounding(cell, 40))


@each_set
@every_cell
def test_an_infinite_bound_changes_no_bit(kind: str, name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        cell, x, state = draw(kind, hidden=19, dtype=dtype)
        with library.using(name):
            plain, bounded = (run(cell, x, state, clip=clip) for clip in (None, math.inf))
        assert all(torch.equal(plain[n], bounded[n]) for n in plain if not n.endswith("norms"))
        assert_close_by_name(bounded, plain, T)


@every_cell
def test_an_infinite_bound_changes_no_bit_of_the_reference(kind: str) -> None:
    cell, x, state = draw(kind)
    plain, bounded = (
        run(cell, x, state, backend="reference", clip=clip) for clip in (None, math.inf)
    )
    assert all(torch.equal(plain[n], bounded[n]) for n in plain)


@both_backends
def test_the_clipped_gradient_can_itself_be_differentiated(backend: Backend) -> None:
    cell, x, state = draw("GRU", batch_size=2, hidden=3)
    (a,) = leaves(x)
    weight = cell.weight_hh

    def gradient(weight: Tensor) -> Tensor:
        def call(cell: Cell, x: Tensor) -> tuple[Tensor, State]:
            return scanned(cell, x, state, ScanOptions(backend=backend, clip=BOUND))

        named = [weight if name == "weight_hh" else p for name, p in cell.named_parameters()]
        y, *_ = as_function(cell, call)(tuple(named), (a,))
        return torch.autograd.grad(y.square().sum(), a, create_graph=True)[0]

    assert torch.autograd.gradcheck(gradient, weight.detach().clone().requires_grad_())


def test_a_cell_that_takes_all_steps_at_once_takes_them_one_by_one() -> None:
    cell, x = MinGRU(3, 7).double(), torch.randn(T, B, 3).double()
    norms = [torch.zeros(T, B).double()]
    (y,), _ = scan(cell, x, None, ScanOptions(norms=norms, backend="reference", clip=0.01))
    y.sum().backward()
    assert norms[0].max() <= 0.01 * (1 + 1e-12)


def test_a_bound_that_is_never_reached_leaves_the_right_gradient() -> None:
    cell, x, state = draw("LSTM", batch_size=2, hidden=3)
    check_derivatives(
        cell,
        lambda cell, x, *s: scanned(cell, x, s, ScanOptions(backend="reference", clip=math.inf)),
        *(x, *state),
    )
