"""The picture has every part of the network once, and none lies on another."""

import itertools
import re
import sys
from math import hypot
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import unrolled
from tests.diagrams.test_formula import CELLS
from tests.lens.nets import KINDS, D, H, make, uncompiled
from unrolled import Recurrent, cells, lens
from unrolled.errors import MissingExtraError

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SVG = "{http://www.w3.org/2000/svg}"
MERGES = ["concat", "sum", "mean", "mul", "separate"]


def parsed(layer, steps):
    return ElementTree.fromstring(lens.draw(layer, steps).svg)


def shapes(root, tag):
    return [(e.get("class"), e) for e in root.iter(SVG + tag)]


def boxes(root):
    """Of every node: its kind, and where it lies, as left, top, right, bottom."""
    found = []
    for kind, e in shapes(root, "rect"):
        x, y, w, h = (float(e.get(k)) for k in ("x", "y", "width", "height"))
        found.append((kind, (x, y, x + w, y + h)))
    return found


def words(root):
    """Of every text: what it is, what it says, and about where it lies."""
    found = []
    for kind, e in shapes(root, "text"):
        spans = list(e)
        small, large = (6.0, 9.0) if kind == "name" else (6.0, 8.5)
        width = sum(
            (small if s.get("class") == "m" else large) * len(s.text)
            - 4 * s.text.count("′")
            + float(s.get("dx") or 0)
            for s in spans
        )
        x, y = float(e.get("x")), float(e.get("y"))
        x -= 0 if "right" in kind else width if "left" in kind else width / 2
        said = "".join(s.text for s in spans)
        found.append((kind, said, (x, y - 13, x + width, y + 4)))
    return found


def lines(root):
    """Of every arrow: its kind, and its line without its head."""
    found = []
    for kind, e in shapes(root, "path"):
        x0, y0, x1, y1 = map(float, e.get("d")[1:].split("M")[0].split())
        found.append((kind, ((x0, y0), (x1, y1))))
    return found


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def passes(line, box):
    """Whether a line goes through the ellipse in a box, by points of it no more than 5 pixels apart."""
    (x0, y0), (x1, y1) = line
    middle, half = (
        ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
        (box[2] - box[0], box[3] - box[1]),
    )
    count = int(hypot(x1 - x0, y1 - y0) / 5) + 1
    return any(
        hypot(
            2 * (x0 + k / count * (x1 - x0) - middle[0]) / half[0],
            2 * (y0 + k / count * (y1 - y0) - middle[1]) / half[1],
        )
        < 1
        for k in range(count + 1)
    )


def count(kinds):
    return {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.each_value(2)
@pytest.mark.parametrize("steps", [1, 3, 12])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_there_once(kind, bidirectional, depth, steps):
    root = parsed(make(kind, depth, bidirectional=bidirectional), steps)
    S, n = 1 + bidirectional, steps * depth
    expected = {"input": steps, "forward": n, "start": depth * S, "output": steps}
    if bidirectional:
        expected |= {"backward": n} | ({"merge": steps} if depth == 2 else {})
    assert count([kind for kind, _ in boxes(root)]) == expected
    arrows = {"forward": n, "up": S * (n + steps)}
    if bidirectional:
        arrows |= {"backward": n}
        arrows["up"] += 2 * steps * (depth - 1)  # into the merge
    assert count([kind for kind, _ in lines(root)]) == arrows
    named = [said for kind, said, _ in words(root) if kind == "name"]
    assert len(set(named)) == len(named) == S * (n + depth) + 2 * steps


@pytest.mark.each_value(2)
@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("merge", [None, *MERGES])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.LRU])
def test_nothing_lies_on_anything_else(cell, merge, depth, steps):
    options = {} if merge is None else {"bidirectional": True, "merge": merge}
    for projection in (None, 5):
        root = parsed(uncompiled(cell, depth=depth, projection=projection, **options), steps)
        nodes = [box for _, box in boxes(root)]
        labels = [box for kind, _, box in words(root) if kind != "name"]
        near = [box for box in [*nodes, *labels] if box[0] < 800]  # columns are alike
        for a, b in itertools.combinations(near, 2):
            assert not overlap(a, b)
        for _, line in lines(root):
            assert not any(passes(line, box) for box in near if line[0][0] < 800)
        width, height = float(root.get("width")), float(root.get("height"))
        for box in [*nodes, *labels]:
            assert box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height


def test_the_checks_above_can_fail():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) and not overlap((0, 0, 1, 1), (1, 0, 2, 1))
    assert passes(((0, 0), (40, 40)), (10, 10, 30, 30))
    assert not passes(((0, 0), (40, 40)), (20, 0, 40, 19))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_names_stand_in_their_nodes_and_arrows_reach_them(bidirectional):
    root = parsed(uncompiled(cells.LSTM, depth=2, bidirectional=bidirectional), 12)
    named = [box for kind, box in boxes(root) if kind != "merge"]
    texts = [box for kind, _, box in words(root) if kind == "name"]
    for outer, inner in zip(named, texts, strict=True):
        assert outer[0] < inner[0] and inner[2] < outer[2]
        assert outer[1] < inner[1] and inner[3] < outer[3]
    middles = [
        ((a + c) / 2, (b + d) / 2, (c - a) / 2, (d - b) / 2) for _, (a, b, c, d) in boxes(root)
    ]
    for _, (start, end) in lines(root):
        for x, y in (start, end):  # the head takes the last 9 pixels
            assert any(hypot(x - i, y - j) < hypot(w, h) + 9 for i, j, w, h in middles)


def test_time_goes_to_the_right_and_for_the_second_direction_to_the_left():
    root = parsed(Recurrent(cells.Elman, D, H, bidirectional=True), 3)
    for kind, ((x0, y0), (x1, y1)) in lines(root):
        assert y1 < y0 if kind == "up" else y0 == y1
        assert kind == "up" or (x1 > x0) == (kind == "forward")
    places = {said: box for kind, said, box in words(root) if kind == "name"}
    for letter in ("x", "y", "A", "A′"):
        row = [places[f"{letter}{t}"] for t in (1, 2, 3)]
        assert row == sorted(row) and len({box[1] for box in row}) == 1
    assert places["A0"] < places["A1"] and places["A′4"] > places["A′3"]
    assert places["x1"][1] > places["A1"][1] > places["A′1"][1] > places["y1"][1]


def labels_of(layer):
    return {said for kind, said, _ in words(parsed(layer, 2)) if kind != "name"}


def test_weights_have_the_names_of_the_cell():
    assert labels_of(Recurrent(cells.Elman, D, H)) == {"U", "W", "V"}
    assert labels_of(unrolled.RNN(D, H, bidirectional=True)) == {"U", "W", "V", "U′", "W′", "V′"}
    assert labels_of(nn.LSTM(D, H)) == {"Uifgo", "Wifgo", "V"}
    assert labels_of(uncompiled(cells.GRU)) == {"Urzn", "Wrzn", "V"}
    assert labels_of(uncompiled(cells.LRU)) == {"U", "step", "V"}
    assert labels_of(uncompiled(Own)) == {"project", "step", "V"}
    assert labels_of(uncompiled(cells.Elman, projection=3)) == {"U", "W", "V\u2009P"}
    assert labels_of(uncompiled(cells.Elman, depth=2)) == {"U(1)", "W(1)", "U(2)", "W(2)", "V"}
    told = labels_of(uncompiled(cells.Elman, depth=2, residual=True)) - {"V"}
    assert "From layer 2 on, what a layer reads is added to what it gives." in told


class Own(cells.Cell):
    """A cell without weights."""

    def project(self, x):
        return x[..., : self.hidden_size]

    def step(self, projected, state):
        return (state[0] + projected,)


def test_every_cell_can_be_drawn():
    for name, kind in CELLS.items():
        drawn = lens.draw(uncompiled(kind, bidirectional=True, depth=2))
        assert f"<title>{name}, unrolled over 4 steps</title>" in drawn.svg


def test_it_is_readable_without_seeing_it_and_in_the_dark():
    root = parsed(Recurrent(cells.LSTM, D, H, bidirectional=True), 3)
    assert root.get("role") == "img"
    assert [e.tag for e in root][:2] == [SVG + "title", SVG + "desc"]
    assert root[0].text == "LSTM, unrolled over 3 steps"
    assert root[1].text.startswith(
        "one layer in two directions over 3 steps. Each input x_t enters"
    )
    assert "prefers-color-scheme:dark" in root[2].text
    assert not any(e.get("fill") or e.get("id") for e in root.iter())  # nor a background


TWO_DIRECTIONS = """\
             ╭→y_1←╮        ╭→y_2←╮
             V     V'       V     V'
             │    A'_1 ←─W'─┼─── A'_2 ←─W'── A'_3
             │     ↑        │     ↑
A_0 ───W──→ A_1 ───┼──W──→ A_2    │
             ↑     │        ↑     │
             U     U'       U     U'
             ╰─x_1─╯        ╰─x_2─╯"""
MERGED = """\
                                 y_1
                                  ↑
                                  V
                            ╭────→+←────╮
                            │           │
                            │        h'_1^(2) ←──W'_rzn^(2)── h'_2^(2)
                            │           ↑
h_0^(2) ───W_rzn^(2)───→ h_1^(2)        │
                            ↑           │
                        U_rzn^(2)   U'_rzn^(2)
                            ╰─────┬─────╯
                            ╭────→+←────╮
                            │           │
                            │        h'_1^(1) ←──W'_rzn^(1)── h'_2^(1)
                            │           ↑
h_0^(1) ───W_rzn^(1)───→ h_1^(1)        │
                            ↑           │
                        U_rzn^(1)   U'_rzn^(1)
                            ╰────x_1────╯
From layer 2 on, what a layer reads is mixed with what it gives."""
SHORTENED = """\
                       o_1                                       o_64
                        ↑                                         ↑
                        V                                         V
h_0, c_0 ───W_ifgo─→ h_1, c_1 ────W_ifgo───→ ⋯ ────W_ifgo───→ h_64, c_64
                        ↑                                         ↑
                      U_ifgo                                    U_ifgo
                       x_1                                       x_64"""


def test_the_picture_in_a_terminal():
    both = Recurrent(cells.Elman, D, H, bidirectional=True)
    assert str(lens.draw(both, 2)) == TWO_DIRECTIONS
    options = {"merge": "sum", "residual": "highway"}
    merged = uncompiled(cells.GRU, depth=2, bidirectional=True, **options)
    assert lens.draw(merged, 1).text == MERGED
    assert str(lens.draw(Recurrent(cells.LSTM, D, H), 64)) == SHORTENED


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("steps", range(1, 65, 7))
def test_a_terminal_is_not_too_narrow(bidirectional, steps):
    text = lens.draw(Recurrent(cells.Elman, D, H, bidirectional=bidirectional), steps).text
    assert max(map(len, text.split("\n"))) <= 80
    shown = [int(t) for t in re.findall(r"x_(\d+)", text)]
    assert shown == sorted(set(shown)) and (shown[0], shown[-1]) == (1, steps)
    assert ("⋯" in text) == (len(shown) < steps)
    assert len(shown) > 2 or steps < 3 or bidirectional


def test_save(tmp_path, monkeypatch):
    drawing = lens.draw(Recurrent(cells.Elman, D, H), 2)
    drawing.save(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == drawing.svg == drawing._repr_svg_()
    with pytest.raises(
        ValueError, match=r"path: got '.*net.jpg', expected a name that ends in \.svg"
    ):
        drawing.save(tmp_path / "net.jpg")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(
        MissingExtraError, match=r"pip install vl-convert-python \(the extra 'report'"
    ):
        drawing.save(tmp_path / "net.png")
    assert [path.name for path in tmp_path.iterdir()] == ["net.svg"]


def test_save_as_png(tmp_path):
    drawing = lens.draw(Recurrent(cells.Elman, D, H), 2)
    drawing.save(str(tmp_path / "net.png"))
    found = (tmp_path / "net.png").read_bytes()
    assert found[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(found[k : k + 4]) for k in (16, 20))
    root = ElementTree.fromstring(drawing.svg)
    assert (width, height) == (2 * int(root.get("width")), 2 * int(root.get("height")))


@pytest.mark.parametrize(("name", "bidirectional"), [("elman", False), ("both", True)])
def test_the_guides_pictures_are_those_drawn_now(name, bidirectional):
    drawing = lens.draw(Recurrent(cells.Elman, D, H, bidirectional=bidirectional))
    assert (GUIDES / f"unrolled-{name}.svg").read_text(encoding="utf-8") == drawing.svg


def test_drawing_leaves_the_layer_as_it_is():
    layer = Recurrent(cells.LSTM, D, H, dropout=0.5, depth=2)
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    lens.draw(layer)
    lens.expand(layer, 2)
    assert layer.training and all(p.requires_grad for p in layer.parameters())
    assert all(torch.equal(before[name], p) for name, p in layer.state_dict().items())


def test_bad_calls():
    with pytest.raises(TypeError, match=r"layer: got Linear, expected a Recurrent"):
        lens.draw(nn.Linear(2, 2))
    layer = Recurrent(cells.Elman, D, H)
    for steps, error, said in [
        (0, ValueError, "steps: got 0, expected at least 1"),
        (65, ValueError, "steps: got 65, expected at most 64"),
        (2.0, TypeError, "steps: got 2.0, expected a whole number"),
        (True, TypeError, "steps: got True, expected a whole number"),
    ]:
        with pytest.raises(error, match=said):
            lens.draw(layer, steps)
