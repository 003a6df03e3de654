"""The gradient that came to one scan, and the steps it ran over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.shapes import real_steps

NEAR = 1e7  # times the least normal number: from a larger one no step brings a gradient to 0 by its size
NAMES = {1: ("h",), 2: ("h", "c")}


@dataclass(frozen=True)
class Stretch:
    """Steps of one sequence that follow each other, ``steps`` ``[S]`` in the order of time.

    ``is_first``: they begin with the state that the scan was given; ``is_last``: they end with the
    sequence.
    """

    sequence: int
    steps: Tensor
    is_first: bool
    is_last: bool


@dataclass(slots=True, eq=False)
class Flow:
    """The gradient that came to one scan of a layer in one call of it.

    Sequences of a ``PackedSequence`` are in the order in which it packs them, from long to short.
    """

    layer: str
    level: int
    direction: int
    call: int
    """Of the layer, from 0."""
    turn: int
    """Of the model, from 0: another begins with the first call after a backward pass."""
    shape: tuple[int, int]
    """T, B."""
    written: Sequence[Tensor] = field(repr=False)
    """What the backward pass writes, for each tensor of the state: ``norms``, or below 0."""
    start: State | None = field(default=None, repr=False)
    lengths: Tensor | None = field(default=None, repr=False)
    mask: Tensor | None = field(default=None, repr=False)
    resets: Tensor | None = field(default=None, repr=False)
    version: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.version = version_of(self.written[0])

    @property
    def norms(self) -> dict[str, Tensor]:
        """The 2-norm of ∂L/∂state_t of each step and sequence, ``[T, B]``; NaN where no gradient came.

        Of the last backward pass that came. One for many gradients at once writes nothing.
        By the name of the state tensor: "h", "c"; "s0", "s1", … of cells with more. They count as
        independent: ∂L/∂c_t of an LSTM is what reaches c_t from later steps, not through its own h_t.
        """
        count = len(self.written)
        names = NAMES.get(count, tuple(f"s{i}" for i in range(count)))
        came = [torch.where(norm < 0, torch.nan, norm) for norm in self.written]
        return dict(zip(names, came, strict=True))

    @property
    def h(self) -> Tensor:
        """The norms of the first state tensor, ``[T, B]``."""
        return next(iter(self.norms.values()))

    @property
    def real(self) -> Tensor:
        """Which steps are real, ``[T, B]``."""
        real = (
            torch.ones(self.shape, dtype=torch.bool, device="cpu")
            if self.mask is None
            else self.mask.cpu()
        )
        if self.lengths is not None:
            real = real & real_steps(self.lengths.cpu(), self.shape[0])
        return real

    def padded(self, rows: Tensor) -> Tensor:
        """Packed ``rows`` ``[R, size]`` as ``[T, B, size]``, with zeros between; all else as it is."""
        if rows.dim() == 3:
            return rows
        return rows.new_zeros(*self.shape, rows.shape[1]).index_put_(
            tuple(self.real.nonzero().T), rows
        )

    @property
    def is_written(self) -> bool:
        """Whether a backward pass has written anything here."""
        return version_of(self.written[0]) > self.version

    @property
    def reached(self) -> bool:
        """Whether a backward pass has come here."""
        return not bool((self.written[0].cpu()[self.real] < 0).all())

    def longest(self) -> Stretch | None:
        """The longest stretch without a reset, of all sequences; ``None`` if no step is real."""
        real = self.real
        if not real.any():
            return None
        if self.resets is None:
            row = int(real.sum(0).argmax())
            return Stretch(row, real[:, row].nonzero().flatten(), True, True)
        sequence = self.resets.cpu().int().cumsum(0)  # to which each step belongs
        stretches = []
        for row in range(self.shape[1]):
            steps = real[:, row].nonzero().flatten()
            if not len(steps):
                continue
            numbers, counts = torch.unique_consecutive(sequence[steps, row], return_counts=True)
            k = int(counts.argmax())
            part = torch.split(steps, counts.tolist())[k]
            stretches.append(Stretch(row, part, int(numbers[k]) == 0, k == len(counts) - 1))
        return max(stretches, key=lambda stretch: len(stretch.steps))


def underflowed(norms: Sequence[float | None], least: float | None) -> list[bool]:
    """Which ``norms`` of a gradient, by step, are too small for its dtype.

    They are under ``least``, the dtype's least normal number, and so of few digits; or 0, and the steps of
    0 around them end at a norm that is nearly as small. Any other 0 is one: no gradient leads there.

    >>> underflowed([0.0, 0.0, 1e-40, 1e-36, 1e-20, 0.0], 1.18e-38)
    [True, True, True, False, False, False]
    """
    are_small = [False] * len(norms)
    for order in (range(len(norms)), reversed(range(len(norms)))):
        is_near = False
        for t in order:
            norm = norms[t]
            if norm is None or least is None or math.isnan(norm):
                is_near = False
            else:
                is_near = norm < NEAR * least and (norm > 0 or is_near)
                are_small[t] |= is_near and norm < least
    return are_small


def scan_name(layer: str, level: int, direction: int) -> str:
    """What a scan of a layer is called.

    >>> scan_name("rnn", 0, 1), scan_name("", 0, 0)
    ('rnn, 0, backward', 'layer, 0')
    """
    return f"{layer or 'layer'}, {level}{', backward' if direction else ''}"


def version_of(tensor: Tensor) -> int:
    """How often ``tensor`` has been written; 0 of one made in inference mode, which does not count."""
    return 0 if tensor.is_inference() else tensor._version
