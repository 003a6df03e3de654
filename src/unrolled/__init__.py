"""Recurrent networks on PyTorch."""

from importlib import import_module
from typing import Any

from unrolled import bptt, cells, lens, remedies
from unrolled.layers import GRU, LSTM, RNN, Recurrent, accelerate, explain
from unrolled.lens import watch
from unrolled.version import __version__ as __version__


def __getattr__(name: str) -> Any:
    """What has to do with text is imported where it is first asked for."""
    if name == "fill":
        return import_module("unrolled.text.pretrained").fill
    if name in ("text", "training"):
        return import_module(f"unrolled.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Recurrent",
    "accelerate",
    "bptt",
    "cells",
    "explain",
    "fill",
    "lens",
    "remedies",
    "text",
    "training",
    "watch",
]
