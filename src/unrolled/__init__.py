"""Recurrent networks on PyTorch."""

__version__ = "0.1.0"

from unrolled import bptt, cells, data, lens, models, remedies, training
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
    "lens",
    "models",
    "quantize",
    "remedies",
    "restore",
    "training",
    "watch",
]
