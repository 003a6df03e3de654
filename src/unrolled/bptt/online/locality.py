"""What reaches what within a step of a cell, found by numerical experiment."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from unrolled.cells import GRU, Cell, State
from unrolled.cells.cell import GatedCell


class Locality(NamedTuple):
    """What reaches the states of a cell within a step."""

    reached: dict[str, torch.Size]
    """The shapes of the parameters that do, by name."""
    strays: tuple[str, ...]
    """Those of them with rows that reach other units than their own."""
    is_elementwise: bool
    """Whether each unit's state reaches that unit alone."""
    is_gated: bool
    """Whether a unit's state reaches others by W h alone, which goes into elementwise equations."""


Source = tuple[str, Tensor, int]
"""A name, a tensor, and the dimension of it that runs over the units, once or several times."""


def locality(cell: Cell) -> Locality:
    """What reaches what in ``cell``, by numerical experiment: on a copy, with random numbers.

    Gradients of half of the units are asked for, with every half that the binary digits of the units'
    numbers make, so that any two units are apart in one; in the other half they must vanish exactly.
    """
    trial = copy.deepcopy(cell).to(torch.device("cpu"), torch.float64)
    generator = torch.Generator().manual_seed(0)
    units, batch_size = cell.hidden_size, 16

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")

    with torch.no_grad():
        for parameter in trial.parameters():
            parameter.copy_(drawn(*parameter.shape))
    named = {name: p for name, p in trial.named_parameters() if p.requires_grad}
    if any(size != units for size in cell.state_sizes):
        return Locality({name: p.shape for name, p in named.items()}, tuple(named), False, False)
    with torch.enable_grad():
        state = tuple(drawn(batch_size, units).requires_grad_() for _ in cell.state_sizes)
        projected = trial.project(drawn(batch_size, cell.input_size))
        own: list[Source] = [(f"state {k}", s, -1) for k, s in enumerate(state)]
        sources: list[Source] = [(name, p, 0) for name, p in named.items()]
        by_step = _leaks(trial.step(projected, state), own + sources, units, drawn)
        by_start = _leaks(trial.initial_state(batch_size, projected), sources, units, drawn)
        is_elementwise = not any(by_step.get(name, False) for name, _, _ in own)
        is_gated = False
        if not is_elementwise and _has_equations(trial):
            rows = trial.gates * units
            w = drawn(batch_size, rows).requires_grad_()
            after = trial.equations(projected[..., :rows], w, state)
            is_gated = not any(_leaks(after, [("w", w, -1), *own], units, drawn).values())
    leaks = by_start | {name: leak or by_start.get(name, False) for name, leak in by_step.items()}
    reached = {name: p.shape for name, p in named.items() if name in leaks}
    return Locality(reached, tuple(n for n in reached if leaks[n]), is_elementwise, is_gated)


def _has_equations(cell: Cell) -> TypeGuard[GatedCell]:
    """Whether ``step`` is ``equations`` of W h as it is, except for zoneout."""
    return (
        isinstance(cell, GatedCell)
        and type(cell).step is GatedCell.step
        and type(cell).next_state is GatedCell.next_state
        and type(cell).of_state in (GatedCell.of_state, GRU.of_state)
        and not cell.layer_norm
    )


def _leaks(
    outputs: State, sources: Sequence[Source], units: int, drawn: Callable[..., Tensor]
) -> dict[str, bool]:
    """Of each source that reaches ``outputs``, whether any of it reaches other units than its own."""
    leaks: dict[str, bool] = {}
    outputs = tuple(s for s in outputs if s.requires_grad)
    if not outputs:
        return leaks
    numbers = torch.arange(units, device="cpu")
    for digit in range(max(1, (units - 1).bit_length())):
        for half in (0, 1):
            asked = (numbers >> digit) % 2 == half
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                outputs,
                [tensor for _, tensor, _ in sources],
                [drawn(*s.shape) * asked for s in outputs],
                retain_graph=True,
                allow_unused=True,
            )
            for (name, tensor, dim), gradient in zip(sources, gradients, strict=True):
                if gradient is None:
                    continue
                if tensor.dim() == 0 or tensor.shape[dim] % units:
                    leaks[name] = True
                    continue
                rows = gradient.movedim(dim, -1).reshape(-1, units)
                leaks[name] = leaks.get(name, False) or bool(rows[:, ~asked].ne(0).any())
    return leaks
