"""Whole sequences, of which something is told: from a long table, or from arrays."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError
from unrolled.series.data.frames import Table, table_of
from unrolled.series.data.frequency import Frequency
from unrolled.series.data.panel import Panel, panel_of
from unrolled.series.data.plan import Plan
from unrolled.series.data.roles import Names, Roles, names_of
from unrolled.series.data.steps import INFER

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

EXPECTED = "a list of arrays [T, D], or an array [N, T, D] or [N, T]"


@dataclass(frozen=True)
class Sequences:
    """N sequences, each of T steps of its own.

    ``values``: ``[T, D]`` each, NaN where one is missing. ``codes``: of categories, ``[T, C]`` each, 0
    where one is missing or unknown. ``gaps``: ``[T]`` each, the time since the step before in usual steps,
    0 at the first. ``labels`` ``[N]``, if the table has some. ``panel``: all of it.
    """

    values: list[Floats]
    codes: list[Integers]
    gaps: list[Floats]
    labels: NDArray[Any] | None
    panel: Panel

    def __len__(self) -> int:
        return len(self.values)

    @property
    def plan(self) -> Plan:
        """What was understood of the table, to which others can be held."""
        return self.panel.plan


def sequences_of(
    frame: Any,
    roles: Roles | Plan,
    *,
    frequency: str | float | Frequency | None = INFER,
    zone: str | None = None,
    shares: tuple[float, float] = (0.1, 0.1),
) -> Sequences:
    """The sequences of a long table, one a series, and their labels.

    With a plan the table may have no label.

    Args:
        frame: a frame, a mapping from names to arrays, or a ``Table``.
        roles: as ``sequence_roles`` gives; or a plan, to which the table is held.
        frequency: as for ``panel_of``.
        zone: as for ``panel_of``.
        shares: of the sequences, held out for validation and test, by the hash of their key.

    Raises:
        DataError: the table cannot be used as it is.
        CallError: an argument cannot be served.
    """
    table = table_of(frame)
    plan = roles if isinstance(roles, Plan) else None
    if plan is not None and plan.roles.label is not None and plan.roles.label not in table:
        columns = tuple(column for column in plan.columns if column.role != "label")
        roles = replace(plan, columns=columns)
    panel = panel_of(table, roles, frequency=frequency, zone=zone, shares=shares)
    if plan is not None:
        panel = replace(panel, plan=plan)
    return Sequences(
        values=[np.concatenate([one.past, one.known], axis=1) for one in panel],
        codes=[np.concatenate([one.past_codes, one.known_codes], axis=1) for one in panel],
        gaps=[one.gaps for one in panel],
        labels=panel.labels,
        panel=panel,
    )


def sequence_roles(
    table: Table,
    *,
    id: Names,  # noqa: A002 - as on the command line
    time: str | None = None,
    label: str | None = None,
    features: Names = (),
    categories: Names = (),
    is_class: bool = True,
) -> Roles:
    """The roles of a table's columns, where a label is told of each sequence.

    Args:
        table: the table.
        id: the columns that name a sequence.
        time: the column of times; ``None``: its rows are its steps, in order.
        label: the column of labels.
        features: the columns to tell it from; none: all others.
        categories: those that are no quantities, though they are numbers.
        is_class: whether the label is a class, also if it is a number.

    Raises:
        CallError: a column has two roles, or there is none to tell the label from.
        DataError: a column is missing.
    """
    keys, chosen, marked = (
        names_of("id", id),
        names_of("features", features),
        names_of("categories", categories),
    )
    if not keys:
        raise CallError("id: got none, expected the columns that name a sequence (--id)")
    taken = {*keys, time, label}
    chosen = chosen or tuple(name for name in table.names if name not in taken)
    if not chosen:
        raise CallError(
            f"features: got none, expected columns of {table.name} beside {', '.join(keys)}"
        )
    if is_class and label is not None:
        marked = (*marked, label)
    return Roles(time=time, series=keys, past=chosen, categories=marked, label=label)


def ragged(x: Any, name: str = "X") -> list[Floats]:
    """Sequences as a list of float64 arrays ``[T, D]``, each T of its own, all D alike.

    An array ``[N, T]``, or a frame, is N sequences of one number a step. NaN is a missing number.

    Raises:
        TypeError: it is of another kind, or sparse.
        ValueError: it is empty, of other dimensions, complex, or infinite.
    """
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(
            f"{name}: got a sparse matrix, expected {EXPECTED}; convert it with toarray()"
        )
    if isinstance(x, str | bytes | dict) or not isinstance(x, Iterable):
        raise TypeError(f"{name}: got {type(x).__name__}, expected {EXPECTED}")
    if hasattr(x, "shape") or hasattr(x, "__array__"):
        return _of_array(np.asarray(x), name)
    arrays = [np.asarray(one) for one in x]
    if not arrays:
        raise ValueError(f"{name}: got 0 sequences, expected at least one, as {EXPECTED}")
    if all(one.ndim == 0 for one in arrays):
        return _of_array(np.asarray(arrays), name)
    if all(one.ndim == 1 for one in arrays) and len({len(one) for one in arrays}) == 1:
        return _of_array(np.stack(arrays), name)
    if any(one.ndim not in (1, 2) for one in arrays):
        shape = next(list(one.shape) for one in arrays if one.ndim not in (1, 2))
        raise ValueError(f"{name}: got a sequence of shape {shape}, expected [T, D]")
    arrays = [one[:, None] if one.ndim == 1 else one for one in arrays]
    width = arrays[0].shape[1]
    found = []
    for k, one in enumerate(arrays):
        if one.shape[1] != width or not width:
            raise ValueError(
                f"{name}[{k}]: got {one.shape[1]} features, expected {width or 'at least 1'} as in "
                f"{name}[0]"
            )
        if not len(one):
            raise ValueError(f"{name}[{k}]: got 0 steps, expected at least 1")
        found.append(_numbers(one, f"{name}[{k}]"))
    return found


def _of_array(x: NDArray[Any], name: str) -> list[Floats]:
    if x.ndim not in (2, 3):
        advice = " Reshape your data: X[None] is one sequence, X[:, None] sequences of one step"
        raise ValueError(
            f"{name}: got shape {list(x.shape)}, expected {EXPECTED}.{advice if x.ndim == 1 else ''}"
        )
    names = ("sample(s)", "feature(s)") if x.ndim == 2 else ("sample(s)", "step(s)", "feature(s)")
    for size, what in zip(x.shape, names, strict=True):
        if not size:
            raise ValueError(
                f"{name}: got 0 {what} (shape={x.shape}) while a minimum of 1 is required."
            )
    numbers = _numbers(x, name)
    return list(numbers if x.ndim == 3 else numbers[:, :, None])


def _numbers(x: NDArray[Any], name: str) -> Floats:
    if x.dtype.kind == "c":
        raise ValueError(
            f"{name}: Complex data not supported, got {x.dtype}, expected real numbers"
        )
    try:
        numbers = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: got {x.dtype} ({error}), expected numbers") from None
    if np.isinf(numbers).any():
        at = [int(k[0]) for k in np.nonzero(np.isinf(numbers))]
        raise ValueError(
            f"{name}: got infinity at {at}, expected finite numbers, or NaN where one is missing"
        )
    return numbers
