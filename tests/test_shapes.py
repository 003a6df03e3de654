"""The checks one by one: what passes, unchanged, and what is refused, with which words."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolled.shapes import (
    check_fraction,
    check_input,
    check_lengths,
    check_number,
    check_size,
    check_state,
    real_steps,
)


@pytest.mark.parametrize(("value", "least"), [(1, 1), (7, 1), (0, 0), (3, 3)])
def test_a_size_of_at_least_the_least_passes(value: int, least: int) -> None:
    assert check_size("depth", value, least=least) == value


@pytest.mark.parametrize(
    ("value", "least", "error", "expected"),
    [
        (0, 1, ValueError, "at least 1"),
        (-1, 0, ValueError, "at least 0"),
        (2, 3, ValueError, "at least 3"),
        (False, 0, TypeError, "a whole number"),
        (2.0, 1, TypeError, "a whole number"),
        ("2", 1, TypeError, "a whole number"),
        (None, 1, TypeError, "a whole number"),
    ],
)
def test_any_other_size_is_refused(
    value: object, least: int, error: type[Exception], expected: str
) -> None:
    match = f"^depth: got {re.escape(repr(value))}, expected {expected}"
    with pytest.raises(error, match=match):
        check_size("depth", value, least=least)


@pytest.mark.parametrize("value", [0, 0.5, 3])
def test_a_number_within_its_bounds_passes_as_a_float(value: float) -> None:
    got = check_number("dt", value, most=3)
    assert isinstance(got, float)
    assert got == value


@pytest.mark.parametrize(
    ("value", "most", "error", "expected"),
    [
        (-1e-9, float("inf"), ValueError, "a number of at least 0"),
        (float("inf"), float("inf"), ValueError, "a number of at least 0"),
        (float("nan"), 1, ValueError, "a number from 0 to 1"),
        (1.5, 1, ValueError, "a number from 0 to 1"),
        (True, 1, TypeError, "a number"),
        ("1", 1, TypeError, "a number"),
    ],
)
def test_any_other_number_is_refused(
    value: object, most: float, error: type[Exception], expected: str
) -> None:
    match = f"^dt: got {re.escape(repr(value))}, expected {expected}$"
    with pytest.raises(error, match=match):
        check_number("dt", value, most=most)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 0.999])
def test_a_fraction_below_one_passes_as_a_float(value: float) -> None:
    got = check_fraction("dropout", value)
    assert isinstance(got, float)
    assert got == value


@pytest.mark.parametrize("value", [-0.001, 1, 1.0, 2, float("nan"), float("inf")])
def test_any_other_fraction_is_refused(value: float) -> None:
    match = f"^dropout: got {re.escape(repr(value))}, expected a number from 0"
    with pytest.raises(ValueError, match=match):
        check_fraction("dropout", value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 2, 3), (0, 2, 3), (4, 0, 3), (1, 1, 3)])
def test_a_floating_tensor_of_three_dimensions_passes(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    for batch_first in (False, True):
        check_input(torch.zeros(shape, dtype=dtype), 3, batch_first=batch_first)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (4, 2, 4), (3, 2, 1), (1, 4, 2, 3)])
def test_an_input_of_another_shape_is_refused(shape: tuple[int, ...], batch_first: bool) -> None:
    expected = "[B, T, 3]" if batch_first else "[T, B, 3]"
    match = f"^x: got shape {re.escape(str(list(shape)))}, expected {re.escape(expected)}"
    with pytest.raises(ValueError, match=match) as refusal:
        check_input(torch.zeros(shape), 3, batch_first=batch_first)
    # The advice is for one sequence [T, D], and would mislead elsewhere.
    assert ("unsqueeze" in str(refusal.value)) == (len(shape) == 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.uint8])
def test_an_input_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"^x: got {dtype}, expected a floating dtype; .*float"):
        check_input(torch.zeros(4, 2, 3, dtype=dtype), 3, batch_first=False)


@pytest.mark.parametrize("x", [None, [[[1.0, 2.0, 3.0]]], torch.zeros(1, 1, 3).numpy()])
def test_an_input_that_is_no_tensor_is_refused(x: object) -> None:
    match = rf"^x: got {type(x).__name__}, expected a tensor \[T, B, 3\]"
    with pytest.raises(TypeError, match=match):
        check_input(x, 3, batch_first=False)


@pytest.mark.parametrize(
    "lengths",
    [[4, 0], (4, 0), torch.tensor([4, 0]), torch.tensor([4, 0], dtype=torch.int8)],
    ids=["list", "tuple", "int64", "int8"],
)
def test_lengths_become_one_int64_a_sequence(lengths: object) -> None:
    got = check_lengths(lengths, steps=4, batch_size=2)
    assert got.dtype == torch.int64
    assert got.tolist() == [4, 0]


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([5, 1], ValueError, "got 5, expected from 0 to T = 4"),
        ([1, -2], ValueError, "got -2, expected from 0 to T = 4"),
        ([5, -2], ValueError, "got -2, expected from 0 to T = 4"),
        ([1], ValueError, r"got shape \[1\], expected \[2\], one a sequence"),
        ([1, 1, 1], ValueError, r"got shape \[3\], expected \[2\], one a sequence"),
        ([[1, 1]], ValueError, r"got shape \[1, 2\], expected \[2\], one a sequence"),
        (3, ValueError, r"got shape \[\], expected \[2\], one a sequence"),
        ([1.0, 2.0], TypeError, "got torch.float32, expected whole numbers"),
        ([True, False], TypeError, "got torch.bool, expected whole numbers"),
        ([1j, 2j], TypeError, "got torch.complex64, expected whole numbers"),
    ],
)
def test_any_other_lengths_are_refused(lengths: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"^lengths: {match}"):
        check_lengths(lengths, steps=4, batch_size=2)


def test_a_state_of_the_expected_shapes_passes_as_a_tuple() -> None:
    h, c = torch.zeros(1, 2, 5), torch.zeros(1, 2, 4)
    for given_state in ((h, c), [h, c]):
        got = check_state(given_state, [(1, 2, 5), (1, 2, 4)])
        assert isinstance(got, tuple)
        assert got[0] is h
        assert got[1] is c


@pytest.mark.parametrize(
    ("state", "error", "got"),
    [
        (torch.zeros(2, 1, 5), TypeError, "Tensor"),
        (None, TypeError, "NoneType"),
        ((torch.zeros(1, 5), None), TypeError, "tuple"),
        ((), ValueError, "an empty tuple"),
        ((torch.zeros(1, 5),), ValueError, r"shapes \[1, 5\]"),
        ((torch.zeros(1, 4), torch.zeros(1, 5)), ValueError, r"shapes \[1, 4\], \[1, 5\]"),
        ((torch.zeros(1, 5),) * 3, ValueError, r"shapes \[1, 5\], \[1, 5\], \[1, 5\]"),
    ],
)
def test_any_other_state_is_refused(state: object, error: type[Exception], got: str) -> None:
    with pytest.raises(error, match=rf"^state: got {got}, expected .*\[1, 5\], \[1, 4\]$"):
        check_state(state, [(1, 5), (1, 4)])


@given(data=st.data())
def test_a_step_is_real_where_it_comes_before_the_length(data: st.DataObject) -> None:
    steps = data.draw(st.integers(0, 6))
    lengths = data.draw(st.lists(st.integers(0, steps), max_size=4))
    real = real_steps(torch.tensor(lengths, dtype=torch.int64), steps)
    assert real.dtype == torch.bool
    assert real.shape == (steps, len(lengths))
    for b, length in enumerate(lengths):
        assert real[:, b].tolist() == [True] * length + [False] * (steps - length)


@pytest.mark.parametrize("lengths", [[None], "abc", object()])
def test_lengths_that_are_no_numbers_are_refused(lengths: object) -> None:
    with pytest.raises(
        TypeError, match=r"^lengths: got .*, expected whole numbers, one a sequence$"
    ):
        check_lengths(lengths, 3, 1)


def test_no_lengths_of_no_sequences_pass() -> None:
    assert check_lengths([], 3, 0).shape == (0,)


def test_unsigned_lengths_pass() -> None:
    assert check_lengths(torch.tensor([3, 0], dtype=torch.uint16), 3, 2).tolist() == [3, 0]


@pytest.mark.parametrize("value", ["0.5", None, True])
def test_a_fraction_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^dropout: got .*, expected a number$"):
        check_fraction("dropout", value)
