"""What a scan does to a gradient in the long run, direction by direction."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unrolled.lens.recurrence import Recurrence, check_finite, measuring, recurrence_of
from unrolled.shapes import check_size


@measuring()
def lyapunov(
    layer: nn.Module,
    x: Tensor,
    k: int | None = None,
    *,
    level: int = 0,
    direction: int = 0,
    warmup: int | None = None,
) -> Tensor:
    """The Lyapunov exponents of one scan along ``x``: the log growth a step, of k directions.

    A gradient on its way back grows as exp(λ steps) along each; all below 0, it vanishes, the first above
    0, it explodes. By QR decomposition of the steps' Jacobians along the trajectory, from k random
    orthogonal directions (the same at every call): Q_t R_t = J_t Q_{t-1}, λ_i = mean of log ``|R_ii|``.

    Exact, up to rounding, where every step stretches all directions alike, and always in the sum over all
    of them, the mean of log ``|det J|``. Else an estimate, whose error falls as 1 / steps. A direction
    which a step shrinks by eps relative to the others, such as that of a dead unit, has exponent -inf.

    Source: Vogt, Puelma Touzel, Shlizerman & Lajoie, "On Lyapunov Exponents for RNNs: Understanding
    Information Propagation Using Dynamical Systems Tools" (2020, arXiv:2006.14123); Benettin, Galgani,
    Giorgilli & Strelcyn, "Lyapunov Characteristic Exponents for Smooth Dynamical Systems", Meccanica 15
    (1980).

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if the layer is ``batch_first``; see ``recurrences``.
        k: how many, from the largest on; by default all n of the whole state.
        level: which layer of the stack, from 0.
        direction: 0 is forward, 1 backward.
        warmup: how many steps first turn the state and the directions, and are not counted; by default a
            tenth of T.

    Returns:
        ``[k]`` in float64, from the largest on, the mean over the sequences.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    recurrence = recurrence_of(layer, x, level, direction)
    steps, n = recurrence.steps, recurrence.width
    k = n if k is None else check_size("k", k, most=n)
    if warmup is None:
        warmup = steps // 10
    warmup = check_size("warmup", warmup, least=0, most=steps - 1)
    total = recurrence.x.new_zeros(recurrence.batch_size, k, dtype=torch.float64)
    for t, triangle in enumerate(_triangles(recurrence, k)):
        if t >= warmup:
            total += _logs(triangle)
    exponents = total / (steps - warmup)
    return exponents.sort(-1, descending=True).values.mean(0)


@measuring()
def log_condition(layer: nn.Module, x: Tensor, *, level: int = 0, direction: int = 0) -> float:
    """The logarithm of the condition number of ∂s_{T-1}/∂s_{-1}, over all steps of one scan.

    That is log σ_max - log σ_min of J_{T-1} ⋯ J_0: 0 if gradients of every direction fare alike on their
    way back, large if some vanish beside others; infinite if a step is singular, to rounding. From the
    triangles of a QR decomposition after each step, their product and its inverse rescaled as they grow,
    so that nothing overflows, however many steps there are. σ_max and σ_min are exact up to rounding.

    Source: as of ``lyapunov``; Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks", ICLR 2014, on why it matters.

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if the layer is ``batch_first``; see ``recurrences``.
        level: which layer of the stack, from 0.
        direction: 0 is forward, 1 backward.

    Returns:
        The mean over the sequences, a natural logarithm.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    recurrence = recurrence_of(layer, x, level, direction)
    n = recurrence.width
    unit = torch.eye(n, dtype=torch.float64, device=recurrence.x.device)
    product = inverse = unit.expand(recurrence.batch_size, n, n)
    scales = product.new_zeros(recurrence.batch_size)
    is_singular = torch.zeros(recurrence.batch_size, dtype=torch.bool, device=product.device)
    for triangle in _triangles(recurrence, n):
        singular = _logs(triangle).isinf().any(-1)
        is_singular |= singular
        triangle = torch.where(singular[:, None, None], unit, triangle)
        product, grown = _rescaled(triangle @ product)
        inverse, shrunk = _rescaled(
            torch.linalg.solve_triangular(triangle, inverse, upper=True, left=False)
        )
        scales += grown + shrunk
    largest = torch.linalg.matrix_norm(product, 2) * torch.linalg.matrix_norm(inverse, 2)
    log_conditions = torch.where(is_singular, math.inf, scales + largest.log())
    return float(log_conditions.clamp(min=0.0).mean())


def _triangles(recurrence: Recurrence, k: int) -> Iterator[Tensor]:
    """R of each step, ``[B, k, k]``, from the first on: J_t ⋯ J_0 Q = Q_t R_t ⋯ R_0.

    Q is drawn, since where units do not touch, the unit vectors would stay what they are.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(recurrence.width, k, generator=generator, dtype=torch.float64, device="cpu")
    directions = torch.linalg.qr(drawn.to(recurrence.x.device))[0]
    for jacobian in recurrence.each_jacobian():
        check_finite(jacobian)
        directions, triangle = torch.linalg.qr(jacobian @ directions)
        yield triangle


def _logs(triangle: Tensor) -> Tensor:
    """Every log ``|R_ii|``, ``[B, k]``; -inf where float64 cannot tell R_ii from 0."""
    diagonal = triangle.diagonal(dim1=-2, dim2=-1).abs()
    noise = len(diagonal[0]) * torch.finfo(torch.float64).eps * triangle.abs().amax((-2, -1))
    return torch.where(diagonal > noise.unsqueeze(-1), diagonal, 0.0).log()


def _rescaled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix`` ``[B, n, n]`` over its largest entry, and the logarithm of that, ``[B]``."""
    scale = matrix.abs().amax((-2, -1))
    return matrix / scale[:, None, None], scale.log()
