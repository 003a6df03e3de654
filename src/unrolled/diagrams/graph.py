"""What there is in a picture of a layer, and in which row and column; not how it looks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from unrolled.cells import GatedCell
from unrolled.diagrams.formula import Notation, Symbol

Label = tuple[Symbol, ...]


class Node(NamedTuple):
    """What a picture names, in a row and a column; in two directions left or right of its middle."""

    kind: str
    """"input", "forward", "backward", "start", "gap", "merge" or "output"."""
    row: int
    column: int
    side: int
    label: Label


class Edge(NamedTuple):
    """An arrow between two nodes."""

    a: Node
    b: Node
    label: Label


class Graph:
    """The nodes and arrows of a picture, the rows counted from below.

    ``columns`` are the steps that are shown, ``None`` standing for those that are not.
    """

    def __init__(self, notation: Notation, columns: Sequence[int | None], steps: int) -> None:
        self.notation, self.columns, self.steps = notation, columns, steps
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.rows: list[str] = []
        self.note = ""
        if notation.residual and notation.depth > 1:
            joined = "mixed with" if notation.residual == "highway" else "added to"
            self.note = f"From layer 2 on, what a layer reads is {joined} what it gives."
        if notation.beside:
            also = f"From layer 2 on, a layer also reads the last {notation.beside} features of x."
            self.note = f"{self.note} {also}".strip()
        streams = [self.row("input", "x")]
        for level in range(notation.depth):
            chains = [self.chain(level, d, streams) for d in range(notation.directions)]
            is_last = level == notation.depth - 1
            if (
                len(chains) == 1
                or notation.merge == "separate"
                or (is_last and notation.reads_both)
            ):
                streams = chains
            else:
                sign = {"concat": "", "sum": "+", "mean": "mean", "mul": "⊙"}[notation.merge]
                streams = [self.row("merge", sign)]
                for chain in chains:
                    self.connect(chain, streams[0], ())
        outputs = self.row("output", notation.output)
        for i, stream in enumerate(streams):
            self.connect(stream, outputs, (Symbol("V", primed=i == 1), *self.projection(level, i)))

    def row(self, kind: str, letter: str) -> list[Node]:
        """A row of nodes in the middle of their columns, by step except for a merge."""
        self.rows.append(kind)
        nodes = []
        for column, t in enumerate(self.columns, 1):
            step = "" if kind == "merge" else str(t)
            nodes.append(Node(kind, len(self.rows) - 1, column, 0, (Symbol(letter, step),)))
        self.nodes += [node for node in nodes if self.columns[node.column - 1] is not None]
        return nodes

    def chain(self, level: int, direction: int, read: Sequence[list[Node]]) -> list[Node]:
        """The states of a scan, with the arrows between them and those of what it reads."""
        notation, kind = self.notation, ("forward", "backward")[direction]
        self.rows.append(kind)
        row = len(self.rows) - 1
        side = 0 if notation.directions == 1 else (-1, 1)[direction]
        nodes = [
            Node("gap", row, column, side, (Symbol("⋯"),))
            if t is None
            else Node(kind, row, column, side, notation.state(level, direction, t))
            for column, t in enumerate(self.columns, 1)
        ]
        column, t = (len(nodes) + 1, self.steps + 1) if direction else (0, 0)
        start = Node("start", row, column, 0, notation.state(level, direction, t))
        self.nodes += [start, *nodes]
        u, w = self.weights(level, direction)
        for a, b in pairwise([start, *(reversed(nodes) if direction else nodes)]):
            self.edges.append(Edge(a, b, (w,)))
        stream = min(direction, len(read) - 1)
        self.connect(read[stream], nodes, (u, *self.projection(level - 1, stream)))
        return nodes

    def connect(self, below: Sequence[Node], above: Sequence[Node], label: Label) -> None:
        """Arrows upwards, one a step."""
        for t, a, b in zip(self.columns, below, above, strict=True):
            if t is not None:
                self.edges.append(Edge(a, b, label))

    def weights(self, level: int, direction: int) -> Label:
        """By what the input and the state enter a step."""
        notation = self.notation
        cell = notation.cell
        named = cell.blocks if isinstance(cell, GatedCell) else ()
        blocks = "".join(named) if len(named) > 1 else ""
        has_u, has_w = (hasattr(cell, f"weight_{part}") for part in ("ih", "hh"))
        return (
            notation.of("U", level, direction, blocks) if has_u else Symbol("project"),
            notation.of("W", level, direction, blocks) if has_w else Symbol("step"),
        )

    def projection(self, level: int, stream: int) -> Label:
        """P of what a layer gives, if there is one."""
        notation = self.notation
        return (notation.of("P", level, stream),) if notation.is_projected and level >= 0 else ()

    def label_row(self, edge: Edge) -> int:
        """Above which row the label of an arrow upwards stands: not between two directions."""
        a, b = edge.a.row, edge.b.row
        is_between = self.rows[a] == "forward" and self.rows[a + 1] == "backward"
        return b - 1 if is_between else a
