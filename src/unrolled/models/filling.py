"""Filling the blanks of a text with a ``Cloze`` model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import regex
import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.text import Tokenizer
from unrolled.data.vocabulary import END, PAD, SPECIALS, UNKNOWN, Vocabulary
from unrolled.errors import CallError
from unrolled.models.cloze import Cloze
from unrolled.shapes import check_size

BLANK = regex.compile(r"[_＿]{3,}|<blank>")
MARK = "\ue000"  # stands for a blank while the text is normalised: of private use, unchanged by it
LONGEST_TEXT = 1_000  # tokens
RESCORED = 50  # candidates whose whole sentence is read
WINDOW = 30  # tokens on either side that are read for it
TOGETHER = 256  # texts that are filled at a time
READ = 1 << 13  # tokens that the layers read at a time
LARGEST = 1 << 20  # log-probabilities that are held at a time
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

    ``unknown`` are the tokens of the text that are not in the vocabulary, ``tokens`` all beside the
    blanks.
    """

    text: str
    blanks: list[Blank]
    filled: str
    unknown: list[str]
    tokens: list[str]


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
    (result,) = fill_all(model, vocabulary, tokenizer, [text], top=top, rescoring=rescoring)
    if isinstance(result, CallError):
        raise result
    return result


def fill_all(
    model: Cloze,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    top: int = 5,
    rescoring: float = RESCORING,
) -> Iterator[Filled | CallError]:
    """What ``fill`` gives for each of ``texts``, in their order, up to rounding; faster for many.

    The model reads many sentences at once, those of like length together. ``texts`` is read
    ``TOGETHER`` at a time, and may be longer than memory: answers come as soon as so many are read.

    Args:
        model: a trained one.
        vocabulary: the model's.
        tokenizer: the model's.
        texts: each with blanks.
        top: as in ``fill``.
        rescoring: as in ``fill``.

    Returns:
        A ``Filled`` for each text, or, for one that ``fill`` refuses, the error that it raises.
    """
    check_size("top", top)
    together = max(1, min(TOGETHER, LARGEST // top))
    rest = iter(texts)
    groups = iter(lambda: list(islice(rest, together)), [])
    return chain.from_iterable(
        _filled(model, vocabulary, tokenizer, group, top, rescoring) for group in groups
    )


@dataclass
class _Sentence:
    """A text being filled: its ``places`` in ``numbers`` are the blanks, those in ``found`` are filled."""

    text: str
    starts: list[int]
    rest: list[str]
    numbers: list[int]
    places: list[int]
    found: dict[int, list[Candidate]] = field(default_factory=dict)

    def result(self, vocabulary: Vocabulary) -> Filled:
        words = iter(vocabulary.tokens[self.numbers[place]] for place in self.places)
        filled = BLANK.sub(lambda _: next(words), self.text)
        pairs = zip(self.starts, self.places, strict=True)
        blanks = [Blank(start, self.found[place]) for start, place in pairs]
        return Filled(self.text, blanks, filled, vocabulary.unknown(self.rest), self.rest)


def _sentence(vocabulary: Vocabulary, tokenizer: Tokenizer, text: str) -> _Sentence:
    """``text`` with all blanks open; CallError if it cannot be filled."""
    starts = [match.start() for match in BLANK.finditer(text)]
    if not starts:
        raise CallError(
            "no blank in the text: mark each with three or more underscores, or <blank>"
        )
    parts = parts_between(tokenizer, text)
    rest = [token for part in parts for token in part]
    if len(rest) + len(starts) > LONGEST_TEXT:
        raise CallError(
            f"the text has {len(rest) + len(starts):,} tokens, expected {LONGEST_TEXT:,} at the most"
        )
    if not any(token.strip() for token in rest):
        raise CallError("only blanks in the text: expected some words beside them")
    numbers, places = vocabulary.encode(parts[0])[:-1], []
    for part in parts[1:]:
        places.append(len(numbers))
        numbers += [UNKNOWN, *vocabulary.encode(part)[1:-1]]
    return _Sentence(text, starts, rest, [*numbers, END], places)


def _filled(
    model: Cloze,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    top: int,
    rescoring: float,
) -> list[Filled | CallError]:
    opened: list[_Sentence | CallError] = []
    for text in texts:
        try:
            opened.append(_sentence(vocabulary, tokenizer, text))
        except CallError as error:
            opened.append(error.with_traceback(None))  # which would keep the whole group
    left = sorted(
        (one for one in opened if isinstance(one, _Sentence)), key=lambda one: len(one.numbers)
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            while left:
                for part in _parts([one.numbers for one in left]):
                    _fill_surest(model, vocabulary, left[part], top, rescoring)
                left = [one for one in left if len(one.found) < len(one.places)]
    finally:
        model.train(was_training)
    return [one if isinstance(one, CallError) else one.result(vocabulary) for one in opened]


def _fill_surest(
    model: Cloze, vocabulary: Vocabulary, sentences: list[_Sentence], top: int, weight: float
) -> None:
    """Fill one more blank of each sentence: the one whose best candidate is the most probable."""
    still = [[place for place in one.places if place not in one.found] for one in sentences]
    context = _context(model, [one.numbers for one in sentences], still)
    peaks = torch.cat([p.amax(-1) for p in _log_softmax(model, context)])
    firsts = [int(peak.argmax()) for peak in torch.split(peaks, [len(of) for of in still])]
    places = [of[first] for of, first in zip(still, firsts, strict=True)]
    before = torch.tensor([0, *(len(of) for of in still[:-1])]).cumsum(0)
    rows = (before + torch.tensor(firsts)).to(context.device)
    distributions = torch.cat(list(_log_softmax(model, context.index_select(0, rows)))).exp()
    if weight:
        numbers = [one.numbers for one in sentences]
        distributions = _rescored(model, numbers, places, distributions, weight)
    distributions[:, : len(SPECIALS)] = -1  # no candidates, even where a share has come to nothing
    best = distributions.topk(min(top, len(vocabulary) - len(SPECIALS)))
    for one, place, tokens, p in zip(
        sentences, places, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        pairs = zip(tokens, p, strict=True)
        one.found[place] = [Candidate(vocabulary.tokens[n], share) for n, share in pairs]
        one.numbers[place] = tokens[0]


def parts_between(tokenizer: Tokenizer, text: str) -> list[list[str]]:
    """The tokens before, between and after the blanks of ``text``: one part more than blanks."""
    marked = tokenizer.normalise(BLANK.sub(MARK, text.replace(MARK, "\ufffd")))
    return [tokenizer.cut(part) for part in marked.split(MARK)]


def log_probabilities(model: Cloze, sentences: list[list[int]], places: slice) -> Tensor:
    """Log-probabilities of every token at ``places`` in sentences of one length: ``[P, B, V]``."""
    asked = range(places.start, places.stop)
    context = _context(model, sentences, [asked] * len(sentences))
    read = torch.cat(list(_log_softmax(model, context)))
    return read.view(len(sentences), len(asked), -1).transpose(0, 1)


def _parts(sentences: list[list[int]]) -> Iterator[slice]:
    """Which ``sentences`` the layers read at once: ``READ`` tokens with padding, or one sentence."""
    start = longest = 0
    for k, sentence in enumerate(sentences):
        longest = max(longest, len(sentence))
        if k > start and longest * (k + 1 - start) > READ:
            yield slice(start, k)
            start, longest = k, len(sentence)
    yield slice(start, len(sentences))


def _context(model: Cloze, sentences: list[list[int]], places: Sequence[Sequence[int]]) -> Tensor:
    """What is known of ``places`` of each of ``sentences``: ``[N, 2H]``, one sentence after the other."""
    device, lanes = model.embedding.weight.device, len(sentences)
    lengths = [len(sentence) for sentence in sentences]
    padded = [[*one, *[PAD] * (max(lengths) - len(one))] for one in sentences]
    tokens = torch.tensor(padded, device=device).T
    context = model.context(model.embedding(tokens), torch.tensor(lengths))  # of places 1 … T-2
    rows = [(place - 1) * lanes + lane for lane, of in enumerate(places) for place in of]
    return context.flatten(0, 1).index_select(
        0, torch.tensor(rows, dtype=torch.long, device=device)
    )


def _log_softmax(model: Cloze, context: Tensor) -> Iterator[Tensor]:
    """Log-probabilities of every token, ``[n, V]``, for some rows of ``context`` after the other.

    Special tokens are impossible: no text holds one.
    """
    for rows in torch.split(context, max(1, LARGEST // model.output.out_features)):
        logits = model.logits(rows)
        logits[:, : len(SPECIALS)] = -torch.inf
        yield F.log_softmax(logits, -1)


def _rescored(
    model: Cloze,
    sentences: list[list[int]],
    places: list[int],
    distributions: Tensor,
    weight: float,
) -> Tensor:
    """``distributions`` ``[B, V]``, the best candidates ranked anew; they keep their joint share."""
    best = distributions.topk(min(RESCORED, distributions.shape[1] - len(SPECIALS)))
    tried, others = [], []
    for numbers, place, tokens in zip(sentences, places, best.indices.tolist(), strict=True):
        window = range(max(1, place - WINDOW), min(len(numbers) - 1, place + WINDOW + 1))
        read = [s for s in window if s != place and numbers[s] >= len(SPECIALS)]
        tried += [[*numbers[:place], c, *numbers[place + 1 :]] for c in tokens]
        others += [read] * len(tokens)
    reads = torch.cat([_read(model, tried[part], others[part]) for part in _parts(tried)])
    scores = best.values.log() + weight * reads.view_as(best.values)
    share = torch.softmax(scores, -1) * best.values.sum(-1, keepdim=True)
    return distributions.scatter(1, best.indices, share)


def _read(model: Cloze, sentences: list[list[int]], places: list[list[int]]) -> Tensor:
    """Σ_s log p(x_s | rest) over the ``places`` s of each of ``sentences``: ``[B]``."""
    context = _context(model, sentences, places)
    targets = torch.tensor(
        [numbers[s] for numbers, of in zip(sentences, places, strict=True) for s in of],
        dtype=torch.long,
        device=context.device,
    )
    counts = torch.tensor([len(of) for of in places])
    lanes = torch.arange(len(places)).repeat_interleave(counts).to(context.device)
    done, sums = 0, context.new_zeros(len(places))
    for p in _log_softmax(model, context):
        rows = slice(done, done + len(p))
        sums.index_add_(0, lanes[rows], p.gather(1, targets[rows, None])[:, 0])
        done += len(p)
    return sums
