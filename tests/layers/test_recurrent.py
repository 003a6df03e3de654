"""Layers: against ``torch.nn``, against scans composed by hand, and against what they promise."""

import copy
import functools
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.compare import (
    DROP_INS,
    assert_close_by_name,
    collect,
    copy_weights,
    leaves,
    named_state,
    parameters_by_torch_name,
    run_recurrent,
    run_torch,
)
from unrolled import Recurrent, cells
from unrolled.cells import Cell, State
from unrolled.layers import Merge, Result
from unrolled.scan import ScanOptions, native, scan

FLOAT64 = torch.float64


class Case(NamedTuple):
    """One shape of network and of batch to compare at."""

    T: int
    B: int
    D: int
    H: int
    depth: int = 1
    bidirectional: bool = False
    lengths: list[int] | None = None
    given_state: bool = True
    batch_first: bool = False
    bias: bool = True

    def described(self) -> str:
        """The sizes, and whatever is not the default."""
        sizes = f"T{self.T} B{self.B} D{self.D} H{self.H} L{self.depth}"
        said = {"both": self.bidirectional, "ragged": self.lengths, "zeros": not self.given_state}
        said |= {"batch first": self.batch_first, "no bias": not self.bias}
        return " ".join([sizes, *(word for word, holds in said.items() if holds)])

    def drop_ins(self, kind: str, dtype: torch.dtype) -> tuple[nn.RNNBase, Recurrent]:
        """A layer of ``torch.nn`` and ours, with the same weights."""
        drop_in = DROP_INS[kind]
        options = {name: getattr(self, name) for name in ("bidirectional", "batch_first", "bias")}
        source = drop_in.layer(self.D, self.H, num_layers=self.depth, **options, **drop_in.options)
        target = Recurrent(
            drop_in.cell, self.D, self.H, depth=self.depth, **options, **drop_in.cell_options
        )
        source, target = source.to(dtype), target.to(dtype)
        copy_weights(source, target)
        return source, target

    def draw(self, layer: Recurrent, dtype: torch.dtype) -> tuple[Tensor, State | None]:
        """A random input, and a random initial state if one is given."""
        shape = (self.B, self.T) if self.batch_first else (self.T, self.B)
        x = torch.randn(*shape, self.D, dtype=dtype)
        return x, random_state(layer, self.B, dtype) if self.given_state else None


def random_state(layer: Recurrent, batch_size: int, dtype: torch.dtype = FLOAT64) -> State:
    """A state to start ``layer`` from, none of it zero."""
    sizes = layer.cells[0].state_sizes
    return tuple(torch.randn(len(layer.cells), batch_size, size, dtype=dtype) for size in sizes)


# Each case moves several things at once, at odd sizes; between them every pair of settings that can
# interact meets: depth and directions with lengths, with a given state, with batch first.
CASES = [
    Case(1, 1, 3, 1, given_state=False),
    Case(1, 3, 5, 17, depth=3, bidirectional=True),
    Case(1, 3, 5, 7, depth=2, bidirectional=True, lengths=[1, 1, 1], given_state=False),
    Case(5, 1, 5, 7, depth=2),
    Case(5, 1, 3, 1, depth=3, bidirectional=True, lengths=[3]),
    Case(5, 3, 3, 1, depth=2, lengths=[1, 5, 3], bias=False),
    Case(5, 3, 5, 7, bidirectional=True),
    Case(5, 3, 5, 7, lengths=[5, 2, 1]),
    Case(5, 3, 5, 7, bidirectional=True, lengths=[2, 1, 4]),
    Case(5, 3, 5, 7, depth=3, batch_first=True),
    Case(5, 3, 5, 7, depth=2, bidirectional=True, lengths=[4, 5, 1], given_state=False),
    Case(5, 3, 3, 17, depth=3, bidirectional=True, lengths=[4, 1, 5], batch_first=True),
    Case(5, 1, 5, 33, depth=2, bidirectional=True, given_state=False, bias=False),
    Case(63, 1, 3, 33, bidirectional=True, given_state=False, batch_first=True),
    Case(63, 3, 5, 33),
    Case(63, 3, 5, 17, depth=2, lengths=[63, 1, 40]),
    Case(63, 3, 3, 7, depth=3, bidirectional=True, lengths=[20, 63, 7]),
]


@pytest.mark.each_value(2)
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=Case.described)
@pytest.mark.parametrize("kind", DROP_INS)
def test_equals_torch_nn_in_every_output_state_and_gradient(
    kind: str, case: Case, dtype: torch.dtype
) -> None:
    source, target = case.drop_ins(kind, dtype)
    x, state = case.draw(target, dtype)
    got = run_recurrent(target, x, state, case.lengths)
    assert_close_by_name(got, run_torch(source, x, state, case.lengths), case.T)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", DROP_INS)
def test_a_sequence_of_length_zero_is_as_if_it_were_not_there(kind: str, depth: int) -> None:
    case = Case(5, 3, 3, 7, depth=depth, bidirectional=True)
    _, layer = case.drop_ins(kind, FLOAT64)
    x, state = case.draw(layer, FLOAT64)
    others = [0, 2]

    def run(x: Tensor, state: State, lengths: list[int], rows: list[int]) -> dict[str, Tensor]:
        x, *start = leaves(x, *state)
        y, final = layer(x, tuple(start), lengths=lengths)
        outputs = {"y": y[:, rows]} | named_state(tuple(s[:, rows] for s in final), "_n")
        sources = {"x": x} | named_state(tuple(start), "_0") | parameters_by_torch_name(layer)
        return collect(outputs, sources)

    got = run(x, state, [3, 0, 5], others)
    of_sequences = ["grad of x"] + [name for name in got if name.endswith("_0")]
    for name in of_sequences:
        assert not got[name][:, 1].any(), name  # other sequences do not depend on this one
        got[name] = got[name][:, others]
    without = run(x[:, others], tuple(s[:, others] for s in state), [3, 5], [0, 1])
    assert_close_by_name(got, without, case.T)


@pytest.mark.parametrize("kind", DROP_INS)
def test_a_sequence_of_length_zero_has_no_output_and_ends_in_its_initial_state(kind: str) -> None:
    case = Case(5, 3, 3, 7, depth=2, bidirectional=True)
    _, layer = case.drop_ins(kind, FLOAT64)
    x, state = case.draw(layer, FLOAT64)
    start = leaves(*state)
    y, final = layer(x, start, lengths=[3, 0, 5])
    assert not y[:, 1].any()
    weights = tuple(torch.randn_like(s) for s in final)
    gradients = torch.autograd.grad(final, start, weights)
    for before, after, weight, gradient in zip(start, final, weights, gradients, strict=True):
        assert torch.equal(after[:, 1], before[:, 1])
        assert torch.equal(gradient[:, 1], weight[:, 1])
    _, from_zeros = layer(x, lengths=[3, 0, 5])
    assert not any(s[:, 1].any() for s in from_zeros)


@pytest.mark.parametrize("lengths", [[0, 0, 0], [3, 0, 5]])
@pytest.mark.parametrize("filling", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("kind", DROP_INS)
def test_what_stands_in_the_padding_changes_no_bit_at_any_depth(
    kind: str, filling: float, lengths: list[int]
) -> None:
    case = Case(5, 3, 3, 7, depth=2, bidirectional=True)
    _, layer = case.drop_ins(kind, FLOAT64)
    x, state = case.draw(layer, FLOAT64)
    padding = torch.arange(5).unsqueeze(1) >= torch.tensor(lengths)
    x[padding] = 0
    expected = run_recurrent(layer, x, state, lengths)
    x[padding] = filling
    got = run_recurrent(layer, x, state, lengths)
    for name, value in expected.items():
        assert value.isfinite().all(), name
        assert torch.equal(got[name], value), name
    assert not got["y"][padding].any()
    assert not got["grad of x"][padding].any()


MERGES: dict[Merge, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda forward, backward: torch.cat([forward, backward], -1),
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: 0.5 * forward + 0.5 * backward,
}


def composed(layer: Recurrent, x: Tensor, state: State, lengths: Tensor | None) -> Result:
    """``layer`` as scans of its cells, two a level, merged as ``MERGES`` says."""
    forward, backward, finals = x, x, []
    for level in range(layer.depth):
        ys = []
        for direction, stream in enumerate((forward, backward)):
            k = 2 * level + direction
            start = tuple(s[k] for s in state)
            (y,), final = scan(
                layer.cells[k], stream, start, ScanOptions(lengths=lengths, reverse=bool(direction))
            )
            ys.append(y)
            finals.append(final)
        if layer.merge == "separate":
            forward, backward = ys
        else:
            forward = backward = MERGES[layer.merge](*ys)
    y = (forward, backward) if layer.merge == "separate" else forward
    return Result(y, tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True)))


@pytest.mark.parametrize("lengths", [None, [3, 0, 5]], ids=["full", "ragged"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("merge", [*MERGES, "separate"])
def test_a_bidirectional_layer_is_two_scans_a_level_and_their_merging(
    merge: Merge, depth: int, lengths: list[int] | None
) -> None:
    layer = Recurrent(cells.LSTM, 3, 5, depth=depth, bidirectional=True, merge=merge).double()
    x, state = torch.randn(5, 3, 3).double(), random_state(layer, 3)
    got = run_recurrent(layer, x, state, lengths)

    u, *start = leaves(x, *state)
    y, final = composed(layer, u, tuple(start), None if lengths is None else torch.tensor(lengths))
    ys = {"y": y[0], "y_reverse": y[1]} if merge == "separate" else {"y": y}
    sources = {"x": u} | named_state(tuple(start), "_0") | parameters_by_torch_name(layer)
    assert_close_by_name(got, collect(ys | named_state(final, "_n"), sources), 5)
    if merge != "concat":
        assert got["y"].shape == (5, 3, 5)


def test_a_linear_map_of_concatenated_directions_is_one_map_of_each() -> None:
    layer = Recurrent(cells.Elman, 3, 5, bidirectional=True).double()
    x = torch.randn(4, 2, 3).double()
    V, V_reverse = torch.randn(7, 5).double(), torch.randn(7, 5).double()
    (A,), _ = scan(layer.cells[0], x)
    (A_reverse,), _ = scan(layer.cells[1], x, None, ScanOptions(reverse=True))
    got = layer(x).y @ torch.cat([V, V_reverse], 1).T
    assert_close_by_name({"y": got}, {"y": A @ V.T + A_reverse @ V_reverse.T}, 4)


def influence(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """How much each output knows of each input: [t, k] is the norm of ∂y_t/∂x_k, for one sequence."""
    jacobian = torch.func.jacrev(lambda x: call(x)[:, 0])(x)  # [T, H, T, 1, D]
    return jacobian.pow(2).sum((1, 3, 4)).sqrt()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_an_output_depends_on_every_earlier_input_and_on_no_later_one(
    cell: type[Cell], depth: int
) -> None:
    layer = Recurrent(cell, 3, 5, depth=depth).double()
    known = influence(lambda x: layer(x).y, torch.randn(6, 1, 3).double())
    assert torch.equal(known > 0, torch.ones(6, 6).tril().bool())


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("depth", [1, 2])
def test_an_output_of_both_directions_depends_on_every_input(depth: int, merge: Merge) -> None:
    layer = Recurrent(cells.GRU, 3, 5, depth=depth, bidirectional=True, merge=merge).double()
    assert (influence(lambda x: layer(x).y, torch.randn(6, 1, 3).double()) > 0).all()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_apart_the_forward_stack_never_knows_the_future_nor_the_backward_one_the_past(
    cell: type[Cell], depth: int
) -> None:
    layer = Recurrent(cell, 3, 5, depth=depth, bidirectional=True, merge="separate").double()
    x = torch.randn(6, 1, 3).double()
    past = torch.ones(6, 6).tril().bool()
    assert torch.equal(influence(lambda x: layer(x).y[0], x) > 0, past)
    assert torch.equal(influence(lambda x: layer(x).y[1], x) > 0, past.T)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 2, "residual": True},
        {"depth": 3, "residual": "highway"},
        {"depth": 2, "projection": 4},
        {"hidden_size": [5, 7]},
        {"depth": 2, "learn_initial_state": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU])
def test_one_direction_is_one_stack_that_goes_on_from_its_state(
    cell: type[Cell], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 5} | options
    layer = Recurrent(cell, 3, bidirectional=True, merge="separate", **sizes).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.7, 0.7)
    x, lengths = torch.randn(6, 3, 3).double(), torch.tensor([6, 4, 1])
    ys = layer(x, lengths=lengths).y
    forward, backward = layer.direction(0), layer.direction(1)
    assert torch.equal(forward(x, lengths=lengths).y, ys[0])
    for sequence, n in enumerate(lengths.tolist()):
        own = x[:n, sequence : sequence + 1].flip(0)
        torch.testing.assert_close(backward(own).y.flip(0), ys[1][:n, sequence : sequence + 1])
        for way, read, expected in ((forward, own.flip(0), ys[0]), (backward, own, ys[1].flip(0))):
            first, state = way(read[: n // 2]) if n > 1 else (read[:0], None)
            after, _ = way(read[n // 2 :], state)
            whole = expected[:n, sequence] if way is forward else expected[6 - n :, sequence]
            torch.testing.assert_close(
                torch.cat([first[:, 0], after[:, 0]]) if n > 1 else after[:, 0], whole
            )
    assert {id(p) for way in (forward, backward) for p in way.parameters()} == {
        id(p) for p in layer.parameters()
    }
    assert not {id(p) for p in forward.parameters()} & {id(p) for p in backward.parameters()}
    assert layer.directions == 2  # the layer itself is as it was
    assert torch.equal(layer(x, lengths=lengths).y[1], ys[1])


def test_one_direction_learns_what_the_layer_learns_and_refuses_what_is_merged() -> None:
    layer = Recurrent(cells.GRU, 3, 5, bidirectional=True, merge="separate")
    layer.direction(1)(torch.randn(4, 2, 3)).y.sum().backward()
    assert layer.cells[0].weight_hh.grad is None
    assert layer.cells[1].weight_hh.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"k: got 2, expected at most 1"):
        layer.direction(2)
    with pytest.raises(TypeError, match=r"k: got 'left', expected a whole number"):
        layer.direction("left")  # type: ignore[arg-type]
    for merged in (Recurrent(cells.GRU, 3, 5), Recurrent(cells.GRU, 3, 5, bidirectional=True)):
        with pytest.raises(ValueError, match=r"direction: got a layer with merge='concat'"):
            merged.direction(0)


def test_with_lengths_both_directions_know_the_real_steps_and_no_padding() -> None:
    layer = Recurrent(cells.GRU, 3, 5, depth=2, bidirectional=True).double()
    x = torch.randn(6, 1, 3).double()
    real = torch.zeros(6, 6).bool()
    real[:4, :4] = True
    assert torch.equal(influence(lambda x: layer(x, lengths=[4]).y, x) > 0, real)


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_of_linear_directions_the_gradient_across_k_steps_is_a_to_the_k(merge: Merge) -> None:
    a, T = 0.5, 6
    layer = Recurrent(
        cells.Elman, 1, 1, bidirectional=True, merge=merge, activation="identity", bias=False
    ).double()
    with torch.no_grad():
        for cell in layer.cells:
            cell.weight_ih.fill_(1)
            cell.weight_hh.fill_(a)
    known = influence(lambda x: layer(x).y, torch.randn(T, 1, 1).double())
    # At its own step an input reaches the output by both directions. Powers of 2 are exact.
    both = [[a ** abs(t - k) * (2 if t == k else 1) for k in range(T)] for t in range(T)]
    assert torch.equal(known, torch.tensor(both).double() / (1 if merge == "sum" else 2))


class Echo(Cell):
    """A cell whose output is its input, which shows what a layer does between its cells."""

    def project(self, x: Tensor) -> Tensor:
        return x

    def step(self, projected: Tensor, state: State) -> State:
        return (projected,)


def test_dropout_drops_its_share_between_layers_and_keeps_the_mean() -> None:
    share, x = 0.3, torch.ones(40, 50, 50)
    y, (final,) = Recurrent(Echo, 50, 50, depth=2, dropout=share)(x)
    dropped = (y == 0).float().mean().item()
    # 100,000 draws of variance p (1 - p): five standard deviations.
    assert abs(dropped - share) < 5 * (share * (1 - share) / x.numel()) ** 0.5
    # Dropped once, after the first layer alone: the rest is scaled by 1 / (1 - p) once.
    assert torch.equal(y[y != 0].unique(), torch.tensor([1 / (1 - share)]))
    assert torch.equal(final[0], x[-1])
    assert torch.equal(final[1], y[-1])


def test_dropout_comes_after_every_layer_but_the_last() -> None:
    x = torch.ones(20, 50, 50)
    y = Recurrent(Echo, 50, 50, depth=3, dropout=0.5)(x).y
    assert y.unique().tolist() == [0, 4]
    # A unit survives both times with probability 1/4: five standard deviations.
    assert abs((y != 0).float().mean().item() - 0.25) < 5 * (0.25 * 0.75 / x.numel()) ** 0.5
    assert torch.equal(Recurrent(Echo, 50, 50, depth=1, dropout=0.5)(x).y, x)


def test_dropout_is_drawn_anew_for_each_call_and_each_direction() -> None:
    x = torch.ones(9, 3, 50)
    layer = Recurrent(Echo, 50, 50, depth=2, dropout=0.5, bidirectional=True, merge="separate")
    (forward, backward), (again, _) = layer(x).y, layer(x).y
    assert not torch.equal(forward, backward)
    assert not torch.equal(forward, again)


@pytest.mark.parametrize("kind", DROP_INS)
def test_dropout_is_off_in_evaluation(kind: str) -> None:
    drop_in = DROP_INS[kind]
    with_dropout = Recurrent(drop_in.cell, 3, 5, depth=3, dropout=0.5, **drop_in.cell_options)
    without = Recurrent(drop_in.cell, 3, 5, depth=3, **drop_in.cell_options)
    without.load_state_dict(with_dropout.state_dict())
    x = torch.randn(4, 2, 3)
    assert not torch.equal(with_dropout(x).y, without(x).y)
    assert torch.equal(with_dropout.eval()(x).y, without(x).y)


def test_dropout_leaves_the_padding_zero() -> None:
    layer = Recurrent(cells.GRU, 3, 5, depth=2, dropout=0.5, bidirectional=True)
    y, _ = layer(
        torch.full((4, 2, 3), torch.nan).index_fill(0, torch.tensor([0]), 1), lengths=[1, 0]
    )
    assert y[0, 0].all()
    assert not y[1:].any()
    assert not y[:, 1].any()


def layers() -> list[Recurrent]:
    """A layer of each cell, and of a function as activation."""
    return [
        Recurrent(cells.LSTM, 3, 5, depth=2, bidirectional=True),
        Recurrent(cells.GRU, 3, 5, depth=2, merge="sum", bidirectional=True, batch_first=True),
        Recurrent(cells.Elman, 3, 5, activation="identity"),
        Recurrent(cells.Elman, 3, 5, activation=F.softplus, bias=False),
    ]


@pytest.mark.parametrize("k", range(len(layers())))
def test_weights_saved_and_loaded_make_the_same_layer(k: int) -> None:
    source, target, x = layers()[k], layers()[k], torch.randn(4, 3, 3)
    assert not torch.equal(source(x).y, target(x).y)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(source(x).y, target(x).y)


def test_weights_are_saved_under_their_cells_and_are_all_there_is() -> None:
    layer = Recurrent(cells.GRU, 3, 5, depth=2, bidirectional=True)
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    expected = {f"cells.{k}.{name}" for k in range(4) for name in names}
    assert set(layer.state_dict()) == expected
    assert {name for name, _ in layer.named_parameters()} == expected
    widths = [list(layer.state_dict()[f"cells.{k}.weight_ih"].shape) for k in range(4)]
    assert widths == [[15, 3], [15, 3], [15, 10], [15, 10]]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("k", range(len(layers())))
def test_a_copy_computes_the_same_and_shares_nothing(
    k: int, copied: Callable[[Recurrent], Recurrent]
) -> None:
    layer, x = layers()[k], torch.randn(4, 3, 3)
    drop_in, before = copied(layer), layer(x).y
    assert torch.equal(drop_in(x).y, before)
    with torch.no_grad():
        for parameter in drop_in.parameters():
            parameter.zero_()
    assert torch.equal(layer(x).y, before)
    assert not torch.equal(drop_in(x).y, before)


class Remembering(Cell):
    """A cell as a user writes it: two states of unlike widths, and a parameter of its own."""

    def __init__(self, input_size: int, hidden_size: int, *, memory: int = 2) -> None:
        super().__init__(input_size, hidden_size)
        self.memory = memory
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_mh = nn.Parameter(torch.empty(hidden_size, memory))
        self.weight_hm = nn.Parameter(torch.empty(memory, hidden_size))
        self.rate = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.memory)

    def project(self, x: Tensor) -> Tensor:
        return x @ self.weight_ih.T

    def step(self, projected: Tensor, state: State) -> State:
        h, m = state
        m = m + self.rate * (h @ self.weight_hm.T)
        return torch.tanh(projected + m @ self.weight_mh.T), m


def test_a_cell_of_your_own_runs_deep_in_both_directions_with_lengths() -> None:
    layer = Recurrent(Remembering, 3, 5, depth=2, bidirectional=True, memory=4).double()
    lengths, x, state = [4, 0, 2], torch.randn(5, 3, 3).double(), random_state(layer, 3)
    got = run_recurrent(layer, x, state, lengths)

    u, *start = leaves(x, *state)
    ys, finals = [], []
    for b, n in enumerate(lengths):
        sequence = slice(b, b + 1)
        y, final = layer(u[:n, sequence], tuple(s[:, sequence] for s in start))
        ys.append(F.pad(y, (0, 0, 0, 0, 0, 5 - n)))
        finals.append(final)
    alone = tuple(torch.cat(tensors, 1) for tensors in zip(*finals, strict=True))
    sources = {"x": u} | named_state(tuple(start), "_0") | parameters_by_torch_name(layer)
    expected = collect({"y": torch.cat(ys, 1)} | named_state(alone, "_n"), sources)
    assert_close_by_name(got, expected, 5)
    assert [list(s.shape) for s in layer(x).state] == [[4, 3, 5], [4, 3, 4]]
    # Each of its own parameters takes part: a gradient that is zero by mistake would compare equal.
    for name in parameters_by_torch_name(layer):
        assert got[f"grad of {name}"].any(), name


def test_a_function_that_returns_a_cell_does_as_well_as_a_class() -> None:
    relu = Recurrent(functools.partial(cells.Elman, activation="relu"), 3, 5, depth=2)
    assert [cell.activation for cell in relu.cells] == ["relu", "relu"]
    assert [(cell.input_size, cell.hidden_size) for cell in relu.cells] == [(3, 5), (5, 5)]


def test_the_result_unpacks_and_names_its_parts() -> None:
    result = Recurrent(cells.LSTM, 3, 5)(torch.randn(4, 2, 3))
    y, (h_n, c_n) = result
    assert y is result.y
    assert h_n is result.state[0]
    assert torch.equal(h_n[0], y[-1])
    assert not torch.equal(c_n, h_n)


@pytest.mark.parametrize("merge", [*MERGES, "separate"])
def test_batch_first_swaps_time_and_sequences_of_input_and_output_and_of_nothing_else(
    merge: Merge,
) -> None:
    options = {"depth": 2, "bidirectional": True, "merge": merge}
    layer = Recurrent(cells.LSTM, 3, 5, **options).double()
    swapped = Recurrent(cells.LSTM, 3, 5, **options, batch_first=True).double()
    swapped.load_state_dict(layer.state_dict())
    x, state = torch.randn(4, 2, 3).double(), random_state(layer, 2)
    expected = run_recurrent(layer, x, state, [4, 1])
    got = run_recurrent(swapped, x.transpose(0, 1), state, [4, 1])
    # Of another shape the outputs are weighted otherwise: gradients are left to the drop-in layers' cases.
    values = {name: value for name, value in expected.items() if not name.startswith("grad")}
    in_order = {n: got[n].transpose(0, 1) if n.startswith("y") else got[n] for n in values}
    assert_close_by_name(in_order, values, 4)


def test_inputs_and_states_that_are_not_contiguous_or_are_expanded_are_read_right() -> None:
    layer = Recurrent(cells.GRU, 3, 5, depth=2, bidirectional=True).double()
    for x in (
        torch.randn(3, 4, 3).double().transpose(0, 1),
        torch.randn(8, 3, 6).double()[::2, :, ::2],
        torch.randn(1, 1, 3).double().expand(4, 3, 3),
    ):
        state = (torch.randn(4, 1, 5).double().expand(4, 3, 5),)
        assert not x.is_contiguous()
        assert not state[0].is_contiguous()
        got = run_recurrent_as_given(layer, x, state)
        plain = run_recurrent_as_given(layer, x.contiguous(), (state[0].contiguous(),))
        assert_close_by_name(got, plain, 4)


def run_recurrent_as_given(layer: Recurrent, x: Tensor, state: State) -> dict[str, Tensor]:
    """Like ``run_recurrent``, but without a copy, which would lose the strides."""
    y, final = layer(x, state, lengths=[4, 0, 2])
    return collect({"y": y} | named_state(final, "_n"), parameters_by_torch_name(layer))


@pytest.mark.parametrize(
    "lengths",
    [
        (4, 0, 2),
        torch.tensor([4, 0, 2]),
        torch.tensor([4, 0, 2], dtype=torch.int32),
        torch.tensor([4, 0, 2], dtype=torch.uint8),
        torch.tensor([4, 0, 2]).numpy(),
        [torch.tensor(4), torch.tensor(0), torch.tensor(2)],
    ],
    ids=["tuple", "int64", "int32", "uint8", "numpy", "list of tensors"],
)
def test_lengths_may_be_whole_numbers_of_any_kind(lengths: object) -> None:
    layer, x = Recurrent(cells.GRU, 3, 5, bidirectional=True), torch.randn(4, 3, 3)
    expected = layer(x, lengths=[4, 0, 2])
    y, (final,) = layer(x, lengths=lengths)
    assert torch.equal(y, expected.y)
    assert torch.equal(final, expected.state[0])
    assert not torch.equal(y, layer(x).y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("kind", DROP_INS)
def test_half_precision_runs_forward_and_backward(kind: str, dtype: torch.dtype) -> None:
    _, layer = Case(5, 3, 3, 7, depth=2, bidirectional=True).drop_ins(kind, dtype)
    x = torch.randn(5, 3, 3, dtype=dtype)
    results = run_recurrent(layer, x, random_state(layer, 3, dtype), [5, 0, 2])
    assert results["y"].shape == (5, 3, 14)
    assert results["h_n"].shape == (4, 3, 7)
    for name, value in results.items():
        assert value.dtype == dtype, name
        assert value.isfinite().all(), name


def test_everything_is_made_on_the_inputs_device() -> None:
    layer = Recurrent(cells.LSTM, 3, 5, depth=2, bidirectional=True).to("meta")
    y, state = layer(torch.randn(4, 2, 3, device="meta"), lengths=[1, 4])
    assert {tensor.device.type for tensor in (y, *state)} == {"meta"}


@pytest.mark.parametrize("merge", [*MERGES, "separate"])
@pytest.mark.parametrize(("steps", "batch_size"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_sequences_give_empty_outputs_of_the_right_shape(
    steps: int, batch_size: int, merge: Merge
) -> None:
    layer = Recurrent(cells.LSTM, 3, 5, depth=2, bidirectional=True, merge=merge)
    for lengths in (None, torch.zeros(batch_size, dtype=torch.int64)):
        state = random_state(layer, batch_size, torch.float32)
        y, final = layer(torch.randn(steps, batch_size, 3), state, lengths=lengths)
        width = 10 if merge == "concat" else 5
        for output in y if merge == "separate" else (y,):
            assert output.shape == (steps, batch_size, width)
        assert all(torch.equal(s, before) for s, before in zip(final, state, strict=True))


def test_frozen_weights_get_no_gradient_and_the_others_the_same_as_ever() -> None:
    layer, x = Recurrent(cells.LSTM, 3, 5, depth=2).double(), torch.randn(4, 2, 3).double()
    layer(x).y.sum().backward()
    expected = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    layer.cells[0].weight_hh.requires_grad_(False)
    layer(x).y.sum().backward()
    for name, parameter in layer.named_parameters():
        if name == "cells.0.weight_hh":
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, expected[name]), name
    layer.requires_grad_(False)
    assert not layer(x).y.requires_grad


def test_one_vmap_runs_an_ensemble_of_layers() -> None:
    many = [Recurrent(cells.GRU, 3, 5, depth=2, bidirectional=True).double() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(many)
    x = torch.randn(4, 3, 3).double()

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        weights = (parameters, buffers)
        return torch.func.functional_call(many[0], weights, (x,), {"lengths": [4, 0, 2]}).y

    got = torch.vmap(call)(parameters, buffers)
    expected = torch.stack([layer(x, lengths=[4, 0, 2]).y for layer in many])
    assert_close_by_name({"y": got}, {"y": expected}, 4)


def test_it_shows_its_sizes_and_its_directions() -> None:
    assert repr(Recurrent(cells.GRU, 3, 5)).startswith("Recurrent(\n  3, 5, depth=1\n")
    shown = repr(Recurrent(cells.GRU, 3, 5, depth=2, bidirectional=True, merge="sum"))
    assert "3, 5, depth=2, bidirectional, merge=sum" in shown


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"input_size": 0}, ValueError, "^input_size: got 0, expected at least 1"),
        ({"hidden_size": -2}, ValueError, "^hidden_size: got -2, expected at least 1"),
        ({"hidden_size": True}, TypeError, "^hidden_size: got True, expected a whole number"),
        ({"depth": 0}, ValueError, "^depth: got 0, expected at least 1"),
        ({"depth": 1.0}, TypeError, "^depth: got 1.0, expected a whole number"),
        ({"dropout": 1}, ValueError, "^dropout: got 1, expected a number from 0"),
        ({"dropout": -0.1}, ValueError, "^dropout: got -0.1, expected a number from 0"),
        ({"merge": "max"}, ValueError, "^merge: got 'max', expected .*concat, sum, mean, separate"),
        ({"activation": "relu"}, TypeError, "activation"),
        ({"num_layers": 2}, TypeError, "num_layers"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_by_name(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Recurrent(**({"cell": cells.GRU, "input_size": 3, "hidden_size": 5} | options))


T4B2 = torch.zeros(4, 2, 3)
STATE = torch.zeros(2, 2, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"x": T4B2[0]}, ValueError, r"^x: got shape \[2, 3\], expected \[T, B, 3\]; .*unsqueeze"),
        ({"x": T4B2[..., :2]}, ValueError, r"^x: got shape \[4, 2, 2\], expected \[T, B, 3\]$"),
        ({"x": T4B2.long()}, TypeError, r"^x: got torch.int64, expected a floating dtype; .*float"),
        ({"x": T4B2.numpy()}, TypeError, r"^x: got ndarray, expected a tensor \[T, B, 3\]"),
        (
            {"lengths": [4]},
            ValueError,
            r"^lengths: got shape \[1\], expected \[2\], one a sequence",
        ),
        ({"lengths": [5, 1]}, ValueError, "^lengths: got 5, expected from 0 to T = 4"),
        ({"lengths": [1, -1]}, ValueError, "^lengths: got -1, expected from 0 to T = 4"),
        ({"lengths": [1.0, 2.0]}, TypeError, "^lengths: got torch.float32, expected whole numbers"),
        ({"state": STATE}, TypeError, r"^state: got Tensor, expected a tuple .*\[2, 2, 5\]"),
        (
            {"state": (STATE,)},
            ValueError,
            r"^state: got shapes \[2, 2, 5\], expected \[2, 2, 5\], \[2, 2, 5\]$",
        ),
        (
            {"state": (STATE, STATE[:, :1])},
            ValueError,
            r"^state: got shapes \[2, 2, 5\], \[2, 1, 5\], expected \[2, 2, 5\], \[2, 2, 5\]$",
        ),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_got_and_what_was_expected(
    arguments: dict[str, object], error: type[Exception], match: str
) -> None:
    layer = Recurrent(cells.LSTM, 3, 5, depth=2)
    with pytest.raises(error, match=match):
        layer(**({"x": T4B2} | arguments))


def test_batch_first_says_so_when_it_refuses() -> None:
    layer = Recurrent(cells.GRU, 3, 5, batch_first=True)
    with pytest.raises(ValueError, match=r"^x: got shape \[4, 2, 4\], expected \[B, T, 3\]$"):
        layer(torch.zeros(4, 2, 4))
    # B is 4 and T is 2: lengths and states count sequences, wherever they stand.
    with pytest.raises(ValueError, match=r"^lengths: got shape \[2\], expected \[4\]"):
        layer(T4B2, lengths=[1, 1])
    with pytest.raises(ValueError, match=r"^lengths: got 3, expected from 0 to T = 2"):
        layer(T4B2, lengths=[1, 1, 3, 1])
    with pytest.raises(ValueError, match=r"^state: got shapes \[1, 2, 5\], expected \[1, 4, 5\]$"):
        layer(T4B2, (torch.zeros(1, 2, 5),))


sizes = st.integers(1, 4)


@given(
    steps=st.integers(0, 4),
    batch_size=st.integers(0, 3),
    features=sizes,
    hidden=sizes,
    depth=st.integers(1, 3),
    bidirectional=st.booleans(),
    merge=st.sampled_from([*MERGES, "separate"]),
    batch_first=st.booleans(),
    cell=st.sampled_from([cells.Elman, cells.LSTM, cells.GRU, Remembering]),
)
def test_the_shapes_are_those_of_the_alphabet(
    steps: int,
    batch_size: int,
    features: int,
    hidden: int,
    depth: int,
    bidirectional: bool,
    merge: Merge,
    batch_first: bool,
    cell: type[Cell],
) -> None:
    bidirectional = bidirectional or merge == "separate"  # one direction has nothing to keep apart
    options = {"bidirectional": bidirectional, "merge": merge, "batch_first": batch_first}
    layer = Recurrent(cell, features, hidden, depth=depth, **options)
    leading = (batch_size, steps) if batch_first else (steps, batch_size)
    result = layer(torch.randn(*leading, features))
    directions = 2 if bidirectional else 1
    ys = result.y if bidirectional and merge == "separate" else (result.y,)
    width = hidden * directions if merge == "concat" else hidden
    assert [y.shape for y in ys] == [(*leading, width)] * len(ys)
    widths = layer.cells[0].state_sizes
    assert [s.shape for s in result.state] == [(depth * directions, batch_size, w) for w in widths]


@given(data=st.data())
def test_sequences_know_nothing_of_each_other_nor_of_how_far_they_are_padded(
    data: st.DataObject,
) -> None:
    T, B = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    order, more = data.draw(st.permutations(range(B))), data.draw(st.integers(0, 3))
    cell = data.draw(st.sampled_from([cells.Elman, cells.LSTM, cells.GRU]))
    layer = Recurrent(cell, 3, 5, depth=2, bidirectional=True).double()
    x, state = torch.randn(T, B, 3).double(), random_state(layer, B)
    y, final = layer(x, state, lengths=lengths)

    longer = F.pad(x[:, order], (0, 0, 0, 0, 0, more), value=torch.nan)
    got, last = layer(longer, tuple(s[:, order] for s in state), lengths=lengths[order])
    assert not got[T:].any()
    assert_close_by_name(
        {"y": got[:T]} | named_state(last, "_n"),
        {"y": y[:, order]} | named_state(tuple(s[:, order] for s in final), "_n"),
        T,
    )


@pytest.mark.parametrize("merge", MERGES)
def test_dropout_drops_its_share_of_what_the_next_layer_reads(merge: Merge) -> None:
    read: list[torch.Tensor] = []

    class Told(Echo):
        def project(self, x: torch.Tensor) -> torch.Tensor:
            read.append(x)
            return x[..., :20]

    width = 40 if merge == "concat" else 20
    layer = Recurrent(Told, 20, 20, depth=2, dropout=0.5, bidirectional=True, merge=merge)
    layer.backend = "reference"
    layer(torch.ones(50, 20, 20))
    assert read[2].shape[-1] == width
    dropped = (read[2] == 0).double().mean().item()
    # a mean of n fair coins: five standard deviations, 5 * 0.5 / sqrt(n)
    assert abs(dropped - 0.5) < 2.5 / read[2].numel() ** 0.5
    assert torch.equal(read[2], read[3])  # both directions read the same


def test_a_step_that_breaks_the_contract_is_refused_with_the_name_of_its_cell() -> None:
    class Bare(Echo):
        def step(self, projected: torch.Tensor, state: State) -> State:
            return projected  # type: ignore[return-value]

    class Wide(Echo):
        def step(self, projected: torch.Tensor, state: State) -> State:
            return (torch.cat([projected, projected], -1),)

    x = torch.zeros(2, 3, 4)
    with pytest.raises(TypeError, match=r"^Bare\.step: returned Tensor, expected a tuple"):
        Recurrent(Bare, 4, 4)(x)
    with pytest.raises(
        ValueError, match=r"^Wide\.step: returned shapes \[3, 8\], expected .*\[3, 4\]"
    ):
        Recurrent(Wide, 4, 4)(x)


@pytest.mark.parametrize("cell", ["GRU", torch.nn.GRUCell, cells.GRU(2, 3)])
def test_what_is_no_cell_is_refused(cell: object) -> None:
    with pytest.raises(TypeError, match=r"^cell: got .* expected a Cell class"):
        Recurrent(cell, 2, 3)  # type: ignore[arg-type]


def test_an_input_or_a_state_of_another_dtype_is_refused() -> None:
    layer = Recurrent(cells.GRU, 2, 3).double()
    with pytest.raises(TypeError, match=r"^x: got torch.float32, expected torch.float64 as the w"):
        layer(torch.zeros(4, 1, 2))
    with pytest.raises(TypeError, match=r"^state: got torch.float32, expected torch.float64 as x"):
        layer(torch.zeros(4, 1, 2).double(), (torch.zeros(1, 1, 3),))


def test_a_bare_state_and_a_packed_sequence_are_told_what_to_write() -> None:
    layer = Recurrent(cells.GRU, 2, 3)
    with pytest.raises(TypeError, match=r"write \(state,\)$"):
        layer(torch.zeros(4, 1, 2), torch.zeros(1, 1, 3))
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(4, 2)])
    with pytest.raises(TypeError, match=r"lengths=$"):
        layer(packed)


def test_apart_needs_two_directions() -> None:
    with pytest.raises(ValueError, match=r"needs bidirectional=True$"):
        Recurrent(cells.GRU, 2, 3, merge="separate")


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("merge", ["concat", "mean", "separate"])
@pytest.mark.parametrize("kind", DROP_INS)
def test_with_resets_nothing_crosses_into_another_sequence_at_any_depth_in_either_direction(
    kind: str, merge: Merge, batch_first: bool
) -> None:
    drop_in = DROP_INS[kind]
    options = {"depth": 2, "bidirectional": True, "merge": merge} | drop_in.cell_options
    layer = Recurrent(drop_in.cell, 3, 7, **options).double()
    x, cuts = torch.randn(9, 2, 3).double(), ([0, 4, 5, 9], [0, 0, 7, 9])
    resets = torch.zeros(9, 2, dtype=torch.bool)
    for sequence, begins in enumerate(cuts):
        resets[begins[:-1], sequence] = True

    def alone(direction: int) -> Tensor:
        """The outputs of one direction, or of both, each sequence run on its own."""
        outputs = []
        for sequence, begins in enumerate(cuts):
            own = [
                layer(x[a:b, sequence : sequence + 1]).y
                for a, b in itertools.pairwise(begins)
                if a < b
            ]
            outputs.append(torch.cat([y[direction] if merge == "separate" else y for y in own]))
        return torch.cat(outputs, 1)

    names = ["forward", "reverse"] if merge == "separate" else ["both"]
    expected = {name: alone(k) for k, name in enumerate(names)}
    layer.batch_first = batch_first
    given = (x.transpose(0, 1), resets.T) if batch_first else (x, resets)
    y, _ = layer(given[0], resets=given[1])
    got = dict(zip(names, y if isinstance(y, tuple) else (y,), strict=True))
    if batch_first:
        got = {name: value.transpose(0, 1) for name, value in got.items()}
    assert_close_by_name(got, expected, 9)


@pytest.mark.parametrize("kind", DROP_INS)
def test_with_resets_the_final_state_is_that_of_the_sequence_which_was_read_last(kind: str) -> None:
    drop_in = DROP_INS[kind]
    layer = Recurrent(drop_in.cell, 3, 7, bidirectional=True, **drop_in.cell_options).double()
    x, state = torch.randn(6, 1, 3).double(), random_state(layer, 1)
    resets = torch.zeros(6, 1, dtype=torch.bool)
    resets[4] = True
    _, final = layer(x, state, resets=resets)
    last, first = layer(x[4:]).state, layer(x[:4]).state
    # The state that is given belongs to the first sequence forward, and to the last one backward.
    got = {
        f"{direction} {i}": s[k] for i, s in enumerate(final) for k, direction in enumerate("fr")
    }
    expected = {f"f {i}": s[0] for i, s in enumerate(last)}
    expected |= {f"r {i}": s[1] for i, s in enumerate(first)}
    assert_close_by_name(got, expected, 6)


def test_a_reset_beyond_a_sequences_length_changes_nothing() -> None:
    layer = Recurrent(cells.LSTM, 3, 7, depth=2, bidirectional=True)
    x, resets = torch.randn(6, 2, 3), torch.zeros(6, 2, dtype=torch.bool)
    plain = layer(x, lengths=[4, 2])
    resets[4:, 0] = resets[2:, 1] = True
    got = layer(x, lengths=[4, 2], resets=resets)
    assert torch.equal(got.y, plain.y)
    assert all(torch.equal(a, b) for a, b in zip(got.state, plain.state, strict=True))


@pytest.mark.parametrize(
    ("resets", "error", "match"),
    [
        (
            torch.zeros(4, 2),
            TypeError,
            r"^resets: got torch.float32, expected a boolean .*\[4, 2\]",
        ),
        ([[True, False]] * 4, TypeError, r"^resets: got list, expected a boolean tensor \[4, 2\]"),
        (torch.zeros(2, 4).bool(), ValueError, r"^resets: got shape \[2, 4\], expected \[4, 2\]"),
    ],
    ids=["float", "list", "transposed"],
)
def test_resets_that_do_not_fit_are_refused(
    resets: object, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Recurrent(cells.GRU, 3, 5)(T4B2, resets=resets)


@pytest.mark.skipif(native.missing() is not None, reason="no native library")
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", DROP_INS)
def test_the_backends_agree_in_every_output_state_and_gradient(
    kind: str, lengths: list[int] | None
) -> None:
    case = Case(5, 3, 5, 17, depth=2, bidirectional=True)
    _, layer = case.drop_ins(kind, FLOAT64)
    x, state = case.draw(layer, FLOAT64)
    found = []
    for backend in ("native", "reference"):
        layer.backend = backend
        found.append(run_recurrent(layer, x, state, lengths))
    assert_close_by_name(*found, case.T)


def test_a_layer_shows_keeps_and_obeys_its_backend() -> None:
    layer = Recurrent(cells.GRU, 3, 5, backend="reference")
    assert "backend=reference" in repr(layer)
    assert "backend" not in repr(Recurrent(cells.GRU, 3, 5))
    assert copy.deepcopy(layer).backend == "reference"
    assert pickle.loads(pickle.dumps(layer)).backend == "reference"
    with pytest.raises(ValueError, match=r"^backend: got 'gpu', expected one of auto, reference"):
        Recurrent(cells.GRU, 3, 5, backend="gpu")
    with pytest.raises(RuntimeError, match=r"^backend: got 'native', but "):
        Recurrent(Echo, 5, 5, backend="native").half()(torch.zeros(4, 2, 5).half())
