"""Any recurrent layer of a model, as ``RecurrentLayer``."""

from collections.abc import Iterator

import torch
from torch import nn

from unrolled.layers.recurrent import Recurrent
from unrolled.layers.torch_layers import DROP_INS, TorchLayer
from unrolled.layers.torch_view import TorchView, without_parametrizations

Layer = Recurrent | nn.RNNBase
"""A recurrent layer as its owner has it."""
View = Recurrent | TorchView
"""Each is a ``RecurrentLayer``, and has ``as_recurrent``: one that shares its very weights, time first."""
_NAMES = ("RNN", "LSTM", "GRU")
NOT_SWAPPED = "it is not swapped; unrolled.accelerate(model) does it"


def layer_of(module: object) -> View | None:
    """``module`` as ``RecurrentLayer``; ``None`` if it is none whose state and weights are known."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    if isinstance(module, Recurrent):
        return module
    if isinstance(module, nn.RNNBase):
        is_drop_in = isinstance(module, TorchLayer)
        return TorchView(module, None if is_drop_in else why_no_drop_in(module) or NOT_SWAPPED)
    return None


def viewed(module: nn.Module) -> View:
    """``layer_of`` a module that is known to have one."""
    layer = layer_of(module)
    assert layer is not None
    return layer


def is_recurrent(module: nn.Module) -> bool:
    """Whether ``module`` is a recurrent layer: one with a view, or PyTorch's in another form."""
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in _NAMES
    if type(module).__module__.startswith("torch.ao."):
        return type(module).__name__ in _NAMES
    return layer_of(module) is not None


def recurrent_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The recurrent layers in ``model``, itself included, by name; a shared one once."""
    return ((name, module) for name, module in model.named_modules() if is_recurrent(module))


def described(module: nn.Module) -> str:
    """A recurrent layer and its sizes in one line."""
    layer = layer_of(module)
    if layer is not None:
        return layer.described()
    return str(getattr(module, "original_name", type(module).__name__))


def why_no_drop_in(layer: nn.Module) -> str | None:
    """Why a recurrent layer cannot become a drop-in layer, or ``None`` if it can."""
    kind = without_parametrizations(layer)
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
