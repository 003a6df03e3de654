"""One cell over time, in one direction: by a compiled kernel where there is one, else by PyTorch."""

from functools import partial

import torch
from torch import Tensor

from unrolled.cells import Cell, GatedCell, State
from unrolled.scan import native, reference
from unrolled.scan.hooks import Called, computed, has_hooks
from unrolled.scan.masking import Masking
from unrolled.scan.options import (
    DEFAULTS,
    Backend,
    ScanOptions,
    ScanResult,
    Segmenter,
    Sweep,
    Watcher,
    check_backend,
)
from unrolled.shapes import (
    check_flags,
    check_input,
    check_lengths,
    check_like,
    check_noise,
    check_state,
    is_autocast,
    listed,
    real_steps,
)

__all__ = [
    "DEFAULTS",
    "Backend",
    "ScanOptions",
    "ScanResult",
    "Segmenter",
    "Sweep",
    "Watcher",
    "check_backend",
    "read",
    "reasons_of_resets",
    "scan",
]


def reasons_of_resets(cell: Cell, resets: Tensor | None) -> list[str]:
    """Why no kernel can start ``cell`` anew within the scan: a line, or none if one can."""
    if resets is None or cell.starts_at_zero:
        return []
    return ["resets begin with the cell's own initial state; the kernels begin with zeros"]


def scan(
    cell: Cell, x: Tensor, state: State | None = None, options: ScanOptions = DEFAULTS
) -> ScanResult:
    """Run ``cell`` over time: state_t = step(project(x)_t, state_{t-1}).

    With ``reverse`` time runs from the last step to the first: state_t = step(..., state_{t+1}). A
    sequence's state stops at its length (a reversed sequence starts at its own last step), and its outputs
    beyond are zero. What stands in ``x`` there is never read: even NaN changes nothing.

    Args:
        cell: the step.
        x: ``[T, B, D]``.
        state: before the first step, each tensor ``[B, size]``; by default ``cell.initial_state``.
        options: all else.

    Returns:
        The outputs ``[T, B, cell.output_size]``, which are ``cell.read`` of the states, or the states
        themselves; and the final state.

    Raises:
        TypeError, ValueError: a shape, dtype or length is not as above, or the cell's ``step`` does
            not keep its contract.
        RuntimeError: ``backend`` is "native", and the kernel cannot take the call.
    """
    check_backend(options.backend)
    plain = computed(cell)
    if not has_hooks(cell):
        return _scan(plain, x, state, options)
    outputs, final = Called(cell, partial(_shown, plain, options))(x, state)
    return ScanResult(outputs if options.return_states else (outputs,), final)


def _shown(
    cell: Cell, options: ScanOptions, x: Tensor, state: State | None
) -> tuple[Tensor | State, State]:
    """``_scan`` as the hooks of a cell see it: with the output itself."""
    outputs, final = _scan(cell, x, state, options)
    return outputs if options.return_states else outputs[0], final


def _scan(cell: Cell, x: Tensor, state: State | None, options: ScanOptions) -> ScanResult:
    """``scan`` of a cell whose weights are tensors, within its hooks."""
    check_input(x, cell.input_size, batch_first=False)
    steps, batch_size, _ = x.shape
    lengths, resets, mask, norms = options.lengths, options.resets, options.mask, options.norms
    return_states = options.return_states
    if lengths is not None:
        lengths = check_lengths(lengths, steps, batch_size)
    if resets is not None:
        resets = check_flags("resets", resets, steps, batch_size, like=x)
    if state is not None:
        state = check_state(state, [(batch_size, size) for size in cell.state_sizes])
    if state is None and not cell.starts_at_zero:
        state = cell.initial_state(batch_size, x)
    expected = [(steps, batch_size)] * len(cell.state_sizes)
    if norms is not None and [n.shape for n in norms] != expected:
        got = listed(n.shape for n in norms)
        raise ValueError(f"norms: got shapes {got}, expected {listed(expected)}")
    masking, asked = None, norms
    if mask is not None:
        mask = check_flags("mask", mask, steps, batch_size)
        if lengths is not None:
            mask = mask & real_steps(lengths, steps).to(mask.device)
        masking = Masking(mask, x.device)
        x, lengths = masking.compact(x), masking.lengths
        resets = None if resets is None else masking.resets(resets)
        norms = None if norms is None else [n.new_zeros(n.shape) for n in norms]
    noise = cell.noise(steps, batch_size, x)
    if noise is not None:
        check_noise(type(cell).__name__, noise, steps, batch_size, cell.hidden_size)

    inner = options._replace(
        lengths=lengths,
        resets=resets,
        mask=None,
        norms=norms,
        noise=noise,
        return_states=return_states or type(cell).read is not Cell.read,
    )
    sweep = partial(_sweep, cell)
    if options.segmenter is None:
        states, final = sweep(x, state, inner)
    else:
        fresh = partial(cell.initial_state, batch_size, x)
        weights = list(cell.parameters())
        states, final = options.segmenter(sweep, x, state, inner, weights=weights, fresh=fresh)

    states = states if inner.return_states else states[:1]
    outputs = states if return_states else (read(cell, states, lengths),)
    if masking is not None:
        outputs = tuple(masking.spread(s) for s in outputs)
        if norms is not None and asked is not None:
            masking.write_norms(norms, asked, (*outputs, *final))
    return ScanResult(outputs, final)


def read(
    cell: Cell, states: State, lengths: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """What ``cell`` shows of its states ``[T, B, size]``: zero at steps that are not real."""
    y = cell.read(states)
    if type(cell).read is Cell.read:
        return y
    for real in (None if lengths is None else real_steps(lengths, len(y)), mask):
        y = y if real is None else torch.where(real.unsqueeze(-1).to(y.device), y, 0)
    return y


def _sweep(cell: Cell, x: Tensor, state: State | None, options: ScanOptions) -> ScanResult:
    """By the kernel or by the reference: the states at every step (or the output alone), the final ones."""
    if options.backend != "reference":
        reasons = native.unsupported_reasons(cell, x, state or ())
        reasons += reasons_of_resets(cell, options.resets)
        if not reasons:
            return native.scan(cell, x, state, options)
        if options.backend == "native":
            raise RuntimeError("backend: got 'native', but " + "; ".join(reasons))
    if isinstance(cell, GatedCell):  # others may mix dtypes as they like
        check_weights_like(cell, x)
    if torch.compiler.is_compiling():
        return reference.scan(cell, x, state, options)
    try:
        return reference.scan(cell, x, state, options)
    except RuntimeError as error:
        if "dtype" in str(error) or "scalar type" in str(error):
            check_weights_like(cell, x)
        raise


def check_weights_like(cell: Cell, x: Tensor) -> None:
    """Refuse a parameter of ``cell`` whose dtype or device is not that of ``x``."""
    if not is_autocast(x):
        for name, weight in cell.named_parameters():
            check_like("x", x, weight, name)
