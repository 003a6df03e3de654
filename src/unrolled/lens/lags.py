"""How much of the past a layer hears: from state to state within a scan, and from output to input."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from unrolled.layers.recurrent import Recurrent
from unrolled.lens.recurrence import (
    ROOM,
    Recurrence,
    evaluated,
    measuring,
    pulling,
    recurrence_of,
)
from unrolled.shapes import check_number, check_numbers, check_size

MatrixNorm = Literal["rms", "spectral"]


@measuring()
def lag_matrix(
    layer: nn.Module,
    x: Tensor,
    *,
    level: int = 0,
    direction: int = 0,
    lags: int | None = None,
    norm: MatrixNorm = "rms",
) -> Tensor:
    """How much of the state k steps ago is still in the state: ‖∂s_t/∂s_{t-k}‖ for every t and k.

    s is the whole state of one scan, all its tensors side by side (of an LSTM h and c), and ∂s_t/∂s_{t-k}
    is J_t J_{t-1} ⋯ J_{t-k+1}, the product of the steps' Jacobians, taken in float64. A network whose
    every step multiplies its state by a gives ``abs(a) ** k`` in either norm:

    - "rms": Frobenius norm / √n, by which a gradient at s_t of random direction grows on its way back, in
      the root of the mean square: what happens to a typical gradient.
    - "spectral": 2-norm, by which a gradient grows at most. It takes a singular value decomposition
      for each entry, some ten to thirty times as long.

    For a typical gradient, and for the cost, "rms" is the default. spectral / √n ≤ rms ≤ spectral.

    Source: Bengio, Simard & Frasconi, "Learning long-term dependencies with gradient descent is
    difficult", IEEE Transactions on Neural Networks 5 (1994); Pascanu, Mikolov & Bengio, "On the
    difficulty of training recurrent neural networks", ICML 2013.

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> layer = Recurrent(cells.Elman, 2, 3, activation="identity")
        >>> _ = layer.cells[0].weight_hh.data.copy_(0.5 * torch.eye(3))
        >>> lag_matrix(layer, torch.randn(4, 1, 2))[3].tolist()
        [1.0, 0.5, 0.25, 0.125]

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if the layer is ``batch_first``; see ``recurrences``.
        level: which layer of the stack, from 0.
        direction: 0 is forward; 1 is backward, in which the past of step t is t + k.
        lags: K: the lags are 0 … K - 1; by default all, K = T.
        norm: as above.

    Returns:
        ``[T, K]`` in float64, the mean over the sequences; NaN where step t - k does not exist.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    if norm not in get_args(MatrixNorm):
        raise ValueError(f"norm: got {norm!r}, expected one of {', '.join(get_args(MatrixNorm))}")
    whole = recurrence_of(layer, x, level, direction)
    count = whole.steps if lags is None else check_size("lags", lags, most=whole.steps)
    return whole.in_time(lags_of(whole, count, norm))


def lags_of(whole: Recurrence, count: int, norm: MatrixNorm) -> Tensor:
    """``lag_matrix`` of one scan, in the order of its steps."""
    size = max(1, ROOM // (count * whole.width**2))
    parts = [whole.of_sequences(slice(b, b + size)) for b in range(0, whole.batch_size, size)]
    return torch.cat([_lags(part, count, norm) for part in parts], 1).mean(1)


def _lags(recurrence: Recurrence, count: int, norm: MatrixNorm) -> Tensor:
    """The norms ``[T, B, K]``, in the order of the steps."""
    n, batch_size = recurrence.width, recurrence.batch_size
    lags = recurrence.x.new_full(
        (recurrence.steps, batch_size, count), math.nan, dtype=torch.float64
    )
    lags[..., 0] = 1.0
    unit = torch.eye(n, dtype=torch.float64, device=lags.device)
    # (∂s_t/∂s_k)ᵀ at k modulo K, for the last K steps k.
    ring = unit.new_zeros(batch_size, count, n, n)
    ring[:, 0] = unit
    for t, jacobian in enumerate(recurrence.each_jacobian(1), 1):
        kept = ring[:, :t].flatten(1, 2)
        kept.copy_(kept @ jacobian.mT)
        reached = torch.arange(max(0, t - count + 1), t, device=lags.device)
        norms = _norms(ring[:, :t], norm)
        lags[t, :, t - reached] = norms[:, reached % count]
        ring[:, t % count] = unit
    return lags


@measuring()
def estimated_lags(recurrence: Recurrence, probes: int) -> Tensor:
    """``lag_matrix`` in the norm "rms" from so many random directions at each t, in the order of the steps.

    The square of each entry is off by a share of at most √(2 / probes), in the standard deviation. It
    costs n² for each of them, where all directions cost n³. The same at every call. ``[T, T]``.
    """
    steps, batch_size = recurrence.steps, recurrence.batch_size
    generator = torch.Generator().manual_seed(0)
    shape = steps, probes, recurrence.width
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    drawn = drawn.to(recurrence.before)
    lags = drawn.new_full((steps, batch_size, steps), math.nan, dtype=torch.float64)
    lags[..., 0] = 1.0
    whole = drawn.double().square().sum((1, 2))  # by which each t's rows are longer than 1
    rows = drawn.new_empty(0, batch_size, recurrence.width)
    for t in range(steps - 1, 0, -1):
        rows = torch.cat([rows, drawn[t].unsqueeze(1).expand(-1, batch_size, -1)])
        step = partial(recurrence.step, projected=recurrence.projected[t])
        (rows,) = torch.func.vmap(pulling(step, recurrence.before[t]))(rows)
        since = torch.arange(steps - 1, t - 1, -1, device=lags.device)  # whose rows these are
        squares = rows.double().square().sum(-1).view(len(since), probes, batch_size).sum(1)
        lags[since, :, since - t + 1] = (squares / whole[since].unsqueeze(1)).sqrt()
    return lags.mean(1)


def _norms(products: Tensor, norm: MatrixNorm) -> Tensor:
    """The norms of ``[..., n, n]``."""
    if norm == "spectral":
        return cast(Tensor, torch.linalg.matrix_norm(products, 2))
    frobenius: Tensor = torch.linalg.vector_norm(products, dim=(-2, -1))
    return frobenius / math.sqrt(products.shape[-1])


@measuring()
def influence(layer: nn.Module, x: Tensor) -> Tensor:
    """The picture of unrolling: ‖∂y_t/∂x_k‖, how much the output at t hears of the input at k.

    Of the whole layer, its depth and its directions: lower-triangular (k ≤ t) for one direction, full for
    two. The Frobenius norm over all features of y_t and x_k. Of directions kept apart, y_t is both of them.
    It takes a backward pass for each step and feature of y, many of them at a time, by the layer's own
    ``backend``.

        >>> import torch, unrolled
        >>> picture = influence(unrolled.GRU(3, 5), torch.randn(4, 2, 3))
        >>> (picture > 0).int().tolist()
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        x: ``[T, B, D]``, or ``[B, T, D]`` if the layer is ``batch_first``; see ``recurrences``.

    Returns:
        ``[T, T]`` in float64, t before k, the mean over the sequences.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    recurrent, x = evaluated(layer, x)
    steps, batch_size, _ = x.shape
    features = recurrent.output_size * (2 if recurrent.merge == "separate" else 1)
    widest = max(recurrent.input_size, features, 4 * max(recurrent.hidden_sizes))
    size = max(1, ROOM // (steps * batch_size * widest))
    squares = x.new_zeros(steps, steps, batch_size, dtype=torch.float64)
    for asked in torch.split(torch.arange(steps * features, device=x.device), size):
        t, feature = asked // features, asked % features
        seen = steps if recurrent.directions == 2 else int(t[-1]) + 1
        gradients = _gradients(recurrent, x[:seen], t, feature)
        squares[:, :seen].index_add_(0, t, gradients.double().square().sum(-1))
    return squares.sqrt().mean(-1)


def _gradients(layer: Recurrent, x: Tensor, t: Tensor, feature: Tensor) -> Tensor:
    """∂y[t_i, b, feature_i]/∂x[k, b] for each pair i of ``[N]`` and each sequence: ``[N, T, B, D]``.

    Sequences do not touch, so that one backward pass over N copies of them gives all.
    """
    steps, batch_size, size = x.shape
    copies = len(t)
    with torch.enable_grad():
        x = x.unsqueeze(1).expand(-1, copies, -1, -1).reshape(steps, copies * batch_size, size)
        y = layer.forward(x.requires_grad_())[0]  # no hook is to see it
        y = y if isinstance(y, Tensor) else torch.cat(y, -1)
        copy = torch.arange(copies, device=x.device)
        chosen = y.reshape(steps, copies, batch_size, -1)[t, copy, :, feature]
        (gradients,) = torch.autograd.grad(chosen.sum(), x, materialize_grads=True)
    return gradients.reshape(steps, copies, batch_size, size).transpose(0, 1)


def horizon(decay: Tensor | Sequence[float], *, fraction: float = 0.01) -> float:
    """The lag at which a gradient falls under ``fraction`` of what it is at lag 0.

    Between two lags it is taken to fall geometrically, so that ``|a|``ᵏ gives log(fraction) / log ``|a|``.

        >>> horizon([1.0, 0.5, 0.25, 0.125], fraction=0.25)
        2.0

    Args:
        decay: at lags 0, 1, 2 …; such as a row of ``lag_matrix``, or ``lag_matrix(...).nanmean(0)``.
        fraction: between 0 and 1.

    Returns:
        The first such lag; infinity if there is none among those given.

    Raises:
        TypeError, ValueError: ``decay`` is no row of numbers from 0 up, or begins with 0.
    """
    if not 0 < check_number("fraction", fraction) < 1:
        raise ValueError(f"fraction: got {fraction!r}, expected a number between 0 and 1")
    values = check_numbers("decay", decay, "norms [K]", torch.float64).detach()
    if values.dim() != 1 or not len(values):
        advice = "; average a lag_matrix over its steps with .nanmean(0)"
        raise ValueError(f"decay: got shape {list(values.shape)}, expected [K]{advice}")
    if not (values >= 0).all() or values[0] == 0:
        raise ValueError(
            "decay: got NaN, a negative number or 0 at lag 0, expected norms; leave out lags that do "
            "not exist"
        )
    logs = values.clamp(max=torch.finfo(torch.float64).max).log()
    level = logs[0] + math.log(fraction)
    under = (logs <= level).nonzero()
    if not len(under):
        return math.inf
    k = int(under[0])
    last, here = float(logs[k - 1]), float(logs[k])
    return k - 1 + (last - float(level)) / (last - here)
