"""A long stream, or many documents, cut into rows for truncated backpropagation through time.

The arrays may be mapped files larger than memory: of their numbers, only those of a window are read.
"""

import heapq
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from unrolled.errors import DataError
from unrolled.shapes import check_size

Array = Tensor | np.ndarray
Arrays = tuple[Array, ...]
Data = TypeVar("Data", Tensor, tuple[Tensor, ...])

WIDENED = (torch.uint16, torch.uint32)  # PyTorch has no arithmetic for them


class Window(NamedTuple, Generic[Data]):
    """The same steps of every row, T of them.

    Args:
        data: ``[T, B, ...]``, or a tuple of such tensors; zero beyond a row's length.
        resets: boolean ``[T, B]``, true at the first step of a document and of a row.
        lengths: int64 ``[B]``, the steps that each row has here: T, but less where a row ends.
    """

    data: Data
    resets: Tensor
    lengths: Tensor


@overload
def make_windows(  # type: ignore[overload-overlap]  # a tuple is the parts of one document
    documents: Arrays | Sequence[Arrays],
    batch_size: int,
    steps: int,
    *,
    whole: bool = False,
    shuffle: tuple[int, int] | None = None,
) -> "Windows[tuple[Tensor, ...]]": ...


@overload
def make_windows(
    documents: Array | Sequence[Array],
    batch_size: int,
    steps: int,
    *,
    whole: bool = False,
    shuffle: tuple[int, int] | None = None,
) -> "Windows[Tensor]": ...


def make_windows(
    documents: Array | Arrays | Sequence[Array] | Sequence[Arrays],
    batch_size: int,
    steps: int,
    *,
    whole: bool = False,
    shuffle: tuple[int, int] | None = None,
) -> "Windows[Any]":
    """``documents`` in windows of ``steps`` steps, in which every row continues where it stopped.

    >>> for window in make_windows(torch.arange(7), 2, 3):
    ...     print(window.data.T.tolist(), window.lengths.tolist())
    [[0, 1, 2], [4, 5, 6]] [3, 3]
    [[3], [0]] [1, 0]

    Args:
        documents: a stream, that is one array ``[N, ...]``, a tensor on the CPU or a NumPy array; or
            a list of such arrays, documents, which differ in N at most. In place of each array,
            a tuple of arrays of the same N, such as inputs and targets. uint16 and uint32 become
            int64; every other dtype is kept.
        batch_size: B.
        steps: T of every window but the last, which is as long as its longest row.
        whole: by default the documents, one after the other, are cut into rows whose lengths differ
            by one at most. If true, none is cut: each goes to the row that has the fewest steps.
        shuffle: (seed, epoch), the source of the documents' order; by default the order given.

    Raises:
        TypeError: ``documents`` are not arrays of numbers, or not of one dtype.
        ValueError: they do not go together, or are too few for ``batch_size`` or ``steps``.
    """
    batch_size, steps = check_size("batch_size", batch_size), check_size("steps", steps)
    kept, tupled = _documents(documents)
    lengths = np.array([document[0].shape[0] for document in kept], np.int64)
    total = int(lengths.sum())
    if not total:
        raise ValueError("documents: got no steps, expected at least one")
    order = np.arange(len(kept))
    if shuffle is not None:
        if isinstance(documents, Tensor | np.ndarray | tuple):
            raise ValueError(
                f"shuffle: got {shuffle!r} for a single stream, expected None; "
                "only documents, in a list, have an order to change"
            )
        order = _generator(shuffle).permutation(order)
    if whole:
        if batch_size > len(kept):
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most {len(kept)}, the documents that are not "
                "empty; "
                "whole=False cuts them"
            )
        dealt = _dealt(lengths[order], batch_size)
        sizes = np.bincount(dealt, weights=lengths[order]).astype(np.int64)
        order = order[np.argsort(dealt, kind="stable")]
    elif batch_size > total:
        raise ValueError(
            f"batch_size: got {batch_size}, expected at most {total}, the steps there are"
        )
    else:
        sizes = np.full(batch_size, total // batch_size, np.int64)
        sizes[: total % batch_size] += 1
    longest = int(sizes.max())
    if steps > longest:
        raise ValueError(
            f"steps: got {steps}, expected at most {longest}, the longest row has that many"
        )
    return Windows(
        [kept[k] for k in order],
        _starts(lengths[order]),
        _starts(sizes),
        steps,
        range(-(-longest // steps)),
        tupled,
    )


class Windows(torch_data.Dataset[Window[Data]]):
    """Windows by number, made by ``make_windows``; a slice is a view of some of them, and copies nothing.

    A window is a batch already: ``DataLoader(windows, batch_size=None)`` gives them in order.

    Args:
        documents: the arrays of each, in the order of the rows, none empty.
        offsets: where each begins in the stream of all, and where the last ends.
        bounds: where each row begins in that stream, and where the last ends.
        steps: T.
        windows: the numbers of the windows.
        tupled: whether a window has a tuple.
    """

    def __init__(
        self,
        documents: list[Arrays],
        offsets: np.ndarray,
        bounds: np.ndarray,
        steps: int,
        windows: range,
        tupled: bool,
    ) -> None:
        self.steps = steps
        self._documents = documents
        self._offsets = offsets
        self._bounds = bounds
        self._windows = windows
        self._tupled = tupled

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._bounds) - 1

    def __len__(self) -> int:
        return len(self._windows)

    def __iter__(self) -> Iterator[Window[Data]]:
        return map(self._read, self._windows)

    @overload
    def __getitem__(self, k: int) -> Window[Data]: ...

    @overload
    def __getitem__(self, k: slice) -> "Windows[Data]": ...

    def __getitem__(self, k: int | slice) -> "Window[Data] | Windows[Data]":
        if isinstance(k, slice):
            if k.step not in (None, 1):
                raise ValueError(
                    f"windows: got a slice in steps of {k.step}, expected 1; "
                    "each window goes on where the one before it stopped"
                )
            windows = self._windows[k]
            return Windows(
                self._documents, self._offsets, self._bounds, self.steps, windows, self._tupled
            )
        try:
            window = self._windows[k]
        except IndexError:
            raise IndexError(
                f"windows: got {k}, expected from {-len(self)} to {len(self) - 1}"
                if len(self)
                else f"windows: got {k}, but there are none"
            ) from None
        except TypeError:
            raise TypeError(f"windows: got {k!r}, expected a whole number or a slice") from None
        return self._read(window)

    def __getitems__(self, _: object) -> NoReturn:
        # Only a DataLoader that would make batches of windows calls this.
        raise TypeError(
            "DataLoader: got a batch_size or a batch_sampler, expected batch_size=None; "
            "a window is a batch already"
        )

    def _read(self, window: int) -> Window[Any]:
        starts = self._bounds[:-1] + window * self.steps
        lengths = np.clip(self._bounds[1:] - starts, 0, self.steps)
        T, B = int(lengths.max()), self.batch_size
        data = [
            torch.zeros((T, B) + first.shape[1:], dtype=_dtype(first), device="cpu")
            for first in self._documents[0]
        ]
        resets = np.zeros((T, B), np.bool_)
        begun = np.searchsorted(self._offsets, starts, side="right") - 1
        for row, (start, length, k) in enumerate(zip(starts, lengths, begun, strict=True)):
            stop = start + length
            at = start
            while at < stop:
                begin, end = self._offsets[k], min(self._offsets[k + 1], stop)
                for target, source in zip(data, self._documents[k], strict=True):
                    _copy(target[at - start : end - start, row], source[at - begin : end - begin])
                resets[at - start, row] = at == begin
                at, k = end, k + 1
        if window == 0:
            resets[0] = True
        return Window(
            tuple(data) if self._tupled else data[0],
            torch.from_numpy(resets),
            torch.from_numpy(lengths),
        )

    def __getstate__(self) -> dict[str, Any]:
        alone = len(self._documents) == 1
        packed = [
            tuple(_packed(array, alone=alone) for array in arrays) for arrays in self._documents
        ]
        return {**self.__dict__, "_documents": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        files: dict[str, np.ndarray] = {}
        documents = [
            tuple(_unpacked(packed, files) for packed in arrays) for arrays in state["_documents"]
        ]
        self.__dict__.update(state, _documents=documents)


def _documents(documents: object) -> tuple[list[Arrays], bool]:
    """The arrays of every document that is not empty, and whether documents are tuples."""
    if isinstance(documents, Tensor | np.ndarray | tuple):
        named: Iterator[tuple[str, object]] = iter([("documents", documents)])
    elif isinstance(documents, Sequence) and not isinstance(documents, str | bytes | bytearray):
        named = ((f"documents[{k}]", document) for k, document in enumerate(documents))
    else:
        raise TypeError(
            f"documents: got {type(documents).__name__}, expected an array, a list of arrays, "
            "or tuples of arrays in their place"
        )
    kept: list[Arrays] = []
    shape = kinds = None
    for name, document in named:
        tupled = isinstance(document, tuple)
        if shape is None:
            shape = (tupled, len(document) if isinstance(document, tuple) else 1)
        arrays = _arrays(name, document)
        if (tupled, len(arrays)) != shape:
            raise ValueError(
                f"{name}: got {_described(tupled, len(arrays))}, expected {_described(*shape)} "
                "as documents[0]"
            )
        if not arrays[0].shape[0]:
            continue
        if kinds is None:
            kinds = [(array.shape[1:], _dtype(array)) for array in arrays]
        for k, (array, (trailing, dtype)) in enumerate(zip(arrays, kinds, strict=True)):
            part = f"{name}[{k}]" if tupled else name
            if array.shape[1:] != trailing:
                got, expected = (
                    ", ".join(["N", *map(str, s)]) for s in (array.shape[1:], trailing)
                )
                raise ValueError(
                    f"{part}: got shape [{got}], expected [{expected}] as in the documents before"
                )
            if _dtype(array) != dtype:
                raise TypeError(
                    f"{part}: got {_dtype(array)}, expected {dtype} as in the documents "
                    "before; convert it"
                )
        kept.append(arrays)
    return kept, shape is not None and shape[0]


def _described(tupled: bool, count: int) -> str:
    return f"a tuple of {count}" if tupled else "an array"


def _arrays(name: str, document: object) -> Arrays:
    """The arrays of ``document``, or an error unless they are numbers, and as many in each."""
    if not isinstance(document, tuple):
        return (_array(name, document),)
    if not document:
        raise ValueError(f"{name}: got an empty tuple, expected arrays")
    arrays = tuple(_array(f"{name}[{k}]", part) for k, part in enumerate(document))
    lengths = [array.shape[0] for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"{name}: got a tuple of arrays of {' and '.join(map(str, lengths))} steps, expected as "
            "many in each; documents of different lengths go in a list"
        )
    return arrays


def _array(name: str, array: object) -> Array:
    """``array``, or an error unless it has time, and numbers that can be read."""
    if not isinstance(array, Tensor | np.ndarray):
        raise TypeError(
            f"{name}: got {type(array).__name__}, expected a tensor or a NumPy array; "
            "convert it with torch.tensor"
        )
    if not array.ndim:
        raise ValueError(f"{name}: got shape [], expected [N, ...], time first")
    if isinstance(array, np.ndarray):
        array = np.asarray(array)
    elif array.device.type != "cpu" or array.layout != torch.strided:
        raise ValueError(
            f"{name}: got a tensor {array.layout} on {array.device}, expected a strided one on the "
            "CPU; move each window instead"
        )
    else:
        array = array.detach()
    try:
        dtype = _dtype(array)
    except TypeError:
        raise TypeError(f"{name}: got dtype {array.dtype}, expected one of PyTorch's") from None
    if dtype == torch.uint64:
        raise TypeError(
            f"{name}: got uint64, expected a dtype that PyTorch computes with; "
            "if its numbers are below 2**63, hand in .view(numpy.int64), which copies nothing"
        )
    return array


def _dtype(array: Array) -> torch.dtype:
    """The dtype of ``array`` in a window."""
    if isinstance(array, Tensor):
        dtype = array.dtype
    else:
        dtype = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
    return torch.int64 if dtype in WIDENED else dtype


def _copy(target: Tensor, source: Array) -> None:
    if isinstance(source, Tensor):
        target.copy_(source)
    else:
        target.numpy()[...] = source  # unlike from_numpy, takes read-only and byte-swapped ones


def _generator(shuffle: object) -> np.random.Generator:
    if not isinstance(shuffle, tuple | list) or len(shuffle) != 2:
        raise TypeError(f"shuffle: got {shuffle!r}, expected (seed, epoch)")
    seed, epoch = (check_size("shuffle", number, least=0) for number in shuffle)
    return np.random.default_rng((seed, epoch))


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of the pieces of ``lengths`` begins in their row, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _dealt(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """The row of each document: in turn, the first of those with the fewest steps so far."""
    shortest = [(0, row) for row in range(batch_size)]
    dealt = np.empty(len(lengths), np.int64)
    for k, length in enumerate(lengths.tolist()):
        steps, row = shortest[0]
        heapq.heapreplace(shortest, (steps + length, row))
        dealt[k] = row
    return dealt


class _Mapped(NamedTuple):
    """Where the numbers of an array are in a file: ``position`` is the byte of its first one."""

    path: str
    position: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Copied(NamedTuple):
    """The numbers of a tensor as bytes."""

    raw: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]


def _mapped(array: np.ndarray) -> _Mapped | None:
    """Where ``array`` is in its file, or ``None`` if the file cannot stand for it.

    A slice of a ``numpy.memmap`` has the offset of the whole, so its place is told by its address.
    """
    owner: np.ndarray = array
    base: object = array.base
    while isinstance(base, np.ndarray):
        owner, base = base, base.base
    if not isinstance(owner, np.memmap) or not isinstance(base, mmap.mmap):
        return None
    if owner.filename is None or owner.mode == "c":  # what is changed in a copy is not in the file
        return None
    position = owner.offset + array.ctypes.data - owner.ctypes.data
    return _Mapped(str(owner.filename), position, array.dtype, array.shape, array.strides)


def _packed(array: Array, *, alone: bool) -> Array | _Mapped | _Copied:
    """``array`` for pickling: by its place in a file, or as it is, or, of many tensors, by its bytes.

    A tensor as it is would be shared with a spawned process, which costs both an open file.
    """
    if not isinstance(array, Tensor):
        return _mapped(array) or array
    if alone:
        return array
    raw = array.resolve_conj().reshape(-1).view(torch.uint8).numpy()
    return _Copied(raw, array.dtype, tuple(array.shape))


def _unpacked(packed: Array | _Mapped | _Copied, files: dict[str, np.ndarray]) -> Array:
    if isinstance(packed, _Copied):
        return torch.from_numpy(packed.raw).view(packed.dtype).view(packed.shape)
    return _opened(packed, files) if isinstance(packed, _Mapped) else packed


def _opened(place: _Mapped, files: dict[str, np.ndarray]) -> np.ndarray:
    """The array at ``place``; each file is mapped once, into ``files``."""
    path, position, dtype, shape, strides = place
    try:
        if path not in files:
            files[path] = np.memmap(path, np.uint8, mode="r")
        return np.ndarray(shape, dtype, files[path], position, strides)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be mapped again ({error}); expected the file that the rows were made of"
        ) from None
