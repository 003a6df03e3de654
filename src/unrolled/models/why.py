"""Which words of the context spoke for what fills a blank, and which against it."""

from dataclasses import dataclass
from typing import Literal

import torch

from unrolled.data.text import Tokenizer
from unrolled.data.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from unrolled.models.cloze import Cloze
from unrolled.models.filling import READ, Filled, fill, log_probabilities, parts_between
from unrolled.shapes import check_size


@dataclass(frozen=True)
class ContextToken:
    """A token beside a blank, its influence in nats, and the side of the blank it stands on."""

    token: str
    influence: float
    side: Literal["left", "right"]


@dataclass(frozen=True)
class Why:
    """Why ``token`` fills blank number ``blank``, from 0: the other tokens, in the order of the text.

    ``log_probability`` is log p(token | rest), in nats, before any rescoring.
    """

    blank: int
    token: str
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
        candidate: a token of the vocabulary; the one that ``fill`` chose if None.

    Raises:
        CallError: ``fill`` refuses the text.
        ValueError: there is no such blank, or the candidate is not in the vocabulary.
    """
    filled = fill(model, vocabulary, tokenizer, text, top=1) if isinstance(text, str) else text
    check_size("blank", blank, least=0, most=len(filled.blanks) - 1)
    chosen = [one.candidates[0].token for one in filled.blanks]
    if candidate is not None:
        known = candidate in vocabulary.numbers
        chosen[blank] = candidate if known else tokenizer.normalise(candidate)
    number = vocabulary.numbers.get(chosen[blank], UNKNOWN)
    if number < len(SPECIALS):
        raise ValueError(f"candidate: got {candidate!r}, expected a token of the vocabulary")

    first, *parts = parts_between(tokenizer, filled.text)
    tokens, places = first, []
    for token, part in zip(chosen, parts, strict=True):
        places.append(len(tokens))
        tokens += [token, *part]
    place = places[blank]
    others = [k for k in range(len(tokens)) if k != place]
    numbers = vocabulary.encode(tokens)  # of token k at k + 1
    sentences = [numbers, *([*numbers[: k + 1], UNKNOWN, *numbers[k + 2 :]] for k in others)]
    together = max(1, READ // len(numbers))
    found: list[float] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for k in range(0, len(sentences), together):
                read = log_probabilities(
                    model, sentences[k : k + together], slice(place + 1, place + 2)
                )
                found += read[0, :, number].tolist()
    finally:
        model.train(was_training)

    whole, *without = found
    context = [
        ContextToken(tokens[k], whole - p, "left" if k < place else "right")
        for k, p in zip(others, without, strict=True)
    ]
    return Why(blank, chosen[blank], whole, context)
