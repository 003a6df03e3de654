"""What a scan is told besides the cell, its input and its state; and what it returns."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

from torch import Tensor

from unrolled.cells import State

Backend = Literal["auto", "reference", "native"]


def check_backend(backend: Backend) -> Backend:
    """``backend``, or an error unless it is "auto", "reference" or "native"."""
    if backend not in get_args(Backend):
        raise ValueError(
            f"backend: got {backend!r}, expected one of {', '.join(get_args(Backend))}"
        )
    return backend


class ScanResult(NamedTuple):
    """What a scan returns; it unpacks as ``outputs, final``."""

    outputs: State
    """At every step, zero where it is not real: ``(y,)``, or with ``return_states`` every tensor of the
    state; each ``[T, B, size]``, of packed rows ``[R, size]``."""
    final: State
    """The state after each sequence's last step (with ``reverse``, after its step 0), ``[B, size]``."""


class ScanOptions(NamedTuple):  # made in a third of the time that a frozen dataclass takes
    """How a scan runs."""

    lengths: Tensor | None = None
    """``[B]``, int64, each from 0 to T; by default all T."""
    resets: Tensor | None = None
    """Boolean ``[T, B]``: where true, a new sequence begins with that step. Its state starts anew from
    ``cell.initial_state``, whatever the state given is; with ``reverse``, so does that of the step before
    it, where the sequence that ended is read from its end."""
    mask: Tensor | None = None
    """Boolean ``[T, B]``: where false, the sequence skips the step: its state stays, its output is zero,
    and what stands in ``x`` is never read. A reset there takes effect at the sequence's next real step, if
    there is one. With ``lengths``, the steps beyond are skipped too."""
    reverse: bool = False
    """Whether time runs backwards."""
    return_states: bool = False
    """Whether to return every state tensor at every step, not only the output."""
    norms: Sequence[Tensor] | None = None
    """One ``[T, B]`` for each state tensor: the backward pass writes the 2-norm of ∂L/∂state_t into it, for
    each step and sequence. The tensors of a state count as independent: ∂L/∂c_t of an LSTM is what reaches
    c_t from later steps, not through its own h_t."""
    clip: float | None = None
    """The backward pass scales ∂L/∂state_t of a sequence down to this 2-norm, where it is larger, before it
    goes on to earlier steps and to the parameters; each tensor of a state by itself, as in ``norms``, which
    are those afterwards. See ``unrolled.remedies.clip_states_``."""
    backend: Backend = "auto"
    """"native" for the compiled kernel, "reference" for PyTorch's operations, "auto" for the kernel where
    it can take the call; ``unrolled.explain`` says which, and why."""
    segmenter: "Segmenter | None" = None
    """Takes the sweep over time in segments; see ``unrolled.bptt.checkpointed``."""
    noise: Tensor | None = None
    """``[T, B, size]`` or ``[1, B, size]``: what ``cell.noise`` has drawn. ``scan`` draws it."""
    batch_sizes: Tensor | None = None
    """Those of a ``PackedSequence``, of which ``x`` and the outputs are the rows. The kernels alone take
    it, and with a state given."""

    def segment(self, begin: int, end: int) -> "ScanOptions":
        """Those of the steps from ``begin`` up to, but not, ``end``."""
        lengths, noise, norms = self.lengths, self.noise, self.norms
        return self._replace(
            lengths=None if lengths is None else (lengths - begin).clamp(0, end - begin),
            resets=None if self.resets is None else self.resets[begin:end],
            noise=noise if noise is None or len(noise) == 1 else noise[begin:end],
            norms=None if norms is None else [norm[begin:end] for norm in norms],
        )


DEFAULTS = ScanOptions()


class Sweep(Protocol):
    """All steps of a scan, ``[T, B, D]``, from a state."""

    def __call__(self, x: Tensor, state: State | None, options: ScanOptions) -> ScanResult: ...


class Segmenter(Protocol):
    """What takes a sweep in segments.

    ``weights`` are those that it reads; ``fresh`` is the state in which a sequence begins.
    """

    def __call__(
        self,
        sweep: Sweep,
        x: Tensor,
        state: State | None,
        options: ScanOptions,
        *,
        weights: Sequence[Tensor],
        fresh: Callable[[], State],
    ) -> ScanResult: ...


class Watcher(Protocol):
    """What is told of the scans of a layer, each known by its number ``k``."""

    def begins(
        self, k: int, x: Tensor, state: State | None, options: ScanOptions, *, states: int
    ) -> Sequence[Tensor]:
        """The ``norms`` for scan k, as many as there are ``states``; it will read ``x`` from ``state``."""

    def ends(self, k: int, y: Tensor) -> None:
        """It has run, with ``y`` or the first tensor of the state at every step; or packed rows of it."""
