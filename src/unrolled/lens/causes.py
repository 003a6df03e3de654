"""Why a gradient fades or grows in a layer: the recurrent matrix, the activation and the gates, apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.cells import Cell, GatedCell, State
from unrolled.cells.facts import Retain
from unrolled.lens.recurrence import ROOM, Recurrence, check_finite, measuring, pulling, recurrences
from unrolled.modules import alias, kind_of

# An activation is saturated where its slope is under a tenth of its greatest: tanh beyond ±0.95.
SATURATED = 0.1

# How many Jacobians are decomposed for their radius and norm, evenly spread over steps and sequences: fewer
# where they are wider than this, for the same cost.
SAMPLE, SAMPLE_WIDTH = 32, 128

# How many random directions stand for all where the way back is estimated, and from which width on.
PROBES, WIDE = 32, 256


@dataclass(frozen=True)
class Matrix:
    """What one block of the recurrent matrix W, ``[H, H]``, does by itself."""

    eigenvalues: Tensor
    """Complex ``[H]``, the largest in absolute value first."""
    radius: float
    """The spectral radius, the largest ``|eigenvalue|``: the growth a step in the long run, of W alone."""
    norm: float
    """The 2-norm, the largest singular value: the growth in one step, at most."""
    geometric_mean: float
    """Of the singular values: the growth a step, averaged over all directions in the logarithm."""


@dataclass(frozen=True)
class Slopes:
    """φ' over all steps, sequences and units, of a cell whose state is φ(U x_t + W s_{t-1} + b)."""

    mean: float
    """The mean ``|φ'|``."""
    saturated: float
    """The share of steps, sequences and units at which ``|φ'|`` is under a tenth of its greatest value."""
    dead: float
    """The share of units whose φ' is 0 at every step, in every sequence."""


@dataclass(frozen=True)
class Gate:
    """What the gate that carries the state on does: an LSTM's f, a GRU's z, what an MGU's f leaves."""

    name: str
    """As ``Cell.retain`` has it: "f", "z", "1 - f"."""
    mean: float
    """The share of the state that a step passes on directly, over all steps, sequences and units."""
    units: Tensor
    """The mean of each unit over all steps and sequences, ``[H]``."""
    time_scale: Tensor
    """1 / (1 - ``units``): over how many steps each unit forgets, ``[H]``; infinite if never."""


@dataclass(frozen=True)
class Causes:
    """Why a gradient fades or grows in one scan of a layer.

    All is measured along the way back that gradients take: with all n directions at s_{T-1} as a start,
    A_t = ∂s_{T-1}/∂s_t, and A_{t-1} = A_t J_t. ``growth`` and the factors are logarithms, means over the
    T - 1 steps between the first and the last state, and over the sequences; NaN if T = 1. They are exact,
    up to rounding in the layer's dtype:

    - Of one sequence, exp((T - 1) ``growth``) is ``lag_matrix(layer, x)[-1, -1]``, of the backward
      direction ``[0, -1]``. Of several it is their geometric mean, where ``lag_matrix`` takes the
      arithmetic one.
    - The ``factors`` add up to ``growth``, but where one of them is infinite.
    - The ``shares`` add up to 1.

    Along the way, a factor is no property of W or of the activation alone: it is what they do to the
    directions that gradients have there. What they are by themselves, for any direction, is in
    ``matrices``, ``slopes`` and ``gate``; these explain, and need not add up.
    """

    level: int
    """Which layer of the stack, from 0."""
    direction: int
    """0 is forward, 1 backward."""
    cell: str
    """The name of the cell's class."""
    growth: float
    """The log growth a step: below 0 a gradient vanishes, above 0 it explodes; -inf if none is left."""
    radius: float
    """The spectral radius of ∂s_t/∂s_{t-1}, mean over at most 32 steps and sequences, fewer if n > 128."""
    norm: float
    """Its 2-norm, likewise."""
    factors: Mapping[str, float] | None = None
    """The parts of ``growth``; ``None`` if the cell is no ``GatedCell``, or has a ``step`` of its own.

    - Where the state enters a step through W alone, as in an Elman cell: "activation",
      log ‖A diag(φ')‖ / ‖A‖, then "matrix", log ‖A diag(φ') W‖ / ‖A diag(φ')‖ (with ``layer_norm``, W and
      its normalisation).
    - Others, and all with zoneout: "direct", log ‖A D‖ / ‖A‖, what would be left if there was only the
      direct path, on which the state is carried on by a gate or zoneout; then "others", by how much all
      the paths through W change that.
    """
    shares: Mapping[str, float] | None = None
    """What passes on each path, of what arrives a step earlier: "direct", and each block of W by name.

    Of cells with a ``next_state`` of their own, in which W meets more than h, "W" is all of its blocks.

    J = D + Σ_g J_g, where J_g is through W_g h_{t-1} alone; the share is ⟨A J, A J_g⟩ / ‖A J‖², the mean
    over steps and sequences at which anything arrives, NaN if there are none. Negative where a path takes
    away from what the others bring. ``None`` as ``factors`` is.
    """
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    """Of each block of W by name; empty as ``factors`` is ``None``."""
    slopes: Slopes | None = None
    """Of a cell of one block, whose state enters through W alone."""
    gate: Gate | None = None
    """Of a cell with a ``retain``."""


@measuring()
def causes(layer: nn.Module, x: Tensor) -> tuple[Causes, ...]:
    """Why gradients fade or grow in ``layer`` over ``x``, for each scan, by level, then direction.

    It takes n backward passes through each step of each sequence, for an LSTM six times.

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML
    2013, on W and the activation; Tallec & Ollivier, "Can recurrent neural networks warp time?", ICLR
    2018, on gates and time scales.

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> (found,) = causes(Recurrent(cells.Elman, 3, 8), torch.randn(20, 2, 3))
        >>> abs(found.growth - sum(found.factors.values())) < 1e-5
        True

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if the layer is ``batch_first``; see ``recurrences``.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    return tuple(causes_of(recurrence) for recurrence in recurrences(layer, x))


@measuring()
def causes_of(recurrence: Recurrence, *, probes: int | None = None) -> Causes:
    """Why gradients fade or grow in one scan.

    With ``probes``, ``growth``, ``factors`` and ``shares`` are those of so many random directions, the
    same at every call, in place of all n.
    """
    cell = recurrence.cell
    rows = recurrence.steps * recurrence.batch_size
    most = max(1, min(rows, SAMPLE, int(SAMPLE * (SAMPLE_WIDTH / recurrence.width) ** 3)))
    chosen = torch.linspace(
        0, rows - 1, most, dtype=torch.float32, device=recurrence.x.device
    ).long()
    state, projected = (t.flatten(0, 1)[chosen] for t in (recurrence.before, recurrence.projected))
    sample = recurrence.jacobians_at(state, projected)
    check_finite(sample)
    parts = _parts(cell)
    logs, shares = _way_back(recurrence, parts, directions(recurrence, probes))
    growth, *factors = logs.mean((1, 2)).tolist()
    measured = Causes(
        recurrence.level,
        recurrence.direction,
        kind_of(cell).__name__,
        growth,
        float(torch.linalg.eigvals(sample).abs().amax(-1).mean()),
        float(torch.linalg.matrix_norm(sample, 2).mean()),
    )
    if parts is None:
        return measured
    names = ("activation", "matrix") if parts.enters_by_w else ("direct", "others")
    gated = parts.cell
    matrices = gated.weight_hh.detach().double().chunk(gated.gates)
    return replace(
        measured,
        factors=dict(zip(names, factors, strict=True)),
        shares=dict(zip(("direct", *parts.paths), shares.nanmean((1, 2)).tolist(), strict=True)),
        matrices={n: _matrix(w) for n, w in zip(_blocks(gated), matrices, strict=True)},
        slopes=slopes_of(recurrence) if parts.has_slopes else None,
        gate=None if gated.retain is None else _gate(gated, recurrence),
    )


# --- Along the way back --------------------------------------------------------------------------


class _Parts:
    """The step of a ``GatedCell`` in two: what enters through W, and what becomes of that and of the state.

    What enters is w = W h, in blocks, where the cell has ``equations`` of it; else h as W sees it.
    """

    def __init__(self, cell: GatedCell) -> None:
        self.cell = cell
        self.is_split = type(cell).next_state is GatedCell.next_state
        self.paths = _blocks(cell) if self.is_split else ("W",)
        self.enters_by_w = self.is_split and enters_by_w(cell)

    @property
    def has_slopes(self) -> bool:
        """Whether a step is φ(U x_t + W s_{t-1} + b), so that its slope is that of φ alone."""
        return self.enters_by_w and self.cell.gates == 1

    def entering(self, recurrence: Recurrence, s: Tensor) -> Tensor:
        """What of the whole state ``s`` enters through W."""
        h = recurrence.split(s)[0]
        return self.cell.of_state(h) if self.is_split else h

    def step(
        self, recurrence: Recurrence, state: Tensor, entered: Tensor, projected: Tensor
    ) -> Tensor:
        """``recurrence.step`` in which ``entered`` enters through W, whatever the state is."""
        kind, cell = type(self.cell), alias(self.cell)
        if self.is_split:
            cell.__dict__["of_state"] = lambda _: entered
        else:
            cell.__dict__["next_state"] = lambda u, _, s: kind.next_state(cell, u, entered, s)
        return replace(recurrence, cell=cell).step(state, projected)

    def pulled_back(
        self, recurrence: Recurrence, rows: Tensor, state: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What becomes of ``rows`` ``[n, B, n]``, gradients in the state after a step.

        The gradients in the state before it on the direct path, ``[n, B, n]``; those in what enters, such
        as w, ``[n, B, G*H]``; and what these become before the step, path by path.
        """
        entering = partial(self.entering, recurrence)
        direct, entered = _pulled(
            lambda s, w: self.step(recurrence, s, w, projected), rows, state, entering(state)
        )
        count = len(self.paths)
        paths: list[Tensor] = []
        for path in range(count):
            parts = [
                part if k == path else torch.zeros_like(part)
                for k, part in enumerate(entered.chunk(count, -1))
            ]
            paths += _pulled(entering, torch.cat(parts, -1), state)
        return direct, entered, paths


def _blocks(cell: GatedCell) -> tuple[str, ...]:
    """The names of the blocks of W; numbers if the cell says none."""
    return cell.blocks or tuple(f"W_{k}" for k in range(1, cell.gates + 1))


def _parts(cell: Cell) -> _Parts | None:
    """The step of a ``GatedCell`` in two, unless it has a ``step`` of its own."""
    is_whole = isinstance(cell, GatedCell) and type(cell).step is GatedCell.step
    return _Parts(cast(GatedCell, cell)) if is_whole else None


def enters_by_w(cell: GatedCell) -> bool:
    """Whether the state enters the ``equations`` through W alone, so that there is no direct path."""
    if cell.zoneout:
        return False
    like = cell.weight_hh
    with torch.enable_grad():
        state = tuple(like.new_zeros(1, size).requires_grad_() for size in cell.state_sizes)
        u, w = like.new_zeros(2, 1, cell.gates * cell.hidden_size)
        after = torch.cat(cell.equations(u, w.requires_grad_(), state), -1)
        gradients = torch.autograd.grad(after.sum(), state, allow_unused=True)
    return all(part is None for part in gradients)


def directions(recurrence: Recurrence, probes: int | None) -> Tensor:
    """All directions of the state, or so many at random, ``[m, n]``; of length 1 in the mean square."""
    like, n = recurrence.before, recurrence.width
    if probes is None:
        return torch.eye(n, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(probes, n, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.div(n**0.5).to(like)


def _way_back(recurrence: Recurrence, parts: _Parts | None, start: Tensor) -> tuple[Tensor, Tensor]:
    """Take A = ``start`` ∂s_{T-1}/∂s_t from the last state to the first, and see what each part does to it.

    The log growth and, with ``parts``, its two factors ``[3, T - 1, B]``; the shares ``[G + 1, T - 1, B]``.
    """
    n, columns = recurrence.width, recurrence.projected.shape[-1]
    size = max(1, ROOM // (len(start) * (n + columns)))
    groups = [
        recurrence.of_sequences(slice(b, b + size)) for b in range(0, recurrence.batch_size, size)
    ]
    logs, shares = zip(*(_way_back_of(some, parts, start) for some in groups), strict=True)
    return torch.cat(logs, -1), torch.cat(shares, -1)


def _way_back_of(
    recurrence: Recurrence, parts: _Parts | None, start: Tensor
) -> tuple[Tensor, Tensor]:
    """``_way_back`` of sequences that fit into memory."""
    before = recurrence.before
    # A, its rows first, then the sequences.
    rows = start.unsqueeze(1).expand(-1, recurrence.batch_size, -1)
    count = 0 if parts is None else 1 + len(parts.paths)
    logs = before.new_zeros(3 if parts else 1, recurrence.steps - 1, recurrence.batch_size).double()
    shares = before.new_zeros(count, *logs.shape[1:]).double()
    for t in range(recurrence.steps - 1, 0, -1):
        state, projected = before[t], recurrence.projected[t]
        (arrived,) = _pulled(partial(recurrence.step, projected=projected), rows, state)
        logs[0, t - 1] = _log_gain(rows, arrived)
        if parts is not None:
            direct, entered, paths = parts.pulled_back(recurrence, rows, state, projected)
            middle = entered if parts.enters_by_w else direct
            logs[1, t - 1], logs[2, t - 1] = _log_gain(rows, middle), _log_gain(middle, arrived)
            for k, path in enumerate((direct, *paths)):
                shares[k, t - 1] = _share(path, arrived)
        norm = _norm(arrived)
        rows = arrived / torch.where(norm > 0, norm, 1.0).to(arrived).unsqueeze(-1)
    return logs, shares


def _pulled(step: Callable[..., Tensor], rows: Tensor, *at: Tensor) -> tuple[Tensor, ...]:
    """``rows`` ``[n, B, width]`` of gradients in what ``step`` gives, as such in each argument."""
    pulled: tuple[Tensor, ...] = torch.func.vmap(pulling(step, *at))(rows)
    return pulled


def _norm(rows: Tensor) -> Tensor:
    """The Frobenius norm of each sequence, ``[B]``, of ``[n, B, width]``."""
    return rows.double().square().sum((0, 2)).sqrt()


def _log_gain(before: Tensor, after: Tensor) -> Tensor:
    """The log of ‖after‖ / ‖before‖ of each sequence; 0 where nothing arrives that could change."""
    whole, left = _norm(before), _norm(after)
    return torch.where(whole > 0, left.log() - whole.log(), 0.0)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """⟨part, whole⟩ / ‖whole‖² of each sequence; NaN where nothing arrives."""
    return (part.double() * whole.double()).sum((0, 2)) / _norm(whole).square()


# --- By themselves -------------------------------------------------------------------------------


def _matrix(weight: Tensor) -> Matrix:
    values = torch.linalg.eigvals(weight)
    values = values[values.abs().argsort(descending=True)]
    singular = torch.linalg.svdvals(weight)
    return Matrix(
        values,
        float(values[0].abs()),
        float(singular[0]),
        float(singular.log().mean().exp()),
    )


@measuring()
def slopes_of(recurrence: Recurrence) -> Slopes:
    """The derivative of φ at every step: that of the equations in w, of a step that ``has_slopes``."""
    cell = cast(GatedCell, recurrence.cell)
    w = cell.of_state(recurrence.before)
    states = recurrence.split(recurrence.before)
    pull = pulling(lambda w: cell.equations(recurrence.projected, w, states)[0], w)
    slopes = pull(torch.ones_like(w))[0].abs().flatten(0, 1)
    grid = torch.linspace(-8, 8, 1601, dtype=w.dtype, device=w.device).unsqueeze(1)
    grid = grid.expand(-1, cell.hidden_size)
    zeros: State = tuple(grid.new_zeros(len(grid), size) for size in cell.state_sizes)
    on_grid = pulling(lambda w: cell.equations(torch.zeros_like(w), w, zeros)[0], grid)
    greatest = torch.maximum(on_grid(torch.ones_like(grid))[0].abs().max(), slopes.max())
    return Slopes(
        float(slopes.double().mean()),
        float((slopes < SATURATED * greatest).double().mean()),
        float((slopes == 0).all(0).double().mean()),
    )


def _gate(cell: GatedCell, recurrence: Recurrence) -> Gate:
    """The gate that carries the last tensor of the state on: what the equations multiply it by."""
    h, *_ = *others, carried = recurrence.split(recurrence.before)
    retain = cast(Retain, cell.retain)

    def after(carried: Tensor) -> Tensor:
        return cell.next_state(recurrence.projected, h, (*others, carried))[-1]

    gate = pulling(after, carried)(torch.ones_like(carried))[0].double()
    units = gate.mean((0, 1))
    name = retain.gate if retain.keeps else f"1 - {retain.gate}"
    return Gate(name, float(gate.mean()), units, 1 / (1 - units))
