"""Terms to add to the loss, which keep gradients from vanishing or exploding while a network learns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from unrolled.cells import Cell, State
from unrolled.layers.recurrent import Recurrent
from unrolled.layers.result import Result
from unrolled.scan import ScanOptions, ScanResult, Sweep
from unrolled.shapes import check_function, check_loss, check_size


def preserving(layer: Recurrent, x: Tensor, loss: Callable[[Result], Tensor]) -> Tensor:
    """Ω, small if the gradient comes through every step as long as it went in.

        Ω = Σ_t (‖δ_{t+1} ∂s_{t+1}/∂s_t‖ / ‖δ_{t+1}‖ - 1)²        δ_t = ∂L/∂s_t, through all later steps

    summed over the steps and the layer's cells, and averaged over the sequences; steps that no gradient
    reaches are left out. Only the direction of the gradient that is there is held, not the whole
    Jacobian, so that the network can still forget what does not matter. s is the whole state: of an
    LSTM h and c together.

    As in the source, δ and the states are constants to the gradient of Ω: what is differentiated, a
    second time, is each step alone, all of them at once.

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> from unrolled.remedies import preserving
        >>> layer, x = Recurrent(cells.Elman, 3, 5), torch.randn(20, 2, 3)
        >>> loss = lambda result: result.y[-1].square().mean()
        >>> (loss(layer(x)) + 0.1 * preserving(layer, x, loss)).backward()

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML
    2013, section 3.3, equations 9 and 10.

    Args:
        layer: a ``Recurrent`` of any cells, without ``weight_drop``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if ``batch_first``; all steps are real.
        loss: of what the layer returns for ``x``, a scalar. A draw in it, such as dropout, is not the
            one that the loss you train on has had.

    Raises:
        TypeError, ValueError: the layer or ``x`` is not as above, or the loss is no scalar or does not
            depend on the layer.
    """
    check_function("loss", loss, "of the layer's result")
    result, runs = _observed(layer, x)
    value = check_loss(loss(result))
    reached = [tensor for run in runs for tensor in (*run.states, *run.final)]
    if not value.requires_grad:
        raise ValueError(
            "loss: got one that depends on nothing, expected one of the layer's result"
        )
    gradients = iter(torch.autograd.grad(value, reached, materialize_grads=True))
    total = value.new_zeros(())
    for run in runs:
        count = len(run.states)
        direct, last = ([next(gradients) for _ in range(count)] for _ in (0, 1))
        total = total + _omega(run.detached(), direct, last)
    return total


def exponents(layer: Recurrent, x: Tensor, count: int) -> Tensor:
    """The first ``count`` Lyapunov exponents of each cell along ``x``: ``[L*S, count]``, differentiable.

    The i-th is the mean growth in a step, as a logarithm, of the i-th direction of the state: of a
    random orthonormal Q, Q_t R_t = (∂s_t/∂s_{t-1}) Q_{t-1} gives λ_i as the mean of log ``|R_t[i, i]|``,
    over steps and sequences. In reverse time a gradient grows by the same exponents: if all are below 0 it
    vanishes, and one above 0 lets it explode.

    Source: Benettin, Galgani, Giorgilli & Strelcyn, "Lyapunov Characteristic Exponents for smooth
    dynamical systems", Meccanica 15 (1980); Engelken, Wolf & Abbott, "Lyapunov spectra of chaotic
    recurrent neural networks", Physical Review Research 5 (2023).

    Args:
        layer: a ``Recurrent`` of any cells, without ``weight_drop``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if ``batch_first``; all steps are real.
        count: k, at most the size of the state.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_size("count", count)
    _, runs = _observed(layer, x)
    return torch.stack([_exponents(run, count) for run in runs])


def lyapunov_regularisation(layer: Recurrent, x: Tensor, count: int) -> Tensor:
    """Gradient flossing: Σ λ_i² of the first ``count`` Lyapunov exponents of each cell along ``x``.

    Its gradient pushes these exponents to zero, so that ``count`` directions of the gradient neither
    vanish nor explode. The source does so before training, and now and then within it.

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> from unrolled.remedies import lyapunov_regularisation
        >>> layer = Recurrent(cells.Elman, 3, 5)
        >>> lyapunov_regularisation(layer, torch.randn(20, 2, 3), 2).backward()

    Source: Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of
    Jacobians", NeurIPS 2023, equations 6 and 7.

    Args:
        layer: as for ``exponents``.
        x: as for ``exponents``.
        count: k; the more, the more memory: each step keeps k columns of the state's size.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    return exponents(layer, x, count).square().sum()


class _Run(NamedTuple):
    """What one cell has done: in the order in which it took the steps."""

    cell: Cell
    projected: Tensor
    start: State
    states: State
    """After every step, ``[T, B, size]`` each, in the order of time."""
    final: State
    reverse: bool

    def detached(self) -> "_Run":
        """The same states, as constants; the projection and the cell as they are."""
        states, start, final = (
            tuple(s.detach() for s in group) for group in (self.states, self.start, self.final)
        )
        return self._replace(states=states, start=start, final=final)

    def ordered(self, tensors: Sequence[Tensor]) -> State:
        """Tensors ``[T, ...]`` in the order in which the steps were taken."""
        return tuple(t.flip(0) if self.reverse else t for t in tensors)

    def before(self) -> State:
        """The state before each step, ``[T, B, size]`` each."""
        after = self.ordered(self.states)
        pairs = zip(self.start, after, strict=True)
        return tuple(torch.cat([s.unsqueeze(0), a[:-1]]) for s, a in pairs)


def _observed(layer: Recurrent, x: Tensor) -> tuple[Result, list[_Run]]:
    """What ``layer`` returns for ``x``, and what each of its cells has done."""
    if not isinstance(layer, Recurrent):
        raise TypeError(
            f"layer: got {type(layer).__name__}, expected an unrolled.Recurrent, whose cells have a step"
        )
    if layer.weight_drop and layer.training:
        raise ValueError(f"layer: got weight_drop={layer.weight_drop}, expected 0, or layer.eval()")
    if layer.segmenter is not None:
        raise ValueError("layer: got one within bptt.checkpointed, expected it outside")
    layer.checked(x)
    if not x.numel():
        raise ValueError(
            f"x: got shape {list(x.shape)}, expected at least one step and one sequence"
        )
    cells, runs = iter(cast(Sequence[Cell], layer.cells)), list[_Run]()

    def observe(
        sweep: Sweep,
        x: Tensor,
        state: State | None,
        options: ScanOptions,
        *,
        weights: Sequence[Tensor],  # noqa: ARG001
        fresh: Callable[[], State],
    ) -> ScanResult:
        cell, noise, reverse = next(cells), options.noise, options.reverse
        states, final = sweep(x, state, options)
        # An alias: the reference's last state is also a part of its states, whose gradients are separate.
        final = tuple(s.view_as(s) for s in final)
        projected = cell.project(x.detach())
        if noise is not None:
            noise = noise.expand(*projected.shape[:-1], -1)
            projected = torch.cat([projected, noise.to(projected.dtype)], -1)
        start = fresh() if state is None else state
        ordered = projected.flip(0) if reverse else projected
        runs.append(_Run(cell, ordered, start, states, final, reverse))
        return ScanResult(states, final)

    layer.segmenter = observe
    try:
        result = layer(x, states=True)
    finally:
        del layer.segmenter
    return result, runs


def _omega(run: _Run, direct: Sequence[Tensor], last: Sequence[Tensor]) -> Tensor:
    """Ω of one cell, where ``direct`` and ``last`` are ∂L/∂s not through later steps."""
    before = tuple(s.requires_grad_() for s in run.before())
    deltas = _deltas(run, before, run.ordered(direct), last)
    batch_size = before[0].shape[1]
    flat = run.projected.flatten(0, 1)
    after = run.cell.step(flat, tuple(s.flatten(0, 1) for s in before))
    arrived = torch.autograd.grad(
        after, before, [d.flatten(0, 1) for d in deltas], create_graph=True, materialize_grads=True
    )
    sent_length, length = _lengths(deltas)[1:], _lengths(arrived)[1:]
    reached = sent_length > 0
    ratio = length / torch.where(reached, sent_length, 1)
    return torch.where(reached, (ratio - 1).square(), 0).sum() / batch_size


def _deltas(run: _Run, before: State, direct: State, last: Sequence[Tensor]) -> list[Tensor]:
    """∂L/∂s_t after each step, through all later steps: ``[T, B, size]`` each."""
    steps, delta = len(run.projected), tuple(last)
    deltas: list[State] = []
    for t in reversed(range(steps)):
        delta = tuple(d + own[t] for d, own in zip(delta, direct, strict=True))
        deltas.append(delta)
        with torch.enable_grad():
            state = tuple(s[t].detach().requires_grad_() for s in before)
            after = run.cell.step(run.projected[t].detach(), state)
        delta = torch.autograd.grad(after, state, delta, materialize_grads=True)
    return [torch.stack(kind[::-1]) for kind in zip(*deltas, strict=True)]


def _lengths(state: Sequence[Tensor]) -> Tensor:
    """The 2-norm of a whole state, step by step and sequence by sequence; its gradient at zero is zero."""
    lengths: Tensor = torch.linalg.vector_norm(torch.cat(tuple(state), -1), dim=-1)
    return lengths


def _exponents(run: _Run, count: int) -> Tensor:
    """The first Lyapunov exponents of one cell."""
    before = run.before()
    batch_size, size = before[0].shape[1], sum(run.cell.state_sizes)
    check_size("count", count, most=size)
    q, _ = torch.linalg.qr(
        torch.randn(batch_size, size, count, dtype=torch.float32, device="cpu").to(before[0])
    )
    growth: Tensor = q.new_zeros(count)
    for t, projected in enumerate(run.projected):
        q, r = torch.linalg.qr(_moved(run.cell, projected, tuple(s[t] for s in before), q))
        growth = growth + r.diagonal(dim1=-2, dim2=-1).abs().log().mean(0)
    return growth / len(run.projected)


def _moved(cell: Cell, projected: Tensor, state: State, directions: Tensor) -> Tensor:
    """(∂s_t/∂s_{t-1}) times the ``directions`` ``[B, size, k]`` of each sequence.

    Each direction is a sequence of its own. The vector-Jacobian product is linear in its vector, so its own
    product with a direction is the Jacobian times that.
    """
    count = directions.shape[-1]
    before = tuple(s.repeat(count, 1).requires_grad_() for s in state)
    after = cell.step(projected.repeat(count, 1), before)
    vectors = tuple(torch.zeros_like(s, requires_grad=True) for s in after)
    arrived = torch.autograd.grad(after, before, vectors, create_graph=True, materialize_grads=True)
    tangents = directions.permute(2, 0, 1).flatten(0, 1)
    parts = torch.split(tangents, list(cell.state_sizes), -1)
    moved = torch.autograd.grad(arrived, vectors, parts, create_graph=True, materialize_grads=True)
    return torch.cat(moved, -1).view(count, -1, tangents.shape[-1]).permute(1, 2, 0)
