"""What may fill a blank: single tokens, or words of several, with their probabilities."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.vocabulary import END, PAD, SPECIALS
from unrolled.models.cloze import Cloze, gathered

RESCORED = 50  # candidates whose whole sentence is read
FOLLOWED = (
    RESCORED,
    16,
    8,
    4,
)  # beginnings of a word, of one, two, … tokens, that are gone on with
LONGEST_WORD = len(FOLLOWED)
WINDOW = 30  # tokens on either side that are read for a candidate
READ = 1 << 13  # tokens that the layers read at a time
LARGEST = 1 << 20  # log-probabilities that are held at a time

Tokens = tuple[int, ...]


class Guess(NamedTuple):
    """``tokens`` that fill a blank, and the probability that they do."""

    tokens: Tokens
    probability: float


class Blank(NamedTuple):
    """A sentence ``<s> … </s>`` in which the token at ``place`` stands for what is not known."""

    numbers: list[int]
    place: int

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """The sentence with ``tokens`` in its place."""
        return [*self.numbers[: self.place], *tokens, *self.numbers[self.place + 1 :]]


def candidates(
    model: Cloze, blanks: Sequence[Blank], *, top: int, rescoring: float, temperature: float
) -> list[list[Guess]]:
    """The ``top`` candidates for each of ``blanks``, best first.

    The ``RESCORED`` best by p(c | rest) get the score log p(c | rest) + ``rescoring`` ·
    Σ_s log p(x_s | rest, c) over the other tokens x_s (pseudo-likelihood: Besag, "Statistical
    Analysis of Non-Lattice Data", 1975), and share what they have together as the softmax of score /
    ``temperature`` says (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    priors = (_words if model.join_words is not None else _tokens)(
        model, blanks, max(top, RESCORED)
    )
    firsts = [prior[:RESCORED] for prior in priors]
    if rescoring:
        reads = _reads(
            model, [(b, g.tokens) for b, of in zip(blanks, firsts, strict=True) for g in of]
        )
    else:
        reads = torch.zeros(sum(map(len, firsts)), dtype=torch.float64)
    results, parts = [], torch.split(reads, [len(first) for first in firsts])
    for prior, first, read in zip(priors, firsts, parts, strict=True):
        p = torch.tensor([guess.probability for guess in first], dtype=torch.float64)
        share = p.sum() * torch.softmax((p.log() + rescoring * read) / temperature, -1)
        ranked = [Guess(g.tokens, q) for g, q in zip(first, share.tolist(), strict=True)]
        ranked = sorted([*ranked, *prior[RESCORED:]], key=lambda guess: -guess.probability)
        results.append(ranked[:top])
    return results


def log_probabilities(model: Cloze, blanks: Sequence[Blank], tokens: Tokens) -> list[float]:
    """The log-probability of ``tokens`` given the rest, for each of ``blanks``, before any rescoring."""
    if model.join_words is None:
        (token,) = tokens
        rows = [(blank.numbers, _around(blank.place)) for blank in blanks]
        return [float(p[token]) for part in _read(model, rows, model.logits) for p in part]
    totals = [0.0] * len(blanks)
    for k, token in enumerate((*tokens, END)):
        rows = [(blank.filled(tokens[:k]), _gap(blank.place + k)) for blank in blanks]
        steps = _read(model, rows, model.word_logits, may_end=k > 0)
        for n, p in enumerate(p for part in steps for p in part):
            totals[n] += float(p[token])
    return totals


def surest(model: Cloze, blanks: Sequence[Blank]) -> list[float]:
    """The log-probability of the most probable first token of each of ``blanks``."""
    rows = [(blank.numbers, _around(blank.place)) for blank in blanks]
    return [p for part in _read(model, rows, model.logits) for p in part.amax(-1).tolist()]


# --- Candidates by p(c | rest) alone -------------------------------------------------------------


def _tokens(model: Cloze, blanks: Sequence[Blank], count: int) -> list[list[Guess]]:
    """The ``count`` most probable single tokens for each blank."""
    rows = [(blank.numbers, _around(blank.place)) for blank in blanks]
    found: list[list[Guess]] = []
    for p in _read(model, rows, model.logits):
        best = p.double().exp()[:, len(SPECIALS) :].topk(min(count, p.shape[1] - len(SPECIALS)))
        for tokens, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            pairs = zip(tokens, shares, strict=True)
            found.append([Guess((n + len(SPECIALS),), share) for n, share in pairs])
    return found


def _words(model: Cloze, blanks: Sequence[Blank], count: int) -> list[list[Guess]]:
    """The ``count`` most probable words that are found for each blank.

    Of the words of one token there is a second estimate, p(c | rest) of a single token, which knows
    that it is one. What they have together is shared out by the geometric mean of the two.
    """
    found = _spelt(model, blanks)
    rows = [(blank.numbers, _around(blank.place)) for blank in blanks]
    estimates = (p for part in _read(model, rows, model.logits) for p in part)
    for guesses, p in zip(found, estimates, strict=True):
        single = [k for k, guess in enumerate(guesses) if len(guess.tokens) == 1]
        own = torch.tensor([guesses[k].probability for k in single], dtype=torch.float64)
        other = p[[guesses[k].tokens[0] for k in single]].double().cpu()
        shares = own.sum() * torch.softmax((own.log() + other) / 2, -1)
        for k, share in zip(single, shares.tolist(), strict=True):
            guesses[k] = guesses[k]._replace(probability=share)
    return [sorted(of, key=lambda guess: -guess.probability)[:count] for of in found]


def _spelt(model: Cloze, blanks: Sequence[Blank]) -> list[list[Guess]]:
    """The most probable words that a beam search finds for each blank.

    A word is a product of steps, the last of which closes it; a blank is not empty. Of the beginnings
    of each length the ``FOLLOWED`` most probable are gone on with.
    """
    found: list[list[Guess]] = [[] for _ in blanks]
    begun: list[list[tuple[Tokens, float]]] = [[((), 0.0)] for _ in blanks]
    for length, width in enumerate((*FOLLOWED, 0)):
        at = [(k, tokens, so_far) for k, of in enumerate(begun) for tokens, so_far in of]
        rows = [(blanks[k].filled(tokens), _gap(blanks[k].place + length)) for k, tokens, _ in at]
        begun, done = [[] for _ in blanks], 0
        for p in _read(model, rows, model.word_logits, may_end=length > 0):
            best = p[:, len(SPECIALS) :].topk(min(width, p.shape[1] - len(SPECIALS)))
            columns = p[:, END].tolist(), best.indices.tolist(), best.values.tolist()
            for (k, tokens, so_far), end, nexts, steps in zip(
                at[done : done + len(p)], *columns, strict=True
            ):
                if tokens:
                    found[k].append(Guess(tokens, math.exp(so_far + end)))
                for token, step in zip(nexts, steps, strict=True):
                    begun[k].append(((*tokens, token + len(SPECIALS)), so_far + step))
            done += len(p)
        begun = [sorted(of, key=lambda one: -one[1])[:width] for of in begun]
    return found


# --- Reading -------------------------------------------------------------------------------------

Row = tuple[
    list[int], tuple[int, int]
]  # a sentence, and i and j: what stands between A_i and A'_j?


def _around(place: int) -> tuple[int, int]:
    return place - 1, place + 1


def _gap(place: int) -> tuple[int, int]:
    """Between a token and the next, where a word begins, goes on or is closed."""
    return place - 1, place


def _reads(model: Cloze, tried: Sequence[tuple[Blank, Tokens]]) -> Tensor:
    """Σ_s log p(x_s | rest, c) over the other tokens x_s near each blank, filled with c: ``[N]``."""
    sentences, others = [], []
    for blank, tokens in tried:
        sentence, place, after = blank.filled(tokens), blank.place, blank.place + len(tokens)
        near = [*range(max(1, place - WINDOW), place), *range(after, after + WINDOW)]
        others.append([s for s in near if s < len(sentence) - 1 and sentence[s] >= len(SPECIALS)])
        sentences.append(sentence)
    sums = torch.zeros(len(tried), dtype=torch.float64)
    for part in parts(sentences):
        of, lanes = others[part], torch.arange(part.start, part.stop)
        pairs = [[_around(s) for s in places] for places in of]
        targets = [n[s] for n, places in zip(sentences[part], of, strict=True) for s in places]
        owners = lanes.repeat_interleave(torch.tensor([len(places) for places in of]))
        done = 0
        context = _context(model, sentences[part], pairs)
        for p in _log_softmax(model.logits, context, model.output.out_features):
            rows = slice(done, done + len(p))
            read = p.gather(1, torch.tensor(targets[rows], device=p.device)[:, None])[:, 0]
            sums.index_add_(0, owners[rows], read.double().cpu())
            done += len(p)
    return sums


def _read(
    model: Cloze,
    rows: Sequence[Row],
    logits: Callable[[Tensor], Tensor],
    *,
    may_end: bool = False,
) -> Iterator[Tensor]:
    """Log-probabilities of every token at each of ``rows``, in their order: ``[n, V]`` at a time."""
    for part in parts([sentence for sentence, _ in rows]):
        sentences = [sentence for sentence, _ in rows[part]]
        context = _context(model, sentences, [[pair] for _, pair in rows[part]])
        yield from _log_softmax(logits, context, model.output.out_features, may_end=may_end)


def parts(sentences: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Which ``sentences`` the layers read at once: ``READ`` tokens with padding, or one sentence."""
    start = longest = 0
    for k, sentence in enumerate(sentences):
        longest = max(longest, len(sentence))
        if k > start and longest * (k + 1 - start) > READ:
            yield slice(start, k)
            start, longest = k, len(sentence)
    if sentences:
        yield slice(start, len(sentences))


def _context(
    model: Cloze, sentences: Sequence[Sequence[int]], pairs: Sequence[Sequence[tuple[int, int]]]
) -> Tensor:
    """``[A_i; A'_j]``, ``[N, 2H]``, for the ``pairs`` (i, j) of one of ``sentences`` after the other."""
    device, lanes = model.embedding.weight.device, len(sentences)
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    longest = int(lengths.max())
    padded = [[*sentence, *[PAD] * (longest - len(sentence))] for sentence in sentences]
    forward, backward = model.read(
        model.embedding(torch.tensor(padded, device=device).T), lengths, None
    )
    flat = [(i * lanes + lane, j * lanes + lane) for lane, of in enumerate(pairs) for i, j in of]
    rows = torch.tensor(flat, dtype=torch.long, device=device).view(-1, 2)
    return gathered(forward, backward, rows[:, 0], rows[:, 1])


def _log_softmax(
    logits: Callable[[Tensor], Tensor], context: Tensor, vocabulary: int, *, may_end: bool = False
) -> Iterator[Tensor]:
    """Log-probabilities of every token, ``[n, V]``, for some rows of ``context`` after the other.

    Special tokens are impossible, since no text holds one, but, if it ``may_end``, for ``</s>``.
    """
    for rows in torch.split(context, max(1, LARGEST // vocabulary)):
        scores = logits(rows)
        end = scores[:, END].clone()
        scores[:, : len(SPECIALS)] = -torch.inf
        if may_end:
            scores[:, END] = end
        yield F.log_softmax(scores, -1)
