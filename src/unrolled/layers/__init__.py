"""Layers: depth × directions of scans."""

from unrolled.layers.recurrent import Merge, Recurrent, Result

__all__ = ["Merge", "Recurrent", "Result"]
