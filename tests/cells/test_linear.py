"""Linear recurrences at once against one step after another: values, gradients, long sequences."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cells.papers import D, H, drawn, inputs
from tests.compare import assert_close_by_name, collect, leaves, run_by_hand, scanned
from unrolled import Recurrent
from unrolled.cells import LRU, Cell, MinGRU, MinLSTM, State
from unrolled.cells.linear import LinearCell, linear_scan
from unrolled.scan import ScanOptions, scan

every_kind = pytest.mark.parametrize("kind", [MinGRU, MinLSTM, LRU])


def by_loop(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    h, every = start, []
    for a_t, b_t in zip(a, b, strict=True):
        h = a_t * h + b_t
        every.append(h)
    return torch.stack(every)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_it_equals_the_loop_with_every_gradient(steps: int, dtype: torch.dtype) -> None:
    tensors = [0.8 * torch.randn(steps, 2, 3, dtype=dtype) for _ in "ab"]
    tensors[0][steps // 2, 0] = 0  # a zero, which has no logarithm
    tensors.append(torch.randn(2, 3, dtype=dtype))
    weights = torch.randn(steps, 2, 3, dtype=dtype)
    results = []
    for call in (linear_scan, by_loop):
        sources = leaves(*tensors)
        h = call(*sources)
        gradients = torch.autograd.grad(h, sources, weights)
        results.append([h, *gradients])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_its_second_derivatives_are_those_of_finite_differences() -> None:
    tensors = leaves(*(torch.randn(5, 2).double() for _ in "ab"), torch.randn(2).double())
    torch.autograd.gradcheck(linear_scan, tensors)
    torch.autograd.gradgradcheck(linear_scan, tensors)


@pytest.mark.parametrize("low", [0.0, 0.9, 0.999])
def test_over_a_thousand_steps_of_float32_the_error_grows_with_their_logarithm(low: float) -> None:
    a, b = low + (1 - low) * torch.rand(1000, 50), torch.rand(1000, 50)
    h, exact = linear_scan(a, b, b[0]), linear_scan(a.double(), b.double(), b[0].double())
    # All terms are positive, and each passes 10 rounds of at most 3 roundings of half an eps.
    allowed = math.ceil(math.log2(1000)) * 3 * torch.finfo(torch.float32).eps / 2
    assert ((h - exact) / exact).abs().max() < allowed


@every_kind
@pytest.mark.parametrize("steps", [1, 63])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_at_once_equals_step_by_step_with_every_gradient(
    kind: type[Cell], steps: int, reverse: bool
) -> None:
    cell = drawn(kind(D, H))
    x, start = inputs(cell, steps)

    def run(parallel: bool) -> dict[str, Tensor]:
        u, *state = leaves(x, *start)
        resets = None if parallel else torch.zeros(steps, len(start[0]), dtype=torch.bool)
        every, final = scan(
            cell, u, tuple(state), ScanOptions(reverse=reverse, return_states=True, resets=resets)
        )
        (y,), _ = scan(cell, u, tuple(state), ScanOptions(reverse=reverse, resets=resets))
        outputs = {"y": y}
        outputs |= {f"state {k}": s for k, s in enumerate(every)}
        outputs |= {f"final {k}": s for k, s in enumerate(final)}
        sources = {"x": u} | {f"start {k}": s for k, s in enumerate(state)}
        return collect(outputs, sources | dict(cell.named_parameters()))

    assert_close_by_name(run(parallel=True), run(parallel=False), steps)


@every_kind
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # a of float32 is off by some eps, and what it does to h adds up over the steps that h
    # remembers: at most all T, at worst in one direction.
    [(torch.float64, 1e-10), (torch.float32, 1e-4)],
)
def test_over_a_thousand_steps_it_is_step_by_step(
    kind: type[Cell], dtype: torch.dtype, tolerance: float
) -> None:
    cell = kind(D, H).to(dtype)
    x = torch.randn(1000, 2, D, dtype=dtype)
    start = tuple(torch.randn(2, size, dtype=dtype) for size in cell.state_sizes)
    projected = cell.project(x)
    states = cell.parallel(projected, start)
    state: State = start
    for t, u in enumerate(projected):
        state = cell.step(u, state)
        for got, expected in zip(states, state, strict=True):
            torch.testing.assert_close(got[t], expected, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(sum(s.sum() for s in states), cell.weight_ih)
    assert gradient.isfinite().all() and gradient.any()


@every_kind
def test_dynamo_takes_the_whole_of_it(kind: type[Cell]) -> None:
    layer, x = Recurrent(kind, D, H), torch.randn(5, 2, D)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x).y, layer(x).y)


@every_kind
def test_only_a_whole_sequence_is_taken_at_once(kind: type[Cell], monkeypatch) -> None:
    calls: list[int] = []

    def by_reference(*given: Any, **options: Any) -> tuple[Tensor, State]:
        return scanned(*given, options=ScanOptions(backend="reference", **options))

    at_once = kind.parallel
    monkeypatch.setattr(kind, "parallel", lambda *a: (calls.append(a[1].shape[0]), at_once(*a))[1])
    cell = drawn(kind(D, H))
    x, start = inputs(cell, 5, 2)
    full, short = torch.tensor([5, 5]), torch.tensor([5, 2])
    norms = [torch.zeros(5, 2) for _ in start]
    by_reference(cell, x, start)
    by_reference(cell, x, lengths=full, reverse=True)
    assert calls == [5, 5]
    y, final = by_reference(cell, x, start, lengths=short)
    by_reference(cell, x, start, resets=torch.zeros(5, 2, dtype=torch.bool))
    by_reference(cell, x, start, norms=norms)[0].sum().backward()
    assert by_reference(cell, x[:0], start)[0].shape == (0, 2, H)
    assert calls == [5, 5]
    assert all(n.any() for n in norms)
    _, alone = run_by_hand(cell, x[:2, 1:], tuple(s[1:] for s in start))
    for got, expected in zip(final, alone, strict=True):
        torch.testing.assert_close(got[1:], expected)
    assert y[:2, 1].all() and not y[2:, 1].any()


def test_a_subclass_that_changes_the_step_alone_is_taken_step_by_step() -> None:
    class Leaky(MinGRU):
        def step(self, projected: Tensor, state: State) -> State:
            return (0.9 * super().step(projected, state)[0],)

    class Shifted(MinGRU):
        def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
            a, b = super().coefficients(projected)
            return a, b + 1

    assert [kind.at_once for kind in (Cell, LinearCell, MinGRU, LRU)] == [False, True, True, True]
    assert not Leaky.at_once and Shifted.at_once
    for kind in (Leaky, Shifted):
        cell = drawn(kind(D, H))
        x, start = inputs(cell)
        got, expected = scan(cell, x, start)[0][0], run_by_hand(cell, x, start)[0]
        assert_close_by_name({"y": got}, {"y": expected}, len(x))


def test_the_caller_may_write_into_what_is_returned() -> None:
    cell = MinGRU(D, H)
    with torch.no_grad():
        (y,), (h_n,) = scan(cell, torch.randn(5, 2, D))
        kept = h_n.clone()
        y.zero_()
    assert torch.equal(h_n, kept)


def test_a_linear_cell_must_bring_its_coefficients() -> None:
    class Nameless(LinearCell):
        """It brings none."""

    with pytest.raises(NotImplementedError, match=r"^Nameless must define coefficients\("):
        Nameless(D, H).step(torch.zeros(2, H), (torch.zeros(2, H),))


class Constant(Cell):
    """A cell that shows something, and of another width, even of a state of zeros."""

    @property
    def output_size(self) -> int:
        return 2

    def project(self, x: Tensor) -> Tensor:
        return x

    def step(self, projected: Tensor, state: State) -> State:
        return (state[0] + projected,)

    def read(self, states: State) -> Tensor:
        return states[0][..., :2] + 1


def test_what_a_cell_reads_has_its_own_width_and_is_zero_beyond_the_lengths() -> None:
    (y,), (s,) = scan(
        Constant(3, 3), torch.ones(3, 2, 3), None, ScanOptions(lengths=torch.tensor([3, 1]))
    )
    assert y[:, :, 0].T.tolist() == [[2, 3, 4], [2, 0, 0]]
    assert y.shape == (3, 2, 2) and s.shape == (2, 3)

    def make(features: int, units: int) -> Cell:
        assert features in (3, 4)  # the second layer reads both directions' outputs
        cell = Constant(features, units)
        cell.project = lambda x: x[..., :3]
        return cell

    layer = Recurrent(make, 3, 3, depth=2, bidirectional=True)
    y, _ = layer(torch.ones(3, 2, 3), lengths=[3, 1])
    assert y.shape == (3, 2, 4)
    assert not y[1:, 1].any()
