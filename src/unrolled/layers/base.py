"""What a recurrent layer of any kind is to the rest of the library, and the loop that all kinds share."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unrolled.cells import State
from unrolled.scan import Backend, ScanOptions, ScanResult, Watcher
from unrolled.scan.native.calls import StepKernel
from unrolled.shapes import Lengths, Shape

Hidden = Tensor | Sequence[Tensor]
"""A state as a layer is given it."""


class RecurrentLayer(Protocol):
    """A recurrent layer: ``Recurrent`` itself, or a ``TorchAdapter`` of one in the form of ``torch.nn``.

    ``finding.layer_of`` gives it of any module. A *state* here is a tuple of tensors ``[L*S, B, size]``, or
    split by layer (see ``Result``).
    """

    arguments: tuple[str, str]
    """What ``forward`` calls its input and its state."""
    input_size: int
    """D."""
    output_size: int
    """The width of y; of each direction, where they stay separate."""
    depth: int
    """L."""
    directions: int
    """S."""
    batch_first: bool
    """Whether it reads ``[B, T, D]``."""

    @property
    def module(self) -> nn.Module:
        """The layer that is called."""

    @property
    def backend(self) -> Backend:
        """Which path it is to take; of a layer of ``torch.nn`` "reference"."""

    @property
    def masks(self) -> frozenset[str]:
        """Which of "lengths", "resets" and "mask" its ``forward`` takes."""

    @property
    def starts_at_zero(self) -> bool:
        """Whether every sequence begins in zeros."""

    @property
    def is_chained(self) -> bool:
        """Whether each level reads the very outputs of the one below."""

    def described(self) -> str:
        """Its kind and sizes in one line."""

    def state_shapes(self, batch_size: int) -> list[Shape]:
        """The shapes of a state of so many sequences."""

    def fresh_state(self, batch_size: int, like: Tensor) -> State:
        """The state in which so many sequences begin, of ``like``'s dtype and device."""

    def as_given(self, state: Sequence[Tensor]) -> Any:
        """A state as ``forward`` takes it."""

    def by_layer(self, scans: Sequence[State]) -> State:
        """The states of the scans, one after another, as one state."""

    def by_scan(self, state: State) -> list[State]:
        """The inverse of ``by_layer``."""

    def joined(self, level: int, outputs: Sequence[Tensor], read: Sequence[Tensor]) -> list[Tensor]:
        """What a level gives: its directions' ``outputs`` merged, and joined to what it ``read``."""

    def unsupported_reasons(
        self,
        x: Any = None,
        state: Any = None,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> list[str]:
        """Why it takes no native path, a line each: in this call, or without ``x`` in any."""

    def why_unwatched(self) -> str | None:
        """Why the gradients within it cannot be seen, or clipped; ``None`` if they can."""

    def step_kernels(self) -> list[StepKernel | None]:
        """What takes the steps of each scan in evaluation; ``None`` where there is no kernel."""

    def holders(self) -> Sequence[nn.Module]:
        """The modules that hold what the kernels read."""


def stacked(
    layer: RecurrentLayer,
    x: Tensor | Sequence[Tensor],
    starts: Sequence[State | None],
    options: ScanOptions,
    *,
    scan: Callable[[int, Tensor, State | None, ScanOptions], ScanResult],
    watcher: Watcher | None,
    drop_inputs: Callable[[Tensor], Tensor] | None = None,
    drop_outputs: Callable[[Tensor], Tensor] | None = None,
    output: Callable[[int, State], Tensor] | None = None,
) -> tuple[list[Tensor], list[State], list[State]]:
    """Depth × directions of scans over ``x`` ``[T, B, D]``, or over packed rows.

    Args:
        layer: whose levels they are.
        x: what the first level reads, or each of its directions.
        starts: of each scan the state before its first step.
        options: of every scan.
        scan: runs scan k over what it reads.
        watcher: is told of each.
        drop_inputs: what happens to what a level reads, if anything.
        drop_outputs: to what a level but the last gives.
        output: of scan k, from what it returns at every step; by default the first of it.

    Returns:
        What the last level gives: one tensor, or one for each direction; the final state of each scan;
        and what each returned at every step.
    """
    if watcher is not None and torch.compiler.is_compiling():
        watcher = None
    depth, directions = layer.depth, layer.directions
    # What the next level reads: one for both directions, or one for each.
    streams = [x] if isinstance(x, Tensor) else list(x)
    finals: list[State] = []
    every: list[State] = []
    for level in range(depth):
        seen = streams if drop_inputs is None else [drop_inputs(stream) for stream in streams]
        outputs = []
        for direction in range(directions):
            k = level * directions + direction
            here = options._replace(reverse=True) if direction else options
            read, start = seen[min(direction, len(seen) - 1)], starts[k]
            if watcher is not None:
                count = len(layer.state_shapes(1)) if start is None else len(start)
                here = here._replace(norms=watcher.begins(k, read, start, here, states=count))
            states, final = scan(k, read, start, here)
            if watcher is not None:
                watcher.ends(k, states[0])
            finals.append(final)
            every.append(states)
            outputs.append(states[0] if output is None else output(k, states))
        streams = layer.joined(level, outputs, streams)
        if drop_outputs is not None and level < depth - 1:
            streams = [drop_outputs(stream) for stream in streams]
    return streams, finals, every


SET_ASIDE = 'backend="reference" is set'
"""Why a layer that could take the native path does not."""


def as_tuple(state: Any) -> State:
    """A state as a layer of ``torch.nn`` or of this library gives it, as a tuple."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def weight_of(layer: nn.Module) -> Tensor:
    """Any floating parameter of ``layer``: its dtype and device are those of the state."""
    return next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
