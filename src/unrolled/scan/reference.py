"""The scan in plain PyTorch operations: any cell, device and dtype, differentiable twice."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from unrolled.cells import Cell, State
from unrolled.shapes import check_step, real_steps


def scan(
    cell: Cell,
    x: Tensor,
    state: State | None,
    *,
    noise: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    norms: Sequence[Tensor] | None,
) -> tuple[State, State]:
    """As ``unrolled.scan.scan``; returns every state tensor at every step, and the final state."""
    steps, lanes, _ = x.shape
    if lengths is None or lengths.eq(steps).all():
        if cell.at_once and steps and resets is None and noise is None and norms is None:
            return _in_parallel(cell, x, state, reverse=reverse)
        live = [lanes] * steps  # how many lanes have each step
        projected = _with_noise(cell.project(x), noise)
        inputs = projected.unbind(0)  # one operation, so that its gradient is one too
    else:
        real = real_steps(lengths, steps)
        live = real.sum(1).tolist()
        times, owners = (index.to(x.device) for index in real.nonzero(as_tuple=True))
        projected = cell.project(x[times, owners])
        if noise is not None:
            noise = noise.expand(steps, -1, -1)[times, owners]
            projected = _with_noise(projected, noise)
        inputs = torch.split(projected, live)  # the rows of the lanes that have the step
    fresh = cell.initial_state(lanes, projected)
    state = fresh if state is None else state
    nothing = [projected.new_zeros(lanes, size) for size in cell.state_sizes]
    every = [[zeros] * steps for zeros in nothing]
    checked = False
    for t in reversed(range(steps)) if reverse else range(steps):
        if not live[t]:
            continue
        if resets is not None and t + reverse < steps:
            anew = resets[t + reverse]
            if live[t + reverse] < lanes:  # what stands beyond a lane's length is no reset of it
                anew = anew & real[t + reverse].to(anew.device)
            anew = anew.unsqueeze(1)
            state = tuple(torch.where(anew, f, s) for f, s in zip(fresh, state, strict=True))
        rows = None if live[t] == lanes else real[t].nonzero().squeeze(1).to(x.device)
        before = state if rows is None else tuple(s[rows] for s in state)
        after = cell.step(inputs[t], before)
        if not checked:
            check_step(type(cell).__name__, after, [(live[t], size) for size in cell.state_sizes])
            checked = True
        if norms is not None:  # on aliases, which see what comes from outside this step alone
            after = tuple(new.view_as(new) for new in after)
        for k, new in enumerate(after):
            if norms is not None and new.requires_grad:
                new.register_hook(partial(_note, norms[k], t, rows))  # type: ignore[no-untyped-call]
            zeros = nothing[k]
            every[k][t] = new if rows is None else zeros.index_copy(0, rows, new.to(zeros.dtype))
        if rows is None:
            state = after
        else:
            pairs = zip(state, after, strict=True)
            state = tuple(old.index_copy(0, rows, new.to(old.dtype)) for old, new in pairs)
    return tuple(
        torch.stack(tensors) if tensors else zeros.new_zeros(0, *zeros.shape)
        for tensors, zeros in zip(every, nothing, strict=True)
    ), state


def _with_noise(projected: Tensor, noise: Tensor | None) -> Tensor:
    """The noise behind the projection."""
    if noise is None:
        return projected
    return torch.cat([projected, noise.to(projected.dtype).expand(*projected.shape[:-1], -1)], -1)


def _in_parallel(
    cell: Cell, x: Tensor, state: State | None, *, reverse: bool
) -> tuple[State, State]:
    """``scan`` of whole sequences by the cell's own ``parallel``."""
    projected = cell.project(x)
    state = cell.initial_state(x.shape[1], projected) if state is None else state
    states = cell.parallel(projected.flip(0) if reverse else projected, state)
    final = tuple(s[-1].clone() for s in states)  # the caller may write into what is returned
    return tuple(s.flip(0) for s in states) if reverse else states, final


def _note(norms: Tensor, t: int, rows: Tensor | None, gradient: Tensor) -> None:
    """Write the norm of ∂L/∂state_t of each lane that has step t."""
    norms[t, slice(None) if rows is None else rows] = gradient.detach().norm(dim=-1)
