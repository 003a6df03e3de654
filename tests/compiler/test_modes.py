"""A cell's first use inside somebody's mode: what is compiled, and what is remembered, is as without."""

from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import unrolled
from tests.compare import assert_close_by_name
from tests.compiler.interpret import Own
from unrolled import Recurrent
from unrolled.cells.cell import GatedCell
from unrolled.scan import native
from unrolled.scan.native import jit

pytestmark = pytest.mark.skipif(native.missing() is not None, reason="there are no kernels")


class Refusing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.sigmoid, torch.ops.aten.tanh):
            raise AssertionError("an operation of a step was seen")
        return func(*args, **(kwargs or {}))


class Overriding(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.tanh:
            raise AssertionError("a function of a step was seen")
        return func(*args, **(kwargs or {}))


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def refuse(_):
    raise AssertionError("a tensor of a step was saved")


MODES = {
    "saved-tensor hooks": lambda: torch.autograd.graph.saved_tensors_hooks(refuse, refuse),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "dispatch": Refusing,
    "function": Overriding,
    "fake": lambda: torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True),
    "device": lambda: torch.device("meta"),
    "dtype": lambda: default_dtype(torch.float64),
    "autocast": lambda: torch.autocast("cpu"),
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "deterministic": deterministic,
    "forward": torch.autograd.forward_ad.dual_level,
}


def fresh():
    """A cell whose equations nobody has seen, of one product and one pointwise function."""

    def step(self, projected, state):
        (h,) = state
        return (torch.tanh(projected + h @ self.weight_hh.T) * torch.ones(()) + 0.5 * h,)

    return type("Fresh", (Own,), {"step": step})(3, 5)


@pytest.fixture(scope="module")
def plain():
    """The kernel of such a cell."""
    return jit.recipe(fresh()).name


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("mode", MODES)
def test_a_trace_sees_no_mode(plain, mode):
    cell = fresh()
    with MODES[mode]():
        found = jit.recipe(cell)
    assert getattr(found, "name", found) == plain
    assert jit.recipe(cell) is found


def test_nor_a_transform(plain):
    cell = fresh()
    found = []
    torch.func.vmap(lambda x: found.append(jit.recipe(cell)) or x)(torch.zeros(2))
    torch.func.grad(lambda x: found.append(jit.recipe(cell)) or x)(torch.zeros(()))
    assert [getattr(recipe, "name", recipe) for recipe in found] == [plain] * 2


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_the_modes_of_the_process_are_as_before():
    with default_dtype(torch.float64), deterministic(), torch.autograd.set_detect_anomaly(True):
        jit.recipe(fresh())
        assert torch.get_default_dtype() is torch.float64
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_anomaly_enabled()


@pytest.mark.each_value
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("options", [{}, {"layer_norm": True}], ids=["plain", "normed"])
def test_a_first_use_under_checkpoint_gives_the_reference_s_gradients(reentrant, options):
    class Fresh(unrolled.cells.GRU):
        """Another class, so that nothing is known of it."""

    x, found = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True), []
    layer = Recurrent(Fresh, 3, 5, **options).double()
    sources = {"x": x, **dict(layer.named_parameters())}
    for backend in ("native", "reference"):
        layer.backend, x.grad = backend, None
        layer.zero_grad()
        run = (lambda x: layer(x).y) if backend == "reference" else under(layer, reentrant)
        y = run(x)
        y.square().sum().backward()
        found.append({"y": y.detach(), **{name: s.grad.clone() for name, s in sources.items()}})
    assert_close_by_name(*found, 4)
    layer.backend = "auto"
    assert unrolled.explain(layer, x).path == "native"


def under(layer, reentrant):
    return lambda x: checkpoint(lambda x: layer(x).y, x, use_reentrant=reentrant)


def test_a_cell_may_hold_a_layer():
    class Outer(Own):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.inner = Recurrent(Fresh, input_size, input_size)

        def project(self, x):
            rows = self.inner(x.reshape(1, -1, x.shape[-1])).y
            return rows.view(x.shape) @ self.weight_ih.T

        def step(self, projected, state):
            return (torch.tanh(projected + state[0] @ self.weight_hh.T),)

    class Fresh(GatedCell):
        gates = 1

        def project(self, x):
            return self.of_input(x, self.bias())

        def equations(self, u, w, state):
            return (torch.tanh(u + w),)

    layer, x = Recurrent(Outer, 3, 5), torch.randn(4, 2, 3)
    with torch.no_grad():
        y = layer(x).y
        layer.backend = "reference"
        assert torch.allclose(y, layer(x).y, atol=1e-5)
