"""The kernels: against finite differences, against each other, and against the reference."""

import itertools
from ctypes import addressof
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.compare import as_function, assert_close_by_name, leaves, scanned
from tests.scan.calls import CELLS, View, make, run, steps_of_rounding
from unrolled import cells
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, scan
from unrolled.scan.native import calls, interface, library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no native library")

FLOAT32, FLOAT64 = torch.float32, torch.float64

every_cell = pytest.mark.parametrize("kind", CELLS)
both_dtypes = pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=["float32", "float64"])
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


class Case(NamedTuple):
    """One shape, and what the call says besides."""

    T: int
    B: int
    D: int
    H: int
    lengths: list[int] | None = None
    resets: bool = False
    start: bool = True
    bias: bool = True
    every: bool = True
    threads: int = 1

    def described(self) -> str:
        """The sizes, and whatever is not the default."""
        said = {"resets": self.resets, "zeros": not self.start, "no bias": not self.bias}
        said |= {str(self.lengths): self.lengths is not None, "outputs": not self.every}
        said |= {f"{self.threads} threads": self.threads > 1}
        sizes = f"T{self.T} B{self.B} D{self.D} H{self.H}"
        return " ".join([sizes, *(word for word, holds in said.items() if holds)])

    def draw(self, kind: str, dtype: torch.dtype) -> tuple[Cell, Tensor, State | None]:
        cell, x, state = make(kind, self.T, self.B, self.D, self.H, dtype=dtype, bias=self.bias)
        return cell, x, state if self.start else None

    def options(self) -> dict[str, Tensor | bool | None]:
        lengths = None if self.lengths is None else torch.tensor(self.lengths)
        resets = torch.rand(self.T, self.B) < 0.3 if self.resets else None
        return {"lengths": lengths, "resets": resets, "return_states": self.every}


# Widths below, at and beyond a vector, and beyond a panel of them, of every instruction set.
CASES = [
    Case(1, 1, 1, 1),
    Case(1, 1, 3, 33, start=False, every=False),
    Case(1, 5, 2, 17, lengths=[1, 0, 1, 1, 0], resets=True),
    Case(5, 1, 3, 100, bias=False),
    Case(5, 3, 1, 7, lengths=[0, 0, 0]),
    Case(5, 3, 7, 7, resets=True, every=False),
    Case(6, 4, 5, 1, lengths=[2, 6, 0, 3], resets=True, bias=False),
    Case(6, 9, 17, 33, lengths=[5, 2, 6, 0, 1, 6, 3, 3, 2], resets=True),
    Case(6, 2, 33, 100, lengths=[3, 5], start=False),
    Case(63, 3, 3, 17, lengths=[20, 63, 7], every=False),
    Case(63, 2, 5, 33, resets=True, start=False),
]


# --- Serial against finite differences -----------------------------------------------------------


@pytest.mark.each_value(2)
@pytest.mark.parametrize(  # any two of the three in every combination
    ("lengths", "resets", "start"),
    [
        (None, False, True),
        (None, True, False),
        (torch.tensor([4, 0, 2]), False, False),
        (torch.tensor([4, 0, 2]), True, True),
    ],
    ids=["full-whole-start", "full-resets-zeros", "ragged-whole-zeros", "ragged-resets-start"],
)
@both_directions
@every_cell
def test_the_serial_gradients_are_those_of_finite_differences(
    kind: str, reverse: bool, lengths: Tensor | None, resets: bool, start: bool
) -> None:
    cell, x, state = make(kind, 4, 3, 2, 3)
    begins = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]).bool() if resets else None
    tensors = (x, *state) if start else (x,)

    def call(cell: Cell, x: Tensor, *state: Tensor) -> tuple[State, State]:
        options = {"lengths": lengths, "resets": begins, "reverse": reverse, "return_states": True}
        return scanned(cell, x, state or None, ScanOptions(backend="native", **options))

    function, n = as_function(cell, call), len(tensors)
    with library.using("serial"):
        assert torch.autograd.gradcheck(
            lambda *a: function(a[n:], a[:n]), leaves(*tensors, *cell.parameters())
        )


# --- Each instruction set against serial, native against the reference ---------------------------


@pytest.mark.each_value(2)
@both_directions
@both_dtypes
@pytest.mark.parametrize("case", CASES, ids=Case.described)
@every_cell
def test_every_instruction_set_computes_what_serial_does_and_serial_what_the_reference_does(
    kind: str, case: Case, dtype: torch.dtype, reverse: bool
) -> None:
    cell, x, state = case.draw(kind, dtype)
    options, steps = case.options() | {"reverse": reverse}, steps_of_rounding(cell, case.T)
    with library.using("serial"):
        serial = run(cell, x, state, **options)
    assert_close_by_name(serial, run(cell, x, state, backend="reference", **options), steps)
    for name in library.built():
        with library.using(name):
            got = run(cell, x, state, **options)
        assert_close_by_name(got, serial, steps)


# Big enough to be shared out: by sequences where there are several for each thread, else by units,
# which the threads then wait for at every step; with fewer sequences than threads, and with more.
SHARED = [
    Case(24, 1, 33, 100, threads=2),
    Case(24, 1, 33, 100, lengths=[20], resets=True, threads=3),
    Case(12, 2, 5, 130, lengths=[12, 5], threads=3),
    Case(12, 2, 5, 130, lengths=[0, 12], resets=True, bias=False, threads=2),
    Case(40, 2, 65, 33, resets=True, threads=3),
    Case(40, 3, 65, 33, lengths=[40, 0, 17], threads=2),
    Case(20, 13, 7, 65, lengths=[3, 20, 0, 7, 20, 1, 1, 15, 9, 2, 20, 11, 4], threads=3),
    Case(20, 9, 7, 65, resets=True, start=False, every=False, threads=2),
    Case(20, 5, 7, 65, lengths=[0] * 5, threads=3),
]


@pytest.mark.each_value(2)
@both_directions
@both_dtypes
@pytest.mark.parametrize("case", SHARED, ids=Case.described)
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_any_number_of_threads_computes_what_the_reference_does(
    kind: str, case: Case, dtype: torch.dtype, reverse: bool
) -> None:
    cell, x, state = case.draw(kind, dtype)
    options = case.options() | {"reverse": reverse}
    torch.set_num_threads(case.threads)
    got = run(cell, x, state, **options)
    torch.set_num_threads(1)
    expected = run(cell, x, state, backend="reference", **options)
    assert_close_by_name(got, expected, steps_of_rounding(cell, case.T))


def test_the_backward_pass_may_have_other_threads_and_instructions_than_the_forward_pass() -> None:
    cell, x, state = make("LSTM", 20, 5, 7, 65)
    expected = run(cell, x, state, backend="reference", return_states=False)
    x, *start = leaves(x, *state)
    torch.set_num_threads(3)
    (y,), _ = scan(cell, x, tuple(start), ScanOptions(backend="native"))
    torch.set_num_threads(2)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.set_num_threads(1)
    (y,), _ = scan(cell, x, tuple(start), ScanOptions(backend="reference"))
    (wanted,) = torch.autograd.grad(y.sum(), x)
    assert_close_by_name({"grad of x": gradient}, {"grad of x": wanted}, 40)
    assert_close_by_name({"y": y.detach()}, {"y": expected["h"]}, 40)


# --- Memory --------------------------------------------------------------------------------------


@both_directions
@every_cell
def test_a_call_has_all_the_memory_it_needs_whatever_was_called_before(
    kind: str, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    T, B = 11, 6
    cell, x, state = make(kind, T, B, 3, 19)
    granted = _granted(monkeypatch)
    few = torch.tensor([1, 0, 0, 2, 0, 0])
    resets = torch.rand(T, B) < 0.3
    for options in ({"lengths": few}, {}, {"resets": resets}, {"lengths": few + 1}, {}):
        for wanted in (None, {"weight_hh"}, {"x"}):
            for start in (None, state):
                run(cell, x, start, wanted=wanted, reverse=reverse, **options)
    assert len(granted) >= 30
    short = [(got, needed) for got, needed in granted if got < needed]
    assert not short, f"bytes granted and needed: {short}"


def _granted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Bytes of scratch, granted and needed, of every call from now on; none is short of them."""
    granted, sizes = [], calls._sizes

    def watched(
        kernel: library.Kernel,
        call: interface.Call,
        key: object,
        backward: bool,
        ragged: bool,
    ) -> tuple[int, int]:
        got, address = sizes(kernel, call, key, backward, ragged), addressof(call)
        packed = 0 if backward else kernel.packed_bytes(address)
        needed = kernel.work_bytes(address, backward), packed
        granted.extend(zip(got, needed, strict=True))
        return needed

    monkeypatch.setattr(calls, "_sizes", watched)
    monkeypatch.setattr(calls, "_work_sizes", {})
    return granted


@both_directions
@pytest.mark.parametrize("every", [False, True], ids=["outputs", "states"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 0, 2])], ids=["full", "ragged"])
@every_cell
def test_no_number_comes_from_memory_that_was_not_written(
    kind: str, lengths: Tensor | None, every: bool, reverse: bool
) -> None:
    cell, x, state = make(kind, 6, 3, 4, 33)
    options = {"lengths": lengths, "reverse": reverse, "return_states": every}
    plain = run(cell, x, state, **options)
    with torch.no_grad():
        alone = scanned(cell, x, state, ScanOptions(backend="native", **options))
    torch.use_deterministic_algorithms(True)  # fills what is not written with NaN
    try:
        assert torch.empty(1).isnan()
        poisoned = run(cell, x, state, **options)
        with torch.no_grad():
            alone_poisoned = scanned(cell, x, state, ScanOptions(backend="native", **options))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in plain.items():
        assert torch.equal(poisoned[name], value), name
    for got, expected in zip(alone_poisoned, alone, strict=True):
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)


@both_directions
@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 0, 2])], ids=["full", "ragged"])
@every_cell
def test_without_a_gradient_the_numbers_are_the_same(
    kind: str, lengths: Tensor | None, reverse: bool
) -> None:
    cell, x, state = make(kind, 6, 3, 4, 33)
    resets = torch.rand(6, 3) < 0.3
    for every in (False, True):
        options = {"lengths": lengths, "resets": resets, "reverse": reverse, "return_states": every}
        (states, final) = scanned(cell, x, state, ScanOptions(**options, backend="native"))
        with torch.inference_mode():
            (alone, last) = scanned(cell, x, state, ScanOptions(**options, backend="native"))
        pairs = zip((*states, *final), (*alone, *last), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


# --- Layouts -------------------------------------------------------------------------------------

VIEWS: dict[str, tuple[tuple[int, ...], View]] = {  # the shape that becomes [5, 3, 4], and how
    "batch first": ((3, 5, 4), lambda x: x.transpose(0, 1)),
    "features first": ((4, 5, 3), lambda x: x.permute(1, 2, 0)),
    "reversed order": ((4, 3, 5), lambda x: x.permute(2, 1, 0)),
    "every other step": ((10, 3, 4), lambda x: x[::2]),
    "every other sequence": ((5, 6, 4), lambda x: x[:, 1::2]),
    "every other feature": ((5, 3, 8), lambda x: x[..., ::2]),
    "part of the features": ((5, 3, 9), lambda x: x[..., 3:7]),
    "one step for all": ((1, 3, 4), lambda x: x.expand(5, 3, 4)),
    "one sequence for all": ((5, 1, 4), lambda x: x.expand(5, 3, 4)),
    "one feature for all": ((5, 3, 1), lambda x: x.expand(5, 3, 4)),
    "one number for all": ((1, 1, 1), lambda x: x.expand(5, 3, 4)),
    "overlapping windows": ((28,), lambda x: x.as_strided((5, 3, 4), (3, 2, 1))),
}


@pytest.mark.each_value(2)
@both_directions
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 5])], ids=["full", "ragged"])
@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("kind", ["RNN relu", "LSTM", "GRU"])
def test_an_input_in_any_layout_is_read_right(
    kind: str, layout: str, lengths: Tensor | None, reverse: bool
) -> None:
    cell, _, state = make(kind, 5, 3, 4, 7)
    shape, view = VIEWS[layout]
    x, options = torch.randn(shape).double(), {"lengths": lengths, "reverse": reverse}
    got = run(cell, x, state, view=view, **options)
    assert_close_by_name(got, run(cell, x, state, view=view, backend="reference", **options), 5)


@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_an_input_or_a_state_whose_sign_is_not_written_yet_is_read_right(kind: str) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    expected = run(cell, -x, tuple(-s for s in state), return_states=False)
    (y,), _ = scan(cell, torch._neg_view(x), tuple(torch._neg_view(s) for s in state))
    assert_close_by_name({"h": y.detach()}, {"h": expected["h"]}, 5)


@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_states_weights_lengths_and_resets_in_any_layout_are_read_right(kind: str) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    lengths, resets = torch.tensor([3, 5, 0]), torch.rand(5, 3) < 0.3
    expected = scanned(
        cell, x, state, ScanOptions(lengths=lengths, resets=resets, backend="native")
    )
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            wide = torch.randn(*parameter.shape, 2).double()
            wide[..., 1] = parameter
            setattr(cell, name, torch.nn.Parameter(wide[..., 1]))
            assert not getattr(cell, name).is_contiguous()
    odd = tuple(s.T.contiguous().T for s in state)
    spread = torch.stack([lengths, -lengths], 1)[:, 0]
    turned = resets.T.contiguous().T
    (y,), final = scan(cell, x, odd, ScanOptions(lengths=spread, resets=turned, backend="native"))
    assert torch.equal(y, expected[0])
    assert all(torch.equal(s, e) for s, e in zip(final, expected[1], strict=True))
    one = tuple(s[:1] for s in state)
    spread_out = scanned(cell, x, tuple(s.expand(3, 7) for s in one), ScanOptions(backend="native"))
    repeated = scanned(cell, x, tuple(s.repeat(3, 1) for s in one), ScanOptions(backend="native"))
    assert torch.equal(spread_out[0], repeated[0])


# What of the outputs a loss may take, whose gradient then arrives expanded, strided or not at all.
LOSSES = {
    "sum of all": lambda y, final: y.sum(),
    "sum of units of one sequence": lambda y, final: y[:, 1].sum(),
    "mean over time": lambda y, final: (y.mean(0) * torch.arange(7.0)).sum(),
    "one row for all steps and sequences": lambda y, final: (y * torch.arange(7.0)).sum(),
    "one column for all units": lambda y, final: (y.sum(-1) * torch.arange(3.0)).sum(),
    "batch first": lambda y, final: (y.transpose(0, 1) * torch.arange(105.0).view(3, 5, 7)).sum(),
    "units first": lambda y, final: (y.permute(2, 1, 0) * torch.arange(105.0).view(7, 3, 5)).sum(),
    "every other unit": lambda y, final: y[..., ::2].exp().sum(),
    "the last step": lambda y, final: y[-1].exp().sum(),
    "the final output": lambda y, final: final[0].sum(),
    "the final state": lambda y, final: final[-1].T.exp().sum(),
    "a part of a complex number": lambda y, final: torch.complex(y, y * 2).conj().imag.exp().sum(),
}


@both_directions
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["RNN sigmoid", "LSTM", "GRU"])
def test_a_gradient_that_arrives_in_any_layout_is_read_right(
    kind: str, loss: str, reverse: bool
) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    sources = dict(cell.named_parameters())
    found = []
    for backend in ("native", "reference"):
        a, *start = leaves(x, *state)
        value = LOSSES[loss](
            *scanned(cell, a, tuple(start), ScanOptions(reverse=reverse, backend=backend))
        )
        gradients = torch.autograd.grad(value, [a, *start, *sources.values()])
        names = ["x", *("h_0", "c_0")[: len(start)], *sources]
        found.append({f"grad of {n}": g for n, g in zip(names, gradients, strict=True)})
    assert_close_by_name(*found, 5)


@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_a_gradient_whose_sign_or_zeros_are_not_written_yet_is_read_right(kind: str) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    (y,), (final, *_) = scan(cell, x, state, ScanOptions(backend="native"))
    wanted = [cell.weight_ih, cell.weight_hh]
    d_y, d_final = torch.randn_like(y), torch.randn_like(final)

    def gradients(d_y: Tensor, d_final: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad([y, final], wanted, [d_y, d_final], retain_graph=True)
        return dict(zip(["weight_ih", "weight_hh"], found, strict=True))

    negated = gradients(torch._neg_view(d_y), torch._neg_view(d_final))
    assert_close_by_name(negated, gradients(-d_y, -d_final), 5)
    nothing = torch._efficientzerotensor(d_y.shape, dtype=d_y.dtype)
    assert_close_by_name(gradients(nothing, d_final), gradients(torch.zeros_like(d_y), d_final), 5)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 5])], ids=["full", "ragged"])
@every_cell
def test_a_gradient_wanted_alone_is_the_one_wanted_among_all(
    kind: str, lengths: Tensor | None
) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    everything = run(cell, x, state, lengths=lengths)
    names = [name.removeprefix("grad of ") for name in everything if name.startswith("grad of")]
    assert len(names) == 5 + len(state)
    for wanted in ([name] for name in names):
        got = run(cell, x, state, lengths=lengths, wanted=wanted)
        expected = {n: v for n, v in everything.items() if n in got}
        assert f"grad of {wanted[0]}" in got
        assert_close_by_name(got, expected, 5)


# --- Extreme values ------------------------------------------------------------------------------


@both_directions
@both_dtypes
@every_cell
def test_large_values_saturate_as_they_do_in_the_reference(
    kind: str, dtype: torch.dtype, reverse: bool
) -> None:
    cell, x, state = make(kind, 6, 4, 3, 6, dtype=dtype)
    signs = [x.sign(), *(s.sign() for s in state)]
    with torch.no_grad():  # an odd number of ±2500, and less besides: no gate is near its middle
        cell.weight_ih.sign_().mul_(0.25)
        cell.weight_hh.sign_().mul_(1 / 32)
    x, *start = (1e4 * sign for sign in signs)
    got = run(cell, x, tuple(start), reverse=reverse)
    assert all(value.isfinite().all() for value in got.values())
    expected = run(cell, x, tuple(start), backend="reference", reverse=reverse)
    # A kernel's exponential ends at the smallest normal number, where PyTorch's ends at 0. What a
    # shut gate lets through is that, times values of 1e4 on its way there and back, in every row.
    least = torch.finfo(dtype).tiny * 1e4**2 * x.shape[0] * x.shape[1]
    shut = {
        name: expected[name].abs().lt(least) & value.abs().lt(least) for name, value in got.items()
    }
    got, expected = (
        {name: value.masked_fill(shut[name], 0) for name, value in values.items()}
        for values in (got, expected)
    )
    assert_close_by_name(got, expected, 6)


@both_dtypes
@every_cell
def test_infinite_inputs_give_what_they_give_in_the_reference(
    kind: str, dtype: torch.dtype
) -> None:
    cell, x, state = make(kind, 5, 5, 3, 19, dtype=dtype)
    x[2, 0, 1], x[1, 3, 0], x[4, 4] = torch.inf, -torch.inf, torch.inf
    got = run(cell, x, state)
    assert_close_by_name(got, run(cell, x, state, backend="reference"), 5)


@both_directions
@both_dtypes
@pytest.mark.parametrize("hidden", [7, 33])
@every_cell
def test_nan_in_one_sequence_stays_in_that_sequence(
    kind: str, hidden: int, dtype: torch.dtype, reverse: bool
) -> None:
    cell, x, state = make(kind, 5, 4, 3, hidden, dtype=dtype)
    clean = run(cell, x, state, reverse=reverse)
    x[2, 1, 0] = torch.nan
    state[0][3, 1] = torch.nan
    got = run(cell, x, state, reverse=reverse)
    for name, value in got.items():
        if "weight" in name or "bias" in name:  # a sum over all sequences
            continue
        sequence = 0 if name.endswith(("_n", "_0")) else 1
        for b in (0, 2):
            own = value.select(sequence, b)
            assert own.isfinite().all(), name
            assert torch.equal(own, clean[name].select(sequence, b)), name
    assert got["h"][:, 1].isnan().any() and got["h"][:, 3].isnan().any()
    assert_close_by_name(got, run(cell, x, state, backend="reference", reverse=reverse), 5)


@pytest.mark.parametrize("filling", [torch.nan, torch.inf])
@both_directions
@pytest.mark.parametrize("hidden", [7, 33])
@every_cell
def test_what_stands_in_the_padding_changes_no_bit(
    kind: str, hidden: int, reverse: bool, filling: float
) -> None:
    lengths = torch.tensor([3, 0, 5, 1])
    padding = torch.arange(6).unsqueeze(1) >= lengths
    cell, x, state = make(kind, 6, 4, 3, hidden, dtype=FLOAT32)
    resets = torch.rand(6, 4) < 0.3
    options = {"lengths": lengths, "reverse": reverse}
    clean = run(cell, x, state, resets=resets & ~padding, **options)
    x[padding] = filling
    got = run(cell, x, state, resets=resets | padding, **options)
    for name, value in clean.items():
        assert value.isfinite().all(), name
        assert torch.equal(got[name], value), name
    assert not got["h"][padding].any()
    assert not got["h norms"][padding].any()
    assert not got["grad of x"][padding].any()


@both_directions
@every_cell
def test_what_a_loss_says_about_the_padding_reaches_nothing(kind: str, reverse: bool) -> None:
    lengths = torch.tensor([3, 0, 5])
    padding = (torch.arange(5).unsqueeze(1) >= lengths).unsqueeze(-1)
    cell, x, state = make(kind, 5, 3, 4, 7)
    found = []
    for factor in (0.0, torch.nan):
        a, *start = leaves(x, *state)
        states, _ = scan(
            cell,
            a,
            tuple(start),
            ScanOptions(lengths=lengths, reverse=reverse, return_states=True, backend="native"),
        )
        weights = [torch.where(padding, factor, torch.ones_like(s)) for s in states]
        found.append(torch.autograd.grad(states, [a, *start, *cell.parameters()], weights))
    for clean, got in zip(*found, strict=True):
        assert clean.isfinite().all()
        assert torch.equal(got, clean)


@both_directions
@every_cell
def test_an_empty_sequence_keeps_its_state_and_passes_its_gradient_through(
    kind: str, reverse: bool
) -> None:
    cell, x, state = make(kind, 5, 2, 3, 7)
    start = leaves(*state)
    resets = torch.ones(5, 2, dtype=torch.bool)
    (y,), final = scan(
        cell,
        x,
        start,
        ScanOptions(lengths=torch.tensor([0, 4]), resets=resets, reverse=reverse, backend="native"),
    )
    assert not y[:, 0].any()
    weights = tuple(torch.randn_like(s) for s in final)
    gradients = torch.autograd.grad(final, start, weights)
    for before, after, weight, gradient in zip(start, final, weights, gradients, strict=True):
        assert torch.equal(after[0], before[0])
        assert torch.equal(gradient[0], weight[0])


# --- What resets mean, and a known answer --------------------------------------------------------


@both_directions
@every_cell
def test_with_resets_each_part_runs_as_if_alone(kind: str, reverse: bool) -> None:
    cell, x, state = make(kind, 9, 1, 3, 17)
    resets = torch.zeros(9, 1, dtype=torch.bool)
    cuts = [0, 3, 4, 9]
    resets[cuts[1:-1]] = True
    (y,), final = scan(
        cell, x, state, ScanOptions(resets=resets, reverse=reverse, backend="native")
    )
    parts = [x[a:b] for a, b in itertools.pairwise(cuts)]
    first = len(parts) - 1 if reverse else 0  # the only one that starts from the state given
    alone = [
        scanned(
            cell,
            part,
            state if k == first else None,
            ScanOptions(reverse=reverse, backend="reference"),
        )
        for k, part in enumerate(parts)
    ]
    last = alone[0 if reverse else -1][1]
    got = {"y": y} | {f"final {i}": s for i, s in enumerate(final)}
    expected = {"y": torch.cat([y for y, _ in alone])}
    expected |= {f"final {i}": s for i, s in enumerate(last)}
    assert_close_by_name(got, expected, 9)


@pytest.mark.parametrize("name", library.built() if library.missing() is None else [])
@pytest.mark.parametrize("a", [0.5, -2.0])
@both_directions
def test_of_h_t_equal_to_a_h_plus_x_the_gradient_and_its_norm_k_steps_back_are_a_to_the_k(
    name: str, a: float, reverse: bool
) -> None:
    T = 12
    cell = cells.Elman(1, 1, activation="identity", bias=False)
    with torch.no_grad():
        cell.weight_ih.fill_(1)
        cell.weight_hh.fill_(a)
    x, norms = torch.randn(T, 1, 1, requires_grad=True), [torch.zeros(T, 1)]
    with library.using(name):
        (_,), (final,) = scan(
            cell, x, None, ScanOptions(norms=norms, reverse=reverse, backend="native")
        )
        (gradient,) = torch.autograd.grad(final.sum(), x)
    # Powers of ±2 are exact, so the answer is too.
    powers = torch.tensor([a ** (T - 1 - t) for t in range(T)])
    powers = powers.flip(0) if reverse else powers
    assert torch.equal(gradient.flatten(), powers)
    assert torch.equal(norms[0].flatten(), powers.abs())


# --- Rounding -------------------------------------------------------------------------------------


def test_a_wider_cell_may_round_more_and_a_wrong_number_is_found_even_so() -> None:
    assert steps_of_rounding(cells.LSTM(5, 33), 7) == 7
    wide, x, state = make("LSTM", 7, 2, 33, 100)
    steps = steps_of_rounding(wide, 7)
    assert 7 < steps < 4 * 8
    expected = run(wide, x, state)
    for name in expected:
        wrong = {n: v.clone() for n, v in expected.items()}
        wrong[name].view(-1)[-1] += 1e-12 * expected[name].abs().max()
        with pytest.raises(AssertionError, match=f"^{name}: 1 of "):
            assert_close_by_name(wrong, expected, steps)
