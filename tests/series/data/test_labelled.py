from pathlib import Path

import numpy as np
import pytest
import torch

from unrolled.errors import RunError
from unrolled.series.data.labelled import Labelled

LENGTHS = [3, 1, 7, 2, 7, 1]


def made(lengths: list[int] = LENGTHS, features: int = 2, *, with_gaps: bool = True) -> Labelled:
    random = np.random.default_rng(0)
    sequences = [random.normal(size=(length, features)) for length in lengths]
    sequences[0][0, 0] = np.nan
    gaps = [random.exponential(size=length) for length in lengths] if with_gaps else None
    return Labelled.of(sequences, np.arange(len(lengths)), gaps=gaps)


def test_a_batch_has_each_sequence_and_zeros_after_it() -> None:
    data = made()
    batch = data.batch(np.array([4, 1, 0]))
    assert batch.values.shape == (7, 3, 2)
    assert batch.lengths.tolist() == [7, 1, 3]
    assert batch.labels.tolist() == [4, 1, 0]
    for b, row in enumerate([4, 1, 0]):
        steps = slice(*data.offsets[row : row + 2])
        length = LENGTHS[row]
        np.testing.assert_array_equal(batch.values[:length, b], data.values[steps])
        assert (batch.values[length:, b] == 0).all()
        assert batch.gaps is not None and data.gaps is not None
        np.testing.assert_array_equal(batch.gaps[:length, b], data.gaps[steps])


def test_rows_are_the_sequences_chosen() -> None:
    data, chosen = made(), np.array([5, 2])
    part = data.rows(chosen)
    for k, row in enumerate(chosen):
        for one, whole in zip(part.batch(np.array([k])), data.batch(np.array([row])), strict=True):
            torch.testing.assert_close(one, whole, rtol=0, atol=0, equal_nan=True)


def test_values_are_kept_in_float32_only_where_that_loses_nothing() -> None:
    labels = np.zeros(1, np.int64)
    assert Labelled.of([np.array([[0.5, np.nan]])], labels).values.dtype == np.float32
    assert Labelled.of([np.array([[0.1]])], labels).values.dtype == np.float64
    assert Labelled.of([np.array([[1e300]])], labels).values.dtype == np.float64


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("batch_steps", [1, 20, 10_000])
def test_batches_have_each_sequence_once_and_are_as_many_in_any_order(
    batch_size: int, batch_steps: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, size=37).tolist()
    data = made(lengths)
    plain = list(data.batches(batch_size, batch_steps))
    for order in [(0, 0), (0, 1), (5, 0)]:
        batches = data.batches(batch_size, batch_steps, order)
        rows = list(batches)
        assert len(rows) == len(batches) == len(plain)
        assert sorted(np.concatenate(rows).tolist()) == list(range(37))
        for chosen in rows:
            assert len(chosen) <= batch_size
            longest = data.lengths[chosen].max()
            assert len(chosen) == 1 or longest * len(chosen) <= batch_steps
        assert [one.tolist() for one in batches.start(1)] == [one.tolist() for one in rows[1:]]


def test_batches_follow_from_seed_and_epoch() -> None:
    data = made([5] * 20)
    orders = [
        [rows.tolist() for rows in data.batches(4, 1000, order)]
        for order in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def test_no_batch_is_much_smaller_than_the_others() -> None:
    assert [len(rows) for rows in made([5] * 33).batches(16, 1000)] == [11, 11, 11]


def test_a_sequence_twice_is_one_of_twice_the_weight() -> None:
    data = made()
    twice = data.rows(np.array([3, 0, 1, 0, 2, 1, 5, 4])).distinct()
    weights = np.array([2.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    weighted = data.with_weights(weights).rows(np.array([5, 4, 3, 2, 1, 0])).distinct()
    assert twice.digests() == weighted.digests()
    assert twice.weights.tolist() == weighted.weights.tolist()
    assert twice.weights.sum() == 8
    np.testing.assert_array_equal(twice.values, weighted.values)


def test_a_sequence_of_no_weight_is_left_out() -> None:
    assert (
        made().with_weights(np.array([1.0, 0, 0, 1, 1, 0])).distinct().weights.tolist() == [1] * 3
    )


def test_the_same_values_with_another_label_are_another_sequence() -> None:
    x = [np.ones((2, 1))] * 2
    assert len(Labelled.of(x, np.array([0, 1])).distinct()) == 2
    assert len(Labelled.of(x, np.array([1, 1])).distinct()) == 1


@pytest.mark.parametrize("with_gaps", [False, True])
def test_what_is_written_is_read(tmp_path: Path, with_gaps: bool) -> None:
    data = made(with_gaps=with_gaps)
    data.write(tmp_path / "train.safetensors")
    read = Labelled.read(tmp_path / "train.safetensors")
    assert read.digests() == data.digests()
    assert (read.gaps is None) is not with_gaps
    np.testing.assert_array_equal(read.weights, data.weights)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    with pytest.raises(RunError, match="no such file"):
        Labelled.read(path)
    good = made()
    for bad in (
        Labelled(good.values, good.offsets[:-1], good.labels, good.weights),
        Labelled(good.values, good.offsets[::-1].copy(), good.labels, good.weights),
        Labelled(good.values, good.offsets, good.labels[1:], good.weights),
        Labelled(good.values[:, 0], good.offsets, good.labels, good.weights),
        Labelled(good.values, good.offsets, good.labels, good.weights, np.zeros(3)),
    ):
        bad.write(path)
        with pytest.raises(RunError, match="not the sequences of a run"):
            Labelled.read(path)
