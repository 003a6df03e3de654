"""Finds the recurrent layers of a model, of any kind, each as ``RecurrentLayer``."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from unrolled.layers.recurrent import Recurrent
from unrolled.layers.torch_adapter import TorchAdapter
from unrolled.layers.torch_layers import DROP_INS, TorchLayer
from unrolled.modules import kind_of, rebuilt
from unrolled.scan.hooks import computed
from unrolled.shapes import check_module

Layer = Recurrent | nn.RNNBase
"""A recurrent layer as its owner has it."""
AnyLayer = Recurrent | TorchAdapter
"""Each is a ``RecurrentLayer``, and has ``as_recurrent``: one that shares its very weights, time first."""
_NAMES = ("RNN", "LSTM", "GRU")
NOT_SWAPPED = "it is not swapped; unrolled.accelerate(model) does it"


def layer_of(module: object) -> AnyLayer | None:
    """``module`` as ``RecurrentLayer``; ``None`` if it is none whose state and weights are known."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    if isinstance(module, Recurrent):
        return module
    if isinstance(module, nn.RNNBase):
        is_drop_in = isinstance(module, TorchLayer)
        return TorchAdapter(module, None if is_drop_in else why_no_drop_in(module) or NOT_SWAPPED)
    return None


def adapted(module: nn.Module) -> AnyLayer:
    """``layer_of`` a module that is known to have one."""
    layer = layer_of(module)
    assert layer is not None
    return layer


def is_recurrent(module: nn.Module) -> bool:
    """Whether ``module`` is a recurrent layer: one that ``layer_of`` knows, or PyTorch's in other form."""
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in _NAMES
    if type(module).__module__.startswith("torch.ao."):
        return type(module).__name__ in _NAMES
    return layer_of(module) is not None


def recurrent_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The recurrent layers in ``model``, itself included, by name; a shared one once."""
    return ((name, module) for name, module in model.named_modules() if is_recurrent(module))


def layers_in(model: nn.Module) -> dict[str, nn.Module]:
    """``recurrent_layers`` of a model that must have one.

    Raises:
        TypeError, ValueError: ``model`` is not a module, or has none.
    """
    check_module("model", model)
    layers = dict(recurrent_layers(model))
    if not layers:
        raise ValueError(f"model: got {type(model).__name__}, which holds no recurrent layer")
    return layers


def described(module: nn.Module) -> str:
    """A recurrent layer and its sizes in one line."""
    layer = layer_of(module)
    if layer is not None:
        return layer.described()
    return str(getattr(module, "original_name", type(module).__name__))


def why_no_drop_in(layer: nn.Module) -> str | None:
    """Why a recurrent layer cannot become a drop-in layer, or ``None`` if it can."""
    kind = kind_of(layer)
    if isinstance(layer, torch.jit.ScriptModule):
        return "it is compiled by TorchScript"
    if not issubclass(kind, nn.RNNBase):
        return "it is torch.ao's, for quantisation"
    if kind not in DROP_INS:
        parent = next((p for p in DROP_INS if issubclass(kind, p)), nn.RNNBase)
        return f"it is a subclass of torch.nn.{parent.__name__}, and may compute something else"
    if "forward" in vars(layer):
        return "its forward has been replaced"
    return None


def in_evaluation(layer: Layer) -> Recurrent:
    """A ``Recurrent`` over the very numbers of ``layer``, time first, in evaluation, untrained."""
    return adapted(computed(rebuilt(layer, _detach))).as_recurrent()


def checked_layer(layer: nn.Module) -> Layer:
    """``layer``, or an error unless its equations are known here."""
    kind = type(layer).__name__
    expected = "expected a Recurrent, or an RNN, LSTM or GRU of unrolled or torch.nn"
    recurrent = layer_of(layer)
    if recurrent is None:
        advice = "; name one inside, as in model.encoder" if isinstance(layer, nn.Module) else ""
        raise TypeError(f"layer: got {kind}, {expected}{advice}")
    if not recurrent.masks and (reason := why_no_drop_in(layer)):
        raise TypeError(f"layer: got {kind}, {expected}; {reason}")
    if size := getattr(layer, "proj_size", 0):
        raise ValueError(f"layer: got proj_size={size}, expected 0; use Recurrent with projection=")
    return cast(Layer, layer)


def _detach(shared: nn.Module) -> None:
    """Let an alias be in evaluation, its parameters the same numbers, which ask for no gradient."""
    shared.training = False
    shared._parameters = cast(
        dict[str, nn.Parameter | None],
        {name: None if p is None else p.detach() for name, p in shared._parameters.items()},
    )
