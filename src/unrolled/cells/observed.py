"""What is known of series with missing values at each row: the input of cells that know of time."""

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.shapes import (
    Lengths,
    check_dense,
    check_flags,
    check_lengths,
    check_numbers,
    real_steps,
)

Memory = tuple[Tensor, Tensor, Tensor]
"""Of each sequence: each variable's last value ``[B, V]``, when it was seen ``[B, V]``, and the time of
the last row ``[B]``; both times in float64, NaN before the first row."""


class Observed(NamedTuple):
    """What ``observed`` returns; it unpacks as ``features, memory``."""

    features: Tensor
    """``[T, B, 3V + 2]``: last values, mask, times since (V of each), gap, seen."""
    memory: Memory
    """To go on from with the rows that come next."""


def observed(
    x: Tensor,
    times: Tensor | None = None,
    memory: Memory | None = None,
    *,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    fill: float | Tensor = 0.0,
) -> Observed:
    """What is known at each row of series in which NaN stands for a missing value.

    Of V variables at T rows, each row at its time:

    - last values, V: the value, or where it is missing the last one before;
    - mask, V: 1 where the value is there, 0 where it is missing;
    - times since, V: since the variable was last seen *before* this row; 0 at the first row, and counted
      from there for what was not seen yet. As the source's δ;
    - gap: since the row before; 0 at the first row;
    - seen: 1 where any value of the row is there, else 0.

    ``cells.GRUD`` and ``cells.ContinuousTimeLSTM`` read it; other cells may, too. What is always there
    (the calendar, what is known of the future) goes in front of it:
    ``torch.cat([known, features], -1)``.

    Nothing is learnt here, so all rows are done at once. Row by row, or in windows, with the ``memory`` of
    what came before, the result is the same to the bit. A row without any value changes nothing in what
    later rows are told but their gap, whose parts add up to the whole.

    Source: Che, Purushotham, Cho, Sontag & Liu, "Recurrent Neural Networks for Multivariate Time Series
    with Missing Values", Scientific Reports 8 (2018), equations 1 and 2.

        >>> nan = float("nan")
        >>> x = torch.tensor([[[1.0]], [[nan]], [[nan]], [[4.0]]])
        >>> features, memory = observed(x, torch.tensor([0.0, 0.5, 2.0, 3.0]))
        >>> features[:, 0]  # last value, mask, time since, gap, seen
        tensor([[1.0000, 1.0000, 0.0000, 0.0000, 1.0000],
                [1.0000, 0.0000, 0.5000, 0.5000, 0.0000],
                [1.0000, 0.0000, 2.0000, 1.5000, 0.0000],
                [4.0000, 1.0000, 3.0000, 1.0000, 1.0000]])

    Args:
        x: ``[T, B, V]``, NaN where a value is missing.
        times: of each row, ``[T]`` or ``[T, B]``, never falling within a sequence; by default one row
            a unit of time. Best in float64, and in a unit in which a usual gap is about 1.
        memory: of the rows before; by default there were none.
        lengths: ``[B]``, each from 0 to T: what stands beyond is never read, and its features are zero.
        resets: boolean ``[T, B]``: where true, a new sequence begins with that row.
        reverse: whether to look back from the other end: last values, times since and gaps are then of the
            rows that come after. What the backward direction of a layer is to read.
        fill: what stands for a variable that was not seen yet: a number, or one a variable ``[V]``.

    Raises:
        TypeError, ValueError: a shape or dtype is not as above, or the times fall.
    """
    expected = "[T, B, V], of a floating dtype, NaN where a value is missing"
    if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point() or not x.shape[2]:
        got = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: got {got}, expected {expected}")
    check_dense("x", x, expected)
    steps, batch_size, variables = x.shape
    if memory is not None:
        if reverse:
            raise ValueError("memory: got one with reverse=True, which begins with the last row")
        _check_memory(memory, batch_size, variables)
        if steps == 1 and lengths is None and resets is None:
            return _row(x, _checked_times(times, memory, x), memory)
    begin = unseen(batch_size, variables, fill, x)
    memory = begin if memory is None else memory
    times = _checked_times(times, memory, x)
    starts, real = torch.zeros_like(times, dtype=torch.bool), None
    if resets is not None:
        starts = check_flags("resets", resets, steps, batch_size, like=x)
    if lengths is not None:
        real = real_steps(check_lengths(lengths, steps, batch_size).to(x.device), steps)
    if not steps:
        return Observed(x.new_empty(0, batch_size, 3 * variables + 2), memory)
    _check_order(times, memory[2], starts, real)
    if not reverse:
        return _forward(x, times, memory, starts, real, begin[0])
    order = _backwards(times, real)
    rows = order.unsqueeze(-1)
    ends = torch.cat([starts[1:], torch.zeros_like(starts[:1])]).gather(0, order)
    turned, times = x.gather(0, rows.expand_as(x)), -times.gather(0, order)
    features, memory = _forward(turned, times, memory, ends, real, begin[0])
    return Observed(features.gather(0, rows.expand_as(features)), memory)


def unseen(batch_size: int, variables: int, fill: float | Tensor, like: Tensor) -> Memory:
    """The memory before the first row, of ``like``'s dtype and device."""
    filled = check_numbers("fill", fill, f"a number, or {variables}, one a variable", like.dtype)
    if filled.shape not in ((), (variables,)):
        raise ValueError(
            f"fill: got shape {list(filled.shape)}, expected [{variables}], or a number"
        )
    never = like.new_full((batch_size, variables), torch.nan, dtype=torch.float64)
    return filled.to(like.device).expand(batch_size, variables), never, never[:, 0]


def _row(x: Tensor, times: Tensor, memory: Memory) -> Observed:
    """``observed`` of one row of a stream, in as few operations as there can be."""
    last, when, before = memory
    if not bool((times >= before).all()):  # or the first row of a sequence
        _check_order(times, before, torch.zeros_like(times, dtype=torch.bool), None)
    mask, now = ~x[0].isnan(), times[0].unsqueeze(-1)
    values = torch.where(mask, x[0], last)
    since = (now - when).nan_to_num(0.0)
    gap = (now - before.unsqueeze(-1)).nan_to_num(0.0)
    parts = [part.to(x.dtype) for part in (mask, since, gap, mask.any(-1, keepdim=True))]
    features = torch.cat([values, *parts], -1).unsqueeze(0)
    return Observed(features, (values, torch.where(mask | when.isnan(), now, when), times[0]))


def _forward(
    x: Tensor, times: Tensor, memory: Memory, starts: Tensor, real: Tensor | None, blank: Tensor
) -> Observed:
    """``observed`` in the order of the rows; ``blank`` ``[B, V]`` stands for what was not seen yet.

    A value is read by the number of the row that it is from, counted from 1; row 0 is the memory.
    """
    last, when, before = memory
    mask = ~x.isnan()
    starts = torch.cat([starts[:1] | before.isnan(), starts[1:]])
    if real is not None:
        mask, starts = mask & real.unsqueeze(-1), starts & real
        count = real.sum(0, keepdim=True)
        final = torch.where(count > 0, times.gather(0, (count - 1).clamp(min=0)), before)
        times = torch.where(real, times, final)
    anew = starts.unsqueeze(-1)
    number = torch.arange(1, len(x) + 1, device=x.device).view(-1, 1, 1)
    until = torch.where(mask | anew, number, 0).cummax(0).values
    prior = torch.where(anew, number, torch.cat([torch.zeros_like(until[:1]), until[:-1]]))
    value = torch.cat([last.unsqueeze(0), torch.where(mask, x, blank)])
    time = torch.cat([when.unsqueeze(0), times.unsqueeze(-1).expand_as(x)])
    values = value.gather(0, until)
    since = times.unsqueeze(-1) - time.gather(0, prior)
    gaps = torch.where(starts, 0, times - torch.cat([before.unsqueeze(0), times[:-1]]))
    parts = [mask, since, gaps.unsqueeze(-1), mask.any(-1, keepdim=True)]
    features = torch.cat([values, *(part.to(x.dtype) for part in parts)], -1)
    if real is not None:
        features = torch.where(real.unsqueeze(-1), features, 0)
    memory = (values[-1].clone(), time.gather(0, until[-1:])[0], times[-1].clone())
    return Observed(features, memory)


def _backwards(times: Tensor, real: Tensor | None) -> Tensor:
    """The rows from the last to the first, ``[T, B]``; what is not real stays where it is."""
    order = torch.arange(len(times), device=times.device).unsqueeze(1).expand_as(times)
    return order.flip(0) if real is None else torch.where(real, real.sum(0) - 1 - order, order)


def _check_memory(memory: Memory, batch_size: int, variables: int) -> None:
    """Refuse a memory that is not one of so many sequences."""
    wide = (batch_size, variables)
    shapes = [tuple(part.shape) for part in memory]
    if shapes != [wide, wide, (batch_size,)]:
        raise ValueError(
            f"memory: got shapes {shapes}, expected {[wide, wide, (batch_size,)]}; give what observed "
            "returned of the rows before"
        )


def _checked_times(times: Tensor | None, memory: Memory, x: Tensor) -> Tensor:
    """The time of each row, ``[T, B]`` in float64."""
    steps, batch_size, _ = x.shape
    if times is None:
        counted = torch.arange(steps, dtype=torch.float64, device=x.device).unsqueeze(1)
        return counted + (memory[2] + 1).nan_to_num(0.0)
    given = check_numbers("times", times, "the time of each row", torch.float64).to(x.device)
    if given.shape not in ((steps,), (steps, batch_size)):
        expected = f"[{steps}] or [{steps}, {batch_size}]"
        raise ValueError(f"times: got shape {list(given.shape)}, expected {expected}")
    return (given.unsqueeze(1) if given.dim() == 1 else given).expand(steps, batch_size)


def _check_order(times: Tensor, before: Tensor, starts: Tensor, real: Tensor | None) -> None:
    """Refuse times that fall within a sequence, or are no times."""
    falls = torch.cat([before.unsqueeze(0), times[:-1]]) > times  # never of NaN
    falls = (falls & ~starts) | ~times.isfinite()
    falls = falls if real is None else falls & real
    if falls.any():
        row, sequence = falls.nonzero()[0].tolist()
        raise ValueError(
            f"times: got {times[row, sequence].item():g} at row {row} of sequence {sequence}, expected "
            "finite times, none before the row above; sort the rows, or set resets where a sequence begins"
        )
