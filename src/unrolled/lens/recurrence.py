"""The scans of a layer, taken apart into steps: what every measure of a layer starts from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.cells import Cell, State
from unrolled.layers.base import stacked, weight_of
from unrolled.layers.finding import checked_layer, in_evaluation
from unrolled.layers.recurrent import Recurrent
from unrolled.scan import ScanOptions, ScanResult, scan
from unrolled.shapes import check_input, check_size

# How many numbers a measure holds at once, where it can choose; 64 MiB in float64.
ROOM = 2**23


@contextmanager
def measuring() -> Iterator[None]:
    """No graph is made, and ``torch.func`` may make its own, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(frozen=True)
class Recurrence:
    """One scan of a layer as steps, s_t = step(projected_t, s_{t-1}), in the order in which it takes them.

    So of direction 1, which reads from the end, the last step comes first; ``in_time`` turns a result
    round. n is the width of all state tensors side by side: H, or for an LSTM 2H, h before c.
    """

    cell: Cell
    """Over the numbers of the layer's own, in evaluation; its parameters ask for no gradient."""
    level: int
    """Which layer of the stack, from 0."""
    direction: int
    """0 is forward, 1 backward."""
    x: Tensor
    """What it reads, ``[T, B, D]``, D being the width of the layer below."""
    projected: Tensor
    """``cell.project`` of it, ``[T, B, P]``."""
    states: State
    """``[T + 1, B, size]`` each: before the first step, then after every step."""

    @property
    def steps(self) -> int:
        """T."""
        return self.x.shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.x.shape[1]

    @property
    def width(self) -> int:
        """n, the width of the whole state."""
        return sum(self.cell.state_sizes)

    @property
    def before(self) -> Tensor:
        """The state before each step, its tensors side by side: ``[T, B, n]``."""
        return torch.cat([s[:-1] for s in self.states], -1)

    def step(self, state: Tensor, projected: Tensor) -> Tensor:
        """The next state from ``[N, n]`` and ``[N, P]``, row by row: ``[N, n]``."""
        return torch.cat(self.cell.step(projected, self.split(state)), -1)

    def split(self, state: Tensor) -> State:
        """The tensors of a state ``[..., n]``."""
        return torch.split(state, list(self.cell.state_sizes), -1)

    @measuring()
    def jacobians(self, first: int = 0, last: int | None = None) -> Tensor:
        """∂s_t/∂s_{t-1} of the steps from ``first`` up to, but not, ``last``; by default all.

        ``[steps, B, n, n]`` in float64, differentiated in the layer's own dtype. s_{-1}, which the first
        of all is taken in, is the initial state. Where a step has no derivative, as ReLU at 0, it is
        autograd's.
        """
        before, projected = self.before[first:last], self.projected[first:last]
        jacobians = self.jacobians_at(before.flatten(0, 1), projected.flatten(0, 1))
        return jacobians.view(*before.shape[:2], self.width, self.width)

    @measuring()
    def jacobians_at(self, state: Tensor, projected: Tensor) -> Tensor:
        """∂step/∂state of every row of ``[N, n]`` and ``[N, P]``: ``[N, n, n]`` in float64."""
        n = self.width
        rows = max(1, ROOM // (n * (n + projected.shape[-1])))
        pairs = zip(torch.split(state, rows), torch.split(projected, rows), strict=True)
        return torch.cat([self._jacobians(s, u) for s, u in pairs])

    def _jacobians(self, state: Tensor, projected: Tensor) -> Tensor:
        # Rows do not touch, so that one unit vector in all of them gives one row of each Jacobian.
        pull = pulling(lambda s: self.step(s, projected), state)
        units = torch.eye(self.width, dtype=state.dtype, device=state.device)
        (rows,) = torch.func.vmap(pull)(units.unsqueeze(1).expand(-1, *state.shape))
        return rows.transpose(0, 1).double()

    def chunks(self) -> list[range]:
        """All steps, in runs whose Jacobians fit into memory."""
        size = max(1, ROOM // (self.batch_size * self.width**2))
        return [range(t, min(t + size, self.steps)) for t in range(0, self.steps, size)]

    def each_jacobian(self, first: int = 0) -> Iterator[Tensor]:
        """∂s_t/∂s_{t-1}, ``[B, n, n]`` in float64, one step after another from ``first`` on."""
        for steps in self.chunks():
            if steps.stop > first:
                yield from self.jacobians(max(first, steps.start), steps.stop)

    def of_sequences(self, sequences: slice) -> "Recurrence":
        """The same of some sequences."""
        return replace(
            self,
            x=self.x[:, sequences],
            projected=self.projected[:, sequences],
            states=tuple(s[:, sequences] for s in self.states),
        )

    def in_time(self, steps: Tensor) -> Tensor:
        """``[T, ...]`` in the order of the steps, as ``[T, ...]`` in that of time."""
        return steps.flip(0) if self.direction else steps


def pulling(function: Callable[..., Tensor], *at: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What takes a gradient in what ``function(*at)`` gives to those in each of its arguments."""
    return cast(Callable[[Tensor], tuple[Tensor, ...]], torch.func.vjp(function, *at)[1])


@measuring()
def recurrences(
    layer: nn.Module, x: Tensor, starts: Sequence[State | None] | None = None
) -> tuple[Recurrence, ...]:
    """Every scan of ``layer`` over ``x`` as steps, by level, then direction.

    As in evaluation, whatever mode the layer is in: nothing is dropped. By PyTorch's operations, whatever
    its ``backend`` is. The layer is left as it is.

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> layer = Recurrent(cells.LSTM, 3, 4, depth=2)
        >>> below, above = recurrences(layer, torch.randn(7, 2, 3))
        >>> above.x.shape, above.jacobians().shape
        (torch.Size([7, 2, 4]), torch.Size([7, 2, 8, 8]))

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if the layer is ``batch_first``. Every step counts as real:
            measure sequences of different lengths apart, each as ``x[:length, [sequence]]``.
        starts: for each scan the state before its first step, ``[B, size]`` each; where there is none,
            the cell's own.

    Raises:
        TypeError, ValueError: the layer is none of these, or ``x`` does not fit or is empty.
    """
    recurrent, x = evaluated(layer, x)
    cells = cast(Sequence[Cell], recurrent.cells)
    scans: list[Recurrence] = []

    def run(k: int, x: Tensor, start: State | None, options: ScanOptions) -> ScanResult:
        result = scan(cells[k], x, start, options)
        place = divmod(k, recurrent.directions)
        scans.append(_as_steps(cells[k], *place, x, start, result.outputs))
        return result

    stacked(
        recurrent,
        x,
        starts or [None] * len(cells),
        ScanOptions(return_states=True, backend="reference"),
        scan=run,
        watcher=None,
        output=lambda k, states: cells[k].read(states),
    )
    return tuple(scans)


def recurrence_of(layer: nn.Module, x: Tensor, level: int, direction: int) -> Recurrence:
    """The scan of ``level`` and ``direction`` of ``layer`` over ``x``, or an error."""
    scans = recurrences(layer, x)
    depth, directions = scans[-1].level + 1, scans[-1].direction + 1
    level = check_size("level", level, least=0, most=depth - 1)
    direction = check_size("direction", direction, least=0, most=directions - 1)
    return scans[level * directions + direction]


def check_finite(jacobians: Tensor) -> None:
    """Refuse ∂s_t/∂s_{t-1} with NaN or infinity, of which nothing can be measured."""
    if not jacobians.isfinite().all():
        raise ValueError(
            "x: got states or weights with NaN or infinity, expected finite ones; unrolled.watch says "
            "where they begin"
        )


def evaluated(layer: nn.Module, x: Tensor) -> tuple[Recurrent, Tensor]:
    """``layer`` as a ``Recurrent`` in evaluation, over the same weights; ``x`` as its ``[T, B, D]``."""
    checked = checked_layer(layer)
    check_input(x, checked.input_size, weight_of(checked), batch_first=checked.batch_first)
    if not x.numel():
        raise ValueError(
            f"x: got shape {list(x.shape)}, expected at least one step and one sequence"
        )
    x = x.detach().clone()  # one made in inference mode could not be differentiated in
    return in_evaluation(checked), x.transpose(0, 1) if checked.batch_first else x


def _as_steps(
    cell: Cell, level: int, direction: int, x: Tensor, start: State | None, states: State
) -> Recurrence:
    """A scan over ``x`` from ``start``, whose states after each step are ``states``, as steps."""
    if direction:
        x, states = x.flip(0), tuple(s.flip(0) for s in states)
    projected = cell.project(x)
    if start is None:
        start = cell.initial_state(x.shape[1], projected)
    pairs = zip(start, states, strict=True)
    every = tuple(torch.cat([first.unsqueeze(0).to(s), s]) for first, s in pairs)
    return Recurrence(cell, level, direction, x, projected, every)
