"""A picture of a layer in SVG, for light and dark pages."""

import math
from html import escape

from unrolled.diagrams.formula import Symbol
from unrolled.diagrams.graph import Edge, Graph, Label, Node
from unrolled.modules import kind_of

MARGIN = 12.0
STYLE = """
.unrolled text{font:18px Cambria,Georgia,"Times New Roman",serif;text-anchor:middle;fill:#1b2430}
.unrolled .v{font-style:italic}
.unrolled .m{font-size:12px}
.unrolled .label{font-size:16px;fill:#55657a}
.unrolled .left{text-anchor:end}
.unrolled .right{text-anchor:start}
.unrolled rect{fill:#eef1f5;stroke:#77869a;stroke-width:1.5}
.unrolled path{fill:#77869a;stroke:#77869a;stroke-width:1.5}
.unrolled .forward{stroke:#2b6cb0}
.unrolled rect.forward{fill:#dceafa}
.unrolled path.forward{fill:#2b6cb0}
.unrolled .backward{stroke:#c05621}
.unrolled rect.backward{fill:#fde8d7}
.unrolled path.backward{fill:#c05621}
.unrolled rect.start{stroke-dasharray:4 3}
.unrolled rect.output{fill:#def2e4;stroke:#2f855a}
@media (prefers-color-scheme:dark){
.unrolled text{fill:#e8edf4}
.unrolled .label{fill:#b4c0d0}
.unrolled rect{fill:#2a313b}
.unrolled rect.forward{fill:#1c3d63}
.unrolled rect.backward{fill:#5c3013}
.unrolled rect.output{fill:#1b4630}
}
"""


class Svg:
    """A graph in SVG, in pixels; y grows downwards."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        across = max(_width(e.label) for e in graph.edges if e.a.row == e.b.row)
        upwards = max(_width(e.label) for e in graph.edges if e.a.row != e.b.row)
        states = [node for node in graph.nodes if node.kind in ("forward", "backward", "start")]
        self.radius = max(20.0, *(_width(node.label) / 2 + 11 for node in states))
        self.side, self.pitch = 0.0, max(2 * self.radius + across + 36, upwards + 40)
        if graph.notation.directions == 2:
            self.side = max(30.0, (self.radius + 12) / 1.5)
            one, other = self.radius + 2 * self.side + across + 30, 2 * (upwards + self.side) + 24
            self.pitch = max(one, other)
        self.width = (len(graph.columns) + graph.notation.directions - 1) * self.pitch
        self.width += 2 * MARGIN + self.radius
        self.width += self.side if self.side else max(self.radius, upwards + 8)
        gaps = [self.gap(r) for r in range(len(graph.rows) - 1)]
        bottom = sum(gaps) + MARGIN + 17
        self.y = [bottom - sum(gaps[:r]) for r in range(len(graph.rows))]
        self.height = bottom + 17 + MARGIN + (24 if graph.note else 0)

    def gap(self, row: int) -> float:
        """From the middle of a row to that of the one above."""
        above = self.graph.rows[row + 1]
        return {"backward": 64.0, "merge": 62.0}.get(above, 84.0)

    def write(self) -> str:
        """The picture."""
        graph, notation = self.graph, self.graph.notation
        size = f'width="{self.width:.0f}" height="{self.height:.0f}"'
        note = _text(MARGIN, self.height - 12, (Symbol(graph.note),), "label right")
        title = f"{kind_of(notation.cell).__name__}, unrolled over {graph.steps} steps"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="unrolled" role="img" {size} '
                f'viewBox="0 0 {self.width:.0f} {self.height:.0f}">',
                f"<title>{escape(title)}</title>",
                f"<desc>{escape(_described(graph))}</desc>",
                f"<style>{STYLE}</style>",
                *map(self.arrow, graph.edges),
                *(self.label(edge) for edge in graph.edges if edge.label),
                *map(self.node, graph.nodes),
                *([note] if graph.note else []),
                "</svg>\n",
            ]
        )

    def at(self, node: Node) -> tuple[float, float]:
        """The middle of a node."""
        x = MARGIN + self.radius + node.column * self.pitch + node.side * self.side
        return x, self.y[node.row]

    def half(self, node: Node) -> tuple[float, float]:
        """Half the width and height of a node."""
        width = _width(node.label) / 2
        if node.kind == "merge":
            return (max(12.0, width + 6), 12.0) if width else (4.0, 4.0)
        return (max(19.0, width + 8), 17.0) if _is_outside(node) else (self.radius, 20.0)

    def border(self, node: Node, dx: float, dy: float) -> float:
        """How many times (dx, dy) it is from the middle of a node to its border."""
        x, y = abs(dx) / self.half(node)[0], abs(dy) / self.half(node)[1]
        return 1 / max(x, y) if _is_outside(node) else 1 / math.hypot(x, y)

    def arrow(self, edge: Edge) -> str:
        """The arrow itself, a little off both nodes."""
        (x0, y0), (x1, y1) = self.at(edge.a), self.at(edge.b)
        dx, dy = x1 - x0, y1 - y0
        length = math.hypot(dx, dy)
        i, j = dx / length, dy / length
        start, end = self.border(edge.a, i, j) + 1, length - self.border(edge.b, i, j) - 2
        kind = edge.b.kind if edge.a.row == edge.b.row else "up"
        points = [
            (x0 + along * i - aside * j, y0 + along * j + aside * i)
            for along, aside in ((start, 0), (end - 7, 0), (end - 8, 4), (end, 0), (end - 8, -4))
        ]
        line = " ".join(f"{x:.1f} {y:.1f}" for x, y in points[:2])
        head = " ".join(f"{x:.1f} {y:.1f}" for x, y in points[2:])
        return f'<path class="{kind}" d="M{line}M{head}Z"/>'

    def label(self, edge: Edge) -> str:
        """The weight of an arrow: above one to the side, beside one upwards."""
        a, b, label = edge
        (x0, y0), (x1, y1) = self.at(a), self.at(b)
        if a.row == b.row:
            side = 1 if x1 > x0 else -1
            crossed = 2 * self.side if self.side and a.kind != "start" else self.half(a)[0]
            middle = (x0 + side * crossed + x1 - side * self.half(b)[0]) / 2
            return _text(middle, y0 - (11 if any(s.step for s in label) else 8), label, "label")
        row = self.graph.label_row(edge)
        y = (self.y[row] + self.y[row + 1]) / 2
        x = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
        if a.side < 0 or b.side < 0:
            return _text(x - 8, y + 5, label, "label left")
        return _text(x + 8, y + 5, label, "label right")

    def node(self, node: Node) -> str:
        """A node and its name."""
        (x, y), (w, h) = self.at(node), self.half(node)
        box = f'x="{x - w:.1f}" y="{y - h:.1f}" width="{2 * w:.1f}" height="{2 * h:.1f}"'
        shape = f'<rect class="{node.kind}" {box} rx="{5 if _is_outside(node) else h:g}"/>'
        is_named = _width(node.label) > 0
        return shape + (_text(x, y + 6, node.label, "name", ", ") if is_named else "")


def _is_outside(node: Node) -> bool:
    return node.kind in ("input", "output")


def _width(label: Label) -> float:
    """About how many pixels a label is wide."""
    parts = [
        (11 if len(s.letter) == 1 else 8.5 * len(s.letter))
        + 5 * s.primed
        + 6.5 * max(len(s.step), 0 if s.level is None or not s.step.isdigit() else 2.5)
        + (0 if s.level is None or s.step.isdigit() else 16)
        for s in label
        if s.letter
    ]
    return sum(parts) + 8 * max(0, len(parts) - 1)


def _text(x: float, y: float, label: Label, kind: str, between: str = "\u2009") -> str:
    """A label whose baseline starts, ends or has its middle at a point, as ``kind`` says."""
    spans, low = [], 0
    for k, s in enumerate(label):
        level = "" if s.level is None else f"({s.level})"
        slant = "v" if len(s.letter) == 1 and s.letter.isalpha() else "w"
        letter = f"{between if k else ''}{s.letter}{'′' if s.primed else ''}"
        back = (5 if s.primed else 6) * len(s.step) if s.step.isdigit() else 0  # above the step
        for text, style, dx, height in (
            (letter, slant, 0, 0),
            (s.step, "m", 0, 5),
            (level, "m", -back, -7),
        ):
            if text:
                shift = f'dx="{dx}" dy="{height - low}"'
                spans.append(f'<tspan class="{style}" {shift}>{escape(text)}</tspan>')
                low = height
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{"".join(spans)}</text>'


def _described(graph: Graph) -> str:
    """The picture in words."""
    notation = graph.notation
    ways = "one direction" if notation.directions == 1 else "two directions"
    layers = f"{notation.depth} layers" if notation.depth > 1 else "one layer"
    u, w = graph.weights(0, 0)
    return (
        f"{layers} in {ways} over {graph.steps} steps. Each input x_t enters by {u}, each state is "
        f"carried to the next step by {w}, and what the last layer gives at each step becomes "
        f"{notation.output}_t by V. All steps have the same weights."
    )
