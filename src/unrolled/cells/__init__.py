"""Cells: one step of a recurrent network each, and ``Cell``, the contract to write your own."""

from unrolled.cells.antisymmetric import AntisymmetricRNN
from unrolled.cells.cell import Cell, GatedCell, State
from unrolled.cells.continuous_time import ContinuousTimeLSTM
from unrolled.cells.cornn import CoRNN
from unrolled.cells.coupled import CoupledLSTM
from unrolled.cells.elman import Elman
from unrolled.cells.gru import GRU
from unrolled.cells.grud import GRUD
from unrolled.cells.highway import RecurrentHighway
from unrolled.cells.indrnn import IndRNN
from unrolled.cells.lem import LEM
from unrolled.cells.lru import LRU
from unrolled.cells.lstm import LSTM
from unrolled.cells.mgu import MGU
from unrolled.cells.minimal import MinGRU, MinLSTM
from unrolled.cells.observed import Observed, observed
from unrolled.cells.peephole import PeepholeLSTM
from unrolled.cells.unicornn import UnICORNN

__all__ = [
    "GRU",
    "GRUD",
    "LEM",
    "LRU",
    "LSTM",
    "MGU",
    "AntisymmetricRNN",
    "Cell",
    "ContinuousTimeLSTM",
    "CoRNN",
    "CoupledLSTM",
    "Elman",
    "GatedCell",
    "IndRNN",
    "MinGRU",
    "MinLSTM",
    "Observed",
    "PeepholeLSTM",
    "RecurrentHighway",
    "State",
    "UnICORNN",
    "observed",
]
