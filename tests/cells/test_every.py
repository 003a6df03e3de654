"""What every cell beyond Elman, LSTM and GRU owes to scans and layers."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unrolled
from tests.cells.papers import D, H, drawn, inputs
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, cells
from unrolled.cells import Cell, GatedCell, State
from unrolled.scan import ScanOptions, scan

CELLS: dict[str, Callable[[int, int], Cell]] = {
    name: kind
    for name in cells.__all__
    if isinstance(kind := getattr(cells, name), type)
    and issubclass(kind, Cell)
    and kind not in (Cell, GatedCell, cells.Elman, cells.LSTM, cells.GRU)
} | {"gated AntisymmetricRNN": functools.partial(cells.AntisymmetricRNN, gated=True)}

every_cell = pytest.mark.parametrize("kind", CELLS)


def one_by_one(cell: Cell, x: Tensor, start: State, lengths: list[int]) -> dict[str, Tensor]:
    """Each sequence alone over its own steps by the contract alone; outputs beyond are zero."""
    ys, finals = [], []
    for b, n in enumerate(lengths):
        state, states = tuple(s[b : b + 1] for s in start), []
        for projected in cell.project(x[:n, b : b + 1]):
            state = cell.step(projected, state)
            states.append(state)
        y = x.new_zeros(len(x), 1, cell.output_size)
        if n:
            read = cell.read(tuple(torch.stack(s) for s in zip(*states, strict=True)))
            y = torch.cat([read, y[n:]])
        ys.append(y)
        finals.append(state)
    final = [torch.cat(s) for s in zip(*finals, strict=True)]
    return {"y": torch.cat(ys, 1)} | {f"final {k}": s for k, s in enumerate(final)}


@pytest.mark.parametrize("lengths", [[5, 5, 5], [3, 0, 5]])
@every_cell
def test_with_lengths_each_sequence_runs_as_if_alone(kind: str, lengths: list[int]) -> None:
    cell = drawn(CELLS[kind](D, H))
    x, start = inputs(cell, 5, 3)

    def run(by_scan: bool) -> dict[str, Tensor]:
        u, *state = leaves(x, *start)
        if by_scan:
            (y,), final = scan(cell, u, tuple(state), ScanOptions(lengths=torch.tensor(lengths)))
            outputs = {"y": y} | {f"final {k}": s for k, s in enumerate(final)}
        else:
            outputs = one_by_one(cell, u, tuple(state), lengths)
        return collect(outputs, {"x": u} | dict(cell.named_parameters()))

    assert_close_by_name(run(True), run(False), 5)


@every_cell
def test_a_deep_bidirectional_layer_trains(kind: str) -> None:
    layer = Recurrent(CELLS[kind], D, H, depth=2, bidirectional=True)
    y, state = layer(torch.randn(7, 3, D), lengths=[7, 4, 1])
    assert y.shape == (7, 3, 2 * H)
    assert [s.shape for s in state] == [(4, 3, H)] * len(state)
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_cell
def test_vmap_over_inputs_is_one_scan_for_each(kind: str) -> None:
    cell = drawn(CELLS[kind](D, H))
    x = torch.randn(3, 5, 2, D, dtype=torch.float64)
    got = torch.vmap(lambda one: scan(cell, one)[0][0])(x)
    expected = torch.stack([scan(cell, one)[0][0] for one in x])
    assert_close_by_name({"y": got}, {"y": expected}, 5)


@every_cell
def test_reset_parameters_draws_again_what_was_drawn_and_nothing_else(kind: str) -> None:
    torch.manual_seed(1)
    cell = CELLS[kind](D, H)
    first = {name: p.detach().clone() for name, p in cell.named_parameters()}
    cell.reset_parameters()
    same = {name for name, p in cell.named_parameters() if torch.equal(p, first[name])}
    assert same <= {name for name in first if "bias" in name}
    torch.manual_seed(1)
    again = CELLS[kind](D, H)
    assert all(torch.equal(p, first[name]) for name, p in again.named_parameters())


@every_cell
def test_explain_says_which_path_it_takes(kind: str) -> None:
    explanation = unrolled.explain(Recurrent(CELLS[kind], D, H), torch.randn(5, 2, D))
    assert (explanation.path, explanation.reasons) == ("native", ())
