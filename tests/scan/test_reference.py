"""One cell over time in plain PyTorch: directions, lengths, padding, states, ``torch.func``."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.compare import (
    as_function,
    assert_close_by_name,
    check_derivatives,
    collect,
    leaves,
    run_by_hand,
)
from unrolled import cells
from unrolled.cells import Cell, State
from unrolled.scan import DEFAULTS, ScanOptions, ScanResult
from unrolled.scan import scan as scan_by


def scan(
    cell: Cell, x: Tensor, state: State | None = None, options: ScanOptions = DEFAULTS
) -> ScanResult:
    return scan_by(cell, x, state, options._replace(backend="reference"))


def scanned(
    cell: Cell, x: Tensor, state: State | None = None, options: ScanOptions = DEFAULTS
) -> tuple[Tensor, State]:
    (y,), final = scan(cell, x, state, options)
    return y, final


D, H = 3, 5


CELLS: dict[str, Callable[[int, int], Cell]] = {
    "Elman": cells.Elman,
    "softplus": functools.partial(cells.Elman, activation=F.softplus),
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
}

every_cell = pytest.mark.parametrize("kind", CELLS)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])

Scan = Callable[[Cell, Tensor, State], tuple[Tensor, State]]


def make(
    kind: str,
    steps: int,
    batch_size: int,
    *,
    features: int = D,
    hidden: int = H,
    dtype: torch.dtype = torch.float64,
) -> tuple[Cell, Tensor, State]:
    """A cell, an input and a state to start from, all random."""
    cell = CELLS[kind](features, hidden).to(dtype)
    state = tuple(torch.randn(batch_size, size, dtype=dtype) for size in cell.state_sizes)
    return cell, torch.randn(steps, batch_size, features, dtype=dtype), state


def run(call: Scan, cell: Cell, x: Tensor, state: State) -> dict[str, Tensor]:
    """Outputs, final states and every gradient of ``call(cell, x, state)``, by name."""
    x, *start = leaves(x, *state)
    y, final = call(cell, x, tuple(start))
    outputs = {"y": y} | {f"final {i}": s for i, s in enumerate(final)}
    sources = {"x": x} | {f"start {i}": s for i, s in enumerate(start)}
    return collect(outputs, sources | dict(cell.named_parameters()))


def one_by_one(lengths: list[int], *, reverse: bool) -> Scan:
    """What lengths mean: each sequence runs alone over its own steps, and its outputs end in zeros."""

    def call(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        ys, finals = [], []
        for b, n in enumerate(lengths):
            own = x[:n, b : b + 1]
            own = own.flip(0) if reverse else own
            start = tuple(s[b : b + 1] for s in state)
            y, final = run_by_hand(cell, own, start) if n else (own.new_zeros(0, 1, H), start)
            y = y.flip(0) if reverse else y
            ys.append(F.pad(y, (0, 0, 0, 0, 0, len(x) - n)))
            finals.append(final)
        return torch.cat(ys, 1), tuple(torch.cat(s) for s in zip(*finals, strict=True))

    return call


@both_directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("steps", "batch_size"), [(1, 1), (1, 3), (5, 1), (63, 3)])
@every_cell
def test_it_is_one_step_after_another_and_reversed_from_the_last_to_the_first(
    kind: str, steps: int, batch_size: int, dtype: torch.dtype, reverse: bool
) -> None:
    cell, x, state = make(kind, steps, batch_size, dtype=dtype)

    def by_hand(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not reverse:
            return run_by_hand(cell, x, state)
        y, final = run_by_hand(cell, x.flip(0), state)
        return y.flip(0), final

    got = run(lambda *a: scanned(*a, options=ScanOptions(reverse=reverse)), cell, x, state)
    assert_close_by_name(got, run(by_hand, cell, x, state), steps)


# Unsorted, with an empty sequence; the last steps nobody's; every sequence whole; every sequence empty.
@pytest.mark.parametrize("lengths", [[3, 0, 5, 1], [2, 1, 3, 1], [5, 5, 5, 5], [0, 0, 0, 0]])
@both_directions
@every_cell
def test_with_lengths_each_sequence_runs_as_if_alone(
    kind: str, reverse: bool, lengths: list[int]
) -> None:
    cell, x, state = make(kind, 5, 4)
    got = run(
        lambda *a: scanned(*a, options=ScanOptions(lengths=torch.tensor(lengths), reverse=reverse)),
        cell,
        x,
        state,
    )
    assert_close_by_name(got, run(one_by_one(lengths, reverse=reverse), cell, x, state), 5)


@given(data=st.data())
def test_with_any_lengths_each_sequence_runs_as_if_alone(data: st.DataObject) -> None:
    T, kind = data.draw(st.integers(0, 6)), data.draw(st.sampled_from(sorted(CELLS)))
    lengths = data.draw(st.lists(st.integers(0, T), min_size=1, max_size=4))
    reverse = data.draw(st.booleans())
    cell, x, state = make(kind, T, len(lengths))
    got = run(
        lambda *a: scanned(*a, options=ScanOptions(lengths=torch.tensor(lengths), reverse=reverse)),
        cell,
        x,
        state,
    )
    assert_close_by_name(got, run(one_by_one(lengths, reverse=reverse), cell, x, state), T)


def assert_bits_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert value.isfinite().all(), name
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("filling", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("lengths", [[3, 0, 5], [2, 1, 3]])
@both_directions
@every_cell
def test_what_stands_in_the_padding_changes_no_bit_of_any_value_or_gradient(
    kind: str, reverse: bool, lengths: list[int], filling: float
) -> None:
    cell, x, state = make(kind, 5, 3)
    padding = torch.arange(5).unsqueeze(1) >= torch.tensor(lengths)
    x[padding] = 0
    filled = x.clone()
    filled[padding] = filling

    def call(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        return scanned(cell, x, state, ScanOptions(lengths=torch.tensor(lengths), reverse=reverse))

    got = run(call, cell, filled, state)
    assert_bits_equal(got, run(call, cell, x, state))
    assert not got["y"][padding].any()
    assert not got["grad of x"][padding].any()
    assert got["grad of x"][~padding].all()  # the real steps do have a gradient


@both_directions
@every_cell
def test_what_a_loss_says_about_the_padding_reaches_nothing(kind: str, reverse: bool) -> None:
    lengths = torch.tensor([3, 0, 5])
    padding = (torch.arange(5).unsqueeze(1) >= lengths).unsqueeze(-1)
    cell, x, state = make(kind, 5, 3)

    def call(factor: float) -> Scan:
        def weighted(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
            (y,), final = scan(cell, x, state, ScanOptions(lengths=lengths, reverse=reverse))
            y.register_hook(lambda gradient: torch.where(padding, factor, gradient))
            return y, final

        return weighted

    assert_bits_equal(run(call(torch.nan), cell, x, state), run(call(0.0), cell, x, state))


@both_directions
@every_cell
def test_an_empty_sequence_keeps_its_state_and_passes_its_gradient_through(
    kind: str, reverse: bool
) -> None:
    cell, x, state = make(kind, 5, 2)
    start = leaves(*state)
    (y,), final = scan(cell, x, start, ScanOptions(lengths=torch.tensor([0, 4]), reverse=reverse))
    assert not y[:, 0].any()
    weights = tuple(torch.randn_like(s) for s in final)
    gradients = torch.autograd.grad(final, start, weights)
    for before, after, weight, gradient in zip(start, final, weights, gradients, strict=True):
        assert torch.equal(after[0], before[0])
        assert torch.equal(gradient[0], weight[0])
        assert not torch.equal(gradient[1], weight[1])


@both_directions
@every_cell
def test_without_steps_the_state_stays_and_there_is_no_output(kind: str, reverse: bool) -> None:
    cell, x, state = make(kind, 0, 3)
    for lengths in (None, torch.zeros(3, dtype=torch.int64)):
        start = leaves(*state)
        (y,), final = scan(cell, x, start, ScanOptions(lengths=lengths, reverse=reverse))
        assert (y.shape, y.dtype) == ((0, 3, H), x.dtype)
        weights = [torch.randn_like(s) for s in state]
        gradients = torch.autograd.grad(final, start, weights)
        for before, after, weight, gradient in zip(state, final, weights, gradients, strict=True):
            assert torch.equal(after, before)
            assert torch.equal(gradient, weight)


@both_directions
@pytest.mark.parametrize("lengths", [None, torch.zeros(0).long()], ids=["full", "ragged"])
@pytest.mark.parametrize("steps", [0, 1, 4])
@every_cell
def test_without_sequences_every_result_is_empty_and_every_gradient_is_zero(
    kind: str, steps: int, lengths: Tensor | None, reverse: bool
) -> None:
    cell, x, state = make(kind, steps, 0)
    got = run(
        lambda *a: scanned(*a, options=ScanOptions(lengths=lengths, reverse=reverse)),
        cell,
        x,
        state,
    )
    assert got["y"].shape == (steps, 0, H)
    assert got["final 0"].shape == (0, H)
    assert got["grad of x"].shape == (steps, 0, D)
    assert got["grad of weight_hh"].shape == cell.weight_hh.shape
    assert not got["grad of weight_hh"].any()


@every_cell
def test_the_state_starts_at_the_cells_own_initial_state(kind: str) -> None:
    cell, x, state = make(kind, 5, 3)
    zeros = tuple(torch.zeros_like(s) for s in state)
    (y, final), (expected, last) = scanned(cell, x), scanned(cell, x, zeros)
    assert torch.equal(y, expected)
    assert all(torch.equal(got, want) for got, want in zip(final, last, strict=True))
    assert not torch.equal(y, scan(cell, x, state)[0][0])


class Learned(Cell):
    """A sum of its inputs that starts from a parameter."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.start = nn.Parameter(torch.full((hidden_size,), 3.0))

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        return (self.start.expand(batch_size, -1).to(like),)

    def project(self, x: Tensor) -> Tensor:
        return x

    def step(self, projected: Tensor, state: State) -> State:
        return (state[0] + projected,)


def test_a_cell_may_learn_its_initial_state_and_even_an_empty_sequence_teaches_it() -> None:
    cell = Learned(2, 2)
    (y,), (final,) = scan(
        cell, torch.ones(4, 3, 2), None, ScanOptions(lengths=torch.tensor([4, 1, 0]))
    )
    assert final[:, 0].tolist() == [7, 4, 3]
    assert y[:, :, 0].T.tolist() == [[4, 5, 6, 7], [4, 0, 0, 0], [0, 0, 0, 0]]
    final.sum().backward()
    assert cell.start.grad is not None
    assert cell.start.grad.tolist() == [3, 3]


@pytest.mark.parametrize("a", [0.5, -2.0])
@both_directions
def test_of_h_t_equal_to_a_h_plus_x_the_gradient_k_steps_back_is_a_to_the_k(
    a: float, reverse: bool
) -> None:
    T = 6
    cell = cells.Elman(1, 1, activation="identity", bias=False).double()
    with torch.no_grad():
        cell.weight_ih.fill_(1)
        cell.weight_hh.fill_(a)
    x, start = leaves(torch.randn(T, 1, 1).double(), torch.randn(1, 1).double())
    jacobian_x, jacobian_start = torch.func.jacrev(
        lambda x, s: scan(cell, x, (s,), ScanOptions(reverse=reverse))[0][0].flatten(),
        argnums=(0, 1),
    )(x, start)
    # Powers of ±2 are exact, so the answer is too.
    expected = torch.tensor(
        [[a ** (t - k) if t >= k else 0.0 for k in range(T)] for t in range(T)]
    ).double()
    from_start = torch.tensor([a ** (t + 1) for t in range(T)]).double()
    if reverse:
        expected, from_start = expected.flip(0, 1), from_start.flip(0)
    assert torch.equal(jacobian_x.flatten(1), expected)
    assert torch.equal(jacobian_start.flatten(), from_start)


@pytest.mark.each_value
# Elman with softplus only, whose second derivative is far from zero everywhere.
@pytest.mark.parametrize("kind", ["softplus", "LSTM", "GRU"])
@both_directions
def test_first_and_second_derivatives_with_lengths_are_those_of_finite_differences(
    kind: str, reverse: bool
) -> None:
    cell, x, state = make(kind, 3, 3, features=1, hidden=2)
    lengths = torch.tensor([2, 0, 3])
    check_derivatives(
        cell,
        lambda cell, x, *state: scanned(
            cell, x, state, ScanOptions(lengths=lengths, reverse=reverse)
        ),
        x,
        *state,
    )


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 5])], ids=["full", "ragged"])
@both_directions
@every_cell
def test_vmap_over_weights_inputs_and_states_is_one_scan_for_each(
    kind: str, reverse: bool, lengths: Tensor | None
) -> None:
    many = 3
    made = [make(kind, 5, 3) for _ in range(many)]
    parameters = [tuple(cell.parameters()) for cell, _, _ in made]
    tensors = [(x, *state) for _, x, state in made]
    function = as_function(
        made[0][0],
        lambda cell, x, *state: scanned(
            cell, x, state, ScanOptions(lengths=lengths, reverse=reverse)
        ),
    )
    stacked = [
        tuple(torch.stack(members) for members in zip(*group, strict=True))
        for group in (parameters, tensors)
    ]
    got = torch.vmap(function)(*stacked)
    each = [function(p, t) for p, t in zip(parameters, tensors, strict=True)]
    expected = tuple(torch.stack(results) for results in zip(*each, strict=True))
    names = ["y", "final 0", "final 1"][: len(expected)]
    assert_close_by_name(
        dict(zip(names, got, strict=True)), dict(zip(names, expected, strict=True)), 5
    )


# PyTorch's own forward-mode rules are compiled with torch.jit.script, which warns that it is old.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 5])], ids=["full", "ragged"])
@both_directions
@every_cell
def test_the_forward_mode_derivative_is_the_jacobian_times_the_direction(
    kind: str, reverse: bool, lengths: Tensor | None
) -> None:
    cell, x, state = make(kind, 5, 3)
    function = as_function(
        cell,
        lambda cell, x, *state: scanned(
            cell, x, state, ScanOptions(lengths=lengths, reverse=reverse)
        ),
    )

    def of_everything(*arguments: Tensor) -> Tensor:
        n = 1 + len(state)
        return torch.cat([r.flatten() for r in function(arguments[n:], arguments[:n])])

    point = (x, *state, *(p.detach() for p in cell.parameters()))
    direction = tuple(torch.randn_like(p) for p in point)
    _, got = torch.func.jvp(of_everything, point, direction)
    jacobians = torch.func.jacrev(of_everything, argnums=tuple(range(len(point))))(*point)
    expected = sum(j.flatten(1) @ d.flatten() for j, d in zip(jacobians, direction, strict=True))
    assert got.abs().max() > 0
    assert_close_by_name({"jvp": got}, {"jvp": expected}, 5)


@both_directions
def test_an_input_that_is_not_contiguous_or_is_expanded_is_read_right(reverse: bool) -> None:
    cell, x, state = make("LSTM", 5, 3)
    expanded = (x[:1, :1].expand(5, 3, D), tuple(s[:1].expand(3, H) for s in state))
    for odd, start in (
        (torch.randn(3, 5, D).double().transpose(0, 1), state),
        (torch.randn(10, 3, 2 * D).double()[::2, :, ::2], state),
        expanded,
    ):
        assert not odd.is_contiguous()
        (y,), final = scan(cell, odd, start, ScanOptions(reverse=reverse))
        (plain,), last = scan(
            cell,
            odd.contiguous(),
            tuple(s.contiguous() for s in start),
            ScanOptions(reverse=reverse),
        )
        assert_close_by_name(
            {"y": y, "h": final[0], "c": final[1]}, {"y": plain, "h": last[0], "c": last[1]}, 5
        )


@both_directions
@every_cell
def test_neither_input_nor_state_nor_weights_are_changed(kind: str, reverse: bool) -> None:
    cell, x, state = make(kind, 5, 3)
    x[3:, 0] = torch.nan
    given = [x, *state, *cell.parameters()]
    before = [t.detach().clone() for t in given]
    scan(cell, x, state, ScanOptions(lengths=torch.tensor([3, 0, 5]), reverse=reverse))
    for now, then in zip(given, before, strict=True):
        assert torch.equal(now.nan_to_num(9), then.nan_to_num(9))


@every_cell
def test_only_what_asks_for_a_gradient_makes_one(kind: str) -> None:
    cell, x, state = make(kind, 5, 3)
    cell.requires_grad_(False)
    assert not scan(cell, x, state)[0][0].requires_grad
    for asking in (x, *state):
        asking.requires_grad_()
        (y,), final = scan(cell, x, state, ScanOptions(lengths=torch.tensor([5, 0, 2])))
        (gradient,) = torch.autograd.grad([y, *final], asking, [torch.ones_like(y), *final])
        assert gradient.isfinite().all()
        assert gradient.any()
        asking.requires_grad_(False)
    cell.requires_grad_()
    with torch.no_grad():
        assert not scan(cell, x, state)[0][0].requires_grad


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [torch.exp, lambda z: z.abs().sqrt()])
def test_a_step_that_would_overflow_in_the_padding_leaves_every_gradient_finite(
    activation: Callable[[Tensor], Tensor], reverse: bool
) -> None:
    cell = cells.Elman(1, 1, activation=activation, bias=False)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(1)
    x = torch.tensor([[[5.0], [-2.0]], [[0.0], [-2.0]]], requires_grad=True)
    (y,), _ = scan(cell, x, None, ScanOptions(lengths=torch.tensor([1, 2]), reverse=reverse))
    alone = x.detach()[:1, :1].requires_grad_()
    scan(cell, alone)[0][0].sum().backward()
    for parameter in cell.parameters():
        parameter.grad = None
    y.sum().backward()
    assert x.grad is not None and alone.grad is not None
    assert torch.equal(x.grad[:1, :1], alone.grad)
    assert all(parameter.grad.isfinite().all() for parameter in cell.parameters())


def test_a_sequence_of_length_0_with_a_state_of_nan_keeps_it_to_itself() -> None:
    cell = cells.Elman(2, 3)
    state = torch.zeros(2, 3)
    state[0] = torch.nan
    (y,), (final,) = scan(
        cell, torch.ones(4, 2, 2), (state,), ScanOptions(lengths=torch.tensor([0, 4]))
    )
    y.sum().backward()
    assert final[0].isnan().all() and final[1].isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in cell.parameters())
