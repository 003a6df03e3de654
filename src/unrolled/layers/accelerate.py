"""Swaps the recurrent layers of a model for drop-in layers, and back."""

from collections.abc import Callable
from typing import TypeVar, cast

from torch import nn

from unrolled.layers.explain import Explanation, explain
from unrolled.layers.finding import described, layer_of, recurrent_layers, why_no_drop_in
from unrolled.layers.torch_layers import TorchLayer, become_drop_in, become_parent
from unrolled.scan import Backend, check_backend
from unrolled.shapes import check_module

Model = TypeVar("Model", bound=nn.Module)


def accelerate(
    model: Model, *, backend: Backend = "auto", report: Callable[[str], object] | None = print
) -> Model:
    """Make every ``torch.nn.RNN``, ``LSTM`` and ``GRU`` in ``model`` a drop-in layer, in place.

    A layer stays the same object, with the same parameters, hooks, parametrizations and attributes:
    only its class changes. So optimizers go on, and a layer that several modules share is swapped
    for all of them. What cannot be swapped is left as it is: subclasses, which may compute something
    else, layers whose ``forward`` has been replaced, and those of TorchScript or quantised.

        >>> import torch
        >>> from unrolled import layers
        >>> model = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(3, 5), "head": torch.nn.Linear(5, 2)})
        >>> model = layers.accelerate(model, report=None)
        >>> type(model["encoder"])
        <class 'unrolled.layers.torch_layers.LSTM'>

    Args:
        model: a model, or such a layer itself.
        backend: as for the drop-in layers.
        report: told, a line a recurrent layer, which path it takes now, or why it was left. ``None``
            for silence; a logger's ``info`` to log it.

    Returns:
        ``model`` itself.

    Raises:
        TypeError, ValueError: ``model`` is not a module, or ``backend`` none of the three; nothing
            has been swapped.
    """
    check_module("model", model)
    check_backend(backend)
    lines = [
        f"{name or 'model'}: {_swap(layer, backend)}" for name, layer in recurrent_layers(model)
    ]
    if report is not None:
        for line in lines or [f"{type(model).__name__}: no recurrent layer inside"]:
            report(line)
    return model


def restore(model: Model) -> Model:
    """Make every drop-in layer in ``model`` the layer of ``torch.nn`` that it comes from, in place.

    The inverse of ``accelerate``, for tools that look for exactly these classes, such as
    ``torch.ao.quantization.quantize_dynamic``. A layer stays the same object, with the same parameters,
    hooks, parametrizations and attributes. Subclasses of drop-in layers are left as they are.

        >>> import torch
        >>> from unrolled import layers
        >>> layers.restore(torch.nn.Sequential(layers.LSTM(3, 5)))
        Sequential(
          (0): LSTM(3, 5)
        )

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module("model", model)
    for layer in model.modules():
        if isinstance(layer, TorchLayer):
            become_parent(layer)
    return model


def _swap(layer: nn.Module, backend: Backend) -> str:
    """Swap ``layer`` if it can be, and say what was done."""
    before, recurrent = described(layer), layer_of(layer)
    if recurrent is not None and "resets" in recurrent.masks:
        return f"{before}, nothing to swap: {_path(explain(layer))}"
    if reason := why_no_drop_in(layer):
        return f"{before}, left: {reason}"
    become_drop_in(cast(nn.RNNBase, layer)).backend = backend
    return f"{before}, swapped: {_path(explain(layer))}"


def _path(explanation: Explanation) -> str:
    """The path, and the facts behind it, in one line."""
    if explanation.path == "native":
        return f"native, {explanation.instruction_set}, threads: {explanation.threads}"
    return f"{explanation.path}, {'; '.join(explanation.reasons)}"
