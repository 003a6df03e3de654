"""A layer as it unrolls in time, as a picture: in SVG, and in the characters of a terminal."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from unrolled.diagrams.ascii import Text
from unrolled.diagrams.formula import MOST_STEPS, Notation
from unrolled.diagrams.graph import Graph
from unrolled.diagrams.svg import Svg
from unrolled.errors import MissingExtraError
from unrolled.files import replace
from unrolled.shapes import check_size

WIDTH = 80  # of a terminal


@dataclass(frozen=True)
class Drawing:
    """A picture of a layer: ``svg``, which a notebook shows, and ``text``, which ``str`` gives."""

    svg: str = field(repr=False)
    text: str
    """Where a line would be wider than 80 characters, steps in the middle are left out."""

    def __str__(self) -> str:
        return self.text

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Write an ``.svg`` or, with the extra "report", a ``.png``.

        Raises:
            ValueError: another suffix.
            MissingExtraError: a ``.png``, and the extra is not installed.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".svg":
            replace(path, self.svg.encode())
        elif suffix == ".png":
            try:
                import vl_convert
            except ModuleNotFoundError:
                raise MissingExtraError("a .png picture", "vl-convert-python", "report") from None

            replace(path, vl_convert.svg_to_png(self.svg, scale=2))
        else:
            raise ValueError(f"path: got {str(path)!r}, expected a name that ends in .svg or .png")


def draw(layer: nn.Module, steps: int = 4) -> Drawing:
    """The network that a layer is over so many steps: each step a copy, all with the same weights.

    Inputs below, states in the middle, outputs on top. In two directions A reads from the left and A'
    from the right. Of several layers, each reads what the one below gives. Weights are U, W and V, for
    gated cells with their blocks, as in U_ifgo; what has no such weight is called "step". V belongs to
    the head that reads the layer; see ``expand``.

        >>> from unrolled import Recurrent, cells
        >>> print(draw(Recurrent(cells.Elman, 3, 4), 3))
                 o_1      o_2      o_3
                  ↑        ↑        ↑
                  V        V        V
        s_0 ─W─→ s_1 ─W─→ s_2 ─W─→ s_3
                  ↑        ↑        ↑
                  U        U        U
                 x_1      x_2      x_3

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``.
        steps: T, from 1 to 64.

    Raises:
        TypeError, ValueError: the layer is none of these, or ``steps`` is out of range.
    """
    notation = Notation(layer)
    steps = check_size("steps", steps, most=MOST_STEPS)
    every: list[int | None] = list(range(1, steps + 1))
    shorter = [[*every[:k], None, *every[-max(1, k - 1) :]] for k in (3, 2, 1)]
    for columns in [every, *(some for some in shorter if len(some) < steps)]:
        text = Text(Graph(notation, columns, steps)).write()
        if max(map(len, text.split("\n"))) <= WIDTH:
            break
    return Drawing(Svg(Graph(notation, every, steps)).write(), text)
