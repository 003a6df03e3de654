"""Filling the blanks of a text with a ``Cloze`` model."""

from dataclasses import dataclass

import regex
import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.text import Tokenizer
from unrolled.data.vocabulary import END, SPECIALS, UNKNOWN, Vocabulary
from unrolled.errors import CallError
from unrolled.models.cloze import Cloze
from unrolled.shapes import check_size

BLANK = regex.compile(r"[_＿]{3,}|<blank>")
MARK = "\ue000"  # stands for a blank while the text is normalised: of private use, unchanged by it
LONGEST_TEXT = 1_000  # tokens
RESCORED = 50  # candidates whose whole sentence is read
WINDOW = 30  # tokens on either side that are read for it
LARGEST = 1 << 23  # log-probabilities that are held at a time
RESCORING = 0.25  # the weight of how the rest of the sentence reads, chosen on the validation split


@dataclass(frozen=True)
class Candidate:
    """A token for a blank, and its probability among all tokens."""

    token: str
    probability: float


@dataclass(frozen=True)
class Blank:
    """A blank at character ``position`` of the text, and its best candidates, best first."""

    position: int
    candidates: list[Candidate]


@dataclass(frozen=True)
class Filled:
    """The text, its blanks from left to right, and the text with their best candidates.

    ``unknown`` are the tokens of the text that are not in the vocabulary.
    """

    text: str
    blanks: list[Blank]
    filled: str
    unknown: list[str]


def fill(
    model: Cloze,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    text: str,
    *,
    top: int = 5,
    rescoring: float = RESCORING,
) -> Filled:
    """Fill each blank of ``text`` with one token.

    The best candidates for a blank by p(c | rest) are ranked anew by how the sentence reads with
    them: the score of c is log p(c | rest) + ``rescoring`` · Σ_s log p(x_s | rest, c) over the other
    tokens x_s (pseudo-likelihood: Besag, "Statistical Analysis of Non-Lattice Data", 1975). Of
    several blanks the one whose best candidate is the most probable is filled first, the others
    then knowing it.

    Args:
        model: a trained one.
        vocabulary: the model's.
        tokenizer: the model's.
        text: with blanks: three or more underscores, or ``<blank>``.
        top: how many candidates to return for a blank.
        rescoring: the weight of the other tokens; 0 ranks by p(c | rest) alone.

    Raises:
        CallError: the text has no blank, nothing but blanks, or is longer than ``LONGEST_TEXT``.
    """
    check_size("top", top)
    spans = [match.span() for match in BLANK.finditer(text)]
    if not spans:
        raise CallError(
            "no blank in the text: mark each with three or more underscores, or <blank>"
        )
    marked = tokenizer.normalise(BLANK.sub(MARK, text.replace(MARK, "\ufffd")))
    parts = [tokenizer.cut(part) for part in marked.split(MARK)]  # what stands between the blanks
    rest = [token for part in parts for token in part]
    if len(rest) + len(spans) > LONGEST_TEXT:
        raise CallError(
            f"the text has {len(rest) + len(spans):,} tokens, expected {LONGEST_TEXT:,} at the most"
        )
    if not any(token.strip() for token in rest):
        raise CallError("only blanks in the text: expected some words beside them")
    numbers, places = vocabulary.encode(parts[0])[:-1], []
    for part in parts[1:]:
        places.append(len(numbers))
        numbers += [UNKNOWN, *vocabulary.encode(part)[1:-1]]
    numbers.append(END)

    found: dict[int, Tensor] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            while len(found) < len(places):
                read = _log_probabilities(model, [numbers], slice(1, len(numbers) - 1))[:, 0].exp()
                k = max(set(places) - found.keys(), key=lambda k: float(read[k - 1].max()))
                found[k] = _rescored(model, numbers, k, read[k - 1], rescoring)
                numbers[k] = int(found[k].argmax())
    finally:
        model.train(was_training)

    blanks = []
    for (position, _), place in zip(spans, places, strict=True):
        found[place][: len(SPECIALS)] = -1  # no candidates, even where a share has come to nothing
        best = found[place].topk(min(top, len(vocabulary) - len(SPECIALS)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        blanks.append(Blank(position, [Candidate(vocabulary.tokens[n], p) for n, p in pairs]))
    words = iter(vocabulary.tokens[numbers[place]] for place in places)
    filled = BLANK.sub(lambda _: next(words), text)
    return Filled(text, blanks, filled, vocabulary.unknown(rest))


def _log_probabilities(model: Cloze, sentences: list[list[int]], places: slice) -> Tensor:
    """Log-probabilities of every token at ``places`` in sentences of one length: ``[P, B, V]``.

    Special tokens are impossible: no text holds one.
    """
    tokens = torch.tensor(sentences, device=model.embedding.weight.device).T
    lengths = torch.full((len(sentences),), len(tokens))
    context = model.context(model.embedding(tokens), lengths)  # of places 1 … T-2
    logits = model.logits(context[places.start - 1 : places.stop - 1])
    logits[..., : len(SPECIALS)] = -torch.inf
    return F.log_softmax(logits, -1)


def _rescored(
    model: Cloze, numbers: list[int], place: int, distribution: Tensor, weight: float
) -> Tensor:
    """``distribution`` ``[V]`` with its best candidates ranked anew; they keep their joint share."""
    best = distribution.topk(min(RESCORED, len(distribution) - len(SPECIALS)))
    if weight == 0:
        return distribution
    first, last = max(1, place - WINDOW), min(len(numbers) - 1, place + WINDOW + 1)
    others = [s for s in range(first, last) if s != place and numbers[s] >= len(SPECIALS)]
    rows = torch.tensor([s - first for s in others], dtype=torch.long)
    targets = torch.tensor([numbers[s] for s in others], dtype=torch.long)
    sentences = [[*numbers[:place], c, *numbers[place + 1 :]] for c in best.indices.tolist()]
    together = max(1, LARGEST // ((last - first) * len(distribution)))
    reads = torch.zeros_like(best.values)
    for k in range(0, len(sentences) if others else 0, together):
        read = _log_probabilities(model, sentences[k : k + together], slice(first, last))
        reads[k : k + together] = read[rows, :, targets].sum(0)
    share = torch.softmax(best.values.log() + weight * reads, -1) * best.values.sum()
    return distribution.scatter(0, best.indices, share)
