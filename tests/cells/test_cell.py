"""The contract of a cell: what it inherits, and what it must bring."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from tests.compare import assert_close_by_name, collect, leaves
from unrolled import cells
from unrolled.cells import Cell, State

D, H, B = 3, 5, 2

GATED = {cells.Elman: nn.RNNCell, cells.LSTM: nn.LSTMCell, cells.GRU: nn.GRUCell}


class TwoStates(Cell):
    """A cell with a second, narrower state tensor."""

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, 2)


class Nameless(Cell):
    """A cell that brings neither of its two methods."""


def test_a_cell_must_bring_project_and_step() -> None:
    cell = Nameless(D, H)
    with pytest.raises(NotImplementedError, match=r"^Nameless must define project\(x\)$"):
        cell.project(torch.zeros(B, D))
    with pytest.raises(
        NotImplementedError, match=r"^Nameless must define step\(projected, state\)$"
    ):
        cell.step(torch.zeros(B, H), (torch.zeros(B, H),))


@pytest.mark.parametrize("cell", [Cell, *GATED])
@pytest.mark.parametrize("argument", ["input_size", "hidden_size"])
@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (True, TypeError, "a whole number"),
        (1.0, TypeError, "a whole number"),
        ("3", TypeError, "a whole number"),
        (None, TypeError, "a whole number"),
        (0, ValueError, "at least 1"),
        (-1, ValueError, "at least 1"),
    ],
)
def test_a_size_that_is_no_whole_number_of_at_least_one_is_refused_by_name(
    cell: type[Cell], argument: str, value: object, error: type[Exception], expected: str
) -> None:
    sizes = {"input_size": D, "hidden_size": H} | {argument: value}
    match = f"^{argument}: got {re.escape(repr(value))}, expected {expected}"
    with pytest.raises(error, match=match):
        cell(**sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_initial_state_is_zeros_of_the_state_sizes_and_of_the_dtype_asked(
    dtype: torch.dtype,
) -> None:
    like = torch.ones(1, dtype=dtype)
    for cell, widths in ((Cell(D, H), [H]), (cells.LSTM(D, H), [H, H]), (TwoStates(D, H), [H, 2])):
        state = cell.initial_state(B, like)
        assert [list(s.shape) for s in state] == [[B, width] for width in widths]
        assert all(s.dtype == dtype and not s.any() for s in state)


def test_the_initial_state_is_on_the_device_asked() -> None:
    (state,) = Cell(D, H).initial_state(B, torch.ones(1, device="meta"))
    assert state.device.type == "meta"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", GATED)
def test_parameters_are_named_and_shaped_as_in_torch_nn(cell: type[Cell], bias: bool) -> None:
    expected = GATED[cell](D, H, bias=bias).state_dict()
    got = cell(D, H, bias=bias).state_dict()
    assert {n: w.shape for n, w in got.items()} == {n: w.shape for n, w in expected.items()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", GATED)
def test_one_step_with_the_weights_of_torch_nns_cell_equals_it(
    cell: type[Cell], bias: bool
) -> None:
    source = GATED[cell](D, H, bias=bias).double()
    target = cell(D, H, bias=bias).double()
    target.load_state_dict(source.state_dict())
    x = torch.randn(B, D, dtype=torch.float64)
    state = tuple(torch.randn(B, size, dtype=torch.float64) for size in target.state_sizes)

    def run(module: nn.Module) -> dict[str, Tensor]:
        u, *start = leaves(x, *state)
        if module is target:
            after: State = target.step(target.project(u), tuple(start))
        else:
            after = module(u, tuple(start) if len(start) > 1 else start[0])
        after = after if isinstance(after, tuple) else (after,)
        names = [f"state {i}" for i in range(len(start))]
        sources = {"x": u} | dict(zip(names, start, strict=True)) | dict(module.named_parameters())
        return collect(dict(zip(names, after, strict=True)), sources)

    assert_close_by_name(run(target), run(source), steps=1)


@pytest.mark.parametrize("cell", GATED)
def test_parameters_are_drawn_from_the_whole_of_the_range_torch_nn_uses(cell: type[Cell]) -> None:
    hidden_size = 25
    bound = 1 / math.sqrt(hidden_size)
    for parameter in cell(200, hidden_size).parameters():
        assert parameter.abs().max() <= bound
        # Of n uniform draws, at least 25 here, the least and the greatest come near the ends.
        assert parameter.max() > 0.7 * bound
        assert parameter.min() < -0.7 * bound


def test_reset_parameters_draws_every_parameter_anew() -> None:
    cell = cells.LSTM(D, H)
    before = {name: p.detach().clone() for name, p in cell.named_parameters()}
    cell.reset_parameters()
    for name, parameter in cell.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_two_cells_do_not_start_alike() -> None:
    assert not torch.equal(cells.GRU(D, H).weight_hh, cells.GRU(D, H).weight_hh)


@pytest.mark.parametrize("cell", GATED)
def test_both_biases_are_one_sum_and_none_without_bias(cell: type[Cell]) -> None:
    with_bias, without = cell(D, H), cell(D, H, bias=False)
    assert torch.equal(with_bias.bias(), with_bias.bias_ih + with_bias.bias_hh)
    assert without.bias() is None


@pytest.mark.parametrize("cell", GATED)
def test_project_keeps_every_leading_dimension(cell: type[Cell]) -> None:
    made = cell(D, H).double()
    x = torch.randn(4, B, D, dtype=torch.float64)
    whole = made.project(x)
    rows = torch.stack([torch.stack([made.project(row) for row in step]) for step in x])
    assert_close_by_name({"projected": whole}, {"projected": rows}, steps=1)


def test_a_cell_shows_its_sizes() -> None:
    assert repr(cells.LSTM(D, H)) == "LSTM(3, 5)"
