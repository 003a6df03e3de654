"""Softmax and cross-entropy by the kernel: against PyTorch's, by value and by every gradient."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn import functional as F

from tests.compare import assert_close_by_name, collect, leaves
from unrolled.layers import cross_entropy as module
from unrolled.layers import linear_cross_entropy
from unrolled.layers.cross_entropy import token_losses
from unrolled.scan import Backend
from unrolled.scan.native import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no native library")

OPERATOR = torch.ops.unrolled.cross_entropy.default
NAMES = ("x", "weight", "bias")
# N, E, V: one of each; around a vector, a panel and a block of rows, of every instruction set.
SIZES = [(1, 1, 2), (1, 7, 33), (7, 1, 7), (33, 33, 7), (7, 33, 33), (65, 17, 100), (130, 200, 530)]

both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
each_set = pytest.mark.parametrize(
    "instructions", library.built() if library.missing() is None else []
)


def drawn(
    rows: int, width: int, classes: int, dtype: torch.dtype = torch.float64, *, bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    x, weight = torch.randn(rows, width, dtype=dtype), torch.randn(classes, width, dtype=dtype)
    weight = weight * width**-0.5
    targets = torch.randint(classes, (rows,))
    targets[0], targets[-1] = 0, classes - 1
    return x, weight, torch.randn(classes, dtype=dtype) if bias else None, targets


def named(
    backend: Backend,
    given: tuple[Tensor, Tensor, Tensor | None],
    targets: Tensor,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> dict[str, Tensor]:
    """The loss, and the gradients that are wanted."""
    inputs = [
        t if t is None else t.detach().requires_grad_(want)
        for t, want in zip(given, wanted, strict=True)
    ]
    x, weight, bias = inputs
    assert x is not None and weight is not None
    loss = linear_cross_entropy(x, weight, bias, targets, backend=backend)
    sources = {n: t for n, t in zip(NAMES, inputs, strict=True) if t is not None}
    return collect({"loss": loss}, {n: t for n, t in sources.items() if t.requires_grad})


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@both_dtypes
@each_set
def test_the_kernel_computes_what_pytorch_does(
    instructions: str, dtype: torch.dtype, size: tuple[int, int, int], bias: bool
) -> None:
    *given, targets = drawn(*size, dtype, bias=bias)
    with library.using(instructions):
        got = named("native", tuple(given), targets)
    assert_close_by_name(got, named("reference", tuple(given), targets), steps=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@both_dtypes
def test_the_loss_of_each_token_is_pytorchs_with_the_kernel_and_without(
    dtype: torch.dtype, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias, targets = drawn(*size, dtype)
    expected = {"losses": F.cross_entropy(F.linear(x, weight, bias), targets, reduction="none")}
    assert_close_by_name({"losses": token_losses(x, weight, bias, targets)}, expected, steps=1)
    empty = token_losses(x[:0], weight, bias, targets[:0])
    assert empty.shape == (0,) and empty.dtype == dtype
    monkeypatch.setattr(module, "_unsupported_reasons", lambda *_: ["none of it"])
    monkeypatch.setattr(module, "LARGEST", 3 * len(weight))  # three rows at a time
    assert_close_by_name({"losses": token_losses(x, weight, bias, targets)}, expected, steps=1)
    assert token_losses(x[:0], weight, bias, targets[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"x: got shape"):
        token_losses(x[0], weight, bias, targets)


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3))[:-1])
def test_each_gradient_is_right_without_the_others(wanted: tuple[bool, bool, bool]) -> None:
    *given, targets = drawn(70, 9, 50)
    got = named("native", tuple(given), targets, wanted)
    assert_close_by_name(got, named("reference", tuple(given), targets, wanted), steps=1)


def test_more_rows_than_are_kept_at_once() -> None:
    *given, targets = drawn(300, 3, 20_000)
    got = named("native", tuple(given), targets)
    assert_close_by_name(got, named("reference", tuple(given), targets), steps=1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_but_rounding_and_the_same_call_no_bit(threads: int) -> None:
    *given, targets = drawn(131, 40, 333, torch.float32)
    expected = named("reference", tuple(given), targets)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, second = (named("native", tuple(given), targets) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert_close_by_name(first, expected, steps=1)
    assert all(first[name].equal(second[name]) for name in first)


@both_dtypes
@each_set
def test_large_logits_do_not_overflow(instructions: str, dtype: torch.dtype) -> None:
    x, weight, bias, targets = drawn(9, 7, 33, dtype)
    assert bias is not None
    # Powers of two, so that rounding the logits, which weighs 1e4 times as much, is the same.
    given = ((x * 2).round() * 2**13, weight.round(), bias.round())
    with library.using(instructions):
        got = named("native", given, targets)
    assert all(value.isfinite().all() for value in got.values())
    assert_close_by_name(got, named("reference", given, targets), steps=1)


@both_dtypes
@each_set
@pytest.mark.parametrize("column", [0, 6])
def test_nan_stays_in_its_row(instructions: str, dtype: torch.dtype, column: int) -> None:
    x, weight, bias, targets = drawn(70, 7, 33, dtype)
    x[3, column] = torch.nan
    with library.using(instructions):
        losses, d_x, *_ = OPERATOR(x, weight, bias, targets, [True, False, False])
    rows = torch.arange(70) == 3
    assert losses.isnan().equal(rows) and d_x.isnan().any(1).equal(rows)
    assert linear_cross_entropy(x, weight, bias, targets).isnan()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("target", [-1, -100, 5, 2**40])
def test_a_target_out_of_range_is_refused(target: int, backend: Backend) -> None:
    x, weight, bias, targets = drawn(4, 3, 5)
    targets[2] = target
    with pytest.raises(IndexError, match=str(target)):
        linear_cross_entropy(x, weight, bias, targets, backend=backend)


def test_bad_input_is_refused_by_name() -> None:
    x, weight, bias, targets = drawn(4, 3, 5)
    assert bias is not None
    for arguments, message in [
        ((x[0], weight, bias, targets), r"x: got shape \[3\], expected \[N, E\]"),
        ((x, weight[:, 1:], bias, targets), r"weight: got shape \[5, 2\], expected \[V, 3\]"),
        ((x, weight[:0], bias[:0], targets), r"weight: got shape \[0, 3\]"),
        ((x, weight, bias[1:], targets), r"bias: got shape \[4\], expected \[5\]"),
        ((x, weight, bias, targets[1:]), r"targets: got shape \[3\], expected \[4\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(*arguments)
    with pytest.raises(TypeError, match="expected torch"):
        linear_cross_entropy(x, weight, bias, targets.int())


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    x, weight, bias, targets = drawn(4, 3, 5, torch.bfloat16)
    assert linear_cross_entropy(x, weight, bias, targets).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="the kernels take float32 and float64"):
        linear_cross_entropy(x, weight, bias, targets, backend="native")
    x, weight, bias, targets = drawn(4, 3, 5)
    losses = torch.func.vmap(
        lambda x: linear_cross_entropy(x, weight, bias, targets)  # type: ignore[arg-type]
    )(torch.stack([x, -x]))
    assert losses[1].isclose(linear_cross_entropy(-x, weight, bias, targets))
    gradient = torch.func.grad(linear_cross_entropy)(x, weight, bias, targets)
    assert gradient.isfinite().all()


def test_strided_inputs() -> None:
    x, weight, _, targets = drawn(7, 9, 11)
    spread = (x.T.contiguous().T, weight.T.contiguous().T, torch.randn(22).double()[::2])
    scattered = torch.stack([targets, targets], 1)[:, 0]
    expected = named("reference", spread, targets)
    assert_close_by_name(named("native", spread, scattered), expected, steps=1)


def test_first_and_second_derivatives() -> None:
    x, weight, bias, targets = drawn(5, 3, 4)
    assert bias is not None
    inputs = leaves(x, weight, bias)

    def call(*given: Tensor) -> Tensor:
        return linear_cross_entropy(*given, targets, backend="native")

    torch.autograd.gradcheck(call, inputs, check_batched_grad=True)
    torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wanted", [(True, True), (False, True), (False, False)])
def test_the_operator_is_what_it_says(bias: bool, wanted: tuple[bool, bool]) -> None:
    given = drawn(9, 5, 21, torch.float32, bias=bias)
    opcheck(OPERATOR, (*given, [*wanted, bias]))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_whole() -> None:
    *given, targets = drawn(9, 5, 21)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    x, weight, bias = leaves(*given)  # type: ignore[arg-type]
    loss = compiled(x, weight, bias, targets)
    got = collect({"loss": loss}, {"x": x, "weight": weight, "bias": bias})
    assert_close_by_name(got, named("reference", (x, weight, bias), targets), steps=1)


def test_the_model_can_be_exported_with_any_number_of_rows() -> None:
    class Loss(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            return linear_cross_entropy(x, weight, None, targets)

    x, weight, _, targets = drawn(9, 5, 21)
    rows = torch.export.Dim("rows", min=2)
    shapes = {"x": {0: rows}, "weight": None, "targets": {0: rows}}
    program = torch.export.export(Loss(), (x, weight, targets), dynamic_shapes=shapes)
    x, _, _, targets = drawn(13, 5, 21)
    expected = linear_cross_entropy(x, weight, None, targets)
    assert program.module()(x, weight, targets).equal(expected)
