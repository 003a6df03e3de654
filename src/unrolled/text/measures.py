"""How well a model predicts."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.bptt import Carry, Window
from unrolled.modules import evaluating
from unrolled.shapes import real_steps
from unrolled.text.data import Batch
from unrolled.text.data.vocabulary import START
from unrolled.text.models import LanguageModel, Prediction, TokenModel
from unrolled.training.scores import Scores

TokenWindow = Window[tuple[Tensor, ...]]
"""Tokens ``[T, B]`` of a continuous text, and each one's successor."""


@dataclass(frozen=True)
class TokenScores(Scores):
    """Means over ``tokens`` predicted tokens; NaN over none.

    ``nats``: cross-entropy per token; ``top1`` and ``top5``: the share of tokens that are the most
    probable one, or among the five most probable.
    """

    measure, unit = "nats", "tokens"

    nats: float
    top1: float
    top5: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return math.exp(self.nats) if self.nats < 700 else math.inf


def evaluate(model: TokenModel, batches: Iterable[Batch]) -> TokenScores:
    """The scores of ``model`` in eval mode; the mode it was in is restored."""
    return _scores(model, (model.predict(batch) for batch in batches))


def evaluate_continuous(model: LanguageModel, windows: Iterable[TokenWindow]) -> TokenScores:
    """The same on a text read on and on, from window to window in the state in which it stopped.

    ``</s>`` is predicted as in ``evaluate``, ``<s>`` never. No state is shared with the training.
    """

    def predictions() -> Iterator[Prediction]:
        carry = Carry(model)
        for window in windows:
            (tokens, targets), lengths = window.data, ragged(window)
            with carry.window(window.resets, lengths=lengths):
                states = model.states(tokens)
            rows = real(window).flatten().nonzero().squeeze(1)
            logits = model.logits(states.flatten(0, 1).index_select(0, rows))
            yield Prediction(logits, targets.flatten().index_select(0, rows))

    return _scores(model, predictions())


def real(window: TokenWindow) -> Tensor:
    """Which targets count, ``[T, B]``: those in a sequence, except ``<s>``."""
    _, targets = window.data
    return real_steps(window.lengths, len(targets)) & (targets != START)


def ragged(window: TokenWindow) -> Tensor | None:
    """The lengths of the sequences, if they are not all T."""
    return None if bool((window.lengths == len(window.resets)).all()) else window.lengths


@torch.no_grad()
def _scores(model: TokenModel, predictions: Iterable[Prediction]) -> TokenScores:
    nats, top1, top5, tokens = 0.0, 0, 0, 0
    with evaluating(model):
        for logits, targets in predictions:
            if not len(targets):
                continue
            nats += float(F.cross_entropy(logits, targets, reduction="sum"))
            best = logits.topk(min(5, logits.shape[-1])).indices == targets.unsqueeze(1)
            top1 += int(best[:, 0].sum())
            top5 += int(best.sum())
            tokens += len(targets)
    if tokens == 0:
        return TokenScores(math.nan, math.nan, math.nan, 0)
    return TokenScores(nats / tokens, top1 / tokens, top5 / tokens, tokens)
