"""Sequences of a table as those of a run, and what is told of them as columns of a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data import Sequences
from unrolled.series.data.labelled import Labelled
from unrolled.series.data.panel import split_of_keys
from unrolled.series.sequence_run import SPLITS

Array = NDArray[Any]


def arrays_of(sequences: Sequences) -> tuple[list[Array], list[Array] | None]:
    """The features of each sequence ``[T, D]``, and the gaps where steps are not evenly spaced.

    A category is a feature for each of its levels, 1 where it has that level; none, where it is missing or
    not known.
    """
    plan = sequences.plan
    columns = [*plan.categories("past"), *plan.categories("known")]
    sizes = [len(column.levels) for column in columns]
    values = [
        np.concatenate([one, *_one_hot(codes, sizes)], axis=1)
        for one, codes in zip(sequences.values, sequences.codes, strict=True)
    ]
    return values, sequences.gaps if plan.frequency is None else None


def _one_hot(codes: Array, sizes: list[int]) -> list[Array]:
    """Codes ``[T, C]`` from 1, as so many features each."""
    return [
        (codes[:, k, None] == np.arange(1, size + 1)).astype(float) for k, size in enumerate(sizes)
    ]


def splits_of(sequences: Sequences, *, is_class: bool) -> tuple[dict[str, Labelled], list[Any]]:
    """The splits of a table with labels, and the classes; of numbers the name of the column.

    Raises:
        DataError: there is nothing to train on.
    """
    values, gaps = arrays_of(sequences)
    plan, labels = sequences.plan, sequences.labels
    name = plan.of_role("label")[0].name
    assert labels is not None
    part = split_of_keys(sequences.panel.keys, plan.shares)
    if not (part == 0).any():
        raise DataError(
            f"got {len(part):,} sequences, none of which falls into the training split; "
            "more sequences are needed"
        )
    names: list[Any] = [name]
    targets = np.asarray(labels, dtype=np.float64).reshape(-1, 1) if not is_class else labels
    if is_class:
        found, targets = np.unique(labels, return_inverse=True)
        names = found.tolist()
        if len(names) < 2:
            raise DataError(
                f"the column {name!r} (label) is {names[0]!r} in all sequences, expected two classes "
                "or more"
            )
    whole = Labelled.of(values, targets, gaps=gaps)
    return {
        split: whole.rows(np.flatnonzero(part == k))
        for k, split in enumerate(SPLITS)
        if (part == k).any()
    }, names
