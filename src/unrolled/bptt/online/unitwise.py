"""The influence unit by unit: of each parameter on the state of the one unit that it belongs to."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.bptt.online.influence import Chunk, Influence, Scans, Tensors, forgotten
from unrolled.bptt.online.locality import Locality
from unrolled.cells import Cell, State
from unrolled.cells.cell import GatedCell
from unrolled.layers.recurrent import Recurrent
from unrolled.modules import functional
from unrolled.scan import ScanOptions, read, scan

Blocks = Sequence[Sequence[Tensor]]
"""∂s_a/∂s_c of each unit with itself, ``[B, H]``, for the state tensors a and c."""


class ByUnit(Influence):
    """For each cell and each of its parameters ``[B, k, *shape]``, for the k state tensors of a unit."""

    def __init__(self, layer: Recurrent, localities: Sequence[Locality]) -> None:
        self.localities = localities
        self.kinds = [len(cast(Cell, cell).state_sizes) for cell in layer.cells]
        self.units = [cast(Cell, cell).hidden_size for cell in layer.cells]
        self.counts = [len(own.reached) for own in localities]
        self.size = sum(
            k * shape.numel()
            for k, own in zip(self.kinds, localities, strict=True)
            for shape in own.reached.values()
        )
        is_whole = len(localities) == 1 and localities[0].is_elementwise
        self.form = "by unit" if is_whole else "by unit, approximate"

    def parameters(self, layer: Recurrent) -> list[Tensor]:
        return [
            p
            for cell, own in zip(layer.cells, self.localities, strict=True)
            for p in _named(cast(Cell, cell), own).values()
        ]

    def shapes(self, batch_size: int) -> list[tuple[int, ...]]:
        return [
            (batch_size, k, *shape)
            for k, own in zip(self.kinds, self.localities, strict=True)
            for shape in own.reached.values()
        ]

    def run(
        self, layer: Recurrent, start: Scans, influence: Tensors, chunk: Chunk
    ) -> tuple[Tensor, Scans, Tensors]:
        x, parts = chunk.x, iter(influence)
        finals: list[State] = []
        kept: list[Tensor] = []
        for level, own in enumerate(self.localities):
            cell = cast(Cell, layer.cells[level])
            past = tuple(next(parts) for _ in own.reached)
            here = chunk._replace(x=x)
            if own.is_elementwise:
                state = None if chunk.resets[0].all() else start[level]
                options = ScanOptions(resets=chunk.within, backend=layer.backend)
                (y,), final = scan(cell, x, state, options)
                with torch.no_grad():
                    past = _over_chunk(cell, own, past, here, chunk.state[level])
            else:
                y, final, past = _by_steps(cell, own, past, here, start[level])
            finals.append(final)
            kept += past
            (x,) = layer.joined(level, [y], [x])
        return x, tuple(finals), tuple(kept)

    def pull(self, influence: Tensors, gradients: Tensors) -> Tensors:
        reached, parts, own = [], iter(influence), iter(gradients)
        for k, units, count in zip(self.kinds, self.units, self.counts, strict=True):
            v = torch.stack([next(own) for _ in range(k)], 1)
            for part in (next(parts) for _ in range(count)):
                reached.append((_by_row(v, part, units) * part).sum((0, 1)))
        return tuple(reached)


def _named(cell: Cell, own: Locality) -> dict[str, Tensor]:
    """The parameters of ``cell`` that reach its state, by name."""
    named = dict(cell.named_parameters())
    return {name: named[name] for name in own.reached}


def _by_row(values: Tensor, like: Tensor, units: int) -> Tensor:
    """What is given for each unit ``[..., H]``, for each row of ``like`` ``[B, k, rows, ...]``."""
    rows = values.repeat(*[1] * (values.dim() - 1), like.shape[2] // units)
    return rows.view(*rows.shape, *[1] * (like.dim() - 3))


def _through(blocks: Blocks, past: Tensor, direct: Sequence[Tensor], units: int) -> Tensor:
    """∂s_t/∂s_{t-1} J_{t-1} + ∂s_t/∂θ of one parameter, in which each unit goes its own way."""
    after = []
    for row, own in zip(blocks, direct, strict=True):
        for c, block in enumerate(row):
            own = torch.addcmul(own, _by_row(block, past, units), past[:, c])
        after.append(own)
    return torch.stack(after, 1)


def _sensitivities(
    function: Callable[..., State], parameters: dict[str, Tensor], state: State, *inputs: Tensor
) -> tuple[list[dict[str, Tensor]], Blocks]:
    """The derivatives of a step or more, which each unit takes for itself: ∂s'_a/∂θ and ∂s'_a/∂s_c.

    ``inputs`` are ``[T, B, ...]``. Summing over the units, each of which depends on its own rows and
    state alone, loses nothing: one backward pass gives the derivatives of all.
    """
    k = len(state)

    def row(*arguments: Tensor) -> list[tuple[dict[str, Tensor], *State]]:
        back = torch.func.vjp(
            lambda p, *s: function(p, *arguments[k:], *s), parameters, *arguments[:k]
        )[1]
        return [back(cotangent) for cotangent in _each(arguments[:k])]

    rows = torch.func.vmap(row, in_dims=(0,) * k + (1,) * len(inputs))(*state, *inputs)
    return [row[0] for row in rows], [row[1:] for row in rows]


def _each(state: State) -> list[State]:
    """For each state tensor in turn, ones in its place and zeros in the others'."""
    return [
        tuple(torch.ones_like(s) if a == c else torch.zeros_like(s) for c, s in enumerate(state))
        for a in range(len(state))
    ]


def _over_chunk(cell: Cell, own: Locality, past: Tensors, chunk: Chunk, state: State) -> Tensors:
    """The influence after ``chunk``, of a cell whose units do not hear of one another: exact."""

    def final(module: nn.Module, x: Tensor, resets: Tensor, *state: Tensor) -> State:
        before = tuple(s.unsqueeze(0) for s in state)
        one_row, flags = x.unsqueeze(1), resets.unsqueeze(1)
        options = ScanOptions(resets=flags, backend="reference")
        _, after = scan(cast(Cell, module), one_row, before, options)
        return tuple(s[0] for s in after)

    past = forgotten(past, chunk.resets.any(0))
    parameters = {name: p.detach() for name, p in _named(cell, own).items()}
    direct, blocks = _sensitivities(
        functional(cell, final), parameters, state, chunk.x.detach(), chunk.resets
    )
    return tuple(
        _through(blocks, part, [row[name] for row in direct], cell.hidden_size)
        for name, part in zip(own.reached, past, strict=True)
    )


def _by_steps(
    cell: Cell, own: Locality, past: Tensors, chunk: Chunk, state: State
) -> tuple[Tensor, State, Tensors]:
    """The outputs of ``chunk``, the final state and the influence, each step's Jacobian cut to blocks.

    The state has the value that ``step`` gives it; its gradient goes to the parameters and the input of
    this step as it is, to the state before it by the blocks alone.
    """

    def step(module: nn.Module, x: Tensor, *state: Tensor) -> State:
        own = cast(Cell, module)
        after = own.step(own.project(x), tuple(s.unsqueeze(0) for s in state))
        return tuple(s[0] for s in after)

    units, batch_size = cell.hidden_size, chunk.x.shape[1]
    parameters = {name: p.detach() for name, p in _named(cell, own).items()}
    differentiated = functional(cell, step)
    find = _blocks_of_equations if own.is_gated else _blocks_of_jacobian
    projected = cell.project(chunk.x)
    fresh = cell.initial_state(batch_size, projected)
    begun = _beginning(cell, parameters, projected.detach())
    every = []
    for t, resets in enumerate(chunk.resets):
        anew = resets.unsqueeze(1)
        state = tuple(torch.where(anew, f, s) for f, s in zip(fresh, state, strict=True))
        before = tuple(s.detach() for s in state)
        with torch.no_grad():
            blocks = find(cell, projected[t].detach(), before)
            x = chunk.x[t : t + 1].detach()
            direct, _ = _sensitivities(differentiated, parameters, before, x)
            past = tuple(
                torch.where(resets.view(-1, *[1] * (part.dim() - 1)), begun[name], part)
                for name, part in zip(own.reached, past, strict=True)
            )
            past = tuple(
                _through(blocks, part, [row[name] for row in direct], units)
                for name, part in zip(own.reached, past, strict=True)
            )
        after = cell.step(projected[t], before)
        differences = [s - b for s, b in zip(state, before, strict=True)]  # zero, with a gradient
        state = tuple(
            sum((block * d for block, d in zip(row, differences, strict=True)), new)
            for row, new in zip(blocks, after, strict=True)
        )
        every.append(state)
    states = tuple(torch.stack(tensors) for tensors in zip(*every, strict=True))
    return read(cell, states), state, past


def _beginning(cell: Cell, parameters: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """What each parameter does to its unit in the initial state, ``[k, *shape]``."""
    if cell.starts_at_zero:
        k = len(cell.state_sizes)
        return {name: p.new_zeros(k, *p.shape) for name, p in parameters.items()}

    def start(module: nn.Module) -> State:
        return tuple(s[0] for s in cast(Cell, module).initial_state(1, like))

    back = torch.func.vjp(functional(cell, start), parameters)[1]
    ones = tuple(like.new_ones(size) for size in cell.state_sizes)
    rows = [back(cotangent)[0] for cotangent in _each(ones)]
    return {name: torch.stack([row[name] for row in rows]) for name in parameters}


def _blocks_of_equations(cell: Cell, projected: Tensor, state: State) -> Blocks:
    """∂s_t/∂s_{t-1} within each unit, where W h goes into elementwise equations."""
    own = cast(GatedCell, cell)
    units, gates = own.hidden_size, own.gates
    w = own.of_state(state[0]).requires_grad_()
    before = tuple(s.clone().requires_grad_() for s in state)
    with torch.enable_grad():
        after = own.equations(projected, w, before)
    to_itself = own.weight_hh.detach().view(gates, units, units).diagonal(dim1=1, dim2=2)
    shares = own.zoneout or (0.0,) * len(after)
    blocks = []
    for a, (new, share) in enumerate(zip(after, shares, strict=True)):
        by_w, *row = torch.autograd.grad(
            new, (w, *before), torch.ones_like(new), retain_graph=True, materialize_grads=True
        )
        row[0] = row[0] + (by_w.view(-1, gates, units) * to_itself).sum(1)
        row = [(1 - share) * block for block in row]
        row[a] = row[a] + share
        blocks.append(row)
    return blocks


def _blocks_of_jacobian(cell: Cell, projected: Tensor, state: State) -> Blocks:
    """∂s_t/∂s_{t-1} within each unit: the diagonals of the whole of it."""

    def step(projected: Tensor, *state: Tensor) -> State:
        after = cell.step(projected.unsqueeze(0), tuple(s.unsqueeze(0) for s in state))
        return tuple(s[0] for s in after)

    jacobian = torch.func.jacrev(step, argnums=tuple(range(1, len(state) + 1)))
    rows = torch.func.vmap(jacobian)(projected, *state)
    return [[block.diagonal(dim1=1, dim2=2) for block in row] for row in rows]
