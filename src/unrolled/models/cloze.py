"""Fill in the blank: each token from the past before it and the future after it."""

from typing import Any

import torch
from torch import Tensor

from unrolled.cells import Cell
from unrolled.data.dataset import Batch
from unrolled.layers import Recurrent
from unrolled.models.token_model import TokenModel


class Cloze(TokenModel):
    """Predicts each token from all before it and all after it: y_t = g(V A_{t-1} + V' A'_{t+1}).

    A is the state of a forward network, A' that of a backward one. Both are stacks of their own at
    every depth, joined only at the top: what has seen token t never meets what predicts it.

    Source: Schuster & Paliwal 1997; Melamud, Goldberger & Dagan, "context2vec: Learning Generic
    Context Embedding with Bidirectional LSTM", CoNLL 2016.
    """

    kind = "cloze"
    directions = 2

    def recurrent(
        self, cell: type[Cell], input_size: int, hidden_size: int, **options: Any
    ) -> Recurrent:
        return Recurrent(
            cell, input_size, hidden_size, bidirectional=True, merge="apart", **options
        )

    def context(self, embedded: Tensor, lengths: Tensor, memory: int | str | None = None) -> Tensor:
        """``[A_{t-1}; A'_{t+1}]`` for every t between ``<s>`` and the last: ``[T-2, B, 2H]``."""
        forward, backward = self.read(embedded, lengths, memory)
        return torch.cat([forward[:-2], backward[2:]], -1)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.tokens[1:-1], batch.lengths - 2
