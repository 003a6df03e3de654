"""Recurrent networks on PyTorch."""

__version__ = "0.1.0"

from unrolled import bptt, cells, data, lens, models, pretrained, remedies, training
from unrolled.layers import (
    GRU,
    LSTM,
    RNN,
    Explanation,
    Recurrent,
    Result,
    accelerate,
    explain,
    quantize,
    restore,
)
from unrolled.lens import watch
from unrolled.pretrained import fill

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Explanation",
    "Recurrent",
    "Result",
    "accelerate",
    "bptt",
    "cells",
    "data",
    "explain",
    "fill",
    "lens",
    "models",
    "pretrained",
    "quantize",
    "remedies",
    "restore",
    "training",
    "watch",
]
