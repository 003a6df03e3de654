"""The scan by a compiled kernel: its place in autograd.

The operators are opaque to ``torch.compile`` and ``torch.export``; the gradient of the gradient goes
through the reference.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from unrolled.cells import Cell, State
from unrolled.cells.cell import GatedCell
from unrolled.modules import kind_of
from unrolled.scan import reference
from unrolled.scan.native import jit, onnx
from unrolled.scan.native.calls import Optional, Weights, backward, forward, operator
from unrolled.scan.native.kernels import (
    KINDS,
    cell_over,
    check_weights,
    kernel_name,
    weights_of,
)
from unrolled.scan.options import ScanOptions, ScanResult

MASKS = ("lengths", "resets", "batch_sizes", "noise")
"""The options that are tensors, in the order of the operators."""


def scan(cell: Cell, x: Tensor, state: State | None, options: ScanOptions) -> ScanResult:
    """As ``unrolled.scan.scan`` with a kernel; returns the states at every step, and the final ones."""
    name = kernel_name(cell)
    if name is not None:
        weights = weights_of(cell, name)
        check_weights(name, weights, cell.input_size, cell.hidden_size)
        return run(name, weights, x, state, options)
    if torch.compiler.is_compiling():  # and is_operator(cell)
        gated = cast(GatedCell, cell)
        weights = Weights(gated.weight_ih, gated.weight_hh, gated.bias_ih, gated.bias_hh)
        return onnx.run(cast(type[GatedCell], kind_of(cell)), "", x, state, weights, options)
    recipe = jit.recipe(cell)
    assert isinstance(recipe, jit.Recipe)
    weights, noise = recipe.tensors(cell, x), options.noise
    if noise is not None:
        noise = noise.to(x.dtype)
        options = options._replace(noise=noise)
    recipe.check_noise(cell, noise)
    x = x if recipe.is_projected else recipe.projected(cell, x, options.lengths)
    return run(recipe.name, weights, x, state, options)


def run(
    name: str, weights: Weights, x: Tensor, state: State | None, options: ScanOptions
) -> ScanResult:
    """As ``unrolled.scan.scan``, by the kernel ``name`` over these weights."""
    if torch.compiler.is_compiling() and onnx.is_exporting():
        kernel, _, activation = name.partition("_")
        return onnx.run(KINDS[kernel], activation, x, state, weights, options)
    if x.stride(-1) != 1:
        x = x.contiguous()
    start: tuple[Tensor | None, ...] = state if state is not None else ()
    tensors = (x, *weights, *start)
    masks: tuple[Optional, ...]
    masks = (options.lengths, options.resets, options.batch_sizes, options.noise)
    reverse, return_states = options.reverse, options.return_states
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        # The backward pass reads them again: what the caller writes into them meanwhile is not meant.
        masks = tuple(t if t is None else t.clone() for t in masks)
        settings = (reverse, return_states, options.norms, options.clip)
        outputs = _Sweep.apply(name, *masks, *settings, *tensors)  # type: ignore[no-untyped-call]
    else:
        call = (name, *tensors[:5], list(start), *masks, reverse, return_states, False)
        outputs = tuple(operator("forward", forward)(*call))
    count = len(outputs) // 2 if return_states else 1
    return ScanResult(outputs[:count], outputs[count:])


def run_reference(
    name: str, weights: Weights, x: Tensor, state: State | None, options: ScanOptions
) -> ScanResult:
    """As ``run``, by the reference over these very tensors; packed rows as ``[T, B, D]`` with lengths."""
    cell = cell_over(name, weights)
    if options.batch_sizes is None:
        return reference.scan(cell, x, state, options)
    counts = options.batch_sizes.unsqueeze(1)
    real = torch.arange(int(counts[0]), device="cpu") < counts
    rows = real.flatten().nonzero().squeeze(1).to(x.device)  # where in [T * B] each stands
    padded = x.new_zeros(real.numel(), x.shape[1]).index_copy(0, rows, x)
    options = options._replace(lengths=real.sum(0))
    states, final = reference.scan(cell, padded.view(*real.shape, x.shape[1]), state, options)
    return ScanResult(tuple(s.flatten(0, 1).index_select(0, rows) for s in states), final)


class _Sweep(torch.autograd.Function):
    """The kernel's forward and backward, joined."""

    @staticmethod
    def forward(ctx, name, *arguments):  # type: ignore[no-untyped-def]
        *masks, reverse, return_states, norms, clip = arguments[:8]
        tensors = arguments[8:]
        outputs = operator("forward", forward)(
            name, *tensors[:5], list(tensors[5:]), *masks, reverse, True, True
        )
        count = (len(outputs) - 1) // 2
        states, final, kept = outputs[:count], outputs[count:-1], outputs[-1]
        shown = states if return_states else states[:1]
        # The caller may write into what is shown: the backward pass asks whether, and then runs anew.
        if torch.compiler.is_compiling():  # where nobody can ask
            ctx.versions, held = None, [s.clone() for s in states]
        else:
            ctx.versions, held = _Versions(shown), [s.data for s in states]
        ctx.save_for_backward(*tensors, *held, kept, *masks)
        ctx.name, ctx.counts = name, (count, len(tensors))
        ctx.settings = (reverse, return_states, norms, clip)
        ctx.set_materialize_grads(False)
        return (*shown, *final)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        name, (count, inputs) = ctx.name, ctx.counts
        reverse, return_states, norms, clip = ctx.settings
        *saved, kept, lengths, resets, batch_sizes, noise = ctx.saved_tensors
        masks = (lengths, resets, batch_sizes, noise)
        tensors, states = saved[:inputs], saved[inputs:]
        shown = count if return_states else 1
        d_states = [*gradients[:shown], *[None] * (count - shown)]
        d_final = list(gradients[shown:])
        wanted = list(ctx.needs_input_grad[9:])
        nothing = (None,) * 9
        came = [d for d in gradients if d is not None]
        if torch.is_grad_enabled() or any(map(reference.is_batched, came)):
            # The gradient itself will be differentiated, or many are asked for at once.
            options = ScanOptions(
                **dict(zip(MASKS, masks, strict=True)), reverse=reverse, norms=norms, clip=clip
            )
            return nothing + _by_reference(name, tensors, wanted, (*d_states, *d_final), options)
        call = (name, *tensors[:5], tensors[5:], *masks, reverse)
        if ctx.versions is not None and ctx.versions.have_changed():
            outputs = operator("forward", forward)(*call, True, True)
            states, kept = outputs[:count], outputs[-1]
        results = operator("backward", backward)(
            *call, list(states), kept, d_states, d_final, wanted, norms is not None, clip
        )
        if norms is not None:
            for target, norm in zip(norms, results[inputs:], strict=True):
                target.copy_(norm)
        return nothing + tuple(
            result if want else None for result, want in zip(results[:inputs], wanted, strict=True)
        )


class _Versions:
    """Whether somebody has written into tensors since; of the tensors themselves it holds nothing."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._witnesses = [tensor.detach() for tensor in tensors]  # whose count of writes is theirs
        self._then = [tensor._version for tensor in tensors]
        for witness in self._witnesses:
            witness.data = witness.new_empty(0)

    def have_changed(self) -> bool:
        return [witness._version for witness in self._witnesses] != self._then


def _by_reference(
    name: str,
    tensors: Sequence[Optional],
    wanted: Sequence[bool],
    gradients: Sequence[Optional],
    options: ScanOptions,
) -> tuple[Optional, ...]:
    """The gradients as a differentiable function of the inputs and of the ``gradients`` that came in.

    They are taken in aliases of the inputs, since an input may have been computed from another one.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [t if t is None else t.view_as(t) for t in tensors]
        for alias, want in zip(tensors, wanted, strict=True):
            if want and alias is not None and not alias.requires_grad:
                alias.requires_grad_()
        x, *start = (t for i, t in enumerate(tensors) if t is not None and (i == 0 or i > 4))
        weights, state = Weights(*tensors[1:5]), tuple(start) if start else None
        states, final = run_reference(name, weights, x, state, options)
        pairs = [
            (y, d)
            for y, d in zip((*states, *final), gradients, strict=True)
            if d is not None and y.requires_grad  # with lengths of 0 nothing depends on anything
        ]
        sources = [t for t, want in zip(tensors, wanted, strict=True) if want and t is not None]
        if pairs:
            results = torch.autograd.grad(
                [y for y, _ in pairs],
                sources,
                [d for _, d in pairs],
                create_graph=create_graph,
                materialize_grads=True,
            )
        else:
            results = tuple(torch.zeros_like(source) for source in sources)
    each = iter(results)
    return tuple(next(each) if want else None for want in wanted)
