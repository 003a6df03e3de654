"""Sequences of unequal length and what is told of each, as flat arrays, and in batches."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.errors import RunError
from unrolled.training.files import read_tensors, write_tensors

Array = NDArray[Any]
Integers = NDArray[np.int64]


class SequenceBatch(NamedTuple):
    """B sequences of up to T steps; what stands beyond a sequence's length is zero, and never read.

    ``values`` ``[T, B, D]``, NaN where one is missing; ``lengths`` ``[B]``; ``gaps`` ``[T, B]``, the time
    since the step before, where that is not always the same; ``labels`` ``[B]``, classes from 0, or
    ``[B, Y]``, numbers; ``weights`` ``[B]``.
    """

    values: Tensor
    lengths: Tensor
    gaps: Tensor | None
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Labelled:
    """N sequences, one after another.

    ``values`` ``[sum of T, D]``, NaN where one is missing; ``offsets`` ``[N + 1]``, where each begins;
    ``gaps`` ``[sum of T]``, or none; ``labels`` ``[N]`` of int64, or ``[N, Y]`` of float64; ``weights``
    ``[N]``.
    """

    values: Array
    offsets: Integers
    labels: Array
    weights: Array
    gaps: Array | None = None

    @classmethod
    def of(
        cls,
        sequences: Sequence[Array],
        labels: Array,
        weights: Array | None = None,
        gaps: Sequence[Array] | None = None,
    ) -> Self:
        """Of arrays ``[T, D]``, all D alike."""
        lengths = [len(sequence) for sequence in sequences]
        return cls(
            values=_narrow(np.concatenate(sequences)),
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
            labels=labels,
            weights=np.ones(len(lengths)) if weights is None else weights,
            gaps=None if gaps is None else np.concatenate(gaps),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Integers:
        """``[N]``."""
        return np.diff(self.offsets)

    def rows(self, chosen: Array) -> Self:
        """Those with the numbers ``chosen``, in that order."""
        steps = _steps_of(self.offsets, chosen)
        return type(self)(
            values=self.values[steps],
            offsets=np.cumsum([0, *self.lengths[chosen]], dtype=np.int64),
            labels=self.labels[chosen],
            weights=self.weights[chosen],
            gaps=None if self.gaps is None else self.gaps[steps],
        )

    def digests(self) -> list[bytes]:
        """A hash of each: the same wherever it stands, and of no other."""
        found = []
        for k in range(len(self)):
            steps = slice(*self.offsets[k : k + 2])
            parts = [self.values[steps].astype(np.float64), self.labels[k]]
            parts += [] if self.gaps is None else [self.gaps[steps].astype(np.float64)]
            digest = hashlib.blake2b(digest_size=16)
            for part in parts:
                digest.update(np.ascontiguousarray(part).tobytes())
            found.append(digest.digest())
        return found

    def distinct(self) -> Self:
        """Each sequence once, with its weights' sum, in an order that does not depend on theirs.

        One of weight 0 is left out. So one of weight 2 is the same as the same one twice, to the bit.
        """
        totals: dict[bytes, tuple[int, float]] = {}
        for k, (digest, weight) in enumerate(
            zip(self.digests(), self.weights.tolist(), strict=True)
        ):
            if weight:
                first, total = totals.get(digest, (k, 0.0))
                totals[digest] = (first, total + weight)
        order = sorted(totals)
        chosen = self.rows(np.array([totals[digest][0] for digest in order], np.int64))
        return chosen.with_weights(np.array([totals[digest][1] for digest in order]))

    def with_weights(self, weights: Array) -> Self:
        """The same sequences with other weights."""
        return replace(self, weights=weights)

    # --- Files ---------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """As safetensors.

        Raises:
            RunError: it cannot be written.
        """
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        write_tensors(
            path, {n: torch.from_numpy(a) for n, a in arrays.items() if a is not None}, {}
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """What ``write`` wrote.

        Raises:
            RunError: it is not there, or damaged.
        """
        tensors, _ = read_tensors(path)
        try:
            found = cls(**{name: tensor.numpy() for name, tensor in tensors.items()})
            offsets, count, gaps = found.offsets, len(found.values), found.gaps
            if found.values.ndim != 2 or offsets.ndim != 1 or not len(offsets):
                raise ValueError("values, offsets: got another number of dimensions")
            if offsets[0] or offsets[-1] != count or (np.diff(offsets) < 1).any():
                raise ValueError("offsets: they do not rise from 0 to the number of steps")
            if len(found.labels) != len(found) or found.weights.shape != (len(found),):
                raise ValueError("labels, weights: expected one a sequence")
            if gaps is not None and gaps.shape != (count,):
                raise ValueError("gaps: expected one a step")
        except (TypeError, ValueError) as error:
            raise RunError(f"{path}: not the sequences of a run ({error})") from None
        return found

    # --- Batches -------------------------------------------------------------------------------------

    def batch(self, chosen: Array) -> SequenceBatch:
        """The batch of the sequences ``chosen``."""
        lengths = self.lengths[chosen]
        steps = _steps_of(self.offsets, chosen)
        real = np.arange(lengths.max(initial=0)) < lengths[:, None]  # [B, T]

        def padded(flat: Array) -> Tensor:
            whole = np.zeros((*real.shape, *flat.shape[1:]), flat.dtype)
            whole[real] = flat[steps]
            return torch.from_numpy(np.ascontiguousarray(whole.swapaxes(0, 1)))

        return SequenceBatch(
            values=padded(self.values),
            lengths=torch.from_numpy(lengths),
            gaps=None if self.gaps is None else padded(self.gaps),
            labels=torch.from_numpy(self.labels[chosen]),
            weights=torch.from_numpy(self.weights[chosen]),
        )

    def batches(
        self, batch_size: int, batch_steps: int, shuffle: tuple[int, int] | None = None
    ) -> "Batches":
        """In batches of like length.

        Args:
            batch_size: B at most.
            batch_steps: T × B at most; a longer sequence is a batch of its own.
            shuffle: (seed, epoch), from which the order follows; by default from short to long.
        """
        return Batches(self.lengths, batch_size, batch_steps, shuffle)


class Batches:
    """Which sequences make a batch; how many batches there are does not depend on the order."""

    def __init__(
        self,
        lengths: Integers,
        batch_size: int,
        batch_steps: int,
        shuffle: tuple[int, int] | None = None,
    ) -> None:
        self.lengths, self.shuffle = lengths, shuffle
        self.cuts = _cuts(np.sort(lengths).tolist(), batch_size, batch_steps)

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[Integers]:
        return self.start(0)

    def start(self, first: int) -> Iterator[Integers]:
        """The numbers of the sequences of each batch, from the one with the number ``first`` on."""
        order, cuts = np.arange(len(self.lengths)), self.cuts
        if self.shuffle is not None:
            random = np.random.default_rng(self.shuffle)
            order = random.permutation(order)
            cuts = [cuts[k] for k in random.permutation(len(cuts))]
        order = order[np.argsort(self.lengths[order], kind="stable")]
        return (order[start:stop] for start, stop in islice(cuts, first, None))


def _narrow(values: Array) -> Array:
    """In float32, if that loses nothing."""
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    return small if np.array_equal(small, values, equal_nan=True) else values.astype(np.float64)


def _steps_of(offsets: Integers, chosen: Array) -> Integers:
    """The steps of the sequences ``chosen``, one after another."""
    lengths = np.diff(offsets)[chosen]
    ends = np.cumsum(lengths)
    shifts: Integers = np.repeat(offsets[chosen] - ends + lengths, lengths)
    return np.arange(lengths.sum()) + shifts


def _cuts(lengths: Sequence[int], batch_size: int, batch_steps: int) -> list[tuple[int, int]]:
    """Where batches begin and end in sequences sorted by length."""
    count = max(1, -(-len(lengths) // batch_size))
    batch_size = -(-len(lengths) // count)  # so that none is much smaller than the others
    cuts, start = [], 0
    for k, length in enumerate(lengths):
        if k > start and (k - start >= batch_size or (k + 1 - start) * length > batch_steps):
            cuts.append((start, k))
            start = k
    return [*cuts, (start, len(lengths))] if lengths else []
