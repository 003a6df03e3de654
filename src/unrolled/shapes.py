"""The alphabet of shapes, and the checks that hold arguments to it.

========  ==========================================
``T``     time steps
``B``     lanes: independent sequences in a batch
``D``     input features
``H``     hidden units
``G``     gate blocks of H rows in a weight
``L``     depth: layers
``S``     directions: 1 or 2
``V``     vocabulary
========  ==========================================

Time comes first, ``[T, B, D]``. Every check names the argument, what was got, what was expected,
and where it helps what to do next.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Lengths = Tensor | Sequence[int]


def check_size(name: str, value: int, *, least: int = 1) -> int:
    """``value``, or an error unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    if value < least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")
    return value


def check_fraction(name: str, value: float) -> float:
    """``value``, or an error unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a number from 0 up to, but not, 1")
    return float(value)


def check_input(x: Tensor, features: int, *, batch_first: bool) -> None:
    """Refuse an ``x`` that is not a float tensor ``[T, B, features]`` (``[B, T, ...]`` if batch first)."""
    expected = f"[{'B, T' if batch_first else 'T, B'}, {features}]"
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor {expected}")
    if x.dim() != 3 or x.shape[-1] != features:
        advice = "; for one sequence, add the lane dimension with unsqueeze" if x.dim() == 2 else ""
        raise ValueError(f"x: got shape {list(x.shape)}, expected {expected}{advice}")
    if not x.is_floating_point():
        raise TypeError(f"x: got {x.dtype}, expected a floating dtype; convert it with x.float()")


def check_lengths(lengths: Lengths, steps: int, lanes: int) -> Tensor:
    """``lengths`` as an int64 tensor ``[B]``, or an error unless each is from 0 to T."""
    lengths = torch.as_tensor(lengths)
    if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
        raise TypeError(f"lengths: got {lengths.dtype}, expected whole numbers, one a lane")
    if lengths.shape != (lanes,):
        raise ValueError(
            f"lengths: got shape {list(lengths.shape)}, expected [{lanes}], one a lane"
        )
    if lanes and (int(lengths.min()) < 0 or int(lengths.max()) > steps):
        worst = lengths.min() if int(lengths.min()) < 0 else lengths.max()
        raise ValueError(f"lengths: got {int(worst)}, expected from 0 to T = {steps}")
    return lengths.long()


def check_state(state: object, expected: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """``state``, or an error unless it is a tuple of tensors of the ``expected`` shapes."""
    described = ", ".join(str(list(shape)) for shape in expected)
    if not isinstance(state, tuple | list) or not all(isinstance(s, Tensor) for s in state):
        raise TypeError(
            f"state: got {type(state).__name__}, expected a tuple of tensors {described}"
        )
    if [tuple(s.shape) for s in state] != list(expected):
        got = ", ".join(str(list(s.shape)) for s in state)
        raise ValueError(f"state: got shapes {got}, expected {described}")
    return tuple(state)


def real_steps(lengths: Tensor, steps: int) -> Tensor:
    """Which steps are real: a boolean ``[T, B]``, true at t < lengths[b].

    >>> real_steps(torch.tensor([2, 0]), 3).int().tolist()
    [[1, 0], [1, 0], [0, 0]]
    """
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths
