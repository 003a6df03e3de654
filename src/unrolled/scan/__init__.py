"""One cell over time, in one direction: by a compiled kernel where there is one, else by PyTorch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, get_args, overload

import torch
from torch import Tensor

from unrolled.cells import Cell, GatedCell, State
from unrolled.scan import native, reference
from unrolled.scan.computed import called, computed
from unrolled.scan.masking import Masking
from unrolled.shapes import (
    check_input,
    check_lengths,
    check_like,
    check_mask,
    check_noise,
    check_resets,
    check_state,
    is_autocast,
    real_steps,
)

__all__ = [
    "Backend",
    "Masks",
    "Sweep",
    "Through",
    "Watcher",
    "check_backend",
    "reasons_of_resets",
    "read",
    "scan",
]

Backend = Literal["auto", "reference", "native"]
Masks = dict[str, Any]
"""What goes along with x in time, by name: ``noise``, ``lengths``, ``resets``, ``norms``."""


class Sweep(Protocol):
    """All steps of a scan, ``[T, B, D]``, from a state: the states at every step, the final ones."""

    def __call__(self, x: Tensor, state: State | None, **masks: Any) -> tuple[State, State]: ...


class Through(Protocol):
    """What takes a sweep in parts.

    ``weights`` are those that it reads; with ``reverse`` time runs backwards; ``fresh`` begins a sequence.
    """

    def __call__(
        self,
        sweep: Sweep,
        x: Tensor,
        state: State | None,
        masks: Masks,
        *,
        weights: Sequence[Tensor],
        reverse: bool,
        fresh: Callable[[], State],
    ) -> tuple[State, State]: ...


class Watcher(Protocol):
    """What looks on at the scans of a layer, each known by its number ``k``."""

    def begins(
        self,
        k: int,
        shape: tuple[int, int],
        like: Tensor,
        *,
        states: int,
        start: State | None,
        lengths: Tensor | None,
        mask: Tensor | None,
        resets: Tensor | None,
    ) -> Sequence[Tensor]:
        """Its ``norms``, of ``shape`` T, B: as many as ``states``, of the dtype and device of ``like``.

        It will read ``like``, which is ``x`` or packed rows of it, from ``start``, with these masks.
        """

    def ends(self, k: int, y: Tensor) -> None:
        """It has run, with ``y`` or the first tensor of the state at every step; or packed rows of it."""


def check_backend(backend: Backend) -> Backend:
    """``backend``, or an error unless it is "auto", "reference" or "native"."""
    if backend not in get_args(Backend):
        raise ValueError(
            f"backend: got {backend!r}, expected one of {', '.join(get_args(Backend))}"
        )
    return backend


def reasons_of_resets(cell: Cell, resets: Tensor | None) -> list[str]:
    """Why no kernel can start ``cell`` anew within the scan: a line, or none if one can."""
    if resets is None or cell.starts_at_zero:
        return []
    return ["resets begin with the cell's own initial state; the kernels begin with zeros"]


@overload
def scan(
    cell: Cell,
    x: Tensor,
    state: State | None = ...,
    *,
    lengths: Tensor | None = ...,
    resets: Tensor | None = ...,
    mask: Tensor | None = ...,
    reverse: bool = ...,
    return_states: Literal[False] = ...,
    norms: Sequence[Tensor] | None = ...,
    backend: Backend = ...,
    through: Through | None = ...,
    clip: float | None = ...,
) -> tuple[Tensor, State]: ...
@overload
def scan(
    cell: Cell,
    x: Tensor,
    state: State | None = ...,
    *,
    lengths: Tensor | None = ...,
    resets: Tensor | None = ...,
    mask: Tensor | None = ...,
    reverse: bool = ...,
    return_states: Literal[True],
    norms: Sequence[Tensor] | None = ...,
    backend: Backend = ...,
    through: Through | None = ...,
    clip: float | None = ...,
) -> tuple[State, State]: ...
@overload
def scan(
    cell: Cell,
    x: Tensor,
    state: State | None = ...,
    *,
    lengths: Tensor | None = ...,
    resets: Tensor | None = ...,
    mask: Tensor | None = ...,
    reverse: bool = ...,
    return_states: bool,
    norms: Sequence[Tensor] | None = ...,
    backend: Backend = ...,
    through: Through | None = ...,
    clip: float | None = ...,
) -> tuple[Tensor | State, State]: ...
def scan(
    cell: Cell,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    mask: Tensor | None = None,
    reverse: bool = False,
    return_states: bool = False,
    norms: Sequence[Tensor] | None = None,
    backend: Backend = "auto",
    through: Through | None = None,
    clip: float | None = None,
) -> tuple[Tensor | State, State]:
    """Run ``cell`` over time: state_t = step(project(x)_t, state_{t-1}).

    With ``reverse`` time runs from the last step to the first: state_t = step(..., state_{t+1}).
    A sequence's state stops at its length (a reversed sequence starts at its own last step), and its
    outputs beyond are zero. What stands in ``x`` there is never read: even NaN changes nothing.

    Args:
        cell: the step.
        x: ``[T, B, D]``.
        state: before the first step, each tensor ``[B, size]``; by default ``cell.initial_state``.
        lengths: ``[B]``, int64, each from 0 to T; by default all T.
        resets: boolean ``[T, B]``: where true, a new sequence begins with that step. Its state
            starts anew from ``cell.initial_state``, whatever ``state`` is; with ``reverse``, so does
            that of the step before it, where the sequence that ended is read from its end.
        mask: boolean ``[T, B]``: where false, the sequence skips the step: its state stays, its output is
            zero, and what stands in ``x`` is never read. A reset there takes effect at the sequence's
            next real step, if there is one. With ``lengths``, the steps beyond are skipped too.
        reverse: whether time runs backwards.
        return_states: whether to return every state tensor at every step, not only the output.
        norms: one ``[T, B]`` for each state tensor: the backward pass writes the 2-norm of
            ∂L/∂state_t into it, for each step and sequence. The tensors of a state count as independent:
            ∂L/∂c_t of an LSTM is what reaches c_t from later steps, not through its own h_t.
        backend: "native" for the compiled kernel, "reference" for PyTorch's operations, "auto" for
            the kernel where it can take the call; ``unrolled.explain`` says which, and why.
        through: takes the sweep in parts; see ``unrolled.bptt.checkpointed``.
        clip: the backward pass scales ∂L/∂state_t of a sequence down to this 2-norm, where it is larger,
            before it goes on to earlier steps and to the parameters; each tensor of a state by itself, as
            in ``norms``, which are those afterwards. See ``unrolled.remedies.clip_states_``.

    Returns:
        The outputs ``[T, B, cell.output_size]``, which are ``cell.read`` of the states (with
        ``return_states``, the states themselves, a tuple of ``[T, B, size]``), and the state after each
        sequence's last step (with ``reverse``, after its step 0).

    Raises:
        TypeError, ValueError: a shape, dtype or length is not as above, or the cell's ``step`` does
            not keep its contract.
        RuntimeError: ``backend`` is "native", and the kernel cannot take the call.
    """
    check_backend(backend)

    # Dynamo evaluates the annotations of a function within one: they stay text.
    def run(x: Tensor, state: "State | None") -> "tuple[Tensor | State, State]":
        return _scan(
            plain,
            x,
            state,
            lengths=lengths,
            resets=resets,
            mask=mask,
            reverse=reverse,
            return_states=return_states,
            norms=norms,
            backend=backend,
            through=through,
            clip=clip,
        )

    plain = computed(cell)
    found: tuple[Tensor | State, State] = called(cell, run, x, state)
    return found


def _scan(
    cell: Cell,
    x: Tensor,
    state: State | None,
    *,
    lengths: Tensor | None,
    resets: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
    return_states: bool,
    norms: Sequence[Tensor] | None,
    backend: Backend,
    through: Through | None,
    clip: float | None,
) -> tuple[Tensor | State, State]:
    """``scan`` of a cell whose weights are tensors, within its hooks."""
    check_input(x, cell.input_size, batch_first=False)
    steps, batch_size, _ = x.shape
    if lengths is not None:
        lengths = check_lengths(lengths, steps, batch_size)
    if resets is not None:
        resets = check_resets(resets, steps, batch_size, batch_first=False, like=x)
    if state is not None:
        state = check_state(state, [(batch_size, size) for size in cell.state_sizes])
    if state is None and not cell.starts_at_zero:
        state = cell.initial_state(batch_size, x)
    if norms is not None and [n.shape for n in norms] != [(steps, batch_size)] * len(
        cell.state_sizes
    ):
        shapes = ", ".join(str(list(n.shape)) for n in norms)
        raise ValueError(
            f"norms: got shapes {shapes}, expected {[steps, batch_size]} for each state tensor"
        )
    masking, asked = None, norms
    if mask is not None:
        mask = check_mask(mask, steps, batch_size, batch_first=False)
        if lengths is not None:
            mask = mask & real_steps(lengths, steps).to(mask.device)
        masking = Masking(mask, x.device)
        x, lengths = masking.compact(x), masking.lengths
        resets = None if resets is None else masking.resets(resets)
        norms = None if norms is None else [n.new_zeros(n.shape) for n in norms]

    whole = return_states or type(cell).read is not Cell.read
    noise = cell.noise(steps, batch_size, x)
    if noise is not None:
        check_noise(type(cell).__name__, noise, steps, batch_size, cell.hidden_size)
    masks: Masks = {"noise": noise, "lengths": lengths, "resets": resets, "norms": norms}
    sweep = partial(_sweep, cell, reverse=reverse, return_states=whole, backend=backend, clip=clip)
    if through is None:
        states, final = sweep(x, state, **masks)
    else:
        fresh = partial(cell.initial_state, batch_size, x)
        weights = list(cell.parameters())
        states, final = through(
            sweep, x, state, masks, weights=weights, reverse=reverse, fresh=fresh
        )

    states = states if whole else states[:1]
    shown = states if return_states else (read(cell, states, lengths),)
    if masking is not None:
        shown = tuple(masking.spread(s) for s in shown)
        if norms is not None and asked is not None:
            masking.write_norms(norms, asked, (*shown, *final))
    return shown if return_states else shown[0], final


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


def _sweep(
    cell: Cell,
    x: Tensor,
    state: State | None,
    *,
    noise: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    norms: Sequence[Tensor] | None,
    reverse: bool,
    return_states: bool,
    backend: Backend,
    clip: float | None,
) -> tuple[State, State]:
    """By the kernel or by the reference: the states at every step (or the output alone), the final ones."""
    if backend != "reference":
        reasons = native.unsupported_reasons(cell, x, state or ()) + reasons_of_resets(cell, resets)
        if not reasons:
            return native.scan(
                cell,
                x,
                state,
                noise=noise,
                lengths=lengths,
                resets=resets,
                reverse=reverse,
                return_states=return_states or type(cell).read is not Cell.read,
                norms=norms,
                clip=clip,
            )
        if backend == "native":
            raise RuntimeError("backend: got 'native', but " + "; ".join(reasons))
    if isinstance(cell, GatedCell):  # others may mix dtypes as they like
        check_weights_like(cell, x)
    run = partial(
        reference.scan,
        cell,
        x,
        state,
        noise=noise,
        lengths=lengths,
        resets=resets,
        reverse=reverse,
        norms=norms,
        clip=clip,
    )
    if torch.compiler.is_compiling():
        return run()
    try:
        return run()
    except RuntimeError as error:
        if "dtype" in str(error) or "scalar type" in str(error):
            check_weights_like(cell, x)
        raise


def check_weights_like(cell: Cell, x: Tensor) -> None:
    """Refuse a parameter of ``cell`` whose dtype or device is not that of ``x``."""
    if not is_autocast(x):
        for name, weight in cell.named_parameters():
            check_like("x", x, weight, name)
