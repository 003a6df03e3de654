"""The formula is the layer: its text is evaluated, and must give the layer's own output."""

import re

import pytest
import torch
from torch import nn

from tests.compare import tolerance
from tests.lens.nets import KINDS, D, H, T, inputs, make, uncompiled
from unrolled import Recurrent, cells, lens

CELLS = {
    name: kind
    for name in cells.__all__
    if isinstance(kind := getattr(cells, name), type)
    and issubclass(kind, cells.Cell)
    and kind not in (cells.Cell, cells.GatedCell)
}
TOKEN = re.compile(r"[A-Za-z]+'?(?:_\d+)?(?:\^\(\d+\))?\(?|\S")
SYMBOL = re.compile(r"([A-Za-z]+)('?)(?:_(\d+))?(?:\^\((\d+)\))?")


class Evaluated:
    """The value of a formula's text for a layer, one sequence of its input, and a head g(V y)."""

    def __init__(self, text, layer, x, head, activation=torch.tanh):
        self.layer, self.x, self.activation = layer, x, activation
        self.scans = {(r.level, r.direction): r for r in lens.recurrences(layer, x.unsqueeze(1))}
        self.heads = head
        self.tokens = TOKEN.findall(text.split(" = ")[1])
        self.value = vector(self.sum())
        assert not self.tokens

    def take(self, *expected):
        token = self.tokens.pop(0)
        assert not expected or token in expected
        return token

    def sum(self):
        value = self.product()
        while self.tokens and self.tokens[0] in "+⊙":
            sign, other = self.take(), self.product()
            value = vector(value) + vector(other) if sign == "+" else vector(value) * vector(other)
        return value

    def product(self):
        value = self.atom()
        if isinstance(value, Weight):
            return value @ vector(self.product())
        return value

    def atom(self):
        token = self.take()
        if token == "(":
            parts = self.arguments(")")
            return parts[0] if len(parts) == 1 else tuple(parts)
        if token == "[":
            return torch.cat([vector(part) for part in self.arguments("]")])
        letter, prime, step, level = SYMBOL.match(token).groups()
        where = (int(level or 1) - 1, len(prime))
        if token.endswith("("):
            return self.call(letter, where)
        if letter == "x":
            return self.x[int(step) - 1]
        if letter == "V":
            return Weight(self.heads[len(prime)])
        if letter == "P":
            streams = 2 if self.layer.merge == "separate" else 1
            return Weight(self.layer.projections[where[0] * streams + where[1]].weight)
        cell = self.scans[where].cell
        if letter in "UW":
            return Weight(cell.weight_ih if letter == "U" else cell.weight_hh)
        assert int(step) == (len(self.x) + 1 if prime else 0)
        start = [s[0] for s in cell.initial_state(1, self.x)]
        if len(start) == 1:
            return start[0]
        names = next((both for both in ("hc", "yz", "oced") if letter in both), None)
        return start[names.index(letter)] if names else tuple(start)

    def arguments(self, end):
        found = [self.sum()]
        while self.take(end, ",", ";") != end:
            found.append(self.sum())
        return found

    def call(self, name, where):
        if name == "f":
            _, prime, _, level = SYMBOL.match(self.tokens[0]).groups()
            cell = self.scans[int(level or 1) - 1, len(prime)].cell
            (z,) = self.arguments(")")
            return self.activation(z if cell.bias_ih is None else z + cell.bias())
        found = self.arguments(")")
        if name == "g":
            return torch.sigmoid(found[0])
        if name == "beside":
            return found[0][-self.layer.beside :]
        if name == "mean":
            return (vector(found[0]) + vector(found[1])) / 2
        if name == "highway":
            given, read = map(vector, found)
            streams = 2 if self.layer.merge == "separate" else 1
            gate = torch.sigmoid(self.layer.highways[(where[0] - 1) * streams + where[1]](read))
            return gate * given + (1 - gate) * read
        cell = self.scans[where].cell
        assert type(cell).__name__ == name
        x, state = found
        state = state.state if isinstance(state, Found) else state
        state = state if isinstance(state, tuple) else (state,)
        after = cell.step(
            cell.project(vector(x).unsqueeze(0)), tuple(s.unsqueeze(0) for s in state)
        )
        return Found(tuple(s[0] for s in after), cell.read(after)[0])


class Weight:
    """A matrix, which is multiplied by all that follows it."""

    def __init__(self, matrix):
        self.matrix = matrix.detach()

    def __matmul__(self, v):
        return self.matrix @ v


class Found:
    """The state after a step, and what is read of it."""

    def __init__(self, state, output):
        self.state, self.output = state, output


def vector(value):
    """What the layer above, or the head, reads."""
    return value.output if isinstance(value, Found) else value


def check(layer, activation=torch.tanh, steps=3):
    """Every step's formula gives the layer's output there."""
    layer = layer.eval()
    x = inputs(steps, 1)
    y = layer(x)[0]
    whole = torch.cat(y, -1) if isinstance(y, tuple) else y
    V = torch.randn(2, whole.shape[-1], dtype=torch.float64)
    allowed = tolerance(torch.float64, 4 * T)
    for t in range(1, steps + 1):
        formula = lens.expand(layer, t, steps)
        heads = V.chunk(2, 1) if "V'" in formula.text else [V]
        got = Evaluated(formula.text, layer, x[:, 0], heads, activation).value
        torch.testing.assert_close(
            got, torch.sigmoid(V @ whole[t - 1, 0]).detach(), rtol=allowed, atol=allowed
        )
        assert as_text(formula.latex) == formula.text
        assert balanced(formula.latex)


def as_text(latex):
    """The text of a formula in LaTeX."""
    text = re.sub(r"\\mathrm\{(\w+)\}", r"\1", latex).replace(r"\odot", "⊙")
    text = re.sub(r"\^\{(\(\d+\))\}_\{(\d+)\}", r"_\2^\1", text)
    return re.sub(r"\^\{(\(\d+\))\}", r"^\1", re.sub(r"_\{(\d+)\}", r"_\1", text))


def balanced(text):
    """Whether every bracket is closed by its own."""
    open_, pairs = [], {")": "(", "]": "[", "}": "{"}
    for mark in text:
        if mark in pairs.values():
            open_.append(mark)
        elif mark in pairs and (not open_ or open_.pop() != pairs[mark]):
            return False
    return not open_


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_the_layer(kind, depth, bidirectional):
    check(make(kind, depth, bidirectional=bidirectional))


@pytest.mark.each_value(2)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True, "highway"])
@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "mul", "separate"])
def test_every_way_to_join_layers(merge, residual, depth):
    options = {"bidirectional": True, "merge": merge, "residual": residual}
    check(Recurrent(cells.Elman, D, H, depth=depth, **options).double(), steps=2)
    check(Recurrent(cells.GRU, D, H, depth=depth, projection=D, **options).double(), steps=2)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_every_cell(name):
    check(uncompiled(CELLS[name], bidirectional=True).double())


@pytest.mark.parametrize("residual", [False, True, "highway"])
@pytest.mark.parametrize("merge", ["mean", "separate"])
def test_what_every_layer_reads_beside_the_one_below(merge, residual):
    options = {"depth": 2, "bidirectional": True, "merge": merge, "residual": residual}
    layer = uncompiled(cells.ContinuousTimeLSTM, **options).double()
    check(layer, steps=2)
    assert "beside(x): the last 2 features of x" in lens.expand(layer, 2).where


@pytest.mark.parametrize(
    ("activation", "f"),
    [
        ("relu", torch.relu),
        ("sigmoid", torch.sigmoid),
        ("identity", lambda z: z),
        (torch.sin, torch.sin),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_every_activation(activation, f, bias):
    layer = uncompiled(cells.Elman, activation=activation, bias=bias, depth=2).double()
    check(layer, f)
    has_f = "f(" in lens.expand(layer, 2).text
    assert has_f == (activation != "identity" or bias)


@pytest.mark.parametrize("mistake", [("U x_1", "U x_2"), ("W f", "U f"), ("s_0", "x_1")])
def test_another_formula_gives_another_number(mistake):
    layer, x = make("Elman"), inputs(2, 1)
    layer.cells[0].initial_state = lambda batch_size, like: (like.new_ones(batch_size, H),)
    V = torch.eye(H, dtype=torch.float64)
    text = lens.expand(layer, 2).text
    right = Evaluated(text, layer, x[:, 0], [V]).value
    with pytest.raises((AssertionError, RuntimeError)):  # of another width, or another number
        wrong = Evaluated(text.replace(*mistake), layer, x[:, 0], [V]).value
        torch.testing.assert_close(wrong, right, rtol=1e-3, atol=1e-3)
    assert balanced("{([])}") and not balanced("{(})") and not balanced("(") and not balanced(")")


def test_the_primers_formulas():
    elman = Recurrent(cells.Elman, D, H, bias=False)
    found = lens.expand(elman, 3)
    assert str(found) == found.text == "o_3 = g(V f(U x_3 + W f(U x_2 + W f(U x_1 + W s_0))))"
    assert found.where == "f = tanh; s_0 = 0; V and g are the head's"
    assert lens.expand(elman, 1).latex == "o_{1} = g(V f(U x_{1} + W s_{0}))"
    assert lens.expand(elman, 1)._repr_latex_() == (
        r"$\displaystyle o_{1} = g(V f(U x_{1} + W s_{0}))$"
    )
    both = Recurrent(cells.Elman, D, H, bidirectional=True)
    assert lens.expand(both, 2).text == (
        "y_2 = g(V f(U x_2 + W f(U x_1 + W A_0)) + V' f(U' x_2 + W' f(U' x_3 + W' A'_4)))"
    )
    assert lens.expand(both, 2, 3) == lens.expand(both, 2) != lens.expand(both, 2, 4)
    assert lens.expand(elman, 2, 5) == lens.expand(elman, 2)  # the future is not heard
    assert lens.expand(both, 40).text.count("x_64") == 1  # no more steps than there may be


def test_where_says_what_the_letters_are():
    def where(*args, **options):
        return lens.expand(uncompiled(*args, **options), 2).where

    assert where(cells.Elman).startswith("f(z) = tanh(z + b); s_0 = 0; V and")
    assert where(cells.Elman, activation="identity").startswith("f(z) = z + b; ")
    assert where(cells.Elman, activation="identity", bias=False).startswith("s_0 = 0; ")
    assert where(cells.Elman, activation=lambda z: z).startswith("f(z) = activation(z + b); ")
    assert where(cells.Elman, activation=torch.sin).startswith("f(z) = sin(z + b); ")
    both = where(cells.Elman, bidirectional=True, depth=2)
    assert "each layer and direction having its own b; A_0 = A'_4 = 0 in each layer" in both
    assert both.endswith("V, V' and g are the head's")
    assert where(cells.Elman, layer_norm=True).startswith(
        "Elman(x_t, s_{t-1}) = s_t, with layer_norm; "
    )
    assert where(cells.LSTM).startswith(
        "LSTM(x_t, (h_{t-1}, c_{t-1})) = (h_t, c_t), of which h_t goes on; h_0 = c_0 = 0; "
    )
    assert "LRU(x_t, s_{t-1}) = s_t, of which read(s_t) goes on; " in where(cells.LRU)
    assert "; h_0: learnt; " in where(cells.GRU, learn_initial_state=True)
    assert "highway(y, x) = " in where(cells.GRU, depth=2, residual="highway")


class Mine(cells.Elman):
    """An Elman cell that computes something else."""

    def equations(self, u, w, state):
        return (torch.tanh(u) + w,)


def test_a_subclass_is_not_taken_for_its_parent():
    layer = uncompiled(Mine).double()
    assert lens.expand(layer, 1).text == "o_1 = g(V Mine(x_1, s_0))"
    check(layer)


def test_bad_calls():
    layer = Recurrent(cells.Elman, D, H)
    with pytest.raises(TypeError, match=r"layer: got Linear, expected a Recurrent"):
        lens.expand(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match=r"layer: got proj_size=2, expected 0"):
        lens.expand(nn.LSTM(3, 4, proj_size=2), 1)
    with pytest.raises(TypeError, match=r"t: got 1\.5, expected a whole number"):
        lens.expand(layer, 1.5)
    with pytest.raises(ValueError, match=r"t: got 0, expected at least 1"):
        lens.expand(layer, 0)
    with pytest.raises(ValueError, match=r"t: got 65, expected at most 64"):
        lens.expand(layer, 65)
    with pytest.raises(ValueError, match=r"steps: got 2, expected at least 3"):
        lens.expand(layer, 3, 2)
    with pytest.raises(TypeError, match=r"steps: got '3', expected a whole number"):
        lens.expand(layer, 3, "3")
    with pytest.raises(
        ValueError, match=r"t: got 20 of 39 steps in 3 layers, expected a formula of"
    ):
        lens.expand(Recurrent(cells.Elman, D, H, depth=3, bidirectional=True), 20)
    assert len(lens.expand(layer, 64).text) > 500
