"""What a loss is to be held against: how well a token is told from the one before it alone."""

import numpy as np
from torch import Tensor

from unrolled.text.data import Dataset

MOST = 1 << 22  # tokens that are counted


class Bigrams:
    """The pairs of tokens that follow each other in the training split, counted.

    The probability of a token w after c is interpolated as Witten and Bell do it,

        p(w | c) = (n(c w) + t(c) p(w)) / (n(c) + t(c))        p(w) = (n(w) + 1) / (N + V)

    with n how often it stands there, t(c) how many different tokens follow c, N tokens and V kinds of them.

    Source: Witten & Bell, "The Zero-Frequency Problem", IEEE Transactions on Information Theory 37 (1991).
    """

    def __init__(self, data: Dataset, vocabulary_size: int) -> None:
        self.size = vocabulary_size
        tokens = np.asarray(data.tokens["train"][:MOST], np.int64)
        self.single = np.bincount(tokens, minlength=vocabulary_size)
        self.codes, self.counts = np.unique(
            tokens[:-1] * vocabulary_size + tokens[1:], return_counts=True
        )
        firsts = self.codes // vocabulary_size
        self.after = np.bincount(firsts, self.counts, minlength=vocabulary_size)
        self.kinds = np.bincount(firsts, minlength=vocabulary_size)

    def nats(self, before: Tensor, tokens: Tensor) -> float:
        """The mean cross-entropy of ``tokens`` ``[N]`` after those ``before``, ``[N]``."""
        first, second = before.numpy(), tokens.numpy()
        place = np.searchsorted(self.codes, first * self.size + second)
        place = np.minimum(place, max(0, len(self.codes) - 1))
        known = self.codes[place] == first * self.size + second if len(self.codes) else False
        pair = np.where(known, self.counts[place] if len(self.codes) else 0, 0)
        alone = (self.single[second] + 1) / (self.single.sum() + self.size)
        kinds = self.kinds[first]
        weight = self.after[first] + kinds
        shares = np.where(weight > 0, (pair + kinds * alone) / np.maximum(weight, 1), alone)
        return float(-np.log(shares).mean())
