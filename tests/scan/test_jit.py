"""Cells of one's own, compiled on first use: their numbers are the reference's, in every form of call."""

import copy
import pickle
import re
import threading

import pytest
import torch
from torch import nn

import unrolled
from tests.compare import assert_close_by_name, check_derivatives, collect, scanned
from tests.compiler.interpret import Own, Traces
from tests.compiler.staged import Deep, Normed, SideBySide, Staged
from tests.scan.calls import run, steps_of_rounding
from unrolled import Recurrent
from unrolled.cells import Cell
from unrolled.compiler import build
from unrolled.scan import ScanOptions, native, scan
from unrolled.scan.native import jit, library

pytestmark = pytest.mark.skipif(native.missing() is not None, reason="there are no kernels")


class Blended(Own):
    """A setting, which may change between calls."""

    def __init__(self, input_size, hidden_size, alpha=0.5):
        super().__init__(input_size, hidden_size)
        self.alpha = alpha

    def step(self, projected, state):
        (h,) = state
        return (self.alpha * h + (1 - self.alpha) * torch.tanh(projected + h @ self.weight_hh.T),)


class Drawn(Staged):
    """A projection that is not affine, noise, and an output that is not a state."""

    def project(self, x):
        return torch.sqrt(1 + torch.tanh(x @ self.weight_ih.T))

    def noise(self, steps, batch_size, like):
        return torch.rand(steps, batch_size, self.hidden_size, dtype=torch.float32).to(like.device)

    def step(self, projected, state):
        (h,) = state
        u, drawn = projected.chunk(2, -1)
        return (torch.tanh(u + h @ self.weight_hh.T) * drawn,)

    def read(self, states):
        return torch.cat([states[0], 2 * states[0]], -1)

    @property
    def output_size(self):
        return 2 * self.hidden_size


CELLS = {"simple": Traces, "staged": SideBySide, "deep": Deep, "normed": Normed}
T, B = 6, 4
OPTIONS = {
    "nothing": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": torch.tensor([6, 0, 3, 1])},
    "resets": {"resets": torch.arange(T * B).view(T, B) % 5 == 1},
    "all": {
        "reverse": True,
        "lengths": torch.tensor([2, 6, 0, 5]),
        "resets": torch.arange(T * B).view(T, B) % 4 == 2,
    },
}


def given(cell: Cell, steps=T, batch_size=B):
    """An input, and a state to start from, of the cell's sizes."""
    x = torch.randn(steps, batch_size, cell.input_size, dtype=torch.float64)
    return x, tuple(torch.randn(batch_size, n, dtype=torch.float64) for n in cell.state_sizes)


def check(cell: Cell, x, state=None, *, steps=None, **options) -> None:
    """Every output, norm and gradient by the kernel and by the reference."""
    got, expected = (run(cell, x, state, backend=b, **options) for b in ("native", "reference"))
    allowed = steps_of_rounding(cell, len(x)) if steps is None else steps
    assert_close_by_name(got, expected, allowed)


@pytest.mark.each_value
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CELLS)
def test_every_number_is_the_reference_s(name, options):
    cell = CELLS[name](3, 7).double()
    x, state = given(cell)
    check(cell, x, state, **OPTIONS[options])
    check(cell, x, **OPTIONS[options])


@pytest.mark.each_value
@pytest.mark.parametrize("sizes", [(5, 1, 3, 7), (3, 5, 2, 1), (1, 3, 1, 19), (2, 9, 3, 32)])
@pytest.mark.parametrize("name", ["simple", "staged", "deep"])
def test_at_any_size(name, sizes):
    steps, batch_size, features, hidden = sizes
    cell = CELLS[name](features, hidden).double()
    check(cell, *given(cell, steps, batch_size))


@pytest.mark.parametrize("name", ["simple", "staged"])
def test_by_every_instruction_set(name):
    cell = CELLS[name](3, 7).double()
    x, state = given(cell)
    for instructions in library.built():
        with library.using(instructions):
            check(cell, x, state, **OPTIONS["all"])


@pytest.mark.parametrize("name", CELLS)
def test_by_several_threads(name):
    cell = CELLS[name](3, 7).double()
    x, state = given(cell, 5, 17)
    torch.set_num_threads(2)
    lengths = torch.arange(17) % 6
    check(cell, x, state, lengths=lengths, resets=torch.rand(5, 17) < 0.3)
    check(cell, x[:, :1], tuple(s[:1] for s in state))


def test_in_float32():
    cell = SideBySide(3, 7)
    x, state = given(cell)
    check(cell, x.float(), tuple(s.float() for s in state), **OPTIONS["all"])


@pytest.mark.parametrize("name", ["simple", "staged"])
def test_only_what_is_wanted_gets_a_gradient(name):
    cell = CELLS[name](3, 7).double()
    x, state = given(cell)
    for wanted in (["x"], ["weight_ih"], ["weight_hh"], ["h_0"], ["weight_hh", "c_0"]):
        got, expected = (
            run(cell, x, state, backend=b, wanted=wanted) for b in ("native", "reference")
        )
        for found in (got, expected):  # the reference notes no norm where nothing is wanted
            del found["h norms"], found["c norms"]
        assert_close_by_name(got, expected, steps_of_rounding(cell, T))


@pytest.mark.parametrize("name", ["simple", "staged"])
def test_without_a_gradient(name):
    cell = CELLS[name](3, 7).double()
    x, state = given(cell)
    found = []
    with torch.no_grad():
        for backend in ("native", "reference"):
            y, (h_n, c_n) = scanned(cell, x, state, ScanOptions(**OPTIONS["all"], backend=backend))
            found.append({"y": y, "h_n": h_n, "c_n": c_n})
    assert_close_by_name(*found, T)


def test_steps_that_a_sequence_skips():
    cell = SideBySide(3, 7).double()
    x, state = given(cell)
    mask = torch.arange(T * B).view(T, B) % 3 > 0
    mask[:, 1] = False
    found = []
    for backend in ("native", "reference"):
        cell.zero_grad()
        (y,), final = scan(cell, x, state, ScanOptions(mask=mask, backend=backend))
        sources = dict(cell.named_parameters())
        found.append(collect({"y": y, "h_n": final[0], "c_n": final[1]}, sources))
    assert_close_by_name(*found, T)


def test_noise_and_a_projection_of_any_kind_read_no_padding():
    cell = Drawn(3, 7).double()
    x, state = given(cell)
    found = []
    for backend in ("native", "reference"):
        torch.manual_seed(1)
        for seen in (x, x.clone()):
            lengths = OPTIONS["lengths"]["lengths"]
            if seen is not x:
                seen[torch.arange(T).unsqueeze(1) >= lengths] = torch.nan
            (y,), final = scan(cell, seen, state, ScanOptions(lengths=lengths, backend=backend))
            assert y.isfinite().all()
            found.append(collect({"y": y, "h_n": final[0]}, dict(cell.named_parameters())))
    assert all(t.isfinite().all() for t in found[1].values())
    assert_close_by_name(found[0], found[2], T)
    assert_close_by_name(found[1], found[3], T)


def test_compiling_draws_no_random_numbers():
    cell = type("Fresh", (Drawn,), {})(3, 7)
    torch.manual_seed(1)
    jit.recipe(cell)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)


# --- What is compiled is the cell as it is -------------------------------------------------------


def outputs(cell: Cell, x) -> dict[str, torch.Tensor]:
    return {
        b: scan(cell, x, None, ScanOptions(backend=b))[0][0].detach()
        for b in ("native", "reference")
    }


def agree(cell: Cell, x) -> torch.Tensor:
    found = outputs(cell, x)
    assert_close_by_name({"y": found["native"]}, {"y": found["reference"]}, len(x))
    return found["native"]


def test_a_setting_that_changes_changes_the_kernel():
    cell = Blended(1, 2).double()
    x, _ = given(cell)
    first = agree(cell, x)
    cell.alpha = 0.2
    second = agree(cell, x)
    assert not torch.allclose(first, second)
    check_derivatives(
        cell, lambda c, x: scan(c, x, None, ScanOptions(backend="native"))[0][0], x[:2, :2]
    )
    cell.alpha = 0.5
    assert torch.equal(agree(cell, x), first)
    check_derivatives(
        cell, lambda c, x: scan(c, x, None, ScanOptions(backend="native"))[0][0], x[:2, :2]
    )


def named(cell: Cell) -> str:
    """The kernel of ``cell``: equal only for equal equations."""
    found = jit.recipe(cell)
    assert isinstance(found, jit.Recipe), found
    return found.name


class Held:
    def __init__(self, value):
        self.value = value


def of(read, **settings):
    """A cell whose output is multiplied by what ``read`` finds."""

    def step(self, projected, state):
        return (projected * read(self) + state[0],)

    cell = type("Scaled", (Own,), {"step": step})(3, 7)
    for name, value in settings.items():
        setattr(cell, name, value)
    return cell


@pytest.mark.parametrize(
    ("read", "before", "after"),
    [
        (lambda c: c.k, 0.5, 0.25),
        (lambda c: c.k, 2, 3),
        (lambda c: 2.0 if c.k else 3.0, None, "x"),
        (lambda c: 2.0 if c.k is True else 3.0, True, 1),
        (lambda c: c.k[1], [1.0, 2.0], [1.0, 3.0]),
        (lambda c: c.k["a"][0], {"a": (1.0,)}, {"a": (2.0,)}),
        (lambda c: c.k.value, Held(1.5), Held(2.5)),
        (lambda c: float(c.k), torch.tensor(1.5), torch.tensor(2.5)),
        (lambda c: c.k(3.0), lambda v: v, lambda v: v + 1),
    ],
    ids=["number", "integer", "none", "true and 1", "list", "dict", "object", "tensor", "function"],
)
def test_settings_of_any_kind_are_told_apart(read, before, after):
    cell = of(read, k=before)
    first = named(cell)
    assert named(cell) == first
    cell.k = after
    assert named(cell) != first
    cell.k = before
    assert named(cell) == first


def test_settings_that_change_in_place_are_seen():
    cell = of(lambda c: c.k.value * c.j[0], k=Held(1.5), j=[2.0])
    first = named(cell)
    cell.k.value = 2.5
    second = named(cell)
    cell.j[0] = 3.0
    assert len({first, second, named(cell)}) == 3


def test_settings_of_modules_inside_and_of_the_class_are_seen():
    cell = of(lambda c: c.norm(c.weight_hh[0]).sum() * c.k)
    cell.norm, type(cell).k = nn.LayerNorm(7, eps=0.1), 2.0
    first = named(cell)
    cell.norm.eps = 0.2
    second = named(cell)
    type(cell).k = 3.0
    third = named(cell)
    type(cell).step = lambda self, projected, state: (projected + state[0],)
    assert len({first, second, third, named(cell)}) == 4


def test_an_object_in_the_place_of_one_that_is_gone_is_not_taken_for_it():
    names = set()
    for k in range(20):  # whose memory Python would use again
        names.add(named(Blended(3, 7, alpha=float(k))))
        names.add(named(of(lambda c: c.k(3.0), k=(lambda n: lambda v: v + n)(k))))
    assert len(names) == 40


def test_which_bias_there_is_makes_a_difference():
    def step(self, projected, state):
        a = 0.0 if self.a is None else self.a
        b = 1.0 if self.b is None else self.b
        return (projected * b + a * state[0],)

    kind = type("Biased", (Own,), {"step": step})
    cells = []
    for name, other in (("a", "b"), ("b", "a")):
        cell = kind(3, 7)
        cell.register_parameter(name, nn.Parameter(torch.ones(7)))
        cell.register_parameter(other, None)
        cells.append(cell)
    assert named(cells[0]) != named(cells[1])


def test_classes_of_one_name_are_told_apart():
    cells = [of(lambda c, k=k: k) for k in (2.0, 3.0)]
    assert named(cells[0]) != named(cells[1])


def test_constants_computed_once_are_told_apart():
    cells = [of(lambda c: torch.tensor(c.k) * c.weight_hh[0], k=[float(k)] * 7) for k in (1, 2)]
    assert named(cells[0]) != named(cells[1])


def test_a_buffer_of_whole_numbers_is_each_cell_s_own():
    cell = of(lambda c: c.weight_hh[0][c.order])
    cell.register_buffer("order", torch.arange(7))
    assert "step calls aten.index" in jit.recipe(cell)


def test_weights_may_change_between_calls():
    cell = SideBySide(3, 7).double()
    x, _ = given(cell)
    first = agree(cell, x)
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.1)
    scan(cell, x, None, ScanOptions(backend="native"))[0][0].square().sum().backward()
    optimizer.step()
    assert not torch.allclose(agree(cell, x), first)
    cell.load_state_dict(SideBySide(3, 7).double().state_dict())
    agree(cell, x)


def test_one_weight_in_two_places():
    cell = SideBySide(3, 7).double()
    cell.gate = nn.Parameter(torch.randn(7, 7, dtype=torch.float64) / 3)
    cell.other = cell.gate
    x, state = given(cell)
    check(cell, x, state)


def test_gradients_of_gradients():
    cell = SideBySide(2, 3).double()
    x, state = given(cell, 2, 2)
    check_derivatives(
        cell, lambda c, x, *s: scanned(c, x, s, ScanOptions(backend="native")), x, *state
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_layer_that_has_run_can_be_copied(copied):
    layer = Recurrent(SideBySide, 3, 7, depth=2, backend="native").double()
    x = torch.randn(4, 2, 7, dtype=torch.float64)[..., :3]
    y, _ = layer(x)
    again, _ = copied(layer)(x)
    assert torch.equal(y, again)


def test_a_layer_takes_another_dtype():
    layer = Recurrent(SideBySide, 3, 7, backend="native")
    x = torch.randn(4, 2, 3)
    single, _ = layer(x)
    double, _ = layer.double()(x.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(single.double(), double, atol=1e-5)


def test_weight_drop_and_a_learnt_start_are_the_reference_s():
    found = []
    for backend in ("native", "reference"):
        torch.manual_seed(3)
        options = {"weight_drop": 0.5, "learn_initial_state": True, "backend": backend}
        layer = Recurrent(SideBySide, 3, 7, bidirectional=True, **options).double()
        y, (h_n, c_n) = layer(torch.randn(4, 2, 3, dtype=torch.float64), lengths=[4, 2])
        found.append(collect({"y": y, "h": h_n, "c": c_n}, dict(layer.named_parameters())))
    assert_close_by_name(*found, 4)
    assert any("initial" in name and d.any() for name, d in found[0].items())


@pytest.mark.parametrize("name", ["simple", "staged"])
def test_a_stream_gives_what_the_whole_gives(name):
    layer = Recurrent(CELLS[name], 3, 7).double().eval()
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    stream = layer.stream(batch_size=3)
    steps = torch.stack([stream(row).clone() for row in x])
    y, state = layer(x)
    assert_close_by_name({"y": steps}, {"y": y.detach()}, 5)
    assert_close_by_name(dict(enumerate(stream.state)), dict(enumerate(state)), 5)


def test_several_threads_at_once():
    cell = Deep(3, 7).double()
    x, state = given(cell)
    expected, found = run(cell, x, state, backend="reference"), []
    fresh = type("Deep", (Deep,), {})
    cells = [fresh(3, 7).double() for _ in range(4)]
    for other in cells:
        other.load_state_dict(cell.state_dict())
    threads = [threading.Thread(target=lambda c=c: found.append(run(c, x, state))) for c in cells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for got in found:
        assert_close_by_name(got, expected, steps_of_rounding(cell, T))


# --- What is not compiled, and why ---------------------------------------------------------------


def explained(cell_class, **tensors):
    return str(unrolled.explain(Recurrent(cell_class, 3, 7), **tensors))


def stepping(step, **members):
    return type("Mine", (Own,), {"step": step, **members})


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (
            stepping(lambda self, p, s: (torch.cumsum(p + s[0], 1),)),
            r"Mine is beyond the compiler: step calls aten\.cumsum \(test_jit\.py, line \d+: `.*`\)",
        ),
        (
            stepping(lambda self, p, s: (p + s[0] * torch.rand(7) * self.weight_hh[0],)),
            r"step calls aten\.rand \(test_jit\.py, line \d+: .*\), which draws random numbers",
        ),
        (
            stepping(lambda self, p, s: (p + s[0] @ nn.functional.dropout(self.weight_hh),)),
            r"step calls aten\.bernoulli_? \(test_jit.*which draws random numbers",
        ),
        (
            stepping(lambda self, p, s: (p + s[0] * self.weight_hh.detach()[0].mul_(2),)),
            r"step calls aten\.mul_ \(test_jit.*which changes a tensor in place",
        ),
        (
            stepping(lambda self, p, s: (p, *s[:4]), states=5),
            r"there are 5 state tensors; 4 is the most",
        ),
        (
            stepping(lambda self, p, s: [p + s[0]]),
            r"step returns a list, expected a tuple of tensors",
        ),
        (
            stepping(lambda self, p, s: s, project=lambda self, x: x[..., :0]),
            r"project\(x\) has 0 features, expected a multiple of H = 7",
        ),
        (
            stepping(
                lambda self, p, s: s, project=lambda self, x: x.half() @ self.weight_ih.half().T
            ),
            r"project\(x\) gives torch\.float16 for torch\.float32, expected the same",
        ),
    ],
)
def test_explain_names_the_operation_and_its_line(cell, reason):
    text = explained(cell)
    assert text.startswith("Recurrent(Mine, 3, 7")
    assert ": reference\n" in text
    assert re.search(reason, text), text


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("UNROLLED_COMPILER", "")
    build.compiler.cache_clear()
    yield
    monkeypatch.undo()
    build.compiler.cache_clear()


def test_without_a_compiler_the_reference_runs_and_explain_says_what_to_install(no_compiler):
    def step(self, projected, state):  # nobody's so far, whose kernel would be found
        return tuple(torch.sigmoid(2 * s) for s in SideBySide.step(self, projected, state))

    fresh = type("Fresh", (SideBySide,), {"step": step})
    assert "install g++ or clang++, or: pip install" in explained(fresh)
    layer = Recurrent(fresh, 3, 7)
    assert layer(torch.randn(2, 2, 3)).y.isfinite().all()
    layer.backend = "native"
    with pytest.raises(RuntimeError, match=r"there is no C\+\+ compiler to compile the cell with"):
        layer(torch.randn(2, 2, 3))


def test_a_compiler_that_fails_is_asked_once(monkeypatch):
    asked = []

    def fail(*arguments):
        asked.append(arguments)
        raise build.CannotBuild("the compiler g++ failed: no")

    monkeypatch.setattr(build, "build", fail)
    layer = Recurrent(of(lambda c: 17.0).__class__, 3, 7)
    for _ in range(3):
        layer(torch.randn(2, 2, 3))
    assert len(asked) == 1
    assert "the compiler g++ failed: no" in str(unrolled.explain(layer))


def test_a_buffer_of_another_dtype_is_an_obstacle():
    cell = Traces(3, 7).double()
    cell.mask = cell.mask.float()
    x, _ = given(cell)
    with pytest.raises(RuntimeError, match=r"a weight or state torch\.float32"):
        scan(cell, x, None, ScanOptions(backend="native"))
    layer = Recurrent(lambda *_: cell, 3, 7)
    assert "a weight or state torch.float32" in str(unrolled.explain(layer, x))


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (lambda self, p, s: (p.repeat(1, 2),), r"Mine\.step: returned shapes \[2, 14\], expected"),
        (lambda self, p, s: (p.double(),), r"Mine\.step: returned torch\.float64, expected torch"),
        (lambda self, p, s: p, r"Mine\.step: returned Tensor, expected a tuple of tensors"),
        (lambda self, p, s: [p], r"Mine\.step: returned list, expected a tuple of tensors"),
        (lambda self, p, s: (p, p), r"Mine\.step: returned shapes \[2, 7\], \[2, 7\], expected"),
    ],
    ids=["shape", "dtype", "tensor", "list", "count"],
)
def test_a_cell_that_breaks_the_contract_is_named_with_the_rule(step, rule):
    with pytest.raises((TypeError, ValueError), match=rule):
        Recurrent(stepping(step), 3, 7)(torch.randn(3, 2, 3))


def test_noise_must_be_as_wide_as_it_was():
    def noise(self, steps, batch_size, like):
        return like.new_zeros(steps, batch_size, self.hidden_size * (2 if batch_size == 1 else 1))

    layer = Recurrent(type("Mine", (Drawn,), {"noise": noise}), 3, 7, backend="native")
    with pytest.raises(
        ValueError, match=r"^Mine\.noise: returned 14 features, expected 7 as before"
    ):
        layer(torch.randn(2, 1, 3))
