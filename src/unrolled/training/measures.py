"""How well a model predicts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from unrolled.data import Batch
from unrolled.models import TokenModel


@dataclass(frozen=True)
class Scores:
    """Means over ``tokens`` predicted tokens; NaN over none.

    ``nats``: cross-entropy per token; ``top1`` and ``top5``: the share of tokens that are the most
    probable one, or among the five most probable.
    """

    nats: float
    top1: float
    top5: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return math.exp(self.nats) if self.nats < 700 else math.inf


@torch.no_grad()
def evaluate(model: TokenModel, batches: Iterable[Batch]) -> Scores:
    """The scores of ``model`` in eval mode; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    nats, top1, top5, tokens = 0.0, 0, 0, 0
    try:
        for batch in batches:
            logits, targets = model.predict(batch)
            nats += float(F.cross_entropy(logits, targets, reduction="sum"))
            best = logits.topk(min(5, logits.shape[-1])).indices == targets.unsqueeze(1)
            top1 += int(best[:, 0].sum())
            top5 += int(best.sum())
            tokens += len(targets)
    finally:
        model.train(was_training)
    if tokens == 0:
        return Scores(math.nan, math.nan, math.nan, 0)
    return Scores(nats / tokens, top1 / tokens, top5 / tokens, tokens)
