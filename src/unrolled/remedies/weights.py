"""The weights of a recurrent layer of any kind, cell by cell and gate by gate."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from unrolled.cells import Elman
from unrolled.cells.cell import Cell, GatedCell
from unrolled.cells.elman import Activation
from unrolled.cells.facts import Retain
from unrolled.layers.finding import AnyLayer, layer_of
from unrolled.scan.hooks import computed_names


class CellWeights(NamedTuple):
    """The weights of one cell: those of one layer and direction."""

    kind: type[GatedCell]
    activation: str | Activation
    """Of an Elman cell; of others empty."""
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    extras: tuple[str, ...] = ()
    """The options by which the step differs from the equations alone."""

    @property
    def units(self) -> int:
        """H."""
        return len(self.weight_hh) // self.kind.gates

    def inputs(self) -> tuple[Tensor, ...]:
        """U of each gate, ``[H, D]``."""
        return self.weight_ih.chunk(self.kind.gates)

    def recurrent(self) -> tuple[Tensor, ...]:
        """W of each gate, ``[H, H]``."""
        return self.weight_hh.chunk(self.kind.gates)

    def block(self, name: str | None) -> int:
        """The place of a block by its name."""
        return self.kind.blocks.index(cast(str, name))

    def set_bias(self, gate: int | str, value: Tensor | float) -> None:
        """Make the sum of a gate's two biases ``value``; the gate by its place or its name."""
        assert self.bias_ih is not None and self.bias_hh is not None
        gate = self.block(gate) if isinstance(gate, str) else gate
        first = self.bias_ih.chunk(self.kind.gates)[gate]
        if isinstance(value, Tensor):
            first.copy_(value)
        else:
            first.fill_(value)
        self.bias_hh.chunk(self.kind.gates)[gate].zero_()

    @property
    def forgets(self) -> Retain | None:
        """The forget gate, if there is one: f, which keeps the state where it is open."""
        retain = self.kind.retain
        return retain if retain is not None and retain.gate == "f" and retain.keeps else None


def cells_of(layer: nn.Module, *, lenient: bool = False) -> Iterator[CellWeights]:
    """The weights of each cell of ``layer``, by layer, then direction.

    Args:
        layer: a ``Recurrent``, a drop-in layer, or a layer of ``torch.nn``.
        lenient: whether cells that are no ``GatedCell`` are passed over, in place of an error.

    Raises:
        TypeError: ``layer`` is none of these, or its cells are no ``GatedCell``.
        ValueError: a weight is parametrised, so that what is written into it would be lost.
    """
    recurrent = check_layer(layer)
    for part in layer.modules():
        if names := computed_names(part):
            raise ValueError(
                f"layer: got a {type(layer).__name__} with parametrised weights, {', '.join(names)}, "
                "expected plain ones; call this before torch.nn.utils.parametrize, prune or weight_norm"
            )
    for cell in cast(Sequence[Cell], recurrent.as_recurrent().cells):
        if isinstance(cell, GatedCell):
            activation = cell.activation if isinstance(cell, Elman) else ""
            weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
            yield CellWeights(type(cell), activation, *weights, cell.extras)
        elif not lenient:
            raise TypeError(
                f"layer: got cells of {type(cell).__name__}, whose weights have no gates in "
                "blocks of H rows, expected a GatedCell, such as cells.GRU; "
                "write into its parameters yourself"
            )


def check_layer(layer: object) -> AnyLayer:
    """``layer`` as ``RecurrentLayer``, or an error unless it is one."""
    recurrent = layer_of(layer)
    if recurrent is None:
        raise TypeError(
            f"layer: got {type(layer).__name__}, expected a Recurrent or a recurrent layer of "
            "unrolled or torch.nn; of a model, name one inside"
        )
    return recurrent
