"""What is known of a token besides its own name, as numbers by hashing."""

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["char", "token"]
AFFIXES = 3  # characters of the longest prefix and suffix
COUNTS: dict[Unit, int] = {"char": 4, "token": 2 + 2 * AFFIXES}
"""How many features a token has."""

_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xBF58476D1CE4E5B9], np.uint64)
_HALF = np.uint64(32)


def features_of(tokens: Sequence[str], unit: Unit, buckets: int) -> NDArray[np.int32]:
    """The features of the tokens of a sentence, ``[T, F]``, each from 0 to ``buckets`` - 1.

    Of a character, those that segmenters of Chinese have always used (Xue, "Chinese Word Segmentation
    as Character Tagging", 2003): with the one before it, with the one after it, those two together, and
    what kind of character it is. Of a longer token: in lower case, its prefixes and suffixes of up to
    ``AFFIXES`` characters, and its shape (Collins, "Ranking Algorithms for Named-Entity Extraction",
    ACL 2002), as ``Xx-d`` is that of ``Covid-19``.
    """
    if unit == "char":
        return _of_characters(tokens, buckets)
    rows = [_of_token(token, buckets) for token in tokens]
    return np.array(rows, np.int32).reshape(len(rows), COUNTS["token"])


def _of_characters(tokens: Sequence[str], buckets: int) -> NDArray[np.int32]:
    codes = np.zeros(len(tokens) + 2, np.uint64)
    codes[1:-1] = [ord(token[0]) for token in tokens]
    before, here, after = codes[:-2], codes[1:-1], codes[2:]
    kinds = np.array([_kind(token[0]) for token in tokens], np.uint64)
    nothing = np.zeros_like(kinds)
    pairs = ((before, here), (here, after), (before, after), (kinds, nothing))
    found = np.empty((len(tokens), len(pairs)), np.int32)
    for k, (left, right) in enumerate(pairs, start=1):
        mixed = (left * _FACTORS[0]) ^ (right * _FACTORS[1] + np.uint64(k))
        mixed ^= mixed >> _HALF
        mixed *= _FACTORS[2]
        mixed ^= mixed >> _HALF
        found[:, k - 1] = mixed % np.uint64(buckets)
    return found


@lru_cache(1 << 14)
def _kind(char: str) -> int:
    """What kind of character it is, as a number: Chinese numerals are told from other ideographs."""
    if char in "〇零一二三四五六七八九十百千万亿两":
        return 1
    category = unicodedata.category(char)
    return 2 + ord(category[0]) * 128 + ord(category[1])


@lru_cache(1 << 16)
def _of_token(token: str, buckets: int) -> tuple[int, ...]:
    lower = token.lower()
    parts = [lower, shape_of(token)]
    parts += [lower[: k + 1] for k in range(AFFIXES)] + [lower[-k - 1 :] for k in range(AFFIXES)]
    return tuple(zlib.crc32(f"{k} {part}".encode()) % buckets for k, part in enumerate(parts))


def shape_of(token: str) -> str:
    """A token with each run of capitals, small letters and digits as one sign.

    >>> shape_of("Covid-19"), shape_of("NASA"), shape_of("3.14")
    ('Xx-d', 'X', 'd.d')
    """
    signs = "".join(
        "X" if char.isupper() else "x" if char.isalpha() else "d" if char.isdigit() else char
        for char in token
    )
    return re.sub(r"(.)\1+", r"\1", signs)
