"""What truncated BPTT does to a gradient, beside how far back a layer sees."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import bptt
from unrolled.bptt.inject import layers_of
from unrolled.layers.finding import adapted, is_recurrent
from unrolled.lens.formatting import steps_in_words
from unrolled.lens.watching import watch
from unrolled.shapes import check_loss, check_size, shape_or_type

WindowLoss = Callable[[Any, slice], Tensor]


@dataclass(frozen=True)
class Bias:
    """How far the gradient of truncated BPTT is from the full one, g.

    ``window``: k2, how many steps the gradient goes back. ``cosine``: of the angle between the two; NaN
    if nothing is left of the truncated one. ``ratio``: of their norms, truncated over full. ``bias``:
    ``‖g_truncated - g‖ / ‖g‖``. ``horizon``: the number of steps back after which a hundredth is left,
    in the scan in which it falls the slowest. ``steps``: T.
    """

    window: int
    cosine: float
    ratio: float
    bias: float
    horizon: float
    steps: int

    @property
    def sentence(self) -> str:
        """Whether the window is shorter than the horizon, in words."""
        if self.window >= self.steps:
            return "the whole sequence: full BPTT"
        if math.isnan(self.horizon):
            return "the horizon is unknown"
        if self.window < self.horizon:
            return "shorter than the horizon: what is further back is cut off"
        return "as long as the horizon, or longer"


class Biases(tuple[Bias, ...]):
    """A ``Bias`` for each window, in the order in which they were given; as text a table."""

    __slots__ = ()

    def __str__(self) -> str:
        lines = [f"{'window':>6}  {'cosine':>7}  {'ratio':>7}  {'bias':>7}"]
        lines += [
            f"{b.window:>6}  {b.cosine:>7.4f}  {b.ratio:>7.4f}  {b.bias:>7.4f}  {b.sentence}"
            for b in self
        ]
        far = steps_in_words(self[0].horizon)
        return "\n".join([*lines, f"horizon: {far}; the sequence has {self[0].steps} steps"])


def truncation_bias(
    model: nn.Module,
    x: Tensor | Sequence[Tensor],
    loss: WindowLoss,
    windows: Sequence[int],
    *,
    k1: int | None = None,
    batch_first: bool = False,
) -> Biases:
    """Hold the gradient of truncated BPTT, as ``bptt.truncated`` adds it up, against that of full BPTT.

    Of all parameters of the recurrent layers, at the weights as they are, in evaluation: nothing is
    dropped. The model and all gradients are left as they are.

        >>> import torch, unrolled
        >>> from unrolled import lens
        >>> layer, x, target = unrolled.GRU(3, 5), torch.randn(40, 2, 3), torch.randn(40, 2, 5)
        >>> def loss(y, steps):
        ...     return (y - target[steps]).square().sum()
        >>> found = lens.truncation_bias(layer, x, loss, (1, 5, 40))
        >>> found[0].cosine < found[1].cosine < found[2].cosine
        True

    Source: Williams & Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent
    Network Trajectories", Neural Computation 2 (1990), on BPTT(k1, k2).

    Args:
        model: as for ``bptt.truncated``, its recurrent layers of one direction.
        x: ``[T, B, ...]``, or several of them, of which the model is given as many.
        loss: of the outputs at some steps, as ``bptt.truncated`` gives them, and the slice of these steps,
            their part of the whole loss, a scalar: the parts must add up to it, as sums over steps do.
        windows: k2, how many steps the gradient goes back, each at least 1.
        k1: how many steps at a time: with 1 every loss goes back exactly k2 steps; by default k2, so that
            the sequence falls into chunks.
        batch_first: whether all is ``[B, T, ...]``.

    Raises:
        TypeError, ValueError: an argument is not as above, or the gradient is 0.
    """
    inputs, sizes = _checked(model, x, loss, windows, k1, batch_first)
    with torch.inference_mode(False), torch.enable_grad():
        inputs = tuple(part.detach().clone() for part in inputs)
        steps = inputs[0].shape[1 if batch_first else 0]
        outer = _Outer(copy.deepcopy(model))
        parameters = outer.parameters_of_layers()
        full, whole, horizon = _full(outer, inputs, loss, parameters, steps)
        biases = []
        for window in sizes:
            total, parts = torch.zeros_like(full), []
            for y, place in bptt.truncated(
                outer, inputs, k1=min(k1 or window, steps), k2=window, batch_first=batch_first
            ):
                value = check_loss(loss(y, place))
                parts.append(value.item())
                total += _gradient(value, parameters)
            _check_sum(parts, whole)
            biases.append(Bias(window, *distances(total, full), horizon, steps))
    return Biases(biases)


def distances(gradient: Tensor, full: Tensor) -> tuple[float, float, float]:
    """Cosine, ratio of the norms, and ‖gradient - full‖ / ‖full‖, of two rows of numbers.

    The cosine is 1 less half the square between unit vectors, which loses no digit near 1.
    """
    size, full_size = gradient.norm(), full.norm()
    between = gradient / size - full / full_size
    cosine = 1 - between.square().sum() / 2
    return float(cosine), float(size / full_size), float((gradient - full).norm() / full_size)


class _Outer(nn.Module):
    """A model in evaluation within a module in training: no dropout, but steps are read again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, *inputs: Tensor) -> Any:
        returned = self.model(*inputs)
        return returned[0] if is_recurrent(self.model) else returned

    def parameters_of_layers(self) -> list[Tensor]:
        """Those of the recurrent layers, which ask for a gradient."""
        unique = dict.fromkeys(p for layer in layers_of(self).values() for p in layer.parameters())
        return [p.requires_grad_() for p in unique if p.is_floating_point()]


def _full(
    model: _Outer,
    inputs: Sequence[Tensor],
    loss: WindowLoss,
    parameters: Sequence[Tensor],
    steps: int,
) -> tuple[Tensor, float, float]:
    """The gradient of full BPTT, the loss, and the longest horizon of a scan."""
    with watch(model) as seen:
        value = check_loss(loss(model(*inputs), slice(0, steps)))
        full = _gradient(value, parameters)
    if not 0 < full.norm() < math.inf:
        raise ValueError(
            f"loss: got a gradient of norm {full.norm():g} in the recurrent layers, expected one above 0"
        )
    verdicts = [row.verdict for row in seen.report(views=False).rows] if seen.flows else []
    horizons = [v.horizon for v in verdicts if v is not None and not math.isnan(v.horizon)]
    return full, value.item(), max(horizons, default=math.nan)


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """In a row, in float64; zeros where none comes."""
    if not value.requires_grad:
        return torch.cat([p.new_zeros(p.numel(), dtype=torch.float64) for p in parameters])
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    return torch.cat([g.flatten().double() for g in gradients])


# --- Checks --------------------------------------------------------------------------------------


def _checked(
    model: nn.Module,
    x: Tensor | Sequence[Tensor],
    loss: WindowLoss,
    windows: Sequence[int],
    k1: int | None,
    batch_first: bool,
) -> tuple[tuple[Tensor, ...], list[int]]:
    """What the model is called with, and the windows, or an error."""
    for name, layer in layers_of(model).items():
        if adapted(layer).directions == 2:
            raise ValueError(
                f"model: got two directions in {name or 'it'}, expected one, since in a window nothing "
                "comes from the future"
            )
    listed: object = windows
    if not isinstance(listed, Iterable) or (isinstance(listed, Tensor) and not listed.dim()):
        raise TypeError(
            f"windows: got {windows!r}, expected one or more numbers of steps, as in (5, 20)"
        )
    sizes = [check_size("windows", window) for window in windows]
    if not sizes:
        raise ValueError("windows: got none, expected one or more numbers of steps")
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a function of (outputs, slice)")
    if k1 is not None:
        check_size("k1", k1, most=min(sizes))
    shape = "[B, T, ...]" if batch_first else "[T, B, ...]"
    if not isinstance(x, Iterable):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor {shape}, or several")
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    if not inputs:
        raise ValueError(f"x: got nothing, expected a tensor {shape}, or several")
    for part in inputs:
        if not isinstance(part, Tensor) or part.dim() < 2 or not part.numel():
            raise ValueError(
                f"x: got {shape_or_type(part)}, expected a tensor {shape} that is not empty"
            )
    return inputs, sizes


def _check_sum(parts: Sequence[float], whole: float) -> None:
    """Refuse a loss whose parts do not add up to the whole, as those of a mean over a window."""
    if abs(sum(parts) - whole) > 1e-3 * sum(map(abs, parts)):
        raise ValueError(
            f"loss: its parts in {len(parts)} windows add up to {sum(parts):.6g}, the whole is "
            f"{whole:.6g}, expected the same; take the sum over steps, not the mean"
        )
