"""Sequences with labels from a long table, and ragged arrays of any form."""

import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix

from unrolled.errors import CallError, DataError
from unrolled.series.data import Roles, ragged, sequence_roles, sequences_of, table_of

LENGTHS = (3, 1, 5)


def gestures() -> dict[str, Any]:
    """Three sequences, of unequal length."""
    steps = np.concatenate([np.arange(length) for length in LENGTHS])
    which = np.repeat([11, 12, 13], LENGTHS)
    return {
        "id": which,
        "t": steps / 10,
        "x": steps + 100.0 * which,
        "pen": np.where(steps % 2, "up", "down").astype(object),
        "kind": np.array(["wave", "tap", "wave"], dtype=object)[which - 11],
    }


def roles(table: dict[str, Any], **options: Any) -> Roles:
    return sequence_roles(table_of(table), id="id", time="t", label="kind", **options)


@pytest.mark.parametrize("kind", [dict, pd.DataFrame, pl.DataFrame])
def test_a_long_table_becomes_sequences_and_labels(kind) -> None:
    table = gestures()
    found = sequences_of(kind(table), roles(table))
    assert len(found) == 3 and [len(one) for one in found.values] == list(LENGTHS)
    np.testing.assert_array_equal(np.concatenate(found.values)[:, 0], table["x"])
    assert found.labels.tolist() == ["wave", "tap", "wave"]
    assert np.concatenate(found.codes)[:, 0].tolist() == [
        1 + s % 2 for s in (0, 1, 2, 0, *range(5))
    ]
    assert found.gaps[2].tolist() == [0, 1, 1, 1, 1]
    assert found.panel.keys == [("11",), ("12",), ("13",)]
    assert found.plan.has_label and found.plan.column("kind").levels == ("tap", "wave")
    assert "series: 1 for training, 1 for validation, 1 for test" in found.plan.facts()


def test_all_columns_but_the_key_are_features_unless_some_are_named() -> None:
    table = gestures()
    assert roles(table).past == ("x", "pen") and roles(table, features="x").past == ("x",)
    assert roles(table, categories="x").categories == ("x", "kind")
    with pytest.raises(CallError, match="id: got none, expected the columns that name a sequence"):
        sequence_roles(table_of(table), id=())
    with pytest.raises(
        CallError,
        match="features: got none, expected columns of the frame beside id, t, x, pen, kind",
    ):
        sequence_roles(table_of(table), id=list(table))


def test_a_label_that_is_a_number_is_a_class_or_a_quantity() -> None:
    table = gestures() | {"kind": np.repeat([3, 1, 3], LENGTHS)}
    classes = sequences_of(table, roles(table))
    assert classes.labels.tolist() == [3, 1, 3] and classes.plan.column("kind").levels == ("1", "3")
    numbers = sequences_of(table, roles(table, is_class=False))
    assert numbers.labels.dtype == np.float64 and numbers.plan.column("kind").told == "1 to 3"


def test_the_label_may_stand_in_one_row_of_each_sequence() -> None:
    table = gestures()
    for row in (1, 2, 5, 6, 7):
        table["kind"][row] = None
    assert sequences_of(table, roles(table)).labels.tolist() == ["wave", "tap", "wave"]


def test_a_table_without_labels_is_held_to_the_plan_too() -> None:
    table = gestures()
    plan = sequences_of(table, roles(table)).plan
    del table["kind"]
    found = sequences_of(table, plan)
    assert found.labels is None and found.plan is plan and len(found) == 3
    with pytest.raises(DataError, match=r"no column 'pen' \(past\)"):
        sequences_of({name: table[name] for name in ("id", "t", "x")}, plan)


def test_steps_that_are_missing_are_nan_and_irregular_ones_tell_their_gap() -> None:
    table = {"id": [1] * 4, "t": [0, 1, 2, 5], "x": [1.0, 2, 3, 4], "kind": [1] * 4}
    found = sequences_of(table, roles(table))
    np.testing.assert_array_equal(found.values[0][:, 0], [1, 2, 3, np.nan, np.nan, 4])
    found = sequences_of(table, roles(table), frequency=None)
    assert found.gaps[0].tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": ["wave", "tap", *["wave"] * 7]},
         "row 1: the column 'kind' (label) has another value than in row 0, in the series 11; expected "
         "one value a series"),
        ({"kind": [*["wave"] * 3, None, *["wave"] * 5]},
         "row 3: the column 'kind' (label) is empty in all rows of the series 12, expected its label"),
        ({"t": [0, 2, 1, *[0] * 6]}, "row 2: the series 11 goes back from 2 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(changed, message: str) -> None:
    table = gestures() | changed
    with pytest.raises(DataError, match=re.escape(message)):
        sequences_of(table, roles(gestures()))


X = np.arange(24.0).reshape(4, 3, 2)


@pytest.mark.parametrize(
    "given",
    [
        X,
        list(X),
        [one.tolist() for one in X],
        torch.tensor(X),
        [torch.tensor(one) for one in X],
        X.astype(object),
    ],
)
def test_arrays_of_every_form_are_the_same_sequences(given) -> None:
    found = ragged(given)
    assert all(one.dtype == np.float64 for one in found)
    np.testing.assert_array_equal(np.stack(found), X)


@pytest.mark.parametrize(
    "given", [X[:, :, 0], X[:, :, 0].tolist(), pd.DataFrame(X[:, :, 0]), list(X[:, :, 0])]
)
def test_rows_are_sequences_of_one_number_a_step(given) -> None:
    np.testing.assert_array_equal(np.stack(ragged(given)), X[:, :, :1])


def test_sequences_may_differ_in_length_and_have_nan() -> None:
    found = ragged([[1, 2, 3], [4, np.nan]])
    assert [one.shape for one in found] == [(3, 1), (2, 1)]
    assert [one.shape for one in ragged([np.ones((3, 2)), np.ones((1, 2))])] == [(3, 2), (1, 2)]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "X: got 0 sequences, expected at least one, as a list of arrays [T, D]"),
        (np.ones(3), ValueError, "X: got shape [3], expected a list of arrays [T, D], or an array [N, "
         "T, D] or [N, T]. Reshape your data"),
        ([1.0, 2.0], ValueError, "X: got shape [2], expected"),
        (np.ones((1, 1, 1, 1)), ValueError, "X: got shape [1, 1, 1, 1], expected"),
        (np.ones((0, 3)), ValueError, "X: got 0 sample(s) (shape=(0, 3)) while a minimum of 1 is "
         "required."),
        (np.ones((3, 0)), ValueError, "X: got 0 feature(s) (shape=(3, 0)) while a minimum of 1 is "
         "required."),
        (np.ones((3, 0, 1)), ValueError, "X: got 0 step(s) (shape=(3, 0, 1))"),
        ([np.ones((2, 2)), np.ones((2, 3))], ValueError, "X[1]: got 3 features, expected 2 as in X[0]"),
        ([np.ones((2, 2)), np.ones((0, 2))], ValueError, "X[1]: got 0 steps, expected at least 1"),
        ([np.ones((2, 2, 2)), np.ones((2, 2))], ValueError, "X: got a sequence of shape [2, 2, 2], "
         "expected [T, D]"),
        (np.full((2, 2), 1j), ValueError, "X: Complex data not supported, got complex128, expected real "
         "numbers"),
        (np.array([[1.0, np.inf]]), ValueError, "X: got infinity at [0, 1], expected finite numbers, or "
         "NaN"),
        ([[1.0, 2.0], [np.inf]], ValueError, "X[1]: got infinity at [0, 0]"),
        ([["a", "b"]], ValueError, "X: got <U1 (could not convert string to float"),
        (np.array([[{}]], dtype=object), TypeError, "argument must be a string or a real number"),
        (csr_matrix(np.ones((2, 2))), TypeError, "X: got a sparse matrix, expected a list of arrays [T, "
         "D]"),
        ("abc", TypeError, "X: got str, expected a list of arrays"),
        (5, TypeError, "X: got int, expected a list of arrays"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_sequences_is_refused(given, error, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ragged(given)
