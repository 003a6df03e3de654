"""A corpus as numbers on disk: split, encoded once, read in batches.

The text may be larger than memory, and may come from a pipe: it is read once, front to back, and
only its distinct tokens are held. What is written is all that training and evaluation need.
"""

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.errors import DataError
from unrolled.text.data.text import Tokenizer
from unrolled.text.data.vocabulary import END, PAD, SPECIALS, START, Vocabulary

SPLITS = ("train", "validation", "test")
SHARES = (0.90, 0.05, 0.05)
BOUNDS = np.cumsum(SHARES)[:-1].tolist()
BLOCK = 1 << 20  # sentences that are shuffled and sorted together
HELD = 1 << 17  # sentences that are held at most to see whether a split is empty
PASSAGES = 40  # of a short text, at least
CHUNK = 1 << 22  # numbers that are recoded at a time


class Batch(NamedTuple):
    """``tokens`` ``[T, B]``, int64, each sequence ``<s> … </s> <pad> …``, and ``lengths`` ``[B]``.

    ``ends`` ``[T, B]``: whether a token is the last of its word, where that is known.
    """

    tokens: Tensor
    lengths: Tensor
    ends: Tensor | None = None


def split_of(sentence: str) -> str:
    """The split that ``sentence`` belongs to, wherever and however often it stands.

    >>> split_of("今天天气很好。"), split_of("Good morning.")
    ('train', 'train')
    """
    return SPLITS[bisect_right(BOUNDS, _position(sentence))]


def _position(part: str) -> float:
    """From 0 to 1, by its hash."""
    digest = hashlib.blake2b(part.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assigned(texts: Iterable[str], passage: int | None) -> Iterator[tuple[str, str]]:
    """Each of ``texts`` with its split: that of its hash, or with ``passage`` that of its passage's number.

    Of a short text some splits would be empty by chance. Then a part goes over from the largest split, that
    with the largest hash: of two different sentences one is for validation, of three one for each
    split. With ``passage``, passages of a short text are shorter: some 40 of them, if there are sentences
    enough. What is decided depends on the text alone, of which only a beginning is held that shows it.

    >>> [split for _, split in assigned(["a", "b", "c"], None)]
    ['test', 'validation', 'train']
    """
    texts = iter(texts)
    head: list[str] = []
    missing = set(SPLITS)
    for text in texts:
        head.append(text)
        if passage is None:
            missing.discard(split_of(text))
        else:
            missing.discard(split_of(f"passage {(len(head) - 1) // passage}"))
        if not missing or len(head) > HELD:
            break
    else:  # it is all there
        passage = passage and max(1, min(passage, len(head) // PASSAGES))
        moved = _moved(head if passage is None else _passages(len(head), passage))
        for number, text in enumerate(head):
            part = text if passage is None else f"passage {number // passage}"
            yield text, moved.get(part) or split_of(part)
        return
    for number, text in enumerate(chain(head, texts)):
        yield text, split_of(text if passage is None else f"passage {number // passage}")


def _passages(sentences: int, passage: int) -> list[str]:
    return [f"passage {k}" for k in range(-(-sentences // passage))]


def _moved(parts: Iterable[str]) -> dict[str, str]:
    """Which of ``parts`` are in another split than that of their hash, so that none is empty."""
    ranked = sorted(dict.fromkeys(parts), key=_position)
    parts_of = {split: [part for part in ranked if split_of(part) == split] for split in SPLITS}
    moved = {}
    for split in SPLITS[: len(ranked)]:
        if not parts_of[split]:
            largest = max(SPLITS, key=lambda other: len(parts_of[other]))
            part = parts_of[largest].pop()
            parts_of[split].append(part)
            moved[part] = split
    return moved


def pieces(tokens: list[str], longest: int) -> Iterator[list[str]]:
    """``tokens`` cut into runs of at most ``longest``, after the end of a sentence where there is one.

    >>> list(pieces(list("ab.cdef"), 4))
    [['a', 'b', '.'], ['c', 'd', 'e', 'f']]
    """
    start = 0
    while len(tokens) - start > longest:
        ends = range(start + longest, start + longest // 2, -1)
        stop = next((k for k in ends if tokens[k - 1] in "。.!?;"), start + longest)
        yield tokens[start:stop]
        start = stop
    if start < len(tokens):
        yield tokens[start:]


class Dataset:
    """The encoded splits of a corpus in a directory, made by ``Dataset.write``.

    Args:
        directory: where they are.
        vocabulary_size: V; every token is below it.

    Raises:
        DataError: they are not there, or not whole.
    """

    def __init__(self, directory: Path, vocabulary_size: int) -> None:
        self.tokens: dict[str, np.ndarray] = {}
        self.offsets: dict[str, np.ndarray] = {}
        self.passages: dict[str, np.ndarray] = {}  # where passages begin, in sentences
        self.ends: dict[str, np.ndarray] = {}  # whether a token is the last of its word
        try:
            for split in SPLITS:
                self.offsets[split] = _mapped(directory / f"{split}.offsets", np.dtype("<i8"))
                stored = _stored_dtype(json.loads((directory / "dtype.json").read_text()))
                self.tokens[split] = _mapped(directory / f"{split}.tokens", stored)
                _check(split, self.tokens[split], self.offsets[split], vocabulary_size)
                if (directory / f"{split}.passages").exists():
                    begun = _mapped(directory / f"{split}.passages", np.dtype("<i8"))
                    _check_passages(split, begun, len(self.offsets[split]) - 1)
                    self.passages[split] = begun
                if (directory / f"{split}.ends").exists():
                    self.ends[split] = _mapped(directory / f"{split}.ends", np.dtype(np.bool_))
                    _check_ends(split, self.ends[split], self.offsets[split])
        except (OSError, ValueError, IndexError, RecursionError) as error:
            raise DataError(f"{directory}: the encoded text cannot be read ({error})") from None

    @classmethod
    def write(
        cls,
        directory: Path,
        sentences: Iterable[str],
        tokenizer: Tokenizer,
        *,
        longest: int,
        vocabulary: Vocabulary | None = None,
        min_count: int = 1,
        max_size: int | None = None,
        passage: int | None = None,
        words: bool = False,
    ) -> tuple["Dataset", Vocabulary]:
        """Encode ``sentences`` into ``directory``, which exists and is empty.

        The vocabulary is that of the training split, unless one is given. A sentence of more than
        ``longest`` tokens is cut. With ``passage``, the text is continuous: so many sentences that
        follow each other fall into one split, fewer of a short text, and ``documents`` reads them on. With
        ``words``, a batch also says where words end. No split is empty that need not be: see ``assigned``.
        """
        numbers = {
            token: n for n, token in enumerate(vocabulary.tokens if vocabulary else SPECIALS)
        }
        counts = [0] * len(numbers)
        begun: dict[str, list[int]] = {split: [] for split in SPLITS}
        written, split = dict.fromkeys(SPLITS, 0), ""
        offsets = {split: array("q", [0]) for split in SPLITS}
        with ExitStack() as stack:
            streams = {s: stack.enter_context((directory / f"{s}.raw").open("wb")) for s in SPLITS}
            edges = {
                s: stack.enter_context((directory / f"{s}.offsets").open("wb")) for s in SPLITS
            }
            ends = {
                s: stack.enter_context((directory / f"{s}.ends").open("wb"))
                for s in (SPLITS if words else ())
            }
            position = dict.fromkeys(SPLITS, 0)
            for text, chosen in assigned(map(tokenizer.normalise, sentences), passage):
                before, split = split, chosen
                if passage is not None and split != before:
                    begun[split].append(written[split])
                last = iter(tokenizer.ends(text) if words else ())
                for piece in pieces(tokenizer.cut(text), longest):
                    encoded = array("I", [START])
                    for token in piece:
                        n = numbers.setdefault(token, len(numbers))
                        if n == len(counts):
                            counts.append(0)
                        counts[n] += split == "train"
                        encoded.append(n)
                    encoded.append(END)
                    encoded.tofile(streams[split])
                    if words:
                        *within, _ = islice(last, len(piece))
                        ends[split].write(bytes([True, *within, True, True]))
                    position[split] += len(encoded)
                    written[split] += 1
                    offsets[split].append(position[split])
                    if len(offsets[split]) >= CHUNK:
                        offsets[split].tofile(edges[split])
                        offsets[split] = array("q")
            for split in SPLITS:
                offsets[split].tofile(edges[split])
        for split in SPLITS if passage is not None else ():
            kept = {start for start in begun[split] if start < written[split]}
            (directory / f"{split}.passages").write_bytes(np.array(sorted(kept), "<i8").tobytes())
        if vocabulary is None:
            seen = dict(zip(numbers, counts, strict=True))
            vocabulary = Vocabulary.count(
                {token: n for token, n in seen.items() if n}, min_count=min_count, max_size=max_size
            )
        recoded = np.array(vocabulary.encode(numbers)[1:-1], dtype="<u4")
        stored = _stored_dtype(2 if len(vocabulary) <= 1 << 16 else 4)
        (directory / "dtype.json").write_text(str(stored.itemsize))
        for split in SPLITS:
            raw = directory / f"{split}.raw"
            provisional = _mapped(raw, np.dtype(np.uint32))
            with (directory / f"{split}.tokens").open("wb") as file:
                for start in range(0, len(provisional), CHUNK):
                    file.write(recoded[provisional[start : start + CHUNK]].astype(stored).tobytes())
            del provisional
            raw.unlink()
        return cls(directory, len(vocabulary)), vocabulary

    def sentences(self, split: str) -> int:
        """How many sentences ``split`` has."""
        return len(self.offsets[split]) - 1

    @property
    def is_continuous(self) -> bool:
        """Whether sentences that follow each other do so in the text, by passages."""
        return bool(self.passages)

    def documents(self, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """The passages of a continuous text: of each the tokens, and each one's successor.

        Raises:
            DataError: the text was encoded sentence by sentence.
        """
        if not self.is_continuous:
            raise DataError("the text was encoded sentence by sentence, expected passages")
        tokens, offsets = self.tokens[split], self.offsets[split]
        ends = [*self.passages[split].tolist(), len(offsets) - 1]
        bounds = [(offsets[first], offsets[last]) for first, last in pairwise(ends)]
        return [(tokens[begin : end - 1], tokens[begin + 1 : end]) for begin, end in bounds]

    def batches(
        self, split: str, batch_tokens: int, *, shuffle: tuple[int, int] | None = None
    ) -> "Batches":
        """The sentences of ``split`` in batches of at most ``batch_tokens`` tokens with padding.

        Args:
            split: "train", "validation" or "test".
            batch_tokens: T × B of a batch at most; a longer sentence is a batch of its own.
            shuffle: (seed, epoch), the source of the order; by default from short to long.
        """
        ends = self.ends.get(split)
        return Batches(self.tokens[split], self.offsets[split], batch_tokens, shuffle, ends)


class Batches:
    """Batches of sentences of like length; how many there are does not depend on the order.

    Sentences are shuffled in blocks of ``BLOCK``, so that memory stays bounded; in a block, those of
    one length meet by chance, and the batches come in random order.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        offsets: np.ndarray,
        batch_tokens: int,
        shuffle: tuple[int, int] | None,
        ends: np.ndarray | None = None,
    ) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.batch_tokens = batch_tokens
        self.shuffle = shuffle
        self.ends = ends

    def __len__(self) -> int:
        return sum(len(cut) for cut in map(self._cuts, self._blocks()))

    def __iter__(self) -> Iterator[Batch]:
        return (self.read(rows) for rows in self.rows())

    def rows(self) -> Iterator[np.ndarray]:
        """The sentence numbers of each batch, without reading a sentence."""
        random = None if self.shuffle is None else np.random.default_rng(self.shuffle)
        shuffled = (lambda items: items) if random is None else random.permutation
        for block in shuffled(self._blocks()):
            order = shuffled(np.arange(*block))
            lengths = np.diff(self.offsets[block[0] : block[1] + 1])
            order = order[np.argsort(lengths[order - block[0]], kind="stable")]
            for start, stop in shuffled(self._cuts(block)):
                yield order[start:stop]

    def read(self, rows: np.ndarray) -> Batch:
        """The batch of the sentences ``rows``."""
        starts, stops = self.offsets[rows], self.offsets[rows + 1]
        lengths = stops - starts

        def padded(numbers: np.ndarray, filler: int | bool, dtype: type) -> Tensor:
            whole: np.ndarray = np.full((len(rows), int(lengths.max())), filler, dtype)
            for sequence, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                whole[sequence, : stop - start] = numbers[start:stop]
            return torch.from_numpy(whole).T.contiguous()

        tokens = padded(self.tokens, PAD, np.int64)
        ends = None if self.ends is None else padded(self.ends, True, np.bool_)
        return Batch(tokens, torch.from_numpy(lengths), ends)

    def _blocks(self) -> list[tuple[int, int]]:
        total = len(self.offsets) - 1
        return [(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]

    def _cuts(self, block: tuple[int, int]) -> list[tuple[int, int]]:
        """Where batches begin and end in the sentences of ``block`` sorted by length."""
        lengths = np.sort(np.diff(self.offsets[block[0] : block[1] + 1])).tolist()
        cuts, start = [], 0
        for k, length in enumerate(lengths):
            if k > start and (k + 1 - start) * length > self.batch_tokens:
                cuts.append((start, k))
                start = k
        cuts.append((start, len(lengths)))
        return cuts


def _check(split: str, tokens: np.ndarray, offsets: np.ndarray, vocabulary_size: int) -> None:
    """Refuse what ``Dataset.write`` did not write, a part at a time."""
    if offsets[0] != 0 or offsets[-1] != len(tokens):
        raise ValueError(f"{split}.tokens is not whole")
    for start in range(0, len(offsets) - 1, CHUNK):
        if np.diff(offsets[start : start + CHUNK + 1]).min() < 3:  # <s>, a token, </s>
            raise ValueError(f"{split}.offsets does not rise")
    for start in range(0, len(tokens), CHUNK):
        if tokens[start : start + CHUNK].max() >= vocabulary_size:
            raise ValueError(f"{split}.tokens has a token that is not in the vocabulary")


def _check_ends(split: str, ends: np.ndarray, offsets: np.ndarray) -> None:
    if len(ends) != offsets[-1] or not (
        ends[offsets[1:] - 1].all() and ends[offsets[1:] - 2].all()
    ):
        raise ValueError(f"{split}.ends are not those of its tokens")


def _check_passages(split: str, begun: np.ndarray, sentences: int) -> None:
    if sentences and not (begun.size and begun[0] == 0 and begun[-1] < sentences):
        raise ValueError(f"{split}.passages do not begin with the text, or not in it")
    if (np.diff(begun) < 1).any() or (begun.size and not sentences):
        raise ValueError(f"{split}.passages do not rise")


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """The numbers in the file at ``path``, mapped, not read; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _stored_dtype(size: object) -> np.dtype:
    if size not in (2, 4):
        raise ValueError(f"dtype.json: got {size!r}, expected 2 or 4")
    return np.dtype("<u2" if size == 2 else "<u4")
