"""A picture of a layer in the characters of a terminal."""

from itertools import pairwise

from unrolled.diagrams.graph import Edge, Graph, Label, Node


class Text:
    """A graph in the characters of a terminal, by line, counted from below, and column."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.marks: dict[tuple[int, int], str] = {}
        self.lines = [0]
        for below, above in pairwise(graph.rows):
            is_close = above == "backward" or (below == "backward" and above != "forward")
            between = 1 if is_close else 3 if (below, above) == ("merge", "forward") else 2
            self.lines.append(self.lines[-1] + between + 1)
        node = max(len(_called(node)) for node in graph.nodes)
        across = max(len(_product(e.label)) for e in graph.edges if e.a.row == e.b.row)
        upwards = max(len(_product(e.label)) for e in graph.edges if e.a.row != e.b.row)
        is_double = graph.notation.directions == 2
        self.side = max(3, node // 2 + 1, upwards // 2 + 1) if is_double else 0
        needed = 2 * self.side + node // 2 + across + 5 if is_double else node + across + 5
        self.pitch = max(needed, upwards + 2)

    def write(self) -> str:
        """The picture."""
        for edge in self.graph.edges:
            if edge.a.row == edge.b.row:
                self.across(edge)
        for edge in self.graph.edges:
            if edge.a.row != edge.b.row:
                self.upwards(edge)
        for node in self.graph.nodes:
            self.put(self.lines[node.row], self.column(node), _called(node))
        left = min(column for _, column in self.marks)
        rows = [""] * (self.lines[-1] + 1)
        for (line, column), mark in sorted(self.marks.items()):
            rows[line] = rows[line].ljust(column - left) + mark
        return "\n".join([*reversed(rows), *([self.graph.note] if self.graph.note else [])])

    def across(self, edge: Edge) -> None:
        """An arrow from step to step; its label stands after what it crosses."""
        a, b, label = edge
        line, side = self.lines[a.row], 1 if b.column > a.column else -1
        start, end = self.beside(a, side), self.beside(b, -side)
        for column in range(start, end, side):
            self.marks[line, column] = "─"
        self.marks[line, end] = "→" if side > 0 else "←"
        crossed = start if a.kind == "start" else self.column(a) + 2 * side * self.side
        middle = (crossed + end) // 2 if self.side else (start + end) // 2
        self.put(line, middle, _product(label))

    def upwards(self, edge: Edge) -> None:
        """An arrow to the row above, or the one above that; round a corner between two sides."""
        a, b, label = edge
        low, high = self.lines[a.row] + 1, self.lines[b.row] - 1
        column = self.column(b if b.side else a)
        if b.side and not a.side:
            if a.kind == "merge":
                low += 1
                self.marks[low - 1, self.column(a)] = "┬"
            self.turn(low - 1, column, self.column(a), "╰╯")
        for line in range(low, high + 1):
            crosses = self.marks.get((line, column)) == "─"
            self.marks[line, column] = "┼" if crosses else "│"
        if a.side and not b.side:
            side = -1 if column < self.column(b) else 1
            self.turn(high + 1, column, self.column(b), "╭╮")
            self.marks[high + 1, self.beside(b, side) - side] = "→" if side < 0 else "←"
        else:
            self.marks[high, column] = "↑"
            high -= 1
        if label:
            below = self.graph.label_row(edge) == a.row
            self.put(low if below else high, column, _product(label))

    def turn(self, line: int, column: int, middle: int, corners: str) -> None:
        """A line from ``middle`` to ``column``, with the corner there."""
        side = 1 if column > middle else -1
        for k in range(middle + side, column, side):
            self.marks[line, k] = "─"
        self.marks[line, column] = corners[side > 0]

    def put(self, line: int, middle: int, text: str) -> None:
        """Write ``text`` around a column."""
        first = middle - (len(text) - 1) // 2
        self.marks |= {(line, first + k): mark for k, mark in enumerate(text)}

    def column(self, node: Node) -> int:
        """The middle of a node."""
        return node.column * self.pitch + node.side * self.side

    def beside(self, node: Node, side: int) -> int:
        """The second column to the right (1) or left (-1) of a node."""
        width = len(_called(node))
        before = (width - 1) // 2
        return self.column(node) + (width - before + 1 if side > 0 else -before - 2)


def _called(node: Node) -> str:
    return ", ".join(map(str, node.label)) if str(node.label[0]) else "•"


def _product(label: Label) -> str:
    return " ".join(map(str, label))
