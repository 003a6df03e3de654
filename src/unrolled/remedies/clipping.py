"""Gradients kept from exploding: of the parameters, after backward; of the states, within it."""

import math
from bisect import insort
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unrolled.layers.finding import layer_of, layers_in
from unrolled.shapes import check_dense, check_number, check_real, check_valued

Model = TypeVar("Model", bound=nn.Module)


def clip_norm_(parameters: Tensor | Iterable[Tensor], most: float) -> Tensor:
    """Scale all gradients down together, so that their common 2-norm is at most ``most``.

    It keeps the direction. Returns the norm before. It is ``torch.nn.utils.clip_grad_norm_``.

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML
    2013, algorithm 1.
    """
    return nn.utils.clip_grad_norm_(_with_gradients(parameters), check_bound(most))


def clip_value_(parameters: Tensor | Iterable[Tensor], most: float) -> Tensor:
    """Cut every entry of every gradient to [-``most``, ``most``], in place.

    It may turn the direction. Returns the largest absolute entry before. The cut is that of
    ``torch.nn.utils.clip_grad_value_``.

    Source: Mikolov, "Statistical Language Models Based on Neural Networks", PhD thesis, Brno 2012,
    section 3.2.2.
    """
    check_bound(most)
    parameters = [p for p in _with_gradients(parameters) if p.numel()]
    if not parameters:
        return torch.zeros((), dtype=torch.float32, device="cpu")
    largest = _norm(parameters, math.inf)
    nn.utils.clip_grad_value_(parameters, most)
    return largest


@torch.no_grad()
def clip_ratio_(
    parameters: Tensor | Iterable[Tensor], most: float = 0.01, *, least: float = 1e-3
) -> float:
    """Adaptive gradient clipping: no unit's gradient is long beside the unit's weights.

    Row G_i of a gradient whose ‖G_i‖ / max(‖W_i‖, ``least``) is above ``most`` is scaled down to it, in
    place; other rows are left as they are. A row is all that belongs to one entry of the first
    dimension: the weights of one unit of one gate. A vector (a bias) or a number counts as one row.

    Returns the largest ratio before, 0 if there is no gradient.

    Source: Brock, De, Smith & Simonyan, "High-Performance Large-Scale Image Recognition Without
    Normalization", ICML 2021, section 4.1. They leave the weights of the last layer out: so do not
    pass them.

    Args:
        parameters: whose gradients to clip; one without a gradient is passed over.
        most: λ.
        least: ε, the norm that a row of weights is taken to have at least, so that weights which begin
            at zero can leave it.
    """
    check_bound(most)
    if check_number("least", least) == 0:
        raise ValueError("least: got 0, expected a number above 0")
    ratios = [0.0]
    for parameter in _with_gradients(parameters):
        assert parameter.grad is not None
        weight, gradient = _rows(parameter), _rows(parameter.grad)
        lengths = weight.norm(dim=1, keepdim=True).clamp(min=least)
        ratio = gradient.norm(dim=1, keepdim=True) / lengths
        if not ratio.numel():
            continue
        parameter.grad.copy_((gradient / (ratio / most).clamp(min=1)).view_as(parameter.grad))
        ratios.append(ratio.max().item())
    return max(ratios, key=lambda ratio: (math.isnan(ratio), ratio))


class AutoClip:
    """Clip the norm of the gradient at a percentile of all norms so far.

    A call scales the gradients as ``clip_norm_`` does, with the bound that the history gives, this
    call's norm included: the first call never clips. A norm that is not finite is left out of the
    history, and its gradients as they are; look at what the call returns.

        >>> import torch
        >>> from unrolled.remedies import AutoClip
        >>> weight, autoclip = torch.zeros(1, requires_grad=True), AutoClip(50)
        >>> for gradient in (1.0, 3.0, 100.0):
        ...     weight.grad = torch.tensor([gradient])
        ...     _ = autoclip([weight])
        >>> weight.grad
        tensor([3.])

    Source: Seetharaman, Wichern, Pardo & Le Roux, "AutoClip: Adaptive Gradient Clipping for Source
    Separation Networks", IEEE MLSP 2020.

    Args:
        percentile: p, from 0 to 100; the source finds 10 good.
    """

    def __init__(self, percentile: float = 10.0) -> None:
        self.percentile = check_number("percentile", percentile, most=100.0)
        self._history: list[float] = []  # in order of size

    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Tensor:
        """Clip the gradients of ``parameters`` in place, and return their common norm before."""
        parameters = _with_gradients(parameters)
        if not parameters:
            return torch.zeros((), dtype=torch.float32, device="cpu")
        norm = _norm(parameters)
        if math.isfinite(norm.item()):
            insort(self._history, norm.item())
            if norm.item() > self.bound:
                clip_norm_(parameters, self.bound)
        return norm

    @property
    def bound(self) -> float:
        """The percentile of the norms so far, between two of them by linear interpolation; or infinity."""
        if not self._history:
            return math.inf
        place = (len(self._history) - 1) * self.percentile / 100
        below, above = (self._history[round_(place)] for round_ in (math.floor, math.ceil))
        return below + (above - below) * (place - math.floor(place))

    def state_dict(self) -> dict[str, Any]:
        """The percentile, and the norms so far in order of size."""
        return {"percentile": self.percentile, "history": list(self._history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        if not isinstance(state, dict) or state.keys() != self.state_dict().keys():
            got = list(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: got {got}, expected what state_dict of an AutoClip gives")
        history = sorted(check_number("history", norm) for norm in state["history"])
        self.percentile = check_number("percentile", state["percentile"], most=100.0)
        self._history = history


def clip_states_(model: Model, most: float | None) -> Model:
    """Clip inside backpropagation through time: no sequence's ∂L/∂state_t is longer than ``most``.

    In every recurrent layer of ``model``, at every step of the backward pass: what reaches the state of
    a sequence (from the loss, from later steps, from the layer above) is scaled down to the 2-norm
    ``most``, if it is longer, before it is passed on to the parameters and to the step before. So one step
    that explodes costs its own length, and not the direction of the whole gradient, as with
    ``clip_norm_``. The tensors of a state are clipped each by itself. What comes out is no longer the
    gradient of the loss. It changes no number forward, and runs on the kernels.

    Source: Graves, "Generating Sequences With Recurrent Neural Networks", arXiv 1308.0850 (2013),
    section 2.1, who cuts entry by entry within the backward pass; Mikolov's thesis of 2012 likewise; the
    norm in place of the entries, which keeps the direction, is that of Pascanu, Mikolov & Bengio (2013).

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> from unrolled.remedies import clip_states_
        >>> layer = clip_states_(Recurrent(cells.LSTM, 3, 5), 0.1)
        >>> layer(torch.randn(7, 2, 3))[0].sum().backward()

    Args:
        model: a ``Recurrent`` or a drop-in layer, or a model that has such layers.
        most: the longest ∂L/∂state_t; ``None`` to clip no more.

    Returns:
        ``model`` itself.

    Raises:
        TypeError, ValueError: ``most`` is no number above 0; or a recurrent layer inside is
            ``torch.nn``'s own, or there is none.
    """
    if most is not None:
        most = check_bound(most)
    layers = layers_in(model)
    for name, layer in layers.items():
        recurrent = layer_of(layer)
        if recurrent is None or "resets" not in recurrent.masks:
            raise TypeError(
                f"{name or 'model'}: got {type(layer).__module__}.{type(layer).__name__}, expected a "
                "Recurrent or a drop-in layer; unrolled.accelerate(model) makes it one"
            )
        if recurrent.why_unwatched() is not None:
            raise ValueError(
                f"{name or 'model'}: got proj_size={layer.proj_size}, which torch.nn runs, expected "
                "none; use Recurrent with projection="
            )
    for layer in layers.values():
        vars(layer)["clip"] = most
    return model


def check_bound(most: float) -> float:
    """``most``, or an error unless it is a number above 0; infinity is one."""
    check_real("most", most)
    if not most > 0:
        raise ValueError(f"most: got {most!r}, expected a number above 0")
    return float(most)


def _with_gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """Those that have a gradient, or an error unless they are dense tensors, and their gradients."""
    expected = "expected tensors, as from model.parameters()"
    if not isinstance(parameters, Iterable):
        raise TypeError(f"parameters: got {type(parameters).__name__}, {expected}")
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for parameter in tensors:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"parameters: got {type(parameter).__name__}, {expected}")
        if parameter.grad is not None:
            check_dense("parameters", parameter.grad, "as the gradient")
            check_valued("parameters", parameter.grad)
    return [parameter for parameter in tensors if parameter.grad is not None]


def _norm(parameters: list[Tensor], order: float = 2.0) -> Tensor:
    """The common norm of their gradients."""
    norms = [torch.linalg.vector_norm(p.grad, order) for p in parameters if p.grad is not None]
    common: Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0]) for n in norms]), order)
    return common


def _rows(tensor: Tensor) -> Tensor:
    """``tensor`` as a matrix, a unit's weights in each row; a vector or a number as one row."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.view(1, -1)
