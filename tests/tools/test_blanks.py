"""Blanks of held-out text, against figures by hand and temperatures that are known."""

import math
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import torch
from tools.pretrain.blanks import (
    BINS,
    Drawn,
    at,
    drawn,
    fitted_temperature,
    guessed,
    reliability,
)

from tests.sentences import corpus
from tests.text.models.words import random_cloze
from unrolled.text.data import Dataset, Tokenizer, Vocabulary, split_of
from unrolled.text.data.dataset import SPLITS
from unrolled.text.data.vocabulary import END, SPECIALS, START, UNKNOWN
from unrolled.text.models.candidates import RESCORED, Guess, MaskedSentence, candidates

CHAR, WORD = Tokenizer("char"), Tokenizer("word")
# Words of one to fifteen characters, some of them unknown, of punctuation, numbers and spaces.
TEXT = [
    *corpus(400),
    *(f"我在Python{k}里买了 12 tree, it's internationally!" for k in range(80)),
    *("!?" + "," * k for k in range(60)),
    *(f"{one}龙{two}." for one, two in zip("甲乙丙丁戊己庚辛", "子丑寅卯辰巳午未", strict=True)),
]


def written(directory: Path, tokenizer: Tokenizer, *, words: bool) -> tuple[Dataset, Vocabulary]:
    return Dataset.write(directory, TEXT, tokenizer, longest=80, words=words, min_count=6)


def possible(
    text: str, vocabulary: Vocabulary, tokenizer: Tokenizer, words: Tokenizer
) -> list[Drawn]:
    """What may be drawn from ``text``: its known words of 1 to 4 tokens with a letter or a number."""
    normal = CHAR.normalise(text)
    tokens = tokenizer.cut(normal)
    numbers, found, start = vocabulary.encode(tokens), [], 0
    for word in words.cut(normal):
        while tokens[start] == " " != word:  # which no word holds
            start += 1
        stop = start + len(tokenizer.cut(word))
        known = all(token in vocabulary.numbers for token in tokens[start:stop])
        spoken = any(unicodedata.category(c)[0] in "LN" for c in word)
        if known and spoken and stop - start <= 4:
            blank = MaskedSentence(
                [*numbers[: start + 1], UNKNOWN, *numbers[stop + 1 :]], start + 1
            )
            found.append(Drawn(blank, tuple(numbers[start + 1 : stop + 1])))
        start = stop
    return found


# Drawing


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [(CHAR, True), (CHAR, False), (WORD, False), (WORD, True)],
    ids=["words of characters", "characters", "words", "words, each with its end"],
)
def test_what_is_drawn_are_whole_known_words_one_a_sentence(
    tokenizer: Tokenizer, words: bool, split: str, tmp_path: Path
) -> None:
    data, vocabulary = written(tmp_path, tokenizer, words=words)
    of = WORD if words else tokenizer
    texts = [text for text in TEXT if split_of(CHAR.normalise(text)) == split]
    every = [possible(text, vocabulary, tokenizer, of) for text in texts]
    found = drawn(data, split, vocabulary, 10_000)
    assert {repr(one) for one in found} <= {repr(one) for ones in every for one in ones}
    # Each sentence that has such a word gives one, and no other sentence does.
    owners = Counter(str(one.blank.filled(one.tokens)) for one in found)
    assert owners == Counter(str(o[0].blank.filled(o[0].tokens)) for o in every if o)
    assert 10 < len(found) < len(every)
    lengths = {len(one.tokens) for one in found}
    several = {1, 2, 4} if split == "train" else {1, 2}
    assert lengths == {1} if tokenizer is WORD or not words else lengths >= several
    for one in found:
        assert one.blank.numbers[one.blank.place] == UNKNOWN


def test_the_same_seed_draws_the_same_blanks_and_another_others(tmp_path: Path) -> None:
    data, vocabulary = written(tmp_path, CHAR, words=True)
    first = drawn(data, "train", vocabulary, 30, seed=5)
    assert first == drawn(data, "train", vocabulary, 30, seed=5)
    assert first != drawn(data, "train", vocabulary, 30, seed=6)
    assert drawn(data, "train", vocabulary, 30) == drawn(data, "train", vocabulary, 30, seed=0)
    assert len(first) == 30
    assert drawn(data, "train", vocabulary, 0) == []


def test_each_word_of_a_sentence_is_drawn_as_often(tmp_path: Path) -> None:
    text = "老师昨天买了电脑"
    data, vocabulary = Dataset.write(tmp_path, [text], CHAR, longest=80, words=True)
    (split,) = (s for s in SPLITS if data.sentences(s))
    vocabulary = Vocabulary([*SPECIALS, *dict.fromkeys(CHAR.normalise(text))])
    data, _ = Dataset.write(tmp_path, [text], CHAR, longest=80, words=True, vocabulary=vocabulary)
    counts = dict.fromkeys(map(repr, possible(text, vocabulary, CHAR, WORD)), 0)
    assert len(counts) == 5
    for seed in range(500):
        (one,) = drawn(data, split, vocabulary, 1, seed=seed)
        counts[repr(one)] += 1
    # 500 draws of one in five: the standard deviation is sqrt(500 · 0.2 · 0.8) = 9.
    assert all(abs(n - 100) < 45 for n in counts.values())


# Guessing


def asked_of_letters() -> list[Drawn]:
    """Blanks in random sentences of the four letters that ``random_cloze`` knows."""
    found = []
    for length in (1, 4, 2, 7, 3, 3, 5):
        numbers = [START, *torch.randint(4, 8, (length,)).tolist(), END]
        place = int(torch.randint(1, length + 1, ()))
        blank = MaskedSentence([*numbers[:place], UNKNOWN, *numbers[place + 1 :]], place)
        found.append(Drawn(blank, (numbers[place],)))
    return found


@pytest.mark.parametrize("together", [1, 3, 64])
def test_guesses_are_the_candidates_of_each_blank_at_temperature_1(together: int) -> None:
    model, asked = random_cloze(), asked_of_letters()
    with torch.no_grad():
        found = guessed(model, asked, rescoring=0.4, together=together)
        for one, guesses in zip(asked, found, strict=True):
            for temperature in (1.0, 0.7, 2.5):
                (expected,) = candidates(
                    model, [one.blank], top=RESCORED, rescoring=0.4, temperature=temperature
                )
                again = at(temperature, guesses)
                assert [g.tokens for g in again] == [g.tokens for g in expected]
                wanted = pytest.approx([g.probability for g in expected], rel=1e-10)
                assert [g.probability for g in again] == wanted


# Another temperature


def guesses_of(*probabilities: float) -> list[Guess]:
    return [Guess((n,), p) for n, p in enumerate(probabilities, start=4)]


def test_another_temperature_is_another_exponent_of_the_same_joint_share() -> None:
    got = [guess.probability for guess in at(0.5, guesses_of(0.6, 0.2, 0.1))]
    squares = 0.36 + 0.04 + 0.01
    assert got == pytest.approx([0.9 * 0.36 / squares, 0.9 * 0.04 / squares, 0.9 * 0.01 / squares])
    got = [guess.probability for guess in at(2.0, guesses_of(0.64, 0.16, 0.04))]
    assert got == pytest.approx([0.84 * root / 1.4 for root in (0.8, 0.4, 0.2)])
    assert [guess.tokens for guess in at(2.0, guesses_of(0.6, 0.2))] == [(4,), (5,)]


@pytest.mark.parametrize("temperature", [0.5, 0.9, 1.0, 1.7, 3.0, 1000.0])
def test_at_any_temperature_order_and_joint_share_stay(temperature: float) -> None:
    given = guesses_of(0.5, 0.2, 0.05, 0.01, 0.0)
    got = [guess.probability for guess in at(temperature, given)]
    assert sum(got) == pytest.approx(0.76)
    assert got == sorted(got, reverse=True) and got[-1] == 0
    assert (got[0] > 0.5) == (temperature < 1)
    if temperature == 1:
        assert got == pytest.approx([guess.probability for guess in given], rel=1e-15)
    if temperature == 1000:  # nearly even
        assert got[:4] == pytest.approx([0.19] * 4, rel=0.01)


# Reliability


def drawn_of(*tokens: int) -> Drawn:
    return Drawn(MaskedSentence([START, UNKNOWN, END], 1), tokens)


def test_reliability_is_what_it_is_by_hand() -> None:
    asked = [drawn_of(4), drawn_of(5, 6), drawn_of(9), drawn_of(7, 7), drawn_of(4)]
    found = [
        guesses_of(0.95, 0.02),
        [Guess((4,), 0.94), Guess((5, 6), 0.04)],
        guesses_of(0.30, 0.20, 0.10, 0.08, 0.07, 0.06),  # the sixth is right
        guesses_of(0.31, 0.20, 0.10, 0.08),  # (7,) is not (7, 7)
        guesses_of(1.0),
    ]
    got = reliability(asked, found)
    assert (got.blanks, got.top1, got.top5, got.found) == (5, 0.4, 0.6, 0.8)
    product = 0.95 * 0.04 * 0.06 * 1.0
    assert got.nats == pytest.approx(-math.log(product) / 4)
    # Of 15 bins, 0.30 and 0.31 are in the fifth; 0.94, 0.95 and 1 in the last.
    assert len(got.bins) == BINS == 15
    assert got.bins[4] == (2, pytest.approx(0.305), 0.0)
    assert got.bins[14] == (3, pytest.approx(2.89 / 3), pytest.approx(2 / 3))
    assert all(of == (0, 0.0, 0.0) for k, of in enumerate(got.bins) if k not in (4, 14))
    assert got.error == pytest.approx((2 * 0.305 + 3 * (2.89 / 3 - 2 / 3)) / 5)


def test_what_are_forms_of_one_word_count_together() -> None:
    asked = [drawn_of(5), drawn_of(6), drawn_of(14)]
    found = [guesses_of(0.3, 0.25, 0.2, 0.15), guesses_of(0.4, 0.3), guesses_of(0.3, 0.2)]
    halved = reliability(asked, found, lambda tokens: tokens[0] // 2)  # 4 and 5 are one, 6 and 7
    assert (halved.top1, halved.top5, halved.found) == (1 / 3, 1 / 3, 1 / 3)
    assert halved.nats == pytest.approx(-math.log(0.55))
    assert halved.bins[8] == (1, pytest.approx(0.55), 1.0)
    # 0.3 and 0.2 are one word's, which is right half of the time.
    pair = [drawn_of(4), drawn_of(5)]
    shared = [[Guess((5,), 0.5), Guess((4,), 0.3), Guess((6,), 0.2)]] * 2
    assert fitted_temperature(pair, shared, lambda tokens: tokens[0] % 2) == 1.0
    assert fitted_temperature(pair, shared) != 1.0


def test_who_is_right_as_often_as_they_are_sure_makes_no_error() -> None:
    # In two bins, 0.7 of 10 and 0.2 of 5; one more that is right is an error of (0.1 · 10) / 15.
    asked = [drawn_of(4 if k < 7 else 5) for k in range(10)]
    asked += [drawn_of(4 if k < 1 else 5) for k in range(5)]
    found = [guesses_of(0.7, 0.3)] * 10 + [guesses_of(0.2, 0.1)] * 5
    assert reliability(asked, found).error == pytest.approx(0, abs=1e-15)
    asked[7] = drawn_of(4)
    assert reliability(asked, found).error == pytest.approx(1 / 15)


@pytest.mark.parametrize("sure", [k / 15 for k in range(1, 15)] + [0.001, 0.5, 0.9999, 1.0])
def test_each_confidence_is_in_the_bin_that_holds_it(sure: float) -> None:
    got = reliability([drawn_of(4)], [guesses_of(sure)])
    (k,) = (k for k, (blanks, _, _) in enumerate(got.bins) if blanks)
    assert k / 15 - 1e-12 <= sure <= (k + 1) / 15 + 1e-12
    assert got.error == pytest.approx(1 - sure)


# The temperature that fits


@pytest.mark.each_value
@pytest.mark.parametrize("joint", [1.0, 0.85])
@pytest.mark.parametrize("temperature", [0.5, 0.73, 1.0, 1.37, 2.9])
def test_a_known_temperature_is_found(temperature: float, joint: float) -> None:
    # What is there is so in these shares exactly, and no distribution has fewer nats than theirs
    # (Gibbs); the guesses are the same, tempered by hand.
    asked: list[Drawn] = []
    found: list[list[Guess]] = []
    for counts in ([5, 3, 2], [12, 4, 3, 1], [6, 4]):
        powers = [(n / sum(counts)) ** temperature for n in counts]
        guesses = guesses_of(*(joint * power / sum(powers) for power in powers))
        for token, n in enumerate(counts, start=4):
            asked += [drawn_of(token)] * n
            found += [guesses] * n
    asked.append(drawn_of(99))  # what is not found has no say
    found.append(guesses_of(0.5, 0.5))
    assert fitted_temperature(asked, found) == pytest.approx(temperature, abs=1e-9)


@pytest.mark.parametrize(("counts", "temperature"), [([10, 0], 0.5), ([5, 5], 3.0)])
def test_a_temperature_beyond_the_range_is_its_end(counts: list[int], temperature: float) -> None:
    asked = [drawn_of(token) for token, n in zip((4, 5), counts, strict=True) for _ in range(n)]
    assert fitted_temperature(asked, [guesses_of(0.7, 0.3)] * 10) == temperature
