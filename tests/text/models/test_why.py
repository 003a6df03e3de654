"""Why a word fills a blank: exact influences, and a language where one token decides."""

from importlib import import_module
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from tests.text.models.words import Tokens, log_p, random_cloze
from unrolled.errors import CallError
from unrolled.text.data import Dataset, Tokenizer, Vocabulary
from unrolled.text.data.vocabulary import SPECIALS, UNKNOWN
from unrolled.text.models import Cloze, fill, why
from unrolled.text.models.why import Why

Parts = tuple[Cloze, Vocabulary, Tokenizer]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Trained on "axyA", "bzzB", …: the ends decide each other, what is between them nothing."""
    lines = [a + x + y + a.upper() for a, x, y in product("abc", "uvwxyz", "uvwxyz")]
    tokenizer = Tokenizer("char")
    data, vocabulary = Dataset.write(tmp_path_factory.mktemp("ends"), lines, tokenizer, longest=9)
    torch.manual_seed(0)
    model = Cloze(len(vocabulary), 12, embedding_size=8, cell="gru", dropout=0.0, token_dropout=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(120):
        for batch in data.batches("train", 150, shuffle=(0, epoch)):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
    return model.eval(), vocabulary, tokenizer


def untrained(unit: str, dtype: torch.dtype) -> Parts:
    torch.manual_seed(1)
    vocabulary = Vocabulary([*SPECIALS, *"abcdeABCDE, "])
    model = Cloze(len(vocabulary), 7, embedding_size=5, cell="lstm", depth=2).to(dtype).eval()
    return model, vocabulary, Tokenizer(unit)  # type: ignore[arg-type]


def by_hand(parts: Parts, tokens: list[str], place: int, token: str) -> tuple[float, list[float]]:
    """log p of ``token`` at ``place``, and what it loses by each other token; one pass for each."""
    model, vocabulary, _ = parts

    def log_p(numbers: list[int]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([numbers]).T, torch.tensor([len(numbers)]))[place, 0]
        logits[: len(SPECIALS)] = -torch.inf
        return float(F.log_softmax(logits, -1)[vocabulary.numbers[token]])

    numbers = vocabulary.encode(tokens)
    whole, found = log_p(numbers), []
    for k in range(len(tokens)):
        if k != place:
            erased = list(numbers)
            erased[k + 1] = UNKNOWN
            found.append(whole - log_p(erased))
    return whole, found


# Exactness


def same(got: Why, expected: tuple[float, list[float]], dtype: torch.dtype) -> bool:
    # T = 9 steps, each of sums of about 16 terms, forward and backward, in log-probabilities near 1.
    bound = 9 * 16 * torch.finfo(dtype).eps
    whole, influences = expected
    return got.log_probability == pytest.approx(whole, abs=bound) and [
        one.influence for one in got.tokens
    ] == pytest.approx(influences, abs=bound)


@pytest.mark.each_value
@pytest.mark.parametrize("together", [1, 20, 1 << 16])
@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_influences_are_those_of_single_replacements(
    dtype: torch.dtype, unit: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("unrolled.text.models.candidates"), "READ", together)
    parts = untrained(unit, dtype)
    joint = " " if unit == "word" else ""
    tokens = ["a", ",", "B", "龙", "c", "d", "E"]
    for place in (0, 4, 6):
        text = joint.join([*tokens[:place], "____", *tokens[place + 1 :]])
        got = why(*parts, text, candidate=tokens[place])
        assert (got.blank, got.text) == (0, tokens[place])
        assert [one.token for one in got.tokens] == tokens[:place] + tokens[place + 1 :]
        assert [one.side for one in got.tokens] == ["left"] * place + ["right"] * (6 - place)
        expected = by_hand(parts, tokens, place, tokens[place])
        assert same(got, expected, dtype)
        assert all(abs(one.influence) > 1e-4 for one in got.tokens if one.token != "龙")
        # One other candidate, and one influence moved, are seen.
        assert not same(got, by_hand(parts, tokens, place, "b"), dtype)
        assert not same(got, (expected[0], [n + 1e-3 for n in expected[1]]), dtype)


def test_a_token_that_is_not_known_has_no_influence() -> None:
    got = why(*untrained("char", torch.float64), "a龙____龙b")
    # The same numbers are read again, in another sequence.
    assert [abs(one.influence) < 1e-12 for one in got.tokens] == [False, True, True, False]


def test_the_other_blanks_hold_what_fill_chose(parts: Parts) -> None:
    text = "____u____C"
    filled = fill(*parts, text)
    tokens = list(filled.filled)
    for blank, place in enumerate((0, 2)):
        got = why(*parts, text, blank)
        assert (got.blank, got.text) == (blank, tokens[place])
        assert [one.token for one in got.tokens] == tokens[:place] + tokens[place + 1 :]
        assert same(got, by_hand(parts, tokens, place, tokens[place]), torch.float32)
        assert why(*parts, filled, blank) == got


# Words of several tokens


@pytest.mark.each_value
@pytest.mark.parametrize("together", [1, 20, 1 << 16])
@pytest.mark.parametrize("candidate", ["b", "ba", "add", "cabd"])
def test_influences_on_a_word_are_differences_of_the_products_of_its_steps(
    candidate: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("unrolled.text.models.candidates"), "READ", together)
    vocabulary = Vocabulary([*SPECIALS, *"abcd"])
    parts = (random_cloze(), vocabulary, Tokenizer("char"))
    for text in ("ab____ca", "____bd", "c____", "da龙____b"):
        left, right = text.split("____")
        numbers = vocabulary.encode([*left, SPECIALS[UNKNOWN], *right])
        tokens: Tokens = tuple(vocabulary.numbers[c] for c in candidate)
        place = len(left) + 1
        whole, influences = log_p(parts[0], numbers, place, tokens), []
        for k in range(1, len(numbers) - 1):
            if k != place:
                erased = [*numbers[:k], UNKNOWN, *numbers[k + 1 :]]
                influences.append(whole - log_p(parts[0], erased, place, tokens))
        got = why(*parts, text, candidate=candidate)
        assert (got.text, [one.token for one in got.tokens]) == (candidate, [*left, *right])
        assert [one.side for one in got.tokens] == ["left"] * len(left) + ["right"] * len(right)
        assert got.log_probability == pytest.approx(whole, rel=1e-12)
        assert [one.influence for one in got.tokens] == pytest.approx(influences, abs=1e-12)
        known = [abs(one.influence) for one in got.tokens if one.token != "龙"]
        assert min(known) > 1e-4 and len(set(known)) == len(known)
        assert all(abs(one.influence) < 1e-12 for one in got.tokens if one.token == "龙")


def test_the_other_blanks_hold_each_token_of_the_words_that_fill_chose() -> None:
    vocabulary, chosen = Vocabulary([*SPECIALS, *"abcd"]), []
    for seed in range(8):
        parts = (random_cloze(seed=seed), vocabulary, Tokenizer("char"))
        filled = fill(*parts, "a____b____c____")
        words = [blank.candidates[0].text for blank in filled.blanks]
        chosen += words
        beside = [*"a", *words[0], *"b"], [*"c", *words[2]]
        got = why(*parts, filled, 1)
        assert (got.blank, got.text) == (1, words[1])
        assert [one.token for one in got.tokens] == [*beside[0], *beside[1]]
        assert [one.side == "left" for one in got.tokens].count(True) == len(beside[0])
        numbers = vocabulary.encode([*beside[0], SPECIALS[UNKNOWN], *beside[1]])
        tokens = tuple(vocabulary.numbers[c] for c in words[1])
        expected = log_p(parts[0], numbers, len(beside[0]) + 1, tokens)
        assert got.log_probability == pytest.approx(expected, rel=1e-12)
        assert why(*parts, "a____b____c____", 1) == got
    assert len({len(word) for word in chosen}) > 1


@pytest.mark.parametrize("candidate", ["a龙", "龙", "", "<unk>", "a</s>"])
def test_a_word_with_a_token_that_is_not_in_the_vocabulary(candidate: str) -> None:
    parts = (random_cloze(), Vocabulary([*SPECIALS, *"abcd"]), Tokenizer("char"))
    expected = f"candidate: got '{candidate}', expected tokens of the vocabulary"
    with pytest.raises(ValueError, match=expected):
        why(*parts, "a____b", candidate=candidate)


# A language where one token decides


@pytest.mark.parametrize("end", "abc")
def test_the_token_that_decides_has_the_largest_influence(end: str, parts: Parts) -> None:
    for text, token, decides, side in (
        (f"{end}uv____", end.upper(), end, "left"),
        (f"____uv{end.upper()}", end, end.upper(), "right"),
    ):
        got = why(*parts, text)
        first, *rest = sorted(got.tokens, key=lambda one: -abs(one.influence))
        assert got.text == token and got.log_probability > -0.3
        assert (first.token, first.side) == (decides, side)
        assert first.influence > 0.4  # without it three tokens are as likely: log 3 = 1.1
        assert all(abs(one.influence) < 0.2 for one in rest)


def test_what_speaks_for_one_candidate_speaks_against_another(parts: Parts) -> None:
    got = why(*parts, "auv____", candidate="B")
    first = max(got.tokens, key=lambda one: abs(one.influence))
    assert (got.text, first.token) == ("B", "a") and first.influence < -0.4


def test_the_mode_of_the_model_is_kept(parts: Parts) -> None:
    model = parts[0]
    model.train()
    try:
        model.drop.p = 0.5
        assert why(*parts, "auv____") == why(*parts, "auv____")
        assert model.training
    finally:
        model.drop.p = 0.0
        model.eval()


def test_a_candidate_is_normalised_as_the_text_is() -> None:
    parts = untrained("char", torch.float32)
    assert why(*parts, "a____b", candidate="，") == why(*parts, "a____b", candidate=",")
    assert why(*parts, "a____b", candidate=" ").text == " "


# Faults of the call


def test_a_text_that_fill_refuses_is_refused(parts: Parts) -> None:
    with pytest.raises(CallError, match="no blank in the text"):
        why(*parts, "auvA")


@pytest.mark.parametrize(("blank", "limit"), [(2, "at most 1"), (-1, "at least 0")])
def test_a_blank_that_is_not_there(blank: int, limit: str, parts: Parts) -> None:
    with pytest.raises(ValueError, match=f"blank: got {blank}, expected {limit}"):
        why(*parts, "a____v____", blank)


@pytest.mark.parametrize("candidate", ["龙", "aa", "", "<unk>", "</s>"])
def test_a_candidate_that_is_not_in_the_vocabulary(candidate: str, parts: Parts) -> None:
    with pytest.raises(
        ValueError, match=f"candidate: got '{candidate}', expected a token of the vocabulary"
    ):
        why(*parts, "a____vA", candidate=candidate)
