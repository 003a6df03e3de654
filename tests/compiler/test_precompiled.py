"""The kernels that the library brings for its cells and their options."""

import pytest
import torch

import unrolled
from tests.compare import assert_close_by_name, collect
from tests.compiler.interpret import Own
from unrolled import Recurrent, cells
from unrolled.cells import Cell
from unrolled.cells.cell import GatedCell
from unrolled.compiler import build
from unrolled.scan import native
from unrolled.scan.native import jit, library

pytestmark = pytest.mark.skipif(
    native.missing() is not None or library.instruction_set() == "serial",
    reason="there are no kernels for vectors",
)
ALL = [
    name
    for name in cells.__all__
    if isinstance(kind := getattr(cells, name), type)
    and issubclass(kind, Cell)
    and kind not in (Cell, GatedCell)
]
OPTIONS = {
    "layer_norm": {"layer_norm": True},
    "recurrent_dropout": {"recurrent_dropout": 0.3},
    "zoneout": {"zoneout": 0.2},
    "half": {"zoneout": 0.5},
    "all": {"layer_norm": True, "recurrent_dropout": 0.2, "zoneout": 0.3},
}


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """What cannot be found cannot be made."""
    monkeypatch.setattr(build, "compiler", lambda: None)


def check(kind: type[Cell], training: bool = True, **options) -> None:
    """Values and gradients of a layer on the kernel and on the reference, at sizes of its own."""
    layer, x = Recurrent(kind, 4, 6, **options).train(training), torch.randn(5, 3, 4)
    assert unrolled.explain(layer, x).path == "native"
    found = []
    for backend in ("native", "reference"):
        torch.manual_seed(2)
        layer.backend = backend
        layer.zero_grad()
        y, _ = layer(x, lengths=[5, 2, 0])
        found.append(collect({"y": y}, dict(layer.named_parameters())))
    assert_close_by_name(
        *found, 40
    )  # roundings of float32, over five steps of three products at most


@pytest.mark.parametrize("name", ALL)
def test_of_every_cell(name):
    check(getattr(cells, name))


@pytest.mark.each_value
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["Elman", "GRU", "LSTM"])
def test_of_every_option(name, options):
    for training in (True, False):
        check(getattr(cells, name), training, **OPTIONS[options])


def test_a_setting_does_not_matter():
    check(cells.CoRNN, dt=0.1, gamma=1.5, epsilon=2.5)


def test_what_is_not_brought_says_what_to_install():
    class Fresh(Own):
        def step(self, projected, state):
            return (torch.tanh(projected * 0.5 + state[0] @ self.weight_hh.T),)

    layer = Recurrent(Fresh, 3, 5)
    assert "install g++ or clang++" in unrolled.explain(layer).reasons[0]
    assert layer(torch.randn(2, 2, 3)).y.isfinite().all()


def test_explain_compiles_nothing(monkeypatch):
    monkeypatch.undo()

    def refuse(*_):
        raise AssertionError("it was compiled")

    class Fresh(Own):
        def step(self, projected, state):
            return (torch.tanh(projected * 0.75 + state[0] @ self.weight_hh.T),)

    monkeypatch.setattr(build, "build", refuse)
    assert unrolled.explain(Recurrent(Fresh, 3, 5)).path == "native"


def test_another_size_or_setting_needs_no_other_code():
    found = [jit.recipe(cells.GRU(3, units, layer_norm=True, zoneout=0.3)) for units in (5, 8)]
    assert len({library._own[recipe.name].digest for recipe in found}) == 1
