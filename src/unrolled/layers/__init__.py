"""Layers: depth × directions of scans, and the drop-in layers for ``torch.nn``'s; a head's loss."""

from unrolled.layers.accelerate import accelerate, restore
from unrolled.layers.cross_entropy import linear_cross_entropy
from unrolled.layers.explain import Explanation, explain
from unrolled.layers.quantize import quantize
from unrolled.layers.recurrent import Merge, Recurrent
from unrolled.layers.result import Result
from unrolled.layers.stream import Stream
from unrolled.layers.torch_layers import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Explanation",
    "Merge",
    "Recurrent",
    "Result",
    "Stream",
    "accelerate",
    "explain",
    "linear_cross_entropy",
    "quantize",
    "restore",
]
