"""What may fill a blank: single tokens, or words of several, with their probabilities."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.cells import State
from unrolled.data.vocabulary import END, PAD, SPECIALS
from unrolled.layers import Recurrent
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
READ = 1 << 13  # tokens that the layers read at a time, and beginnings of words
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
    find = _words if model.join_words is not None else _tokens
    results: list[list[Guess]] = []
    for around in _read(model, blanks):
        priors = find(around, max(top, RESCORED))
        firsts = [prior[:RESCORED] for prior in priors]
        tried = [(k, guess.tokens) for k, first in enumerate(firsts) for guess in first]
        reads = (
            _reads(around, tried)
            if rescoring
            else torch.zeros(len(tried), dtype=torch.float64, device="cpu")
        )
        counts = [len(first) for first in firsts]
        for prior, first, read in zip(priors, firsts, torch.split(reads, counts), strict=True):
            p = torch.tensor(
                [guess.probability for guess in first], dtype=torch.float64, device="cpu"
            )
            share = p.sum() * torch.softmax((p.log() + rescoring * read) / temperature, -1)
            ranked = [Guess(g.tokens, q) for g, q in zip(first, share.tolist(), strict=True)]
            ranked = sorted([*ranked, *prior[RESCORED:]], key=lambda guess: -guess.probability)
            results.append(ranked[:top])
    return results


def log_probabilities(model: Cloze, blanks: Sequence[Blank], tokens: Tokens) -> list[float]:
    """The log-probability of ``tokens`` given the rest, for each of ``blanks``, before any rescoring."""
    found: list[float] = []
    for around in _read(model, blanks):
        if model.join_words is None:
            (token,) = tokens
            found += [p for rows in around.single() for p in rows[:, token].tolist()]
            continue
        total, left = torch.zeros(len(around), dtype=torch.float64, device="cpu"), around.left
        for k, token in enumerate((*tokens, END)):
            if k:
                left = left.onward([tokens[k - 1 : k]] * len(around))
            context = torch.cat([left.last, around.right.last], -1)
            steps = _log_softmax(model, model.word_logits, context, may_end=k > 0)
            total += torch.cat([p[:, token] for p in steps]).double().cpu()
        found += total.tolist()
    return found


def surest(model: Cloze, blanks: Sequence[Blank]) -> list[float]:
    """The log-probability of the most probable first token of each of ``blanks``."""
    single = (rows for around in _read(model, blanks) for rows in around.single())
    return [p for rows in single for p in rows.amax(-1).tolist()]


# --- Reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """What one direction has read, N sequences from their far ends on, and where it goes on from.

    ``y``: what it gave, ``[T, N, H]``; ``last``: after each one's last token, ``[N, H]``.
    """

    model: Cloze
    way: Recurrent
    read: Sequence[Sequence[int]]
    y: Tensor
    last: Tensor
    state: State

    @classmethod
    def of(
        cls,
        model: Cloze,
        way: Recurrent,
        read: Sequence[Sequence[int]],
        state: State | None = None,
    ) -> Self:
        lengths = torch.tensor([len(tokens) for tokens in read], device="cpu")
        longest = int(lengths.max())
        device = model.embedding.weight.device
        padded = [[*tokens, *[PAD] * (longest - len(tokens))] for tokens in read]
        embedded = model.embedding(torch.tensor(padded, device=device).T)
        y, state = way(embedded, state, lengths=None if longest == 1 else lengths)
        last = y[lengths.to(device) - 1, torch.arange(len(read), device=device)]
        return cls(model, way, read, y, last, state)

    def onward(
        self, tokens: Sequence[Sequence[int]], owners: Sequence[int] | None = None
    ) -> "_Side":
        """Having read ``tokens`` too: of each of the N, or each after sequence number ``owners[n]``."""
        state = self.state
        if owners is not None:
            rows = torch.tensor(owners, device=self.last.device)
            state = tuple(part.index_select(1, rows) for part in state)
        return _Side.of(self.model, self.way, tokens, state)


@dataclass(frozen=True)
class _Around:
    """What stands on either side of some blanks."""

    left: _Side
    right: _Side

    def __len__(self) -> int:
        return len(self.left.read)

    @property
    def model(self) -> Cloze:
        return self.left.model

    def single(self) -> Iterator[Tensor]:
        """The log-probabilities of every single token, given the rest: ``[n, V]`` at a time."""
        context = torch.cat([self.left.last, self.right.last], -1)
        return _log_softmax(self.model, self.model.logits, context)


def _read(model: Cloze, blanks: Sequence[Blank]) -> Iterator[_Around]:
    """Both sides of ``blanks``, of some of them after the other."""
    forward, backward = (model.layers.one_way(direction) for direction in (0, 1))
    for part in parts([max(RESCORED, len(blank.numbers)) for blank in blanks]):
        left = [blank.numbers[: blank.place] for blank in blanks[part]]
        right = [blank.numbers[: blank.place : -1] for blank in blanks[part]]
        yield _Around(_Side.of(model, forward, left), _Side.of(model, backward, right))


def parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Which sequences of ``lengths`` are read at once: ``READ`` tokens with padding, or one."""
    start = longest = 0
    for k, length in enumerate(lengths):
        longest = max(longest, length)
        if k > start and longest * (k + 1 - start) > READ:
            yield slice(start, k)
            start, longest = k, length
    if lengths:
        yield slice(start, len(lengths))


def _log_softmax(
    model: Cloze, logits: Callable[[Tensor], Tensor], context: Tensor, *, may_end: bool = False
) -> Iterator[Tensor]:
    """Log-probabilities of every token, ``[n, V]``, for some rows of ``context`` after the other.

    Special tokens are impossible, since no text holds one, but, if it ``may_end``, for ``</s>``.
    """
    for rows in torch.split(context, max(1, LARGEST // model.output.out_features)):
        scores = logits(rows)
        end = scores[:, END].clone()
        scores[:, : len(SPECIALS)] = -torch.inf
        if may_end:
            scores[:, END] = end
        yield F.log_softmax(scores, -1)


# --- Candidates by p(c | rest) alone -------------------------------------------------------------


def _tokens(around: _Around, count: int) -> list[list[Guess]]:
    """The ``count`` most probable single tokens for each blank."""
    found: list[list[Guess]] = []
    for rows in around.single():
        p = rows[:, len(SPECIALS) :].double().exp()
        best = p.topk(min(count, p.shape[1]))
        for tokens, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            pairs = zip(tokens, shares, strict=True)
            found.append([Guess((n + len(SPECIALS),), share) for n, share in pairs])
    return found


def _words(around: _Around, count: int) -> list[list[Guess]]:
    """The ``count`` most probable words that are found for each blank.

    Of the words of one token there is a second estimate, p(c | rest) of a single token, which knows
    that it is one. What they have together is shared out by the geometric mean of the two.
    """
    found = _spelt(around)
    estimates = (p for rows in around.single() for p in rows)
    for guesses, p in zip(found, estimates, strict=True):
        single = [k for k, guess in enumerate(guesses) if len(guess.tokens) == 1]
        own = torch.tensor(
            [guesses[k].probability for k in single], dtype=torch.float64, device="cpu"
        )
        other = p[[guesses[k].tokens[0] for k in single]].double().cpu()
        shares = own.sum() * torch.softmax((own.log() + other) / 2, -1)
        for k, share in zip(single, shares.tolist(), strict=True):
            guesses[k] = guesses[k]._replace(probability=share)
    return [sorted(of, key=lambda guess: -guess.probability)[:count] for of in found]


def _spelt(around: _Around) -> list[list[Guess]]:
    """The most probable words that a beam search finds for each blank.

    A word is a product of steps, the last of which closes it; a blank is not empty. Of the beginnings
    of each length the ``FOLLOWED`` most probable are gone on with. The left side goes on by a token
    at a time; the right side is the same for all.
    """
    model, left = around.model, around.left
    found: list[list[Guess]] = [[] for _ in range(len(around))]
    begun: list[tuple[int, Tokens, float]] = [(k, (), 0.0) for k in range(len(around))]
    for length, width in enumerate((*FOLLOWED, 0)):
        owners = torch.tensor([k for k, _, _ in begun], device=left.last.device)
        context = torch.cat([left.last, around.right.last[owners]], -1)
        longer: list[list[tuple[float, int, Tokens]]] = [[] for _ in range(len(around))]
        row = 0
        for p in _log_softmax(model, model.word_logits, context, may_end=length > 0):
            best = p[:, len(SPECIALS) :].topk(min(width, p.shape[1] - len(SPECIALS)))
            columns = p[:, END].tolist(), best.indices.tolist(), best.values.tolist()
            for end, nexts, steps in zip(*columns, strict=True):
                k, tokens, so_far = begun[row]
                if tokens:
                    found[k].append(Guess(tokens, math.exp(so_far + end)))
                for token, step in zip(nexts, steps, strict=True):
                    longer[k].append((so_far + step, row, (*tokens, token + len(SPECIALS))))
                row += 1
        best_of = [sorted(of, key=lambda one: -one[0])[:width] for of in longer]
        kept = [(k, *one) for k, of in enumerate(best_of) for one in of]
        begun = [(k, tokens, so_far) for k, so_far, _, tokens in kept]
        if begun:
            left = left.onward([tokens[-1:] for _, tokens, _ in begun], [one[2] for one in kept])
    return found


# --- How the rest reads --------------------------------------------------------------------------


def _reads(around: _Around, tried: Sequence[tuple[int, Tokens]]) -> Tensor:
    """Σ_s log p(x_s | rest, c) over the other tokens x_s near each blank, filled with c: ``[N]``.

    ``tried`` are the numbers of the blanks, and c. Each direction goes on from its side of the blank
    through c to the tokens of the other side, where it meets what the other direction has read.
    """
    model = around.model
    sums = torch.zeros(len(tried), dtype=torch.float64, device="cpu")
    for here, there in ((around.left, around.right), (around.right, around.left)):
        away = [tokens[:0:-1][:WINDOW] for tokens in there.read]  # as `here` meets them
        onward = 1 if here is around.left else -1
        sequences = [[*c[::onward], *away[k]] for k, c in tried]
        for part in parts([len(sequence) for sequence in sequences]):
            some = tried[part]
            y = here.onward(sequences[part], [k for k, _ in some]).y
            lanes, blanks = y.shape[1], there.y.shape[1]
            asked = [  # two rows, of the states before and beyond the token; it, and whose it is
                (
                    (len(c) - 1 + j) * lanes + lane,
                    (len(there.read[k]) - 2 - j) * blanks + k,
                    token,
                    part.start + lane,
                )
                for lane, (k, c) in enumerate(some)
                for j, token in enumerate(away[k])
                if token >= len(SPECIALS)
            ]
            own, facing, targets, owners = (
                torch.tensor(asked, dtype=torch.long, device="cpu").view(-1, 4).T
            )
            device = y.device
            met = (y, there.y, own.to(device), facing.to(device))
            if onward < 0:
                met = (there.y, y, facing.to(device), own.to(device))
            done = 0
            for p in _log_softmax(model, model.logits, gathered(*met)):
                rows = slice(done, done + len(p))
                read = p.gather(1, targets[rows, None].to(device))[:, 0]
                sums.index_add_(0, owners[rows], read.double().cpu())
                done += len(p)
    return sums
