"""What may fill a blank, by brute force: one sentence, one string of tokens, one step at a time."""

import math
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.text.data.vocabulary import END, SPECIALS
from unrolled.text.models import Cloze

Tokens = tuple[int, ...]


def random_cloze(ordinary: int = 4, *, words: bool = True, seed: int = 0) -> Cloze:
    """A float64 model of ``ordinary`` tokens whose opinions are strong, and of no sense."""
    torch.manual_seed(seed)
    model = Cloze(len(SPECIALS) + ordinary, 5, embedding_size=3, words=words).double().eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.9)
    return model


@torch.no_grad()
def logits(model: Cloze, join: nn.Module | None, numbers: list[int], i: int, j: int) -> Tensor:
    """``[V]``, from all up to ``numbers[i]`` and all from ``numbers[j]`` on."""
    assert join is not None
    (forward, backward), _ = model.layers(model.embedding(torch.tensor([numbers]).T))
    known = torch.cat([forward[i, 0], backward[j, 0]])
    found: Tensor = model.output(F.gelu(join(known)))
    return found


def single(model: Cloze, numbers: list[int], place: int) -> dict[int, float]:
    """p(c | rest) of each ordinary token at ``place``, by the step that knows that it is one."""
    scores = logits(model, model.join, numbers, place - 1, place + 1)[len(SPECIALS) :]
    return dict(enumerate(F.softmax(scores, -1).tolist(), start=len(SPECIALS)))


def following(model: Cloze, numbers: list[int], place: int, begun: Tokens) -> dict[int, float]:
    """What follows ``begun`` in the blank at ``place``: a token, or ``</s>`` after the first."""
    sentence = [*numbers[:place], *begun, *numbers[place + 1 :]]
    at = place + len(begun)
    scores = logits(model, model.join_words, sentence, at - 1, at)
    allowed = [*([END] if begun else []), *range(len(SPECIALS), len(scores))]
    return dict(zip(allowed, F.softmax(scores[allowed], -1).tolist(), strict=True))


def log_p(model: Cloze, numbers: list[int], place: int, tokens: Tokens) -> float:
    """The logarithm of the product of all steps through ``tokens``, with the one that closes them."""
    steps = [following(model, numbers, place, tokens[:k]) for k in range(len(tokens) + 1)]
    return sum(math.log(step[n]) for step, n in zip(steps, (*tokens, END), strict=True))


def strings(model: Cloze, longest: int) -> list[Tokens]:
    """All strings of 1 to ``longest`` ordinary tokens."""
    ordinary = range(len(SPECIALS), model.output.out_features)
    return [s for n in range(1, longest + 1) for s in product(ordinary, repeat=n)]


def spelt(model: Cloze, numbers: list[int], place: int, longest: int) -> dict[Tokens, float]:
    """The probability of each of ``strings``."""
    steps = {s: following(model, numbers, place, s) for s in [(), *strings(model, longest)]}
    found: dict[Tokens, float] = {}
    for s in strings(model, longest):
        found[s] = math.prod(steps[s[:k]][n] for k, n in enumerate((*s, END)))
    return found


def priors(model: Cloze, numbers: list[int], place: int, longest: int) -> dict[Tokens, float]:
    """p(c | rest) of each candidate c, before the rest of the sentence is read with it."""
    alone = single(model, numbers, place)
    if model.join_words is None:
        return {(n,): p for n, p in alone.items()}
    found = spelt(model, numbers, place, longest)
    own = {n: found[n,] for n in alone}
    means = {n: math.sqrt(own[n] * alone[n]) for n in alone}
    scale = sum(own.values()) / sum(means.values())
    return found | {(n,): mean * scale for n, mean in means.items()}
