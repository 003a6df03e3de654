"""The helper's own tests: it passes what is right, and fails, by name, whatever is not."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from tests.compare import (
    DROP_INS,
    assert_close_by_name,
    check_derivatives,
    collect,
    copy_weights,
    run_recurrent,
    run_torch,
    tolerance,
)
from unrolled import Recurrent, cells

T = 5


def some(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {"y": torch.randn(3, 2, dtype=dtype), "grad of x": torch.randn(4, dtype=dtype)}


def moved(tensors: dict[str, Tensor], name: str, share: float) -> dict[str, Tensor]:
    """A copy in which one entry of one tensor is off by ``share`` of what is allowed there."""
    changed = tensors[name].clone()
    flat = changed.view(-1)
    scale = changed.abs().max()
    flat[1] += share * tolerance(changed.dtype, T) * (scale + flat[1].abs())
    return tensors | {name: changed}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes_what_is_equal_and_what_rounding_explains(dtype: torch.dtype) -> None:
    expected = some(dtype)
    assert_close_by_name(expected, expected, T)
    assert_close_by_name(moved(expected, "y", 0.9), expected, T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["y", "grad of x"])
def test_fails_by_name_one_entry_slightly_beyond_the_tolerance(
    name: str, dtype: torch.dtype
) -> None:
    expected = some(dtype)
    with pytest.raises(
        AssertionError, match=rf"^{name}: 1 of \d entries differ, the worst at \[.*1\]"
    ):
        assert_close_by_name(moved(expected, name, 1.1), expected, T)


def test_reports_every_culprit_and_no_other() -> None:
    expected = some() | {"h_n": torch.ones(2).double()}
    got = moved(moved(expected, "y", 2), "grad of x", 2)
    with pytest.raises(AssertionError) as failure:
        assert_close_by_name(got, expected, T)
    assert [line.split(":")[0] for line in str(failure.value).splitlines()] == ["y", "grad of x"]


def test_tolerance_grows_with_the_steps_and_with_eps() -> None:
    assert tolerance(torch.float64, 10) > tolerance(torch.float64, 1) > 0
    assert tolerance(torch.float32, 1) / tolerance(torch.float64, 1) == 2.0**29
    assert tolerance(torch.float32, 63) < 1e-3


def test_a_small_tensor_is_not_measured_by_a_large_one() -> None:
    expected = {"y": torch.full((2,), 1e6), "h_n": torch.full((2,), 1e-6)}
    with pytest.raises(AssertionError, match=r"^h_n: 2 of 2"):
        assert_close_by_name(expected | {"h_n": torch.full((2,), 2e-6)}, expected, T)


def test_fails_a_missing_and_an_extra_name() -> None:
    expected = some()
    with pytest.raises(AssertionError, match=r"^y: missing$"):
        assert_close_by_name({"grad of x": expected["grad of x"]}, expected, T)
    with pytest.raises(AssertionError, match=r"^h_n: not expected$"):
        assert_close_by_name(expected | {"h_n": torch.zeros(1)}, expected, T)


@pytest.mark.parametrize(
    ("got", "match"),
    [
        (torch.zeros(2, 3), r"^y: got \[2, 3\] torch.float32, expected \[3, 2\] torch.float32"),
        (torch.zeros(3, 1), r"^y: got \[3, 1\] torch.float32, expected \[3, 2\] torch.float32"),
        (torch.zeros(3, 2).double(), r"^y: got \[3, 2\] torch.float64, expected .* torch.float32"),
    ],
)
def test_fails_another_shape_or_dtype_even_where_the_values_are_equal(
    got: Tensor, match: str
) -> None:
    with pytest.raises(AssertionError, match=match):
        assert_close_by_name({"y": got}, {"y": torch.zeros(3, 2)}, T)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ([torch.nan, 1], [1, 1]),
        ([1, 1], [torch.nan, 1]),
        ([torch.nan, 1], [1, torch.nan]),
        ([torch.inf, 1], [1, 1]),
        ([1, 1], [torch.inf, 1]),
        ([torch.inf, 1], [-torch.inf, 1]),
        ([torch.nan, 1], [torch.inf, 1]),
        ([torch.nan, torch.nan], [0, 0]),
    ],
)
def test_fails_nan_and_infinity_where_they_are_not_expected(
    got: list[float], expected: list[float]
) -> None:
    with pytest.raises(AssertionError, match=r"^y: "):
        assert_close_by_name({"y": torch.tensor(got)}, {"y": torch.tensor(expected)}, T)


def test_passes_nan_and_infinity_where_they_are_expected_and_still_measures_the_rest() -> None:
    expected = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    assert_close_by_name({"y": expected.clone()}, {"y": expected}, T)
    with pytest.raises(AssertionError, match=r"^y: 1 of 4 entries differ, the worst at \[3\]"):
        assert_close_by_name({"y": expected + 0.1}, {"y": expected}, T)


def test_what_must_be_zero_must_be_exactly_zero() -> None:
    with pytest.raises(AssertionError, match=r"^y: 1 of 2"):
        assert_close_by_name({"y": torch.tensor([0, 1e-30])}, {"y": torch.zeros(2)}, T)


def test_empty_tensors_are_equal() -> None:
    assert_close_by_name({"y": torch.zeros(0, 2)}, {"y": torch.zeros(0, 2)}, T)


def test_collect_names_the_gradient_of_each_source_and_weighs_each_output() -> None:
    a, b, unused = (torch.randn(3, requires_grad=True) for _ in range(3))
    got = collect({"y": 2 * a, "z": b.clone()}, {"a": a, "b": b, "unused": unused})
    assert sorted(got) == ["grad of a", "grad of b", "grad of unused", "y", "z"]
    assert got["grad of unused"].tolist() == [0, 0, 0]
    same = collect({"z": a.clone()}, {"a": a})["grad of a"]
    assert torch.equal(got["grad of b"], same)  # the weights depend on the output's name alone
    other = collect({"y": a.clone()}, {"a": a})["grad of a"]
    assert torch.equal(got["grad of a"], 2 * other)
    assert not torch.equal(same, other)


@pytest.mark.parametrize("kind", DROP_INS)
def test_a_comparison_of_layers_fails_by_name_when_one_weight_is_off(kind: str) -> None:
    drop_in = DROP_INS[kind]
    source = drop_in.layer(3, 4, num_layers=2, bidirectional=True, **drop_in.options).double()
    target = Recurrent(
        drop_in.cell, 3, 4, depth=2, bidirectional=True, **drop_in.cell_options
    ).double()
    copy_weights(source, target)
    x = torch.randn(T, 2, 3, dtype=torch.float64)
    expected = run_torch(source, x)
    assert_close_by_name(run_recurrent(target, x), expected, T)
    with torch.no_grad():
        target.cells[3].weight_hh += 1e-9
    with pytest.raises(AssertionError) as failure:
        assert_close_by_name(run_recurrent(target, x), expected, T)
    culprits = [line.split(":")[0] for line in str(failure.value).splitlines()]
    assert {"y", "h_n", "grad of x", "grad of weight_hh_l1_reverse"} <= set(culprits)


def test_weights_are_copied_only_between_layers_of_the_same_parameters() -> None:
    with pytest.raises(AssertionError, match="weights differ"):
        copy_weights(nn.GRU(3, 2), Recurrent(cells.LSTM, 3, 2))
    with pytest.raises(AssertionError, match="weights differ"):
        copy_weights(nn.GRU(3, 2, bias=False), Recurrent(cells.GRU, 3, 2))


class WrongBackward(torch.autograd.Function):
    """Twice its argument, with a backward that says thrice."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 3 * gradient


class WrongSecond(torch.autograd.Function):
    """x², with a right first derivative whose own derivative is lost."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0].detach() * gradient


@pytest.mark.parametrize("wrong", [WrongBackward, WrongSecond])
def test_a_wrong_derivative_of_first_or_second_order_is_found(
    wrong: type[torch.autograd.Function],
) -> None:
    linear = nn.Linear(2, 2).double()
    x = torch.randn(3, 2, dtype=torch.float64)
    check_derivatives(linear, lambda module, x: module(x).tanh(), x)
    with pytest.raises(GradcheckError):
        check_derivatives(linear, lambda module, x: wrong.apply(module(x)), x)
    with pytest.raises(GradcheckError):
        check_derivatives(linear, lambda module, _: wrong.apply(module.weight), x)
