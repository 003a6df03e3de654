"""What a cell says of itself beside its equations, and what that alone is good for."""

import pytest
import torch

from tests.cells.papers import ResetFirst
from unrolled import Recurrent, cells, lens, remedies
from unrolled.cells.facts import Onnx, Retain
from unrolled.scan import native

NAMED = [kind for name in cells.__all__ if isinstance(kind := getattr(cells, name), type)]
KINDS = [kind for kind in NAMED if issubclass(kind, cells.Cell)]
GATED = [k for k in KINDS if issubclass(k, cells.GatedCell) and k is not cells.GatedCell]


@pytest.mark.parametrize("kind", GATED)
def test_every_gated_cell_of_the_library_names_its_blocks(kind):
    assert len(kind.blocks) == kind.gates
    assert kind(3, 4).weight_hh.shape == (4 * kind.gates, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_has_a_symbol_for_each_tensor_or_one_for_all(kind):
    count = 1 if kind in (cells.Cell, cells.GatedCell) else len(kind(3, 4).state_sizes)
    assert len(kind.symbols) in (0, 1, count)


def test_a_kernel_and_an_operator_are_of_these_very_equations():
    class Kin(cells.LSTM):
        pass

    assert Kin.kernel is None and Kin.onnx is None
    assert Kin.retain == cells.LSTM.retain and Kin.blocks == cells.LSTM.blocks
    assert native.kernel_name(Kin(3, 4)) is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"blocks": "rz"}, "blocks: got 'rz', expected a tuple"),
        ({"blocks": ("r", "r")}, "expected a tuple of different names"),
        (
            {"blocks": ("r", "z"), "candidate": "n"},
            "candidate: got 'n', expected one of its blocks",
        ),
        ({"blocks": ("r", "z"), "retain": Retain("f")}, "retain.gate: got 'f', expected one of"),
        (
            {"blocks": ("f",), "retain": Retain("f", written="i")},
            "retain.written: got 'i', expected",
        ),
        (
            {"blocks": ("r", "z"), "onnx": Onnx("GRU", ("z", "r", "n"))},
            "onnx: got the order z, r, n",
        ),
        ({"gates": 3, "onnx": Onnx("GRU", ("z", "r", "n"))}, "onnx: got the order z, r, n"),
    ],
)
def test_facts_of_blocks_that_there_are_not_are_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        type("Own", (cells.GatedCell,), facts)


def test_a_class_that_counts_its_gates_alone_has_blocks_without_names():
    class Counted(cells.GatedCell):
        gates = 1

        def project(self, x):
            return self.of_input(x, self.bias())

        def equations(self, u, w, state):
            return (torch.tanh(u + w),)

    (found,) = lens.causes(Recurrent(Counted, 3, 4, backend="reference"), torch.randn(5, 2, 3))
    assert list(found.shares) == ["direct", "W_1"]
    with pytest.raises(TypeError, match="chrono_bias_: got cells of Counted"):
        remedies.chrono_bias_(Recurrent(Counted, 3, 4), 10)


def test_by_its_facts_alone_a_cell_has_formula_picture_and_chrono_bias():
    layer = Recurrent(ResetFirst, 3, 4)
    assert str(lens.expand(layer, 2)) == "o_2 = g(V ResetFirst(x_2, ResetFirst(x_1, h_0)))"
    assert "U_rzn" in str(lens.draw(layer, 3))
    remedies.chrono_bias_(layer, 50)
    _, z, _ = (layer.cells[0].bias_ih + layer.cells[0].bias_hh).chunk(3)
    assert z.min() >= 0
