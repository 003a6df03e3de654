"""Cells: one step of a recurrent network each, and ``Cell``, the contract to write your own."""

from unrolled.cells.antisymmetric import AntisymmetricRNN
from unrolled.cells.cell import Cell, GatedCell, State
from unrolled.cells.cornn import CoRNN
from unrolled.cells.coupled import CoupledLSTM
from unrolled.cells.elman import Elman
from unrolled.cells.gru import GRU
from unrolled.cells.highway import RecurrentHighway
from unrolled.cells.indrnn import IndRNN
from unrolled.cells.lem import LEM
from unrolled.cells.lru import LRU
from unrolled.cells.lstm import LSTM
from unrolled.cells.mgu import MGU
from unrolled.cells.minimal import MinGRU, MinLSTM
from unrolled.cells.peephole import PeepholeLSTM
from unrolled.cells.unicornn import UnICORNN

__all__ = [
    "GRU",
    "LEM",
    "LRU",
    "LSTM",
    "MGU",
    "AntisymmetricRNN",
    "Cell",
    "CoRNN",
    "CoupledLSTM",
    "Elman",
    "GatedCell",
    "IndRNN",
    "MinGRU",
    "MinLSTM",
    "PeepholeLSTM",
    "RecurrentHighway",
    "State",
    "UnICORNN",
]
