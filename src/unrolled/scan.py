"""One cell over time, in one direction."""

import torch
from torch import Tensor

from unrolled.cells import Cell, State
from unrolled.shapes import check_step, real_steps


def scan(
    cell: Cell,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run ``cell`` over time: state_t = step(project(x)_t, state_{t-1}).

    With ``reverse`` time runs from the last step to the first: state_t = step(..., state_{t+1}).
    A lane's state stops at its length (a reversed lane starts at its own last step), and its outputs
    beyond are zero. What stands in ``x`` there is never read: even NaN changes nothing.

    Args:
        cell: the step.
        x: ``[T, B, D]``.
        state: before the first step, each tensor ``[B, size]``; by default ``cell.initial_state``.
        lengths: ``[B]``, int64, each from 0 to T; by default all T.
        reverse: whether time runs backwards.

    Returns:
        The outputs ``[T, B, H]``, and the state after each lane's last step (with ``reverse``, after
        its step 0).

    Raises:
        TypeError, ValueError: the cell's ``step`` does not keep its contract.
    """
    steps, lanes, _ = x.shape
    if lengths is None or lengths.eq(steps).all():
        live = [lanes] * steps  # how many lanes have each step
        projected = cell.project(x)
        inputs = projected.unbind(0)  # one operation, so that its gradient is one too
    else:
        real = real_steps(lengths, steps)
        live = real.sum(1).tolist()
        times, owners = (index.to(x.device) for index in real.nonzero(as_tuple=True))
        projected = cell.project(x[times, owners])
        inputs = torch.split(projected, live)  # the rows of the lanes that have the step
    state = cell.initial_state(lanes, projected) if state is None else state
    nothing = projected.new_zeros(lanes, cell.state_sizes[0])
    outputs = [nothing] * steps
    checked = False
    for t in reversed(range(steps)) if reverse else range(steps):
        if not live[t]:
            continue
        rows = None if live[t] == lanes else real[t].nonzero().squeeze(1).to(x.device)
        before = state if rows is None else tuple(s[rows] for s in state)
        after = cell.step(inputs[t], before)
        if not checked:
            check_step(type(cell).__name__, after, [(live[t], size) for size in cell.state_sizes])
            checked = True
        if rows is None:
            state, outputs[t] = after, after[0]
        else:
            pairs = zip(state, after, strict=True)
            state = tuple(old.index_copy(0, rows, new.to(old.dtype)) for old, new in pairs)
            outputs[t] = nothing.index_copy(0, rows, after[0].to(nothing.dtype))
    return torch.stack(outputs) if outputs else nothing.new_zeros(0, *nothing.shape), state
