"""The alphabet of shapes, and the checks that hold arguments to it.

========  ==========================================
``T``     time steps
``B``     sequences: independent sequences in a batch
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

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Lengths = Tensor | Sequence[int]
Shape = tuple[int, ...]


def check_size(name: str, value: int, *, least: int = 1, most: int | None = None) -> int:
    """``value``, or an error unless it is a whole number from ``least`` to ``most``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, expected a whole number") from None
    if size < least:
        raise ValueError(f"{name}: got {size}, expected at least {least}")
    if most is not None and size > most:
        raise ValueError(f"{name}: got {size}, expected at most {most}")
    return size


def check_real(name: str, value: object) -> None:
    """Refuse what is no number of Python's; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: got {value!r}, expected a number")


def check_number(name: str, value: float, *, least: float = 0.0, most: float = math.inf) -> float:
    """``value``, or an error unless it is a finite number from ``least`` to ``most``."""
    check_real(name, value)
    if not least <= value <= most or math.isinf(value):
        limit = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise ValueError(f"{name}: got {value!r}, expected a number {limit}")
    return float(value)


def check_fraction(name: str, value: float) -> float:
    """``value``, or an error unless 0 <= value < 1."""
    check_real(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a number from 0 up to, but not, 1")
    return float(value)


def check_input(
    x: Tensor, features: int, weight: Tensor | None = None, *, batch_first: bool
) -> None:
    """Refuse an ``x`` that is not ``[T, B, features]`` (``[B, T, …]`` if batch first) like ``weight``.

    Like it in dtype and device; under autocast dtypes may differ.
    """
    expected = f"[{'B, T' if batch_first else 'T, B'}, {features}]"
    if isinstance(x, PackedSequence):
        raise TypeError(f"x: got a PackedSequence, expected a tensor {expected} and lengths=")
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor {expected}")
    check_dense("x", x, expected)
    if x.dim() != 3 or x.shape[-1] != features:
        advice = (
            "; for one sequence, add the sequence dimension with unsqueeze" if x.dim() == 2 else ""
        )
        raise ValueError(f"x: got shape {list(x.shape)}, expected {expected}{advice}")
    if not x.is_floating_point():
        raise TypeError(f"x: got {x.dtype}, expected a floating dtype; convert it with x.float()")
    if weight is not None:
        check_like("x", x, weight, "the weights")


def check_dense(name: str, tensor: Tensor, expected: str) -> None:
    """Refuse a nested or a sparse tensor where a dense one, of the ``expected`` shape, is read."""
    if tensor.is_nested:
        raise TypeError(
            f"{name}: got a nested tensor, expected a dense one {expected}; pad it with "
            "torch.nested.to_padded_tensor, and give an input's lengths as lengths="
        )
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name}: got {tensor.layout}, expected a dense tensor {expected}; convert it with to_dense()"
        )


def check_valued(name: str, tensor: Tensor) -> None:
    """Refuse a tensor on meta where its values are read."""
    if tensor.is_meta:
        raise ValueError(
            f"{name}: got a tensor on meta, where it has no values, expected one with values"
        )


def check_module(name: str, module: object) -> None:
    """Refuse what is no ``torch.nn.Module``."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: got {type(module).__name__}, expected a torch.nn.Module")


def check_function(name: str, function: object, expected: str) -> None:
    """Refuse what cannot be called."""
    if not callable(function):
        raise TypeError(f"{name}: got {function!r}, expected a function {expected}")


def check_generator(generator: object) -> None:
    """Refuse what is neither a ``torch.Generator`` nor ``None``."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: got {generator!r}, expected a torch.Generator, as from "
            "torch.Generator().manual_seed(0)"
        )


def check_saved(saved: object) -> None:
    """Refuse what is no mapping from names to tensors, as ``state_dict`` gives it."""
    if not isinstance(saved, Mapping) or not all(isinstance(s, Tensor) for s in saved.values()):
        raise TypeError(
            f"saved: got {type(saved).__name__}, expected tensors by name, as state_dict gives them"
        )


def as_tensor(given: Tensor | Sequence[float], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor where it is, and other numbers on the CPU, whatever the default device."""
    device = given.device if isinstance(given, Tensor) else "cpu"
    return torch.as_tensor(given, dtype=dtype, device=device)


def check_numbers(
    name: str, given: object, expected: str, dtype: torch.dtype | None = None
) -> Tensor:
    """``given`` as a tensor whose values can be read, or an error."""
    try:
        numbers = as_tensor(given, dtype)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: got {given!r}, expected {expected}") from None
    check_dense(name, numbers, expected)
    check_valued(name, numbers)
    return numbers


def check_lengths(lengths: Lengths, steps: int, batch_size: int) -> Tensor:
    """``lengths`` as an int64 tensor ``[B]``, or an error unless each is from 0 to T."""
    numbers = check_numbers("lengths", lengths, "whole numbers, one a sequence")
    whole = numbers.dtype != torch.bool and not numbers.is_floating_point()
    if numbers.numel() and (not whole or numbers.is_complex()):  # an empty list has no dtype
        raise TypeError(f"lengths: got {numbers.dtype}, expected whole numbers, one a sequence")
    numbers = numbers.long()
    if numbers.shape != (batch_size,):
        raise ValueError(
            f"lengths: got shape {list(numbers.shape)}, expected [{batch_size}], one a sequence"
        )
    if torch.compiler.is_compiling():  # the numbers are not known yet: the operator checks them
        return numbers
    if batch_size and (int(numbers.min()) < 0 or int(numbers.max()) > steps):
        worst = numbers.min() if int(numbers.min()) < 0 else numbers.max()
        raise ValueError(f"lengths: got {int(worst)}, expected from 0 to T = {steps}")
    return numbers


def check_flags(
    name: str,
    flags: Tensor,
    steps: int,
    batch_size: int,
    *,
    batch_first: bool = False,
    like: Tensor | None = None,
) -> Tensor:
    """``flags`` as a boolean ``[T, B]``, or an error unless it is one (``[B, T]`` if batch first).

    On the device of ``like``, if that is given.
    """
    expected = [batch_size, steps] if batch_first else [steps, batch_size]
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        got = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        raise TypeError(f"{name}: got {got}, expected a boolean tensor {expected}")
    check_dense(name, flags, str(expected))
    if list(flags.shape) != expected:
        raise ValueError(f"{name}: got shape {list(flags.shape)}, expected {expected}")
    if like is None or not like.is_meta:
        check_valued(name, flags)
    flags = flags.transpose(0, 1) if batch_first else flags
    return flags if like is None else flags.to(like.device)


def check_state(
    state: object, expected: Sequence[Shape], like: Tensor | None = None
) -> tuple[Tensor, ...]:
    """``state``, or an error unless it is a tuple of tensors of the ``expected`` shapes, like ``like``."""
    described = listed(expected)
    if isinstance(state, Tensor) and len(expected) == 1:
        raise TypeError("state: got a tensor, expected a tuple of one; write (state,)")
    if not _are_tensors(state):
        raise TypeError(
            f"state: got {type(state).__name__}, expected a tuple of tensors {described}"
        )
    if not len(state):
        raise ValueError(
            f"state: got an empty tuple, expected none at all, to begin anew, or tensors {described}"
        )
    for tensor in state:
        check_dense("state", tensor, described)
    if [tuple(s.shape) for s in state] != list(expected):
        raise ValueError(
            f"state: got shapes {listed(s.shape for s in state)}, expected {described}"
        )
    if like is not None:
        for tensor in state:
            check_like("state", tensor, like, "x")
    return tuple(state)


def check_projected(cell: str, projected: object, leading: Shape, width: int | None = None) -> None:
    """Refuse what a cell's ``project`` returned unless it is a tensor of the ``leading`` dimensions.

    And of ``width`` features, if that is given.
    """
    if isinstance(projected, Tensor):
        *got, last = projected.shape
        if got == list(leading) and width in (None, last):
            return
    shape = ", ".join(map(str, [*leading, width or "P"]))
    expected = f"expected [{shape}], every dimension of x but the last"
    if not isinstance(projected, Tensor):
        raise TypeError(f"{cell}.project: returned {type(projected).__name__}, {expected}")
    raise ValueError(f"{cell}.project: returned shape {list(projected.shape)}, {expected}")


def check_noise(cell: str, noise: Tensor, steps: int, batch_size: int, units: int) -> None:
    """Refuse what a cell's ``noise`` returned unless it is ``[T, B, N]`` or ``[1, B, N]``, N = k H."""
    if (
        noise.dim() != 3
        or noise.shape[:2] not in ((steps, batch_size), (1, batch_size))
        or noise.shape[-1] % units
    ):
        raise ValueError(
            f"{cell}.noise: returned shape {list(noise.shape)}, expected [{steps} or 1, {batch_size}, N], "
            f"N a multiple of H = {units}"
        )


def check_step(
    cell: str, after: object, expected: Sequence[Shape], dtype: torch.dtype | None = None
) -> None:
    """Refuse what a cell's ``step`` returned unless it is a state: a tuple of the ``expected`` shapes.

    And of ``dtype``, if one is given.
    """
    rule = f"expected a tuple of tensors {listed(expected)}, as state_sizes says"
    if not isinstance(after, tuple) or not _are_tensors(after):
        raise TypeError(f"{cell}.step: returned {type(after).__name__}, {rule}")
    if [tuple(s.shape) for s in after] != list(expected):
        got = listed(s.shape for s in after)
        raise ValueError(f"{cell}.step: returned shapes {got}, {rule}")
    if dtype is not None and any(s.dtype != dtype for s in after):
        got = ", ".join(str(s.dtype) for s in after)
        raise TypeError(f"{cell}.step: returned {got}, expected {dtype} as it was given")


def shape_or_type(value: object) -> str:
    """What was got in a tensor's place, for a message: its shape, or of what is none its type."""
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def listed(shapes: Iterable[Sequence[int]]) -> str:
    """Shapes for a message: "[2, 3], [2, 4]"."""
    return ", ".join(str(list(shape)) for shape in shapes)


def _are_tensors(state: object) -> TypeGuard[Sequence[Tensor]]:
    return isinstance(state, tuple | list) and all(isinstance(s, Tensor) for s in state)


def check_like(name: str, tensor: Tensor, other: Tensor, owner: str) -> None:
    """Refuse ``tensor`` unless it has the device and, but under autocast, the dtype of ``owner``'s."""
    if tensor.device != other.device:
        raise ValueError(
            f"{name}: got {tensor.device}, expected {other.device} as {owner}; move it with .to()"
        )
    if tensor.dtype != other.dtype and not is_autocast(tensor):
        raise TypeError(
            f"{name}: got {tensor.dtype}, expected {other.dtype} as {owner}; convert it with .to()"
        )


def is_autocast(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` is, so that dtypes may differ."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def real_steps(lengths: Tensor, steps: int) -> Tensor:
    """Which steps are real: a boolean ``[T, B]``, true at t < lengths[b].

    >>> real_steps(torch.tensor([2, 0]), 3).int().tolist()
    [[1, 0], [1, 0], [0, 0]]
    """
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths


def check_loss(loss: object) -> Tensor:
    """``loss``, or an error unless it is a scalar."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a scalar tensor")
    if loss.dim():
        raise ValueError(
            f"loss: got shape {list(loss.shape)}, expected a scalar; end it with .mean() or .sum()"
        )
    return loss
