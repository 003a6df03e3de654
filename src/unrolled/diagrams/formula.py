"""The output of a layer as one nested formula of its inputs: the equation of unrolling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from unrolled.cells import Cell, Elman
from unrolled.cells.cell import GatedCell
from unrolled.layers.finding import checked_layer, in_evaluation
from unrolled.modules import kind_of
from unrolled.shapes import check_size

MOST_STEPS = 64
LONGEST = 20_000
"""Characters of a formula."""


@dataclass(frozen=True)
class Symbol:
    """A letter of an equation, with its prime (second direction), step and layer."""

    letter: str
    step: str = ""
    primed: bool = False
    level: int | None = None

    def __str__(self) -> str:
        step, level = self._parts()
        return f"{self.letter}{self.prime}{step and f'_{step}'}{level and f'^{level}'}"

    @property
    def prime(self) -> str:
        """The mark of the second direction."""
        return "'" if self.primed else ""

    @property
    def latex(self) -> str:
        """The same in LaTeX."""
        step, level = self._parts()
        letter = self.letter if len(self.letter) == 1 else rf"\mathrm{{{self.letter}}}"
        letter = letter.replace("_", r"\_")
        return f"{letter}{self.prime}{level and f'^{{{level}}}'}{step and f'_{{{step}}}'}"

    def _parts(self) -> tuple[str, str]:
        return self.step, "" if self.level is None else f"({self.level})"


class Notation:
    """What the equations of a layer call its parts; steps and layers are counted from 1.

    Raises:
        TypeError, ValueError: the layer is not recurrent, or its equations are not known here.
    """

    def __init__(self, layer: nn.Module) -> None:
        recurrent = in_evaluation(checked_layer(layer))
        self.cells = cast(Sequence[Cell], recurrent.cells)
        self.depth, self.directions = recurrent.depth, recurrent.directions
        self.merge = recurrent.merge
        self.is_projected, self.residual = recurrent.projections is not None, recurrent.residual
        self.beside = recurrent.beside if recurrent.depth > 1 else 0
        self.cell = self.cells[0]
        letters = self.cell.symbols or (("h",) if len(self.cell.state_sizes) == 1 else ("s",))
        self.letters = ("A",) if letters == ("s",) and self.directions == 2 else letters
        taken = "y" if "y" in letters else "o" if "o" in letters else ""
        self.output = {"y": "o", "o": "y"}.get(taken, "y" if self.directions == 2 else "o")
        kinds = {_plainly(cell) for cell in self.cells}
        self.f = kinds.pop() if len(kinds) == 1 else None
        """The name of f, and whether there is a b, if every step is f(U x_t + W s_{t-1} + b)."""

    def of(self, letter: str, level: int, direction: int, step: int | str = "") -> Symbol:
        """``letter`` with the marks of a scan; ``level`` counts from 0, as ``direction`` does."""
        mark = level + 1 if self.depth > 1 else None
        return Symbol(letter, str(step), direction == 1, mark)

    def state(self, level: int, direction: int, step: int | str) -> tuple[Symbol, ...]:
        """The state of a scan after a step."""
        return tuple(self.of(letter, level, direction, step) for letter in self.letters)

    @property
    def reads_both(self) -> bool:
        """Whether the head reads both directions of the last layer by a V each, in place of a merge."""
        is_whole = not (self.is_projected or (self.residual and self.depth > 1))
        return self.directions == 2 and (
            self.merge == "separate" or (self.merge == "concat" and is_whole)
        )


def _plainly(cell: Cell) -> tuple[str, bool] | None:
    """The name of f and whether there is a b, if a step is f(U x_t + W s_{t-1} + b) and nothing else."""
    if not isinstance(cell, Elman) or kind_of(cell) is not Elman or cell.extras:
        return None
    f = cell.activation
    name = f if isinstance(f, str) else getattr(f, "__name__", "<>")
    return name if name.isidentifier() else "activation", cell.bias_ih is not None


@dataclass(frozen=True)
class Formula:
    """A formula as text, which ``str`` gives, and as LaTeX, which a notebook shows."""

    text: str
    latex: str
    where: str
    """What the letters stand for."""

    def __str__(self) -> str:
        return self.text

    def _repr_latex_(self) -> str:
        return rf"$\displaystyle {self.latex}$"


def expand(layer: nn.Module, t: int, steps: int | None = None) -> Formula:
    """The output at step t as one formula of all the inputs that it depends on.

    s_t = f(U x_t + W s_{t-1}), put into o_t = g(V s_t) again and again until s_0 is reached. A cell
    whose step is no such f is written as a function of its input and state.

        >>> from unrolled import Recurrent, cells
        >>> print(expand(Recurrent(cells.Elman, 3, 4), 3))
        o_3 = g(V f(U x_3 + W f(U x_2 + W f(U x_1 + W s_0))))
        >>> print(expand(Recurrent(cells.LSTM, 3, 4), 2))
        o_2 = g(V LSTM(x_2, LSTM(x_1, (h_0, c_0))))
        >>> print(expand(Recurrent(cells.Elman, 3, 4, bidirectional=True), 2))
        y_2 = g(V f(U x_2 + W f(U x_1 + W A_0)) + V' f(U' x_2 + W' f(U' x_3 + W' A'_4)))

    U, W and b are the layer's own. V and g are not: they are the head's that reads the layer, such as
    the two linear maps and the GELU of ``models.TokenModel``. Of a projection, P is the layer's.

    Args:
        layer: a ``Recurrent``, or an RNN, LSTM or GRU of unrolled or ``torch.nn``. As in evaluation.
        t: the step, from 1, so that x_1 is ``x[0]``; up to 64.
        steps: T, how many steps there are, up to 64. In two directions the output depends on all; by
            default as many come after t as before it, T = 2t - 1. In one direction t is enough.

    Raises:
        TypeError: the layer is none of these, or a number is not whole.
        ValueError: a number is out of range, or the formula would be longer than 20 000 characters.
    """
    notation = Notation(layer)
    t = check_size("t", t, most=MOST_STEPS)
    default = t if notation.directions == 1 else min(2 * t - 1, MOST_STEPS)
    steps = check_size("steps", default if steps is None else steps, least=t, most=MOST_STEPS)
    if notation.directions == 1:
        steps = t
    text = _Writer(notation, t, steps, str, "⊙").output()
    latex = _Writer(notation, t, steps, lambda symbol: symbol.latex, r"\odot").output()
    return Formula(text, latex, _where(notation, steps))


class _Writer:
    """Writes a formula, each symbol by ``write``, the product of units as ``times``."""

    def __init__(
        self, notation: Notation, t: int, steps: int, write: Callable[[Symbol], str], times: str
    ) -> None:
        self.notation, self.t, self.steps = notation, t, steps
        self.write, self.times = write, times

    def output(self) -> str:
        """The whole formula."""
        notation = self.notation
        streams = [[self.write(Symbol("x", str(k + 1))) for k in range(self.steps)]]
        for level in range(notation.depth):
            read = (
                [self.timed(stream) for stream in streams] if notation.beside and level else streams
            )
            outputs = [
                self.states(level, direction, read[min(direction, len(read) - 1)])
                for direction in range(notation.directions)
            ]
            streams = self.joined(level, outputs, streams)
        terms = [
            f"{self.write(Symbol('V', primed=i == 1))} {stream[self.t - 1]}"
            for i, stream in enumerate(streams)
        ]
        return f"{self.write(Symbol(notation.output, str(self.t)))} = g({' + '.join(terms)})"

    def states(self, level: int, direction: int, read: Sequence[str]) -> list[str]:
        """The state of a scan after each step, of what the layer reads at each step."""
        notation, write = self.notation, self.write
        start = notation.state(level, direction, self.steps + 1 if direction else 0)
        u, w = (write(notation.of(letter, level, direction)) for letter in "UW")
        cell = write(notation.of(kind_of(notation.cell).__name__, level, direction))
        f = "" if notation.f == ("identity", False) else "f"
        s = _side_by_side([write(symbol) for symbol in start])
        states = []
        for x in reversed(read) if direction else read:
            s = f"{f}({u} {x} + {w} {s})" if notation.f else f"{cell}({x}, {s})"
            states.append(self.checked(s))
        return states[::-1] if direction else states

    def joined(
        self, level: int, outputs: list[list[str]], read: Sequence[Sequence[str]]
    ) -> list[list[str]]:
        """What a layer gives: see ``Recurrent.joined``."""
        notation = self.notation
        is_last = level == notation.depth - 1
        if len(outputs) == 2 and not (
            notation.merge == "separate" or (is_last and notation.reads_both)
        ):
            outputs = [[self.merged(a, b) for a, b in zip(*outputs, strict=True)]]
        if notation.is_projected:
            maps = [self.write(notation.of("P", level, i)) for i in range(len(outputs))]
            outputs = [
                [f"{p} {y}" for y in stream] for p, stream in zip(maps, outputs, strict=True)
            ]
        if not notation.residual or level == 0:
            return outputs
        return [
            [self.checked(self.added(level, i, y, x)) for y, x in zip(stream, below, strict=True)]
            for i, (stream, below) in enumerate(zip(outputs, read, strict=True))
        ]

    def timed(self, stream: Sequence[str]) -> list[str]:
        """What the layer below gives, and beside it the last features of the input."""
        beside = self.write(Symbol("beside"))
        inputs = (self.write(Symbol("x", str(k + 1))) for k in range(len(stream)))
        return [f"[{y}; {beside}({x})]" for y, x in zip(stream, inputs, strict=True)]

    def merged(self, forward: str, backward: str) -> str:
        """Both directions as one."""
        merge = self.notation.merge
        if merge == "mean":
            return f"{self.write(Symbol('mean'))}({forward}, {backward})"
        if merge == "concat":
            return f"[{forward}; {backward}]"
        return f"({forward} {'+' if merge == 'sum' else self.times} {backward})"

    def added(self, level: int, stream: int, above: str, read: str) -> str:
        """What a layer gives, and what it has read, as one."""
        if self.notation.residual == "highway":
            return f"{self.write(self.notation.of('highway', level, stream))}({above}, {read})"
        return f"({above} + {read})"

    def checked(self, formula: str) -> str:
        """``formula``, or an error if it is too long."""
        if len(formula) > LONGEST:
            raise ValueError(
                f"t: got {self.t} of {self.steps} steps in {self.notation.depth} layers, expected a "
                f"formula of at most {LONGEST} characters; take fewer steps, or see lens.draw"
            )
        return formula


def _side_by_side(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _where(notation: Notation, steps: int) -> str:
    """What the letters of a formula stand for."""
    said = [_step_of(notation)]
    begins = [
        s for d in range(notation.directions) for s in _state(notation, d, steps + 1 if d else 0)
    ]
    if notation.cell.starts_at_zero:
        said.append(" = ".join([*begins, "0"]) + (" in each layer" if notation.depth > 1 else ""))
    else:
        kind = "learnt" if notation.cell.learns_initial_state else "the cell's own"
        said.append(f"{', '.join(begins)}: {kind}")
    if notation.residual == "highway" and notation.depth > 1:
        said.append("highway(y, x) = q ⊙ y + (1 - q) ⊙ x, q = σ(Q x + b)")
    if notation.beside:
        said.append(f"beside(x): the last {notation.beside} features of x")
    heads = "V, V'" if notation.reads_both else "V"
    return "; ".join([*filter(None, said), f"{heads} and g are the head's"])


def _step_of(notation: Notation) -> str:
    """What one step is."""
    if notation.f is None:
        before, after = (_side_by_side(_state(notation, 0, step)) for step in ("{t-1}", "t"))
        said = f"{kind_of(notation.cell).__name__}(x_t, {before}) = {after}"
        if isinstance(notation.cell, GatedCell) and notation.cell.extras:
            said += f", with {', '.join(notation.cell.extras)}"
        if type(notation.cell).read is not Cell.read:
            return f"{said}, of which read({after}) goes on"
        return (
            said
            if len(notation.letters) == 1
            else f"{said}, of which {notation.letters[0]}_t goes on"
        )
    f, has_bias = notation.f
    if not has_bias:
        return "" if f == "identity" else f"f = {f}"
    said = f"f(z) = {'z + b' if f == 'identity' else f'{f}(z + b)'}"
    return f"{said}, each layer and direction having its own b" if len(notation.cells) > 1 else said


def _state(notation: Notation, direction: int, step: int | str) -> list[str]:
    """The state, in whatever layer."""
    return [str(Symbol(letter, str(step), direction == 1)) for letter in notation.letters]
