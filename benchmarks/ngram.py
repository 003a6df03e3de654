"""The peer: a two-sided character n-gram model.

The probability of a token between its left and its right context is p(c | left) · p(c | right) /
p(c)^α, normalised; each factor is an interpolated Kneser-Ney model (Chen & Goodman, "An Empirical
Study of Smoothing Techniques for Language Modeling", 1999) over at most ORDER - 1 tokens.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from unrolled.text.data.vocabulary import END, START

ORDER = 4
DISCOUNT = 0.75

Floats = NDArray[np.float64]
Followers = tuple[NDArray[np.int64], Floats]


class KneserNey:
    """p(c | the tokens before it), for c in 0 … V - 1, from sentences with their start and end."""

    def __init__(self, sentences: Iterable[Sequence[int]], vocabulary_size: int) -> None:
        counts: list[defaultdict[tuple[int, ...], Counter[int]]] = [
            defaultdict(Counter) for _ in range(ORDER)
        ]
        for sentence in sentences:
            for k in range(1, len(sentence)):
                for n in range(min(k, ORDER - 1) + 1):
                    counts[n][tuple(sentence[k - n : k])][sentence[k]] += 1
        # below the highest order Kneser-Ney counts in how many contexts a token was seen
        lower: list[defaultdict[tuple[int, ...], Counter[int]]] = [
            defaultdict(Counter) for _ in range(ORDER)
        ]
        for n in range(1, ORDER):
            for context, followers in counts[n].items():
                for token in followers:
                    lower[n - 1][context[1:]][token] += 1
            for context, followers in counts[n].items():
                if context[0] in (START, END):  # nothing stands before it: its own counts are all
                    lower[n][context] = followers
        lower[ORDER - 1] = counts[ORDER - 1]
        self.tables: list[dict[tuple[int, ...], Followers]] = [
            {context: _arrays(followers) for context, followers in table.items()} for table in lower
        ]
        self.uniform = np.full(vocabulary_size, 1 / vocabulary_size)

    def distribution(self, before: Sequence[int]) -> Floats:
        """The probability of every token after ``before``: ``[V]``."""
        p = self.uniform
        for n in range(min(len(before), ORDER - 1) + 1):
            found = self.tables[n].get(tuple(before[len(before) - n :]))
            if found is None:
                break
            tokens, counts = found
            p = p * (DISCOUNT * len(tokens) / counts.sum())
            p[tokens] += (counts - DISCOUNT) / counts.sum()
        return p


def _arrays(followers: Counter[int]) -> Followers:
    tokens = np.fromiter(followers.keys(), np.int64, len(followers))
    return tokens, np.fromiter(followers.values(), np.float64, len(followers))


class TwoSided:
    """Both contexts multiplied. ``alpha`` weighs the division by p(c), which both factors contain."""

    def __init__(self, sentences: Sequence[Sequence[int]], vocabulary_size: int) -> None:
        self.forward = KneserNey(sentences, vocabulary_size)
        self.backward = KneserNey([s[::-1] for s in sentences], vocabulary_size)
        self.alpha = 0.0

    def log_probabilities(self, sentence: Sequence[int], place: int) -> Floats:
        """Of every token at ``place``, from all others: ``[V]``."""
        left = self.forward.distribution(sentence[max(0, place - ORDER + 1) : place])
        right = self.backward.distribution(sentence[place + 1 : place + ORDER][::-1])
        alone = self.forward.distribution(())
        score = np.log(left) + np.log(right) - self.alpha * np.log(alone)
        score[:4] = -np.inf  # no text holds a special token
        score[1] = np.log(left[1]) + np.log(right[1]) - self.alpha * np.log(alone[1])  # but <unk>
        score -= score.max()
        normalised: Floats = score - np.log(np.exp(score).sum())
        return normalised

    def tune(self, sentences: Sequence[Sequence[int]]) -> None:
        """Choose ``alpha`` by the cross-entropy of held-out ``sentences``."""

        def nats(alpha: float) -> float:
            self.alpha = alpha
            places = ((s, k) for s in sentences for k in range(1, len(s) - 1))
            return -float(sum(self.log_probabilities(s, k)[s[k]] for s, k in places))

        self.alpha = min((0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), key=nats)
