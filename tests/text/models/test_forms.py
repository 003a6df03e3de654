"""Forms of one word among the candidates: which they are, and what they have together."""

import pytest

from unrolled.text.data import Vocabulary
from unrolled.text.data.vocabulary import SPECIALS
from unrolled.text.models.candidates import Guess
from unrolled.text.models.forms import one_a_word, word_of

CHARACTERS = "买了着过看把那一不乘卖高兴学习难奶在家"
OTHERS = """
买 买到 买完 买好 了 着 天气 难过 通过 为了 随着 太太 奶奶 意味着 了解 过去 着急 一把一把的
buy bought aa aba aabb 11 121 1212 、、
"""
VOCABULARY = Vocabulary([*SPECIALS, *CHARACTERS])


def guesses(**shares: float) -> list[Guess]:
    return [
        Guess(tuple(VOCABULARY.numbers[character] for character in text), share)
        for text, share in shares.items()
    ]


def told(found: list[Guess]) -> dict[str, float]:
    shown = {"".join(VOCABULARY.tokens[n] for n in g.tokens): g.probability for g in found}
    assert len(shown) == len(found)
    return shown


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("买", "买 买了 买着 买过 买买 买一买 买了买 买不买 买了买了"),
        ("学习", "学习 学习了 学习过 学习学习"),
        ("高兴", "高兴 高兴了 高高兴兴"),
        ("把", "把 把那把"),
        ("乘", "乘乘"),
        ("了", "了 了了"),
    ],
)
def test_aspect_and_doubling_make_forms_of_a_word(word: str, forms: str) -> None:
    assert {word_of(form) for form in forms.split()} == {word}


@pytest.mark.parametrize("word", OTHERS.split())
def test_other_words_are_their_own(word: str) -> None:
    assert word_of(word) == word


def test_a_word_has_one_place_with_its_likeliest_form_and_the_probability_of_all() -> None:
    given = guesses(买=0.2, 卖=0.25, 买了=0.3, 看看=0.05, 难=0.02, 难过=0.03, 买过=0.01, 看=0.04)
    assert told(one_a_word(VOCABULARY, given)) == pytest.approx(
        {"买了": 0.51, "卖": 0.25, "看看": 0.09, "难过": 0.03, "难": 0.02}
    )


def test_the_best_word_is_first_also_if_its_best_form_is_not() -> None:
    found = one_a_word(VOCABULARY, guesses(卖=0.4, 买=0.3, 买了=0.2, 在家=0.1))
    assert list(told(found).items()) == [
        ("买", pytest.approx(0.5)),
        ("卖", 0.4),
        ("在家", 0.1),
    ]


def test_where_no_word_has_two_forms_nothing_changes() -> None:
    given = guesses(卖=0.4, 买了=0.3, 看=0.2, 难过=0.1)
    assert one_a_word(VOCABULARY, given) == given
    assert one_a_word(VOCABULARY, []) == []
