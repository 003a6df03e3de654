"""Recurrent networks on PyTorch."""

__version__ = "0.1.0"

from unrolled import cells, data, models, remedies, training
from unrolled.layers import Recurrent, Result

__all__ = ["Recurrent", "Result", "cells", "data", "models", "remedies", "training"]
