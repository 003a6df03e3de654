"""Forms of one Chinese word, which share a place among the candidates for a blank."""

from collections.abc import Sequence

import regex

from unrolled.text.data.vocabulary import Vocabulary
from unrolled.text.models.candidates import Guess, Tokens

ASPECT = "了着过"
FORMS = (
    regex.compile(rf"(\p{{Han}}+)[{ASPECT}]"),  # 买了
    regex.compile(r"(\p{Han}{1,2})\1"),  # 看看, 休息休息
    regex.compile(r"(\p{Han})\p{Han}\1"),  # 想一想, 看了看, 是不是
    regex.compile(r"(\p{Han})\1(\p{Han})\2"),  # 高高兴兴
)
# Words of their own that look like forms of another one.
ASPECTLESS = (
    "为了 除了 算了 罢了 极了 难过 不过 只不过 通过 经过 超过 沿着 随着 接着 跟着 朝着 意味着"
)
DOUBLE = "太太 奶奶 妈妈 爸爸 爷爷 宝宝 星星 天天 人人 往往 偏偏 明明 白白 好好"
OWN = frozenset((*ASPECTLESS.split(), *DOUBLE.split()))


def word_of(text: str) -> str:
    """The word that ``text`` is a form of: with an aspect marker (了, 着, 过), or doubled.

    Complements (买到, 买完) make words of another meaning, and inflections of other languages are
    answers of another grammar: they stay apart.

    >>> [word_of(text) for text in ("买了", "看看", "想一想", "高高兴兴", "买到", "难过")]
    ['买', '看', '想', '高兴', '买到', '难过']
    """
    for form in FORMS if text not in OWN else ():
        if match := form.fullmatch(text):
            return word_of("".join(match.groups()))
    return text


def one_a_word(vocabulary: Vocabulary, guesses: Sequence[Guess]) -> list[Guess]:
    """One guess for each word, best first: its likeliest form, with the probability of all."""
    shown: dict[str, Tokens] = {}
    whole: dict[str, float] = {}
    for guess in sorted(guesses, key=lambda guess: -guess.probability):
        word = word_of("".join(vocabulary.tokens[n] for n in guess.tokens))
        shown.setdefault(word, guess.tokens)
        whole[word] = whole.get(word, 0.0) + guess.probability
    merged = [Guess(tokens, whole[word]) for word, tokens in shown.items()]
    return sorted(merged, key=lambda guess: -guess.probability)
