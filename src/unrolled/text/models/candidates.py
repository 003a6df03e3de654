"""What may fill a blank: single tokens, or words of several, with their probabilities."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.cells import State
from unrolled.layers import Recurrent
from unrolled.layers.cross_entropy import token_losses
from unrolled.text.data.vocabulary import END, PAD, SPECIALS
from unrolled.text.models.cloze import Cloze, gathered

RESCORED = 50  # candidates whose whole sentence is read, at most
WORTH = 0.1  # of the best one's probability, that such a candidate has at least
FOLLOWED = (
    RESCORED,
    16,
    8,
    4,
)  # beginnings of a word, of one, two, … tokens, that are extended
LONGEST_WORD = len(FOLLOWED)
WINDOW = 30  # tokens on either side that are read for a candidate
READ = 1 << 13  # tokens that the layers read at a time, and beginnings of words
LARGEST = 1 << 20  # log-probabilities that are held at a time

Tokens = tuple[int, ...]


class Guess(NamedTuple):
    """``tokens`` that fill a blank, and the probability that they do."""

    tokens: Tokens
    probability: float


class MaskedSentence(NamedTuple):
    """A sentence ``<s> … </s>`` in which the token at ``place`` stands for what is not known."""

    numbers: list[int]
    place: int

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """The sentence with ``tokens`` in its place."""
        return [*self.numbers[: self.place], *tokens, *self.numbers[self.place + 1 :]]


def candidates(
    model: Cloze,
    blanks: Sequence[MaskedSentence],
    *,
    top: int,
    rescoring: float,
    temperature: float,
) -> list[list[Guess]]:
    """The ``top`` candidates for each of ``blanks``, best first.

    Of the ``RESCORED`` best by p(c | rest), those that are at least ``WORTH`` as probable as the first
    get the score log p(c | rest) + ``rescoring`` · Σ_s log p(x_s | rest, c) over the other tokens x_s
    (pseudo-likelihood: Besag, "Statistical Analysis of Non-Lattice Data", 1975), and share what they
    have together as the softmax of the scores says. Then all ``RESCORED`` share what they have
    together anew, by p^(1 / ``temperature``) (Guo et al., "On Calibration of Modern Neural Networks",
    ICML 2017).
    """
    find = _words if model.join_words is not None else _tokens
    results: list[list[Guess]] = []
    for around in _read(model, blanks):
        priors = find(around, max(top, RESCORED))
        tried = [
            (k, guess.tokens)
            for k, prior in enumerate(priors)
            for guess in prior[:RESCORED]
            if rescoring and guess.probability >= WORTH * prior[0].probability
        ]
        counts = Counter(k for k, _ in tried)
        reads = torch.split(_reads(around, tried), [counts[k] for k in range(len(priors))])
        for prior, read in zip(priors, reads, strict=True):
            first = prior[:RESCORED]
            p = _probabilities(first)
            scores = p.log()
            few = scores[: len(read)]
            few += few.logsumexp(0) - (few + rescoring * read).logsumexp(0) + rescoring * read
            shares = (p.sum() * torch.softmax(scores / temperature, -1)).tolist()
            ranked = [Guess(g.tokens, q) for g, q in zip(first, shares, strict=True)]
            ranked = sorted([*ranked, *prior[RESCORED:]], key=lambda guess: -guess.probability)
            results.append(ranked[:top])
    return results


def _probabilities(guesses: Sequence[Guess]) -> Tensor:
    return torch.tensor([g.probability for g in guesses], dtype=torch.float64, device="cpu")


def log_probabilities(
    model: Cloze, blanks: Sequence[MaskedSentence], tokens: Tokens
) -> list[float]:
    """The log-probability of ``tokens`` given the rest, for each of ``blanks``, before any rescoring."""
    results: list[float] = []
    for around in _read(model, blanks):
        if model.join_words is None:
            (token,) = tokens
            results += [p for rows in around.single() for p in rows[:, token].tolist()]
            continue
        total, left = torch.zeros(len(around), dtype=torch.float64, device="cpu"), around.left
        for k, token in enumerate((*tokens, END)):
            if k:
                left = left.onward(torch.full((len(around), 1), tokens[k - 1], device="cpu"))
            context = torch.cat([left.last, around.right.last], -1)
            steps = _log_softmax(model, model.word_logits, context, may_end=k > 0)
            total += torch.cat([p[:, token] for p in steps]).double().cpu()
        results += total.tolist()
    return results


def surest(model: Cloze, blanks: Sequence[MaskedSentence]) -> list[float]:
    """The log-probability of the most probable first token of each of ``blanks``."""
    single = (rows for around in _read(model, blanks) for rows in around.single())
    return [p for rows in single for p in rows.amax(-1).tolist()]


# --- Reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """What one direction has read, N sequences from their far ends on, and where it continues.

    ``read``: ``[N, T]``, filled up with ``<pad>``; ``lengths``: ``[N]``; ``y``: what it gave,
    ``[T, N, H]``; ``last``: after each one's last token, ``[N, H]``.
    """

    model: Cloze
    way: Recurrent
    read: Tensor
    lengths: Tensor
    y: Tensor
    last: Tensor
    state: State

    @classmethod
    def of(
        cls,
        model: Cloze,
        way: Recurrent,
        read: Tensor,
        lengths: Tensor,
        state: State | None = None,
    ) -> Self:
        device = model.embedding.weight.device
        embedded = model.embedding(read.T.to(device))
        y, state = way(embedded, state, lengths=None if read.shape[1] == 1 else lengths)
        last = y[lengths.to(device) - 1, torch.arange(len(read), device=device)]
        return cls(model, way, read, lengths, y, last, state)

    def onward(
        self, read: Tensor, owners: Tensor | None = None, lengths: Tensor | None = None
    ) -> "_Side":
        """Having read ``read`` too, each row after sequence number ``owners[n]``: by default its own."""
        state = self.state
        if owners is not None:
            rows = owners.to(self.last.device)
            state = tuple(part.index_select(1, rows) for part in state)
        if lengths is None:
            lengths = torch.full(read.shape[:1], read.shape[1], device="cpu")
        return _Side.of(self.model, self.way, read, lengths, state)

    def backwards(self, most: int) -> Tensor:
        """The last ``most`` tokens of each that was read, the last one first, without the end itself."""
        steps = torch.arange(min(most, self.read.shape[1] - 1), device="cpu")
        places = self.lengths[:, None] - 1 - steps
        return torch.where(places > 0, self.read.gather(1, places.clamp(min=0)), PAD)


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """``sequences`` as rows, filled up with ``<pad>``, and how long each is."""
    lengths = [len(sequence) for sequence in sequences]
    longest = max(lengths, default=0)
    rows = [[*sequence, *[PAD] * (longest - len(sequence))] for sequence in sequences]
    padded = torch.tensor(rows, dtype=torch.long, device="cpu").view(len(rows), longest)
    return padded, torch.tensor(lengths, dtype=torch.long, device="cpu")


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


def _read(model: Cloze, blanks: Sequence[MaskedSentence]) -> Iterator[_Around]:
    """Both sides of ``blanks``, of some of them after the other."""
    forward, backward = (model.layers.direction(direction) for direction in (0, 1))
    for part in parts([max(RESCORED, len(blank.numbers)) for blank in blanks]):
        left = [blank.numbers[: blank.place] for blank in blanks[part]]
        right = [blank.numbers[: blank.place : -1] for blank in blanks[part]]
        yield _Around(
            _Side.of(model, forward, *_padded(left)), _Side.of(model, backward, *_padded(right))
        )


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
    guesses: list[list[Guess]] = []
    for rows in around.single():
        p = rows[:, len(SPECIALS) :].double().exp()
        best = p.topk(min(count, p.shape[1]))
        for tokens, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            pairs = zip(tokens, shares, strict=True)
            guesses.append([Guess((n + len(SPECIALS),), share) for n, share in pairs])
    return guesses


def _words(around: _Around, count: int) -> list[list[Guess]]:
    """The ``count`` most probable words that are found for each blank.

    Of the words of one token there is a second estimate, p(c | rest) of a single token, which knows
    that it is one. What they have together is shared out by the geometric mean of the two.
    """
    words = _spelt(around)
    estimates = (p for rows in around.single() for p in rows)
    for guesses, p in zip(words, estimates, strict=True):
        single = [k for k, guess in enumerate(guesses) if len(guess.tokens) == 1]
        own = _probabilities([guesses[k] for k in single])
        other = p[[guesses[k].tokens[0] for k in single]].double().cpu()
        shares = own.sum() * torch.softmax((own.log() + other) / 2, -1)
        for k, share in zip(single, shares.tolist(), strict=True):
            guesses[k] = guesses[k]._replace(probability=share)
    return [sorted(of, key=lambda guess: -guess.probability)[:count] for of in words]


def _spelt(around: _Around) -> list[list[Guess]]:
    """The most probable words that a beam search finds for each blank.

    A word is a product of steps, the last of which closes it; a blank is not empty. Of the beginnings
    of each length the ``FOLLOWED`` most probable are extended, as many for each blank. The left
    side goes on by a token at a time; the right side is the same for all.
    """
    model, left, blanks = around.model, around.left, len(around)
    device = left.last.device
    words: list[list[Guess]] = [[] for _ in range(blanks)]
    begun = torch.empty(blanks, 0, dtype=torch.long, device=device)  # those of a blank together
    so_far = torch.zeros(blanks, dtype=torch.float64, device=device)
    for length, width in enumerate((*FOLLOWED, 0)):
        each = len(begun) // blanks
        context = torch.cat([left.last, around.right.last.repeat_interleave(each, 0)], -1)
        ends, steps, tokens = [], [], []
        for p in _log_softmax(model, model.word_logits, context, may_end=length > 0):
            ends.append(p[:, END])
            best = p[:, len(SPECIALS) :].topk(min(width, p.shape[1] - len(SPECIALS)))
            steps.append(best.values)
            tokens.append(best.indices + len(SPECIALS))
        if length:
            closed = (so_far + torch.cat(ends)).exp().tolist()
            for row, (word, p_word) in enumerate(zip(begun.tolist(), closed, strict=True)):
                words[row // each].append(Guess(tuple(word), p_word))
        if width:
            longer = (so_far[:, None] + torch.cat(steps)).view(blanks, -1)
            best = longer.topk(min(width, longer.shape[1]))
            first = torch.arange(blanks, device=device)[:, None] * longer.shape[1]
            chosen = (best.indices + first).flatten()
            token = torch.cat(tokens).flatten()[chosen, None]
            owners = chosen * each // longer.shape[1]
            begun = torch.cat([begun[owners], token], 1)
            so_far = best.values.flatten()
            left = left.onward(token.cpu(), owners)
    return words


# --- How the rest reads --------------------------------------------------------------------------


def _reads(around: _Around, tried: Sequence[tuple[int, Tokens]]) -> Tensor:
    """Σ_s log p(x_s | rest, c) over the other tokens x_s near each blank, filled with c: ``[N]``.

    ``tried`` are the numbers of the blanks, and c. Each direction continues from its side of the blank
    through c to the tokens of the other side, where it meets what the other direction has read.
    """
    model, device = around.model, around.left.last.device
    sums = torch.zeros(len(tried), dtype=torch.float64, device="cpu")
    owners = torch.tensor([k for k, _ in tried], dtype=torch.long, device="cpu")
    for here, there in ((around.left, around.right), (around.right, around.left)):
        onward = 1 if here is around.left else -1
        fillers, widths = _padded([c[::onward] for _, c in tried])
        away = there.backwards(WINDOW)  # as `here` meets them
        steps = torch.arange(away.shape[1], device="cpu")
        lengths = widths + (away != PAD).sum(1)[owners]
        for part in parts(lengths.tolist()):
            k, width = owners[part], widths[part, None]
            rows = torch.arange(len(k), device="cpu")
            read = F.pad(fillers[part], (0, len(steps)), value=PAD)
            read.scatter_(1, width + steps, away[k])
            y = here.onward(read[:, : int(lengths[part].max())], k, lengths[part]).y
            asked = away[k] >= len(SPECIALS)
            # Rows of the states right before and right beyond each token that is asked for.
            own = ((width - 1 + steps) * len(rows) + rows[:, None])[asked].to(device)
            facing = (there.lengths[k, None] - 2 - steps) * len(around) + k[:, None]
            met = (y, there.y, own, facing[asked].to(device))
            if onward < 0:
                met = (there.y, y, facing[asked].to(device), own)
            p = _log_likelihoods(model, gathered(*met), away[k][asked].to(device))
            sums[part] += sums.new_zeros(asked.shape).masked_scatter_(asked, p).sum(1)
    return sums


def _log_likelihoods(model: Cloze, context: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each of ``targets``, none of them special: ``[N]``, in double."""
    ordinary = slice(len(SPECIALS), None)
    weight, bias = model.output.weight[ordinary], model.output.bias[ordinary]
    losses = token_losses(model.features(context), weight, bias, targets - len(SPECIALS))
    return -losses.double().cpu()
