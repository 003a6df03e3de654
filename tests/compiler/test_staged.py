"""Steps of several stages, by their numbers: against autograd on the cell's own step."""

import pytest
import torch

from tests.compare import assert_close_by_name
from tests.compiler.staged import CELLS, Run
from tests.compiler.test_schedule import draw
from unrolled.cells import Cell
from unrolled.compiler import StagedSchedule, Unit, planned, trace


def by_schedule(cell: Cell, projected, state, d_next, plan=planned) -> dict[str, torch.Tensor]:
    """The next states and every gradient, as the stages give them."""
    traced = trace(cell)
    s = plan(traced)
    assert isinstance(s, StagedSchedule)
    named = dict((*cell.named_parameters(), *cell.named_buffers()))
    tensors = {name: tensor.detach() for name, tensor in named.items()}
    derived = () if traced.prologue is None else traced.prologue(*named.values())
    tensors |= {f"derived_{k}": d.detach() for k, d in enumerate(derived)}
    with torch.no_grad():
        run = Run(s, tensors, projected, state, d_next)
        gradients = run.gradients(traced)
        got = {f"next {k}": value for k, value in enumerate(run.next)}
        got |= {f"grad of state {k}": value for k, value in enumerate(run.d_state)}
        got["grad of projected"] = run.gathered(s.d_projected)
    if derived:  # back through what is computed once
        inner = [gradients.pop(f"derived_{k}") for k in range(len(derived))]
        own = dict(cell.named_parameters())
        more = torch.autograd.grad(derived, list(own.values()), inner, materialize_grads=True)
        gradients = {n: gradients[n] + d for n, d in zip(own, more, strict=True)}
    return got | {f"grad of {name}": d for name, d in gradients.items()}


def by_autograd(cell: Cell, projected, state, d_next) -> dict[str, torch.Tensor]:
    """The same of the cell's own step."""
    projected, *state = (t.clone().requires_grad_() for t in (projected, *state))
    after = cell.step(projected, tuple(state))
    sources = {"projected": projected} | {f"state {k}": s for k, s in enumerate(state)}
    sources |= dict(cell.named_parameters())
    reached = [(y, d) for y, d in zip(after, d_next, strict=True) if y.requires_grad]
    ys, ds = zip(*reached, strict=True)
    found = torch.autograd.grad(ys, list(sources.values()), ds, materialize_grads=True)
    gradients = {f"grad of {n}": d for n, d in zip(sources, found, strict=True)}
    return {f"next {k}": value.detach() for k, value in enumerate(after)} | gradients


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_those_of_autograd(name):
    cell = CELLS[name]().double()
    given = draw(cell)
    got, expected = by_schedule(cell, *given), by_autograd(cell, *given)
    assert_close_by_name(got, expected, 1)


@pytest.mark.parametrize(("name", "stages"), [("in_sequence", 3), ("stopped", 2), ("sums", 2)])
def test_a_stage_ends_where_all_units_meet(name, stages):
    assert len(planned(trace(CELLS[name]())).forward.stages) == stages


def masks(units: list[Unit]) -> list[Unit]:
    return [unit for unit in units if unit.op in ("gt", "lt", "ge", "le", "and", "or", "not")]


@pytest.mark.parametrize("name", CELLS)
def test_no_mask_is_written_anywhere(name):
    s = planned(trace(CELLS[name]()))
    for part in (s.forward, s.backward):
        for stage in part.stages:
            values = [unit for results in stage.results.values() for _, unit in results]
            assert not masks([*stage.staging, *values])


def test_what_is_scheduled_says_what_each_stage_does():
    text = str(planned(trace(CELLS["in_sequence"]())))
    expected = (
        "step, stage 1:",
        "product: 1 blocks weight_hhᵀ, 1 blocks",
        "sets next: 0",
        "keeps ",
    )
    assert all(part in text for part in expected)
