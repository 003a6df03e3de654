"""Blanks drawn from held-out text: how often they are filled right, and how well that is known."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import regex

from unrolled.text.data import Dataset, Vocabulary
from unrolled.text.data.vocabulary import SPECIALS, UNKNOWN
from unrolled.text.models.candidates import (
    LONGEST_WORD,
    RESCORED,
    Guess,
    MaskedSentence,
    Tokens,
    candidates,
)
from unrolled.text.models.cloze import Cloze

BINS = 15  # of equal width, as in Guo et al.
TOP = 5
TINY = 1e-300  # what a share that has come to nothing counts as
WORDS = regex.compile(r"\p{L}|\p{N}")


@dataclass(frozen=True)
class Drawn:
    """A sentence with a blank, and the ``tokens`` that it was drawn from."""

    blank: MaskedSentence
    tokens: Tokens


@dataclass(frozen=True)
class Reliability:
    """Of ``blanks``: the shares that the first and the first five candidates fill, and how sure it is.

    ``nats``: the mean of -log p of what was there, over the blanks with it among the candidates, which
    is the share ``found``. ``error``: the expected calibration error of the first candidate, the mean
    over the blanks of |confidence - accuracy| of its bin (Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017); ``bins`` are (blanks, mean confidence, accuracy), from 0 to 1.
    """

    blanks: int
    top1: float
    top5: float
    found: float
    nats: float
    error: float
    bins: tuple[tuple[int, float, float], ...]


def drawn(
    data: Dataset, split: str, vocabulary: Vocabulary, count: int, seed: int = 0
) -> list[Drawn]:
    """A word of up to ``LONGEST_WORD`` tokens out of each of ``count`` sentences, drawn at random.

    Where the text does not say where words end, each token is one.
    """
    chance = np.random.default_rng(seed)
    edges = list(pairwise(data.offsets[split].tolist()))
    found: list[Drawn] = []
    for k in chance.permutation(len(edges)).tolist():
        start, stop = edges[k]
        numbers = data.tokens[split][start:stop].tolist()
        ends = data.ends[split][start:stop] if data.ends else np.ones(stop - start, np.bool_)
        after = [n + 1 for n in np.flatnonzero(ends).tolist()]  # of <s>, of each word, of </s>
        words = [(i, j) for i, j in pairwise(after[:-1]) if _can_be_asked(numbers[i:j], vocabulary)]
        if words and len(found) < count:
            i, j = words[chance.integers(len(words))]
            blank = MaskedSentence([*numbers[:i], UNKNOWN, *numbers[j:]], i)
            found.append(Drawn(blank, tuple(numbers[i:j])))
    return found


def _can_be_asked(tokens: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Whether it is known, not too long, and no punctuation."""
    text = "".join(vocabulary.tokens[n] for n in tokens)
    return len(tokens) <= LONGEST_WORD and min(tokens) >= len(SPECIALS) and bool(WORDS.search(text))


def guessed(
    model: Cloze, asked: Sequence[Drawn], *, rescoring: float, together: int = 64
) -> list[list[Guess]]:
    """The candidates for each of ``asked``, at temperature 1."""
    found: list[list[Guess]] = []
    for start in range(0, len(asked), together):
        blanks = [one.blank for one in asked[start : start + together]]
        found += candidates(model, blanks, top=RESCORED, rescoring=rescoring, temperature=1.0)
    return found


def at(temperature: float, guesses: Sequence[Guess]) -> list[Guess]:
    """``guesses`` at another temperature than 1; what they have together stays."""
    whole = sum(guess.probability for guess in guesses)
    shares = [guess.probability ** (1 / temperature) for guess in guesses]
    scale = whole / sum(shares)
    return [
        guess._replace(probability=share * scale)
        for guess, share in zip(guesses, shares, strict=True)
    ]


def reliability(
    asked: Sequence[Drawn],
    found: Sequence[Sequence[Guess]],
    word_of: Callable[[Tokens], Hashable] = tuple,
) -> Reliability:
    """How well ``found``, the candidates for each of ``asked``, fill them.

    Candidates with one ``word_of`` are one, and right if what was there has it too.
    """
    top1 = top5 = 0
    nats: list[float] = []
    binned: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for one, guesses in zip(asked, found, strict=True):
        shares: dict[Hashable, float] = {}
        for guess in guesses:
            word = word_of(guess.tokens)
            shares[word] = shares.get(word, 0.0) + guess.probability
        ranked, wanted = sorted(shares, key=lambda word: -shares[word]), word_of(one.tokens)
        right = ranked[0] == wanted
        top1 += right
        top5 += wanted in ranked[:TOP]
        if wanted in shares:
            nats.append(-math.log(max(shares[wanted], TINY)))
        sure = shares[ranked[0]]
        binned[min(BINS - 1, int(sure * BINS))].append((sure, right))
    count = len(asked)
    bins = [
        (len(of), sum(s for s, _ in of) / len(of), sum(r for _, r in of) / len(of))
        if of
        else (0, 0.0, 0.0)
        for of in binned
    ]
    error = sum(n * abs(sure - right) for n, sure, right in bins) / count
    return Reliability(
        count,
        top1 / count,
        top5 / count,
        len(nats) / count,
        sum(nats) / max(1, len(nats)),
        error,
        tuple(bins),
    )


def fitted_temperature(
    asked: Sequence[Drawn],
    found: Sequence[Sequence[Guess]],
    word_of: Callable[[Tokens], Hashable] = tuple,
) -> float:
    """The temperature with the least ``nats``, to a hundredth, from 0.5 to 3."""
    return min(
        (k / 100 for k in range(50, 301)),
        key=lambda t: reliability(asked, [at(t, guesses) for guesses in found], word_of).nats,
    )
