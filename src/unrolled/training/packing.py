"""Weights in a quarter of the space: each row of a matrix as whole numbers and one scale."""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # what the scales of a matrix are called, after its own name
LEVELS = 127


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with each matrix W as int8 q and a float32 scale a row: W ≈ q · scale.

    The error of a weight is half a scale at most: 1/254 of its row's largest magnitude.
    """
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            result[name] = weight
            continue
        scale = weight.abs().amax(1, keepdim=True) / LEVELS
        steps = torch.where(scale > 0, weight / scale, 0.0)
        result |= {name: steps.round().to(torch.int8), name + SCALE: scale}
    return result


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``packed`` was given, up to its error; other tensors as they are.

    Raises:
        ValueError: the scales of a matrix do not fit it.
    """
    result = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    for name in tensors.keys() - result.keys():
        owner, scale = name.removesuffix(SCALE), tensors[name]
        steps = result.get(owner)
        if steps is None or steps.dim() != 2 or scale.shape != (len(steps), 1):
            raise ValueError(f"{name}: got {list(scale.shape)}, expected a scale a row of {owner}")
        result[owner] = steps.to(scale.dtype) * scale
    return result
