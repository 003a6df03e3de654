"""Fill in the blank: each token from the past before it and the future after it."""

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.cells import Cell
from unrolled.layers import Recurrent
from unrolled.layers.cross_entropy import linear_cross_entropy
from unrolled.shapes import real_steps
from unrolled.text.data.dataset import Batch
from unrolled.text.data.vocabulary import END
from unrolled.text.models.token_model import TokenModel

SHARE_OF_WORDS = 0.25  # of the steps through words, those that a training step learns from


class Cloze(TokenModel):
    """Predicts each token from all before it and all after it: y_t = g(V A_{t-1} + V' A'_{t+1}).

    A is the state of a forward network, A' that of a backward one. Both are stacks of their own at
    every depth, joined only at the top: what has seen token t never meets what predicts it.

    With ``words`` it also learns to fill a blank with a word of any number of tokens, one after the
    other until the word is closed (``</s>``): p(x_t | x_{<t}, x_{>e}), where e is the last token of
    the word that x_t is in, from A_{t-1} and A'_{e+1}, joined by weights of their own. So the
    probability of a word is that of its tokens and its close, whatever their number.

    Source: Schuster & Paliwal 1997; Melamud, Goldberger & Dagan, "context2vec: Learning Generic
    Context Embedding with Bidirectional LSTM", CoNLL 2016; for words of any length: Donahue, Lee &
    Liang, "Enabling Language Models to Fill in the Blanks", ACL 2020.

    Args:
        vocabulary_size, hidden_size, options: as in ``TokenModel``.
        words: whether it also learns words, from the batches that say where words end.
    """

    kind = "cloze"
    directions = 2

    def __init__(
        self, vocabulary_size: int, hidden_size: int, *, words: bool = False, **options: Any
    ) -> None:
        super().__init__(vocabulary_size, hidden_size, **options)
        if not isinstance(words, bool):
            raise TypeError(f"words: got {words!r}, expected True or False")
        self.config["words"] = words
        self.join_words = (
            nn.Linear(2 * hidden_size, self.embedding.embedding_dim) if words else None
        )

    def recurrent(
        self, cell: type[Cell], input_size: int, hidden_size: int, **options: Any
    ) -> Recurrent:
        return Recurrent(
            cell, input_size, hidden_size, bidirectional=True, merge="separate", **options
        )

    def context(self, embedded: Tensor, lengths: Tensor, memory: int | str | None = None) -> Tensor:
        """``[A_{t-1}; A'_{t+1}]`` for every t between ``<s>`` and the last: ``[T-2, B, 2H]``."""
        return _around(*self.read(embedded, lengths, memory))

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.tokens[1:-1], batch.lengths - 2

    def loss(self, batch: Batch, *, memory: int | str | None = None) -> Tensor:
        if self.join_words is None or batch.ends is None:
            return super().loss(batch, memory=memory)
        forward, backward = self.read(self._embedded(batch.tokens), batch.lengths, memory)
        context, targets = self._real(batch, _around(forward, backward))
        before, after, steps = steps_through_words(batch.tokens, batch.lengths, batch.ends)
        if self.training:
            drawn = torch.rand(len(steps), dtype=torch.float32, device=steps.device)
            chosen = drawn < SHARE_OF_WORDS
            before, after, steps = before[chosen], after[chosen], steps[chosen]
        words = self.features(gathered(forward, backward, before, after), self.join_words)
        features = torch.cat([self.features(context), words])
        return linear_cross_entropy(
            features, self.output.weight, self.output.bias, torch.cat([targets, steps])
        )

    def word_logits(self, context: Tensor) -> Tensor:
        """``[N, 2H]`` to ``[N, V]``: what comes next in a word, or ``</s>``: that it is closed.

        Raises:
            ValueError: the model was made without ``words``.
        """
        if self.join_words is None:
            raise ValueError("words: got a model made without them, expected Cloze(…, words=True)")
        logits: Tensor = self.output(self.features(context, self.join_words))
        return logits


def _around(forward: Tensor, backward: Tensor) -> Tensor:
    return torch.cat([forward[:-2], backward[2:]], -1)


def gathered(forward: Tensor, backward: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """``[A_i; A'_j]``, ``[N, 2H]``, from states ``[T, B, H]``; i and j are rows of ``[T·B, H]``."""
    left = forward.flatten(0, 1).index_select(0, before)
    return torch.cat([left, backward.flatten(0, 1).index_select(0, after)], -1)


def steps_through_words(
    tokens: Tensor, lengths: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Each step through each word of some sentences: from where, up to where, and to which token.

    Args:
        tokens: ``[T, B]``.
        lengths: ``[B]``.
        ends: ``[T, B]``, whether a token is the last of its word.

    Returns:
        The rows i of A_i and j of A'_j (``[N]``, row t·B + b is step t of sequence b), and the tokens
        that stand between them first, ``</s>`` where none does.
    """
    T, B = tokens.shape
    rows = torch.arange(T * B, device=tokens.device).view(T, B)
    last = torch.where(ends, rows, T * B).flip(0).cummin(0).values.flip(0)  # of each one's word
    real = real_steps(lengths - 2, T - 2)
    inner = slice(1, T - 1)
    closes = real & ends[inner]
    before = torch.cat([(rows[inner] - B)[real], rows[inner][closes]])
    after = torch.cat([(last[inner] + B)[real], (rows[inner] + B)[closes]])
    closing = torch.full((int(closes.sum()),), END, device=tokens.device)
    return before, after, torch.cat([tokens[inner][real], closing])
