"""Cells: one step of a recurrent network each, and ``Cell``, the contract to write your own."""

from unrolled.cells.cell import Cell, GatedCell, State
from unrolled.cells.elman import Elman
from unrolled.cells.gru import GRU
from unrolled.cells.lstm import LSTM

__all__ = ["GRU", "LSTM", "Cell", "Elman", "GatedCell", "State"]
