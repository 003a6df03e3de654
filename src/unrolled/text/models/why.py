"""Which words of the context spoke for what fills a blank, and which against it."""

from dataclasses import dataclass
from typing import Literal

import torch

from unrolled.modules import evaluating
from unrolled.shapes import check_size
from unrolled.text.data.text import Tokenizer
from unrolled.text.data.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from unrolled.text.models.candidates import MaskedSentence, log_probabilities
from unrolled.text.models.cloze import Cloze
from unrolled.text.models.filling import Filled, fill, parts_between


@dataclass(frozen=True)
class ContextToken:
    """A token beside a blank, its influence in nats, and the side of the blank it stands on."""

    token: str
    influence: float
    side: Literal["left", "right"]


@dataclass(frozen=True)
class Why:
    """Why ``text`` fills blank number ``blank``, from 0: the other tokens, in their order.

    ``log_probability`` is log p(text | rest), in nats, before any rescoring; of a model with ``words``
    that of the word's steps.
    """

    blank: int
    text: str
    log_probability: float
    tokens: list[ContextToken]


def why(
    model: Cloze,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    text: str | Filled,
    blank: int = 0,
    candidate: str | None = None,
) -> Why:
    """How much each other token of ``text`` speaks for one that fills a blank.

    The influence of token x_s on candidate c is log p(c | rest) - log p(c | rest with x_s replaced by
    ``<unk>``), in nats: positive where x_s speaks for c. The other blanks hold the tokens that
    ``fill`` chose for them, and these are counted too. After Li, Monroe & Jurafsky, "Understanding
    Neural Networks through Representation Erasure", 2016.

    Args:
        model: a trained one.
        vocabulary: the model's.
        tokenizer: the model's.
        text: with blanks, as ``fill`` takes it; or what ``fill`` returned, which is not filled again.
        blank: its number, from 0.
        candidate: a token of the vocabulary, or, for a model with ``words``, several; what ``fill``
            chose if None.

    Raises:
        CallError: ``fill`` refuses the text.
        ValueError: there is no such blank, or the candidate is not in the vocabulary.
    """
    filled = fill(model, vocabulary, tokenizer, text, top=1) if isinstance(text, str) else text
    check_size("blank", blank, least=0, most=len(filled.blanks) - 1)
    chosen = [one.candidates[0].text for one in filled.blanks]
    if candidate is not None:
        known = candidate in vocabulary.numbers
        chosen[blank] = candidate if known else tokenizer.normalise(candidate)
    fillings = [_cut(model, vocabulary, tokenizer, text) for text in chosen]
    numbers = tuple(vocabulary.numbers.get(token, UNKNOWN) for token in fillings[blank])
    if not numbers or min(numbers) < len(SPECIALS):
        expected = "tokens" if model.join_words is not None else "a token"
        raise ValueError(f"candidate: got {candidate!r}, expected {expected} of the vocabulary")

    left: list[str] = []  # of the blank
    right: list[str] = []
    parts = parts_between(tokenizer, filled.text)
    for k, part in enumerate(parts):
        side = left if k <= blank else right
        if k > 0 and k - 1 != blank:
            side += fillings[k - 1]
        side += part
    encoded = vocabulary.encode([*left, SPECIALS[UNKNOWN], *right])
    place = len(left) + 1
    others = [k for k in range(1, len(encoded) - 1) if k != place]
    sentences = [encoded, *([*encoded[:k], UNKNOWN, *encoded[k + 1 :]] for k in others)]
    with evaluating(model), torch.no_grad():
        blanks = [MaskedSentence(sentence, place) for sentence in sentences]
        whole, *without = log_probabilities(model, blanks, numbers)

    context = [
        ContextToken(token, whole - p, "left" if k < place else "right")
        for k, token, p in zip(others, [*left, *right], without, strict=True)
    ]
    return Why(blank, chosen[blank], whole, context)


def _cut(model: Cloze, vocabulary: Vocabulary, tokenizer: Tokenizer, text: str) -> list[str]:
    """The tokens of what fills a blank: one, unless the model knows words of several."""
    return [text] if model.join_words is None or text in vocabulary.numbers else tokenizer.cut(text)
