"""Tagged sentences as numbers: split by their hash, encoded once, read in batches."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.errors import DataError
from unrolled.series.data.features import COUNTS, Unit, features_of
from unrolled.series.data.schemes import OUTSIDE, keep_scheme, part_of
from unrolled.series.data.tagged import Tagged

SPLITS = ("train", "validation", "test")
SHARES = (0.90, 0.05, 0.05)
PADDING, UNKNOWN_TOKEN = "<pad>", "<unk>"
UNKNOWN = 1  # the number of every token that is not in the vocabulary; 0 is that of padding
READ_STEPS = 4096  # tokens that are read at once where nothing is learnt
KINDS = ("tokens", "features", "tags", "offsets")  # the arrays of a split


class TaggedBatch(NamedTuple):
    """``tokens`` ``[T, B]`` and ``tags`` ``[T, B]``, int64; ``lengths`` ``[B]``.

    ``features`` ``[T, B, F]``: of each token the rows of the table of features that it has.
    """

    tokens: Tensor
    features: Tensor
    tags: Tensor
    lengths: Tensor


def position_of(tokens: Sequence[str], purpose: str = "") -> float:
    """From 0 to 1, by the hash of a sentence: the same wherever and however often it stands.

    For another ``purpose`` it is another, so that a part of a split can be split again.
    """
    text = "\x1f".join((purpose, *tokens))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_sentences(
    sentences: Iterable[Tagged], shares: Sequence[float] = SHARES, purpose: str = ""
) -> dict[str, list[Tagged]]:
    """Each sentence in the split of its hash; of ``shares``, in the order of ``SPLITS``.

    Of few sentences a split could be empty by chance. Then it is given the sentence with the largest
    hash of the largest split: of three different ones each split has one.
    """
    bounds = np.cumsum(shares)[:-1].tolist()
    chosen: dict[tuple[str, ...], list[Tagged]] = {}
    for sentence in sentences:
        chosen.setdefault(tuple(sentence.tokens), []).append(sentence)
    places: dict[str, list[tuple[str, ...]]] = {split: [] for split in SPLITS}
    positions = {tokens: position_of(tokens, purpose) for tokens in chosen}
    for tokens, position in positions.items():
        places[SPLITS[bisect_right(bounds, position)]].append(tokens)
    for split, share in zip(SPLITS[: len(chosen)], shares, strict=False):
        if share and not places[split]:
            largest = max(SPLITS, key=lambda other: len(places[other]))
            moved = max(places[largest], key=positions.__getitem__)
            places[largest].remove(moved)
            places[split].append(moved)
    return {split: [s for tokens in places[split] for s in chosen[tokens]] for split in SPLITS}


def unit_of(sentences: Iterable[Sequence[str]]) -> Unit:
    """What the tokens are: "char", if each is a single character."""
    return "char" if all(len(token) == 1 for tokens in sentences for token in tokens) else "token"


@dataclass(frozen=True)
class Encoder:
    """How sentences become numbers.

    Args:
        vocabulary: the tokens that have a number; the first two are padding and the unknown one.
        tags: the tags, by their numbers.
        unit: what a token is, by which it has features.
        buckets: numbers of features; 0: there are none.
    """

    vocabulary: tuple[str, ...]
    tags: tuple[str, ...]
    unit: Unit
    buckets: int

    def __post_init__(self) -> None:
        if self.vocabulary[:2] != (PADDING, UNKNOWN_TOKEN):
            raise ValueError(f"vocabulary: expected {PADDING} {UNKNOWN_TOKEN} to be the first")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError("vocabulary: expected each token once")
        if self.unit not in COUNTS:
            raise ValueError(f"unit: got {self.unit!r}, expected one of {', '.join(COUNTS)}")

    @classmethod
    def of(
        cls,
        train: Sequence[Tagged],
        others: Iterable[Tagged] = (),
        *,
        buckets: int,
        min_count: int = 1,
        max_size: int | None = None,
    ) -> "Encoder":
        """That of a training split: its tokens, the frequent ones first, and all tags that there are.

        Args:
            train: the sentences whose tokens it knows.
            others: more sentences, whose tags it knows too.
            buckets: numbers of features; 0 for none.
            min_count: how often a token must be there.
            max_size: the largest number of tokens.
        """
        counts = Counter(token for tokens, _ in train for token in tokens)
        tags = Counter(tag for _, tags in train for tag in tags)
        tags.update({tag: 0 for _, names in others for tag in names if tag not in tags})
        known = [
            token
            for token, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
            if count >= min_count and token not in (PADDING, UNKNOWN_TOKEN)
        ]
        vocabulary = (PADDING, UNKNOWN_TOKEN, *known)
        unit = unit_of(tokens for tokens, _ in train)
        names = sorted(tags, key=lambda tag: (-tags[tag], tag))
        return cls(vocabulary[:max_size], tuple(names), unit, buckets)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each token of the vocabulary."""
        return {token: n for n, token in enumerate(self.vocabulary)}

    @cached_property
    def tag_numbers(self) -> dict[str, int]:
        """The number of each tag."""
        return {tag: n for n, tag in enumerate(self.tags)}

    def tokens_of(self, tokens: Sequence[str]) -> list[int]:
        """The number of each token."""
        return [self.numbers.get(token, UNKNOWN) for token in tokens]

    def features_of(self, tokens: Sequence[str]) -> NDArray[np.int32]:
        """The features of each token, ``[T, F]``; F = 0 where there are none."""
        if not self.buckets:
            return np.empty((len(tokens), 0), np.int32)
        return features_of(tokens, self.unit, self.buckets)

    def named(self, numbers: Iterable[int]) -> list[str]:
        """The tags of ``numbers``."""
        return [self.tags[n] for n in numbers]

    def batch(self, sentences: Sequence[Sequence[str]]) -> TaggedBatch:
        """Sentences without tags as a batch."""
        lengths = [len(tokens) for tokens in sentences]
        return _batch(
            [np.array(self.tokens_of(tokens), np.int64) for tokens in sentences],
            [self.features_of(tokens) for tokens in sentences],
            [np.zeros(length, np.int64) for length in lengths],
        )


class TaggedData:
    """Encoded splits in a directory, made by ``TaggedData.write``.

    Args:
        directory: where they are.
        encoder: by which they were encoded.

    Raises:
        DataError: they are not there, or not whole.
    """

    def __init__(self, directory: Path, encoder: Encoder) -> None:
        self.encoder = encoder
        self.arrays: dict[str, dict[str, NDArray[Any]]] = {}
        try:
            for split in SPLITS:
                found = {
                    kind: np.load(directory / f"{split}.{kind}.npy", mmap_mode="r")
                    for kind in KINDS
                }
                _check(split, found, encoder)
                self.arrays[split] = found
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{directory}: the encoded text cannot be read ({error})") from None

    @staticmethod
    def write(
        directory: Path,
        splits: dict[str, list[Tagged]],
        encoder: Encoder,
    ) -> None:
        """Encode ``splits`` into ``directory``, which exists."""
        small = np.uint16 if encoder.buckets <= 1 << 16 else np.int32
        for split in SPLITS:
            pieces = splits[split]
            lengths = [len(piece.tokens) for piece in pieces]
            arrays: dict[str, NDArray[Any]] = {
                "tokens": np.array(
                    [n for p in pieces for n in encoder.tokens_of(p.tokens)], np.int32
                ),
                "tags": np.array(
                    [n for p in pieces for n in map(encoder.tag_numbers.__getitem__, p.tags)],
                    np.int16,
                ),
                "offsets": np.cumsum([0, *lengths], dtype=np.int64),
                "features": np.concatenate(
                    [encoder.features_of([]), *(encoder.features_of(p.tokens) for p in pieces)]
                ).astype(small),
            }
            for kind, array in arrays.items():
                np.save(directory / f"{split}.{kind}.npy", array)

    def sentences(self, split: str) -> int:
        """How many sentences a split has."""
        return len(self.arrays[split]["offsets"]) - 1

    def tokens(self, split: str) -> int:
        """How many tokens a split has."""
        return int(self.arrays[split]["offsets"][-1])

    def keep_scheme(self) -> bool:
        """Whether the tags are of a scheme, and every sentence keeps to it."""
        names = self.encoder.named
        sequences = (
            names(arrays["tags"][start:stop].tolist())
            for arrays in self.arrays.values()
            for start, stop in pairwise(arrays["offsets"].tolist())
        )
        return keep_scheme(sequences, self.encoder.tags)

    def batches(
        self, split: str, batch_steps: int = READ_STEPS, *, shuffle: tuple[int, int] | None = None
    ) -> "TaggedBatches":
        """The sentences of a split in batches of at most ``batch_steps`` tokens with padding.

        Args:
            split: "train", "validation" or "test".
            batch_steps: T × B of a batch at most; a longer sentence is a batch of its own.
            shuffle: (seed, epoch), the source of the order; by default from short to long.
        """
        return TaggedBatches(self.arrays[split], batch_steps, shuffle)


class TaggedBatches:
    """Batches of sentences of like length; how many there are does not depend on the order."""

    def __init__(
        self, arrays: dict[str, NDArray[Any]], batch_steps: int, shuffle: tuple[int, int] | None
    ) -> None:
        self.arrays = arrays
        self.shuffle = shuffle
        self.lengths = np.diff(arrays["offsets"])
        self.cuts = _cuts(np.sort(self.lengths).tolist(), batch_steps)

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[TaggedBatch]:
        return self.start(0)

    def start(self, first: int) -> Iterator[TaggedBatch]:
        """The batches from the one with the number ``first`` on."""
        return (self.read(rows) for rows in islice(self.rows(), first, None))

    def rows(self) -> Iterator[NDArray[np.int64]]:
        """The sentence numbers of each batch."""
        order, cuts = np.arange(len(self.lengths)), self.cuts
        if self.shuffle is not None:
            random = np.random.default_rng(self.shuffle)
            order = random.permutation(order)
            cuts = [cuts[k] for k in random.permutation(len(cuts))]
        order = order[np.argsort(self.lengths[order], kind="stable")]
        return (order[start:stop] for start, stop in cuts)

    def read(self, rows: NDArray[np.int64]) -> TaggedBatch:
        """The batch of the sentences ``rows``."""
        spans = [slice(*self.arrays["offsets"][row : row + 2]) for row in rows]
        found = ([self.arrays[kind][span] for span in spans] for kind in KINDS[:3])
        return _batch(*found)


def _batch(
    tokens: Sequence[NDArray[Any]], features: Sequence[NDArray[Any]], tags: Sequence[NDArray[Any]]
) -> TaggedBatch:
    def padded(parts: Sequence[NDArray[Any]]) -> Tensor:
        longest = max(map(len, parts), default=0)
        whole = np.zeros((longest, len(parts), *parts[0].shape[1:]), np.int64)
        for b, part in enumerate(parts):
            whole[: len(part), b] = part
        return torch.from_numpy(whole)

    lengths = torch.tensor([len(part) for part in tokens], device="cpu")
    return TaggedBatch(padded(tokens), padded(features), padded(tags), lengths)


def _cuts(lengths: Sequence[int], batch_steps: int) -> list[tuple[int, int]]:
    """Where batches begin and end in sentences sorted by length."""
    cuts, start = [], 0
    for k, length in enumerate(lengths):
        if k > start and (k + 1 - start) * length > batch_steps:
            cuts.append((start, k))
            start = k
    return [*cuts, (start, len(lengths))] if lengths else []


def cut(sentence: Tagged, longest: int | None) -> Iterator[Tagged]:
    """A sentence in pieces of at most ``longest`` tokens, no span apart where that can be.

    >>> [piece.tokens for piece in cut(Tagged(list("abcde"), "S B E B E".split()), 4)]
    [['a', 'b', 'c'], ['d', 'e']]
    """
    tokens, tags = sentence
    start = 0
    while longest is not None and len(tokens) - start > longest:
        ends = range(start + longest, start, -1)
        stop = next((k for k in ends if _begins(tags[k])), start + longest)
        yield Tagged(tokens[start:stop], tags[start:stop])
        start = stop
    if start < len(tokens):
        yield Tagged(tokens[start:], tags[start:])


def _begins(tag: str) -> bool:
    """Whether no span goes through what is before a token with this tag."""
    part = part_of(tag)
    return part is None or part.place in ("B", "S", OUTSIDE)


def _check(split: str, arrays: dict[str, NDArray[Any]], encoder: Encoder) -> None:
    """Refuse what ``TaggedData.write`` did not write."""
    tokens, features, tags, offsets = (arrays[kind] for kind in KINDS)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] or offsets[-1] != len(tokens):
        raise ValueError(f"{split}.tokens is not whole")
    if any(stop <= start for start, stop in pairwise(offsets.tolist())):
        raise ValueError(f"{split}.offsets does not rise")
    width = COUNTS[encoder.unit] if encoder.buckets else 0
    if features.shape != (len(tokens), width) or tags.shape != tokens.shape:
        raise ValueError(f"{split}.features or .tags are not those of its tokens")
    for name, array, least, most in (
        ("tokens", tokens, 0, len(encoder.vocabulary)),
        ("tags", tags, 0, len(encoder.tags)),
        ("features", features, 0, encoder.buckets),
    ):
        if array.size and not least <= array.min() <= array.max() < most:
            raise ValueError(f"{split}.{name} has a number that is not known")
