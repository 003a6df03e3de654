"""The scan in plain PyTorch operations: any cell, device and dtype, differentiable twice."""

from functools import partial, reduce

import torch
from torch import Tensor

from unrolled.cells import Cell, State
from unrolled.scan.options import ScanOptions, ScanResult
from unrolled.shapes import check_projected, check_step, is_autocast, real_steps


def scan(cell: Cell, x: Tensor, state: State | None, options: ScanOptions) -> ScanResult:
    """As ``unrolled.scan.scan``; returns every state tensor at every step, and the final state."""
    lengths, resets, norms, clip = options.lengths, options.resets, options.norms, options.clip
    reverse, noise = options.reverse, options.noise
    steps, batch_size, _ = x.shape
    name = type(cell).__name__
    noise = None if noise is None else noise.expand(steps, -1, -1)
    if lengths is None or lengths.eq(steps).all():
        whole = resets is None and noise is None and norms is None and clip is None
        if cell.at_once and steps and whole:
            return _in_parallel(cell, x, state, reverse=reverse)
        live = [batch_size] * steps  # how many sequences have each step
        projected = _projected(cell, x, noise)
        inputs = projected.unbind(0)  # one operation, so that its gradient is one too
    else:
        real = real_steps(lengths, steps)
        live = real.sum(1).tolist()
        times, owners = (index.to(x.device) for index in real.nonzero(as_tuple=True))
        own = None if noise is None else noise[times, owners]
        projected = _projected(cell, x[times, owners], own)
        inputs = torch.split(projected, live)  # the rows of the sequences that have the step
    fresh = cell.initial_state(batch_size, projected)
    state = fresh if state is None else state
    nothing = [projected.new_zeros(batch_size, size) for size in cell.state_sizes]
    every = [[zeros] * steps for zeros in nothing]
    checked, is_empty = False, not any(live)
    for t in reversed(range(steps)) if reverse else range(steps):
        if not live[t] and not is_empty:  # but if no sequence has any, for the graph
            continue
        if resets is not None and t + reverse < steps:
            anew = resets[t + reverse]
            if live[t + reverse] < batch_size:  # beyond a sequence's length there is no reset of it
                anew = anew & real[t + reverse].to(anew.device)
            anew = anew.unsqueeze(1)
            state = tuple(torch.where(anew, f, s) for f, s in zip(fresh, state, strict=True))
        rows = None if live[t] == batch_size else real[t].nonzero().squeeze(1).to(x.device)
        before = state if rows is None else tuple(s[rows] for s in state)
        after = cell.step(inputs[t], before)
        if not checked:
            dtype = None
            if not is_autocast(x):
                dtype = reduce(torch.promote_types, (s.dtype for s in before), projected.dtype)
            check_step(name, after, [(live[t], size) for size in cell.state_sizes], dtype)
            checked = True
        if norms is not None:  # on aliases, which see what comes from outside this step alone
            after = tuple(new.view_as(new) for new in after)
            for norm, new in zip(norms, after, strict=True):
                if new.requires_grad:
                    new.register_hook(partial(_note, norm, t, rows))  # type: ignore[no-untyped-call]
        if clip is not None:
            after = tuple(_Clip.apply(new, clip) for new in after)  # type: ignore[no-untyped-call]
        for k, new in enumerate(after):
            zeros = nothing[k]
            every[k][t] = new if rows is None else zeros.index_copy(0, rows, new.to(zeros.dtype))
        if rows is None:
            state = after
        else:
            pairs = zip(state, after, strict=True)
            state = tuple(old.index_copy(0, rows, new.to(old.dtype)) for old, new in pairs)
    if steps:
        states = tuple(torch.stack(tensors) for tensors in every)
    else:  # a step of no sequences, for the graph
        after = cell.step(projected.flatten(0, 1), tuple(s[:0] for s in state))
        sizes = cell.state_sizes
        states = tuple(s.view(0, batch_size, size) for s, size in zip(after, sizes, strict=True))
    # The caller may write into what is returned.
    return ScanResult(states, tuple(s.clone() for s in state))


class _Clip(torch.autograd.Function):
    """The identity, through which no sequence's gradient comes back longer than ``most``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(state: Tensor, most: float) -> Tensor:  # noqa: ARG004
        return state.view_as(state)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]  # noqa: ARG004
        _, ctx.most = inputs

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient / (_norm(gradient) / ctx.most).clamp(min=1), None


def _in_parallel(cell: Cell, x: Tensor, state: State | None, *, reverse: bool) -> ScanResult:
    """``scan`` of whole sequences by the cell's own ``parallel``."""
    projected = cell.project(x)
    state = cell.initial_state(x.shape[1], projected) if state is None else state
    states = cell.parallel(projected.flip(0) if reverse else projected, state)
    final = tuple(s[-1].clone() for s in states)  # as in ``scan``
    return ScanResult(tuple(s.flip(0) for s in states) if reverse else states, final)


def _projected(cell: Cell, x: Tensor, noise: Tensor | None) -> Tensor:
    """What ``step`` is given for each row of ``x``: its projection, and its noise."""
    projected = cell.project(x)
    check_projected(type(cell).__name__, projected, x.shape[:-1])
    if noise is None:
        return projected
    return torch.cat([projected, noise.to(projected.dtype)], -1)


def _note(norms: Tensor, t: int, rows: Tensor | None, gradient: Tensor) -> None:
    """Write the norm of ∂L/∂state_t of each sequence that has step t; nothing of many gradients at once."""
    if is_batched(gradient):
        return
    norms[t, slice(None) if rows is None else rows] = _norm(gradient.detach()).squeeze(-1)


def _norm(rows: Tensor) -> Tensor:
    """The 2-norm of ``[B, H]``, ``[B, 1]``, also where its square is beyond the dtype."""
    most = rows.abs().amax(-1, keepdim=True)
    unit = torch.where((most > 0) & most.isfinite(), most, 1.0)
    norm: Tensor = torch.linalg.vector_norm(rows / unit, dim=-1, keepdim=True) * unit
    return norm


def is_batched(gradient: Tensor) -> bool:
    """Whether ``gradient`` stands for many: those of ``is_grads_batched`` or of ``torch.func.vmap``."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(gradient) or functorch.is_legacy_batchedtensor(gradient)
