"""The words that may fill a blank, against all there are."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from tests.text.models.words import (
    Tokens,
    following,
    log_p,
    priors,
    random_cloze,
    single,
    spelt,
    strings,
)
from unrolled.text.data.vocabulary import END, SPECIALS, START, UNKNOWN
from unrolled.text.models import Cloze
from unrolled.text.models import candidates as module
from unrolled.text.models.candidates import (
    Guess,
    MaskedSentence,
    candidates,
    log_probabilities,
    surest,
)

A, B, C, D = range(len(SPECIALS), len(SPECIALS) + 4)
# In the middle, at either end, alone, beside what is unknown.
BLANKS = [
    MaskedSentence([START, A, C, UNKNOWN, B, B, D, END], 3),
    MaskedSentence([START, UNKNOWN, D, A, END], 1),
    MaskedSentence([START, C, UNKNOWN, END], 2),
    MaskedSentence([START, UNKNOWN, END], 1),
    MaskedSentence([START, B, UNKNOWN, UNKNOWN, UNKNOWN, D, A, A, C, END], 3),
    MaskedSentence([START, A, C, D, B, UNKNOWN, B, END], 5),
]
# Products of at most 4 softmaxes after at most 13 steps of sums of 10 terms; generous in double.
EXACT = 1e-11


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def around(model: Cloze) -> module._Around:
    (both,) = module._read(model, BLANKS)
    return both


def shares(guesses: list[Guess]) -> dict[Tokens, float]:
    found = {guess.tokens: guess.probability for guess in guesses}
    assert len(found) == len(guesses)  # each once
    return found


# Words that are spelt


def test_a_wide_beam_finds_every_word_with_its_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FOLLOWED", (100,) * 3)
    model = random_cloze()
    for blank, guesses in zip(BLANKS, module._spelt(around(model)), strict=True):
        expected = spelt(model, blank.numbers, blank.place, 3)
        assert len(expected) == 4 + 16 + 64
        assert shares(guesses) == pytest.approx(expected, rel=EXACT)


def test_all_words_and_what_is_never_closed_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOWED", (100,) * 2)
    model = random_cloze()
    for blank, guesses in zip(BLANKS, module._spelt(around(model)), strict=True):
        longer = 0.0  # those of three tokens and more begin with one of two that goes on
        for one, two in (s for s in strings(model, 2) if len(s) == 2):
            steps = [following(model, *blank, ())[one], following(model, *blank, (one,))[two]]
            steps.append(1 - following(model, *blank, (one, two))[END])
            longer += math.prod(steps)
        assert longer > 1e-3
        assert sum(shares(guesses).values()) + longer == pytest.approx(1, rel=EXACT)


@pytest.mark.parametrize("followed", [(2, 2, 1), (1, 1), (3, 5), (4, 1, 2), (3,)], ids=str)
def test_a_narrow_beam_finds_the_words_that_begin_best(
    followed: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLLOWED", followed)
    model = random_cloze()
    for blank, guesses in zip(BLANKS, module._spelt(around(model)), strict=True):
        expected: dict[Tokens, float] = {}
        begun: dict[Tokens, float] = {(): 1.0}
        for width in followed:
            longer = {
                (*s, n): p * step
                for s, p in begun.items()
                for n, step in following(model, *blank, s).items()
                if n != END
            }
            begun = dict(sorted(longer.items(), key=lambda one: -one[1])[:width])
            expected |= {s: p * following(model, *blank, s)[END] for s, p in begun.items()}
        assert shares(guesses) == pytest.approx(expected, rel=EXACT)
        everything = spelt(model, blank.numbers, blank.place, len(followed))
        assert shares(guesses) == pytest.approx({s: everything[s] for s in expected}, rel=EXACT)


def test_of_words_of_one_token_both_estimates_have_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOWED", (100,) * 2)
    model = random_cloze()
    for blank, guesses in zip(BLANKS, module._words(around(model), 1000), strict=True):
        expected = priors(model, blank.numbers, blank.place, 2)
        assert shares(guesses) == pytest.approx(expected, rel=EXACT)
        plain = spelt(model, blank.numbers, blank.place, 2)
        assert sum(expected.values()) == pytest.approx(sum(plain.values()), rel=EXACT)
        assert expected != pytest.approx(plain, rel=1e-3)  # and the second is heard
        order = [guess.probability for guess in guesses]
        assert order == sorted(order, reverse=True)
    for few, all_ in zip(
        module._words(around(model), 3), module._words(around(model), 1000), strict=True
    ):
        assert few == all_[:3]


# Ranked by how the rest reads


def reads(model: Cloze, blank: MaskedSentence, tokens: Tokens, window: int) -> float:
    """Σ_s log p(x_s | rest, c) over the ordinary tokens at most ``window`` beside the blank."""
    sentence = blank.filled(tokens)
    first, last = blank.place, blank.place + len(tokens) - 1
    return sum(
        math.log(single(model, sentence, s)[sentence[s]])
        for s in range(len(sentence))
        if sentence[s] >= len(SPECIALS)
        and (first - window <= s < first or last < s <= last + window)
    )


@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
@pytest.mark.parametrize(
    ("rescoring", "temperature", "rescored", "window", "worth"),
    [
        (0.0, 1.0, 50, 30, 0.1),
        (0.25, 1.0, 50, 30, 0.0),
        (0.25, 1.7, 50, 30, 0.0),
        (0.0, 0.6, 50, 30, 0.0),
        (2.0, 0.8, 3, 30, 0.0),
        (0.7, 1.3, 7, 2, 0.0),
        (0.25, 1.0, 50, 30, 0.3),
        (1.5, 1.4, 9, 30, 0.2),
    ],
)
def test_candidates_are_scored_and_tempered_as_by_hand(
    rescoring: float,
    temperature: float,
    rescored: int,
    window: int,
    worth: float,
    words: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants = {"FOLLOWED": (100,) * 2, "RESCORED": rescored, "WINDOW": window, "WORTH": worth}
    for name, value in constants.items():
        monkeypatch.setattr(module, name, value)
    model = random_cloze(words=words)
    got = candidates(model, BLANKS, top=1000, rescoring=rescoring, temperature=temperature)
    for blank, guesses in zip(BLANKS, got, strict=True):
        prior = priors(model, blank.numbers, blank.place, 2)
        first = sorted(prior, key=lambda s: -prior[s])[:rescored]
        likely = [s for s in first if prior[s] >= worth * prior[first[0]]]
        scored = {
            s: prior[s] * math.exp(rescoring * reads(model, blank, s, window)) for s in likely
        }
        scale = sum(prior[s] for s in likely) / sum(scored.values())
        plain = {s: prior[s] for s in first} | {s: p * scale for s, p in scored.items()}
        powers = {s: p ** (1 / temperature) for s, p in plain.items()}
        scale = sum(plain.values()) / sum(powers.values())
        expected = prior | {s: power * scale for s, power in powers.items()}
        assert shares(guesses) == pytest.approx(expected, rel=1e-9)
        assert [g.tokens for g in guesses] == sorted(expected, key=lambda s: -expected[s])
    few = candidates(model, BLANKS, top=2, rescoring=rescoring, temperature=temperature)
    assert [of[:2] for of in got] == few


@pytest.mark.parametrize(("read", "largest"), [(1, 1), (20, 17), (1 << 13, 1), (90, 1 << 20)])
@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
def test_how_much_is_read_and_held_at_a_time_changes_nothing(
    read: int, largest: int, words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLLOWED", (3, 4))
    model = random_cloze(words=words)

    def everything() -> tuple[list[list[Guess]], list[float], list[float]]:
        found = candidates(model, BLANKS, top=60, rescoring=0.3, temperature=1.2)
        tokens = (B, D) if words else (B,)
        return found, log_probabilities(model, BLANKS, tokens), surest(model, BLANKS)

    expected = everything()
    monkeypatch.setattr(module, "READ", read)
    monkeypatch.setattr(module, "LARGEST", largest)
    got = everything()
    for one, other in zip(got[0], expected[0], strict=True):
        assert [g.tokens for g in one] == [g.tokens for g in other]
        assert shares(one) == pytest.approx(shares(other), rel=EXACT)
    for k in (1, 2):
        assert got[k] == pytest.approx(expected[k], rel=EXACT)


@pytest.mark.parametrize("read", [1, 9, 10, 25, 1000])
def test_parts_are_all_in_order_and_as_large_as_may_be(
    read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ", read)
    sentences = [[0] * n for n in (3, 5, 2, 9, 1, 1, 1, 4, 12, 2)]
    found = list(module.parts([len(sentence) for sentence in sentences]))
    assert [s for part in found for s in sentences[part]] == sentences
    size = [max(map(len, sentences[part])) * (part.stop - part.start) for part in found]
    assert all(
        n <= read or part.stop - part.start == 1 for n, part in zip(size, found, strict=True)
    )
    for part, after in pairwise(found):  # one more would be too many
        more = sentences[part.start : after.start + 1]
        assert max(map(len, more)) * len(more) > read
    assert list(module.parts([])) == []


def test_no_blanks_have_no_candidates() -> None:
    model = random_cloze()
    assert candidates(model, [], top=5, rescoring=0.25, temperature=1.0) == []
    assert surest(model, []) == [] == log_probabilities(model, [], (A,))


# Probabilities of what is asked for


@pytest.mark.parametrize("tokens", [(A,), (D,), (B, B), (C, A, D), (A, B, C, D, A, B)], ids=str)
def test_the_log_probability_of_a_word_is_that_of_all_its_steps(tokens: Tokens) -> None:
    model = random_cloze()
    expected = [log_p(model, *blank, tokens) for blank in BLANKS]
    assert log_probabilities(model, BLANKS, tokens) == pytest.approx(expected, rel=EXACT)
    if len(tokens) < 4:
        found = [spelt(model, *blank, len(tokens))[tokens] for blank in BLANKS]
        assert [math.exp(p) for p in expected] == pytest.approx(found, rel=EXACT)


def test_without_words_the_log_probability_is_that_of_a_single_token() -> None:
    model = random_cloze(words=False)
    expected = [math.log(single(model, *blank)[C]) for blank in BLANKS]
    assert log_probabilities(model, BLANKS, (C,)) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
def test_how_sure_a_blank_is_is_its_best_single_token(words: bool) -> None:
    model = random_cloze(words=words)
    expected = [math.log(max(single(model, *blank).values())) for blank in BLANKS]
    assert surest(model, BLANKS) == pytest.approx(expected, rel=EXACT)
