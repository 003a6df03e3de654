"""Weights of recurrent layers in eight bits, for inference."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unrolled.cells import Cell
from unrolled.scan.hooks import computed_names
from unrolled.shapes import check_module

Model = TypeVar("Model", bound=nn.Module)


class Int8(nn.Module):
    """A matrix as whole numbers of one byte, and a scale for each row: w ≈ q · scale.

    The largest of a row is 127 of its scale; so no weight is off by more than half its row's scale.
    """

    # The scale comes first, since a layer's first parameter tells the dtype that it computes in.
    def forward(self, scale: Tensor, whole: Tensor) -> Tensor:
        """The weight that a call uses, of ``[R, 1]`` and ``[R, C]`` int8: ``[R, C]``."""
        return scale * whole

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``weight`` rounded: what ``forward`` is given ever after."""
        scale = weight.abs().amax(1, keepdim=True) / 127
        scale = torch.where(scale > 0, scale, 1.0)
        return scale, (weight / scale).round().to(torch.int8)


def quantize(model: Model) -> Model:
    """Keep every matrix of the recurrent layers in ``model`` in eight bits, in place, for inference.

    A quarter of the memory of float32, and of the file that a state dict makes. A call multiplies the
    numbers out, and runs as before, by the kernels too; so it is not faster. Biases stay as they are,
    and so does what is not recurrent. The weights take no gradient any more.

        >>> import torch, unrolled
        >>> model = unrolled.layers.quantize(torch.nn.Sequential(unrolled.LSTM(3, 5)))
        >>> sorted({p.dtype for p in model.parameters()}, key=str)
        [torch.float32, torch.int8]

    Args:
        model: a model with recurrent layers: drop-in layers, those of ``torch.nn``, or ``Recurrent``.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: no recurrent layer is inside, or a weight is parametrised already; nothing has been
            changed.
    """
    check_module("model", model)
    found = list(_matrices(model))
    if not found:
        raise ValueError(f"model: got {type(model).__name__}, which holds no recurrent layer")
    with torch.inference_mode(False):  # whose tensors nothing outside of it could write to
        for module, name in found:
            getattr(module, name).requires_grad_(False)
            parametrize.register_parametrization(module, name, Int8())
    return model


def _matrices(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each matrix of a recurrent layer or a cell: whose it is, and its name there."""
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | Cell):
            if names := computed_names(module):
                raise ValueError(
                    f"{name or 'model'}: got parametrised weights, {', '.join(names)}, expected plain "
                    "ones; call torch.nn.utils.parametrize.remove_parametrizations or prune.remove first"
                )
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 2:
                    yield module, own
