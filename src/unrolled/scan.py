"""One cell over time, in one direction."""

import torch
from torch import Tensor

from unrolled.cells import Cell, State
from unrolled.shapes import real_steps


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
    A lane's state stops at its length (a reversed lane starts at its own last step), its outputs
    beyond are zero, and what stands in ``x`` there, even NaN, changes nothing.

    Args:
        cell: the step.
        x: ``[T, B, D]``.
        state: before the first step, each tensor ``[B, size]``; by default ``cell.initial_state``.
        lengths: ``[B]``, int64, each from 0 to T; by default all T.
        reverse: whether time runs backwards.

    Returns:
        The outputs ``[T, B, H]``, and the state after each lane's last step (with ``reverse``, after
        its step 0).
    """
    steps, lanes, _ = x.shape
    real, whole, longest = None, steps, steps
    if lengths is not None and lanes:
        whole, longest = int(lengths.min()), int(lengths.max())
        real = real_steps(lengths.to(x.device), steps).unsqueeze(-1)
        x = torch.where(real, x, 0) if whole < steps else x
    projected = cell.project(x)
    state = cell.initial_state(lanes, projected) if state is None else state
    nothing = projected.new_zeros(lanes, cell.state_sizes[0])
    outputs = [nothing] * steps
    inputs = projected.unbind(0)  # one operation, so that its gradient is one too
    for t in reversed(range(longest)) if reverse else range(longest):
        after = cell.step(inputs[t], state)
        if real is not None and t >= whole:  # some lane has no step t
            state = tuple(
                torch.where(real[t], new, old) for new, old in zip(after, state, strict=True)
            )
            outputs[t] = torch.where(real[t], after[0], nothing)
        else:
            state = after
            outputs[t] = after[0]
    return torch.stack(outputs) if outputs else nothing.new_zeros(0, *nothing.shape), state
