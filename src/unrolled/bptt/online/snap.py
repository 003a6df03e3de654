"""Real-time recurrent learning with a sparse approximation."""

from collections.abc import Sequence
from typing import cast

from torch import nn

from unrolled.bptt.online.influence import Influence
from unrolled.bptt.online.learner import Learner
from unrolled.bptt.online.locality import locality
from unrolled.bptt.online.unitwise import ByUnit
from unrolled.cells import Cell
from unrolled.layers.recurrent import Recurrent


class SnAp1(Learner):
    """RTRL with the influence kept where a parameter reaches within one step: SnAp-1.

        J_t = mask ⊙ (∂s_t/∂s_{t-1} J_{t-1} + ∂s_t/∂θ)        ∂L_t/∂θ = ∂L_t/∂s_t J_t

    A row of a weight belongs to one unit, and within one step it reaches that unit's state alone. So of
    ∂s_t/∂s_{t-1} only what connects a unit with itself is left, and J is k P numbers a row, for k state
    tensors and P parameters. The gradient is biased: what a parameter does to its unit by way of other
    units is left out. Where units do not hear of one another (IndRNN, MinGRU, MinLSTM, LRU, UnICORNN)
    nothing is, and it is RTRL's.

    Cost: linear in P for these, and for cells whose W h goes into elementwise ``equations`` (Elman,
    LSTM, GRU). For others the whole ∂s_t/∂s_{t-1} is computed, of which the diagonals are kept.

    A deep layer is a chain of such learners: each cell has the influence of its own parameters on its
    own state, and the error comes down through the layers within the call. Single steps pass down what
    layers do to one another in the same step; longer chunks also what they do within the chunk. In one
    layer, chunks and single steps give the same.

    Source: Menick, Elsen, Evci, Osindero, Simonyan & Graves, "Practical Real Time Recurrent Learning
    with a Sparse Approximation", ICLR 2021.

    Args:
        layer: a ``Recurrent``, or an ``RNN``, ``LSTM`` or ``GRU`` of unrolled or ``torch.nn``; of one
            direction.

    Raises:
        TypeError: ``layer`` is none of these.
        ValueError: it is bidirectional, has a ``proj_size``, weights that are computed or nothing to
            learn; or a parameter of a cell reaches other units within a step, as with ``layer_norm``.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer, self._made)

    @staticmethod
    def _made(layer: Recurrent) -> Influence:
        cells = cast(Sequence[Cell], layer.cells)
        localities = [locality(cell) for cell in cells]
        for cell, own in zip(cells, localities, strict=True):
            kind = type(cell).__name__
            if any(size != cell.hidden_size for size in cell.state_sizes):
                raise ValueError(
                    f"layer: got {kind} with a state of sizes {list(cell.state_sizes)}, expected "
                    f"H = {cell.hidden_size} alone; take RTRL or UORO"
                )
            if own.strays:
                raise ValueError(
                    f"layer: got {kind}, of which {', '.join(own.strays)} reaches other "
                    "units within a step, expected each row to reach its own unit; take RTRL or UORO"
                )
        return ByUnit(layer, localities)
