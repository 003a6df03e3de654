"""What must never reach a kernel is refused in Python, by name, before a pointer is passed."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.compare import assert_close_by_name, leaves, scanned
from tests.scan.calls import make
from unrolled import Recurrent, cells
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, scan
from unrolled.scan.native import calls, interface, library

needs_library = pytest.mark.skipif(library.missing() is not None, reason="no native library")

T, B, D, H = 6, 2, 3, 5


@pytest.fixture
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that fail the test instead of reading memory."""
    look_up = library.kernel

    def reached(call: bytes) -> None:
        raise AssertionError("a kernel was reached")

    def looked_up(name: str, dtype: torch.dtype) -> library.Kernel:
        return look_up(name, dtype)._replace(forward=reached, backward=reached)

    monkeypatch.setattr(library, "kernel", looked_up)


refused = pytest.mark.usefixtures("_no_kernel")


def given() -> tuple[cells.LSTM, Tensor, State]:
    return cells.LSTM(D, H), torch.randn(T, B, D), (torch.zeros(B, H), torch.zeros(B, H))


@needs_library
@refused
def test_a_right_call_does_reach_a_kernel() -> None:
    cell, x, state = given()
    with pytest.raises(AssertionError, match="a kernel was reached"):
        scan(
            cell,
            x,
            state,
            ScanOptions(lengths=torch.tensor([6, 0]), resets=torch.ones(T, B).bool()),
        )


@needs_library
@refused
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(T, B, D + 1),
        torch.randn(T, B, D - 1),
        torch.randn(T, D),
        torch.randn(T, B, D, 1),
        torch.ones(T, B, D, dtype=torch.int64),
        torch.ones(T, B, D, dtype=torch.complex64),
    ],
    ids=["wide", "narrow", "flat", "deep", "whole", "complex"],
)
def test_an_input_of_another_shape_or_dtype_is_refused(x: Tensor) -> None:
    cell, _, state = given()
    with pytest.raises((TypeError, ValueError), match=r"^x: got "):
        scan(cell, x, state)


@needs_library
@refused
@pytest.mark.parametrize(
    "state",
    [
        (torch.zeros(B, H),),
        (torch.zeros(B, H),) * 3,
        (),
        (torch.zeros(B, H - 1), torch.zeros(B, H)),
        (torch.zeros(B, H), torch.zeros(B, H + 1)),
        (torch.zeros(B, H), torch.zeros(B - 1, H)),
        (torch.zeros(1, B, H), torch.zeros(1, B, H)),
        (torch.zeros(H), torch.zeros(H)),
        torch.zeros(2, B, H),
        (torch.zeros(B, H), None),
    ],
    ids=lambda s: "-".join(str(list(t.shape) if isinstance(t, Tensor) else t) for t in s),
)
def test_a_state_of_another_shape_is_refused(state: State) -> None:
    cell, x, _ = given()
    with pytest.raises((TypeError, ValueError), match=r"^state: got "):
        scan(cell, x, state)


@needs_library
@refused
@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([7, 1]),
        torch.tensor([-1, 1]),
        torch.tensor([6]),
        torch.tensor(6),
        torch.tensor([6, 6, 6]),
        torch.tensor([[6, 6]]),
        torch.tensor([2.5, 3.0]),
        torch.tensor([True, False]),
        torch.tensor([2**40, 1]),
        torch.tensor([torch.nan, 1.0]),
    ],
    ids=lambda lengths: str(lengths.tolist()),
)
@pytest.mark.parametrize("layer", [False, True], ids=["scan", "layer"])
def test_lengths_beyond_the_steps_or_of_another_shape_or_dtype_are_refused(
    lengths: Tensor, layer: bool
) -> None:
    cell, x, _ = given()
    with pytest.raises((TypeError, ValueError), match=r"^lengths: got "):
        if layer:
            Recurrent(cells.LSTM, D, H)(x, lengths=lengths)
        else:
            scan(cell, x, None, ScanOptions(lengths=lengths))


@needs_library
@refused
@pytest.mark.parametrize(
    "resets",
    [
        torch.zeros(B, T).bool(),
        torch.zeros(T - 1, B).bool(),
        torch.zeros(T, 1).bool(),
        torch.zeros(T).bool(),
        torch.zeros(T, B, 1).bool(),
        torch.zeros(T, B),
        torch.zeros(T, B).int(),
        torch.zeros(T, B).to(torch.uint8),
    ],
    ids=lambda r: f"{list(r.shape)} {r.dtype}",
)
@pytest.mark.parametrize("layer", [False, True], ids=["scan", "layer"])
def test_resets_of_another_shape_or_dtype_are_refused(resets: Tensor, layer: bool) -> None:
    cell, x, _ = given()
    with pytest.raises((TypeError, ValueError), match=r"^resets: got "):
        if layer:
            Recurrent(cells.LSTM, D, H)(x, resets=resets)
        else:
            scan(cell, x, None, ScanOptions(resets=resets))


@needs_library
@refused
@pytest.mark.parametrize(
    "norms",
    [[torch.zeros(T, B)], [torch.zeros(T, B)] * 3, [], [torch.zeros(T), torch.zeros(T, B)]],
    ids=["one", "three", "none", "flat"],
)
def test_norms_that_do_not_fit_are_refused(norms: list[Tensor]) -> None:
    cell, x, _ = given()
    with pytest.raises(ValueError, match=r"^norms: got "):
        scan(cell, x, None, ScanOptions(norms=norms))


SHAPES = {
    "weight_hh": [(4 * H - 1, H), (4 * H, H - 1), (3 * H, H), (H, 4 * H), (4 * H * H,)],
    "weight_ih": [(4 * H, D - 1), (4 * H, D + 1), (8 * H, D), (3 * H, D)],
    "bias_ih": [(H,), (4 * H - 1,), (1,), (4 * H, 1)],
    "bias_hh": [(H,), (4 * H - 1,), (1,), (1, 4 * H)],
}
bad_shapes = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]


def parameter(weight: Tensor) -> Tensor:
    return nn.Parameter(weight)


def plain(weight: Tensor) -> Tensor:
    """Computed from others, as weight norm and pruning do: then the cell has no such parameter."""
    return weight


def replace(cell: Cell, name: str, weight: Tensor | None) -> None:
    delattr(cell, name)
    setattr(cell, name, weight)


@needs_library
@refused
@pytest.mark.parametrize("made", [parameter, plain])
@pytest.mark.parametrize(("name", "shape"), bad_shapes)
@pytest.mark.parametrize("layer", [False, True], ids=["scan", "layer"])
def test_a_weight_of_another_shape_is_refused(
    name: str, shape: tuple[int, ...], made: Callable[[Tensor], Tensor], layer: bool
) -> None:
    _, x, _ = given()
    module = Recurrent(cells.LSTM, D, H)
    replace(module.cells[0], name, made(torch.randn(shape)))
    with pytest.raises(ValueError, match=name):
        module(x) if layer else scanned(module.cells[0], x)


@needs_library
@refused
@pytest.mark.parametrize("made", [parameter, plain])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=["float64", "float16"])
def test_a_weight_of_another_dtype_is_refused(
    name: str, made: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    cell, x, _ = given()
    replace(cell, name, made(getattr(cell, name).detach().to(dtype)))
    with pytest.raises((TypeError, RuntimeError), match=r"float(64|16)"):
        scan(cell, x, None, ScanOptions(backend="native"))


@needs_library
@refused
@pytest.mark.parametrize("made", [parameter, plain])
@pytest.mark.parametrize("name", SHAPES)
def test_a_weight_without_numbers_is_refused(name: str, made: Callable[[Tensor], Tensor]) -> None:
    cell, x, _ = given()
    replace(cell, name, made(getattr(cell, name).detach().to("meta")))
    with pytest.raises((TypeError, ValueError, RuntimeError), match="meta"):
        scan(cell, x, None, ScanOptions(backend="native"))


@needs_library
@refused
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_a_weight_that_is_not_there_is_refused(name: str) -> None:
    cell, x, _ = given()
    replace(cell, name, None)
    with pytest.raises((TypeError, ValueError, RuntimeError), match=name):
        scan(cell, x, None, ScanOptions(backend="native"))


@needs_library
@pytest.mark.parametrize("name", ["bias_ih", "bias_hh"])
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_a_cell_with_one_bias_alone_is_what_it_is_in_the_reference(kind: str, name: str) -> None:
    cell, x, state = make(kind, 5, 3, 4, 7)
    replace(cell, name, None)
    got = {"y": scan(cell, x, state)[0][0]}
    assert_close_by_name(
        got, {"y": scan(cell, x, state, ScanOptions(backend="reference"))[0][0]}, 5
    )


@needs_library
@refused
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_state_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    cell, x, (h, c) = given()
    for state in ((h.to(dtype), c), (h, c.to(dtype))):
        with pytest.raises((TypeError, RuntimeError), match=str(dtype)):
            scan(cell, x, state, ScanOptions(backend="native"))


@needs_library
@refused
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_native_refuses_half_precision_and_says_what_it_takes(dtype: torch.dtype) -> None:
    cell, x, _ = given()
    with pytest.raises(RuntimeError, match=f"backend: got 'native', but .*{dtype}.*float64"):
        scan(cell.to(dtype), x.to(dtype), None, ScanOptions(backend="native"))
    with pytest.raises(RuntimeError, match="backend: got 'native'"):
        Recurrent(cells.LSTM, D, H, backend="native").to(dtype)(x.to(dtype))


class Own(cells.LSTM):
    """A cell that the compiler cannot take."""

    def step(self, projected: Tensor, state: State) -> State:
        h, c = super().step(projected, state)
        return h, torch.cumsum(c, 1)


@needs_library
@refused
@pytest.mark.parametrize(
    ("make_cell", "reason"),
    [
        (Own, r"aten\.cumsum \(test_refused\.py, line \d+: `return h, torch"),
        (lambda d, h: cells.Elman(d, h, activation=torch.sin), r"aten\.sin \(elman\.py, line"),
    ],
)
def test_native_refuses_a_cell_of_your_own_and_auto_takes_the_reference(
    make_cell: Callable[[int, int], Cell], reason: str
) -> None:
    cell, x = make_cell(D, H), torch.randn(T, B, D)
    with pytest.raises(
        RuntimeError, match=f"backend: got 'native', but .* is beyond the compiler: .*{reason}"
    ):
        scan(cell, x, None, ScanOptions(backend="native"))
    assert torch.equal(
        scan(cell, x)[0][0], scan(cell, x, None, ScanOptions(backend="reference"))[0][0]
    )


@needs_library
@refused
@pytest.mark.parametrize("shape", [(0, B, D), (T, 0, D)])
def test_native_refuses_an_empty_input_and_auto_takes_the_reference(
    shape: tuple[int, ...],
) -> None:
    cell, x = cells.LSTM(D, H), torch.randn(shape)
    with pytest.raises(RuntimeError, match="backend: got 'native', but x is empty"):
        scan(cell, x, None, ScanOptions(backend="native"))
    assert scan(cell, x)[0][0].shape == (*shape[:2], H)


@needs_library
@refused
@pytest.mark.parametrize("convert", [Tensor.to_sparse, Tensor.to_mkldnn])
def test_native_refuses_a_tensor_that_is_not_dense(convert: Callable[[Tensor], Tensor]) -> None:
    cell, x, _ = given()
    with pytest.raises(TypeError, match=r"x: got torch\.\w+, expected a dense tensor"):
        scan(cell, convert(x), None, ScanOptions(backend="native"))


@needs_library
@refused
def test_sizes_whose_product_overflows_are_refused() -> None:
    cell, _, _ = given()
    with pytest.raises((RuntimeError, ValueError, MemoryError)):
        scan(
            cell, torch.zeros(1, 1, D).expand(2**31, 2**31, D), None, ScanOptions(backend="native")
        )


def test_an_unknown_backend_is_refused() -> None:
    cell, x, _ = given()
    expected = "backend: got 'nonsense', expected one of auto, reference, native"
    with pytest.raises(ValueError, match=expected):
        scan(cell, x, None, ScanOptions(backend="nonsense"))
    with pytest.raises(ValueError, match=expected):
        Recurrent(cells.LSTM, D, H, backend="nonsense")


@needs_library
def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="name: got 'mmx', expected one of serial"):
        library.using("mmx")


@needs_library
def test_the_default_device_is_not_where_a_kernel_looks_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell, x, state = make("LSTM", T, B, D, H)
    sources = leaves(x, *state)
    names = ["x", "h_0", "c_0", *dict(cell.named_parameters())]

    def gradients() -> dict[str, Tensor]:
        (y,), _ = scan(cell, sources[0], sources[1:], ScanOptions(backend="native"))
        found = torch.autograd.grad(y.exp().sum(), [*sources, *cell.parameters()])
        return {"y": y.detach()} | dict(zip(names, found, strict=True))

    expected = gradients()
    monkeypatch.setattr(library, "kernel", _guarded(library.kernel))
    monkeypatch.setattr(calls, "_work_sizes", {})
    with torch.device("meta"):
        with torch.no_grad():
            (y,), _ = scan(cell, x, state, ScanOptions(backend="native"))
        got = gradients()
    assert torch.equal(y, expected["y"])
    for name, value in expected.items():
        assert got[name].device.type == "cpu", name
        assert torch.equal(got[name], value), name


def _guarded(look_up: Callable[[str, torch.dtype], library.Kernel]) -> Callable[..., object]:
    """``look_up``, but for kernels that fail the test where they would write nowhere."""

    @functools.cache
    def guarded(name: str, dtype: torch.dtype) -> library.Kernel:
        found = look_up(name, dtype)

        def forward(address: int) -> None:
            call = interface.Call.from_address(address)
            assert call.kept and call.packed and call.work, "kept, packed or work has no memory"
            found.forward(address)

        def backward(address: int) -> None:
            assert interface.Call.from_address(address).work, "work has no memory"
            found.backward(address)

        return found._replace(forward=forward, backward=backward)

    return guarded
