"""The average of the weights over the steps of a training."""

import torch
from torch import nn


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the parameters of ``average`` towards those of ``model``, which is alike, after ``step`` steps.

    a ← r·a + (1 - r)·w with r = min(decay, (1 + step) / (10 + step)): r grows with the steps, so that
    the weights of the beginning are forgotten. A shared parameter moves once.

    Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.
    """
    rate = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - rate)
