"""Recurrent networks on PyTorch."""

from unrolled import cells
from unrolled.layers import Recurrent, Result

__version__ = "0.1.0"
__all__ = ["Recurrent", "Result", "cells"]
