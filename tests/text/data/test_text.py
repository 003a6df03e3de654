import builtins
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sentences import corpus
from unrolled.errors import MissingExtraError
from unrolled.text.data import Tokenizer
from unrolled.text.data.text import segmenter, simplifier

CHAR, WORD, SIMPLE = Tokenizer("char"), Tokenizer("word"), Tokenizer("char", simplify=True)


@pytest.mark.parametrize(
    ("full", "half"),
    [
        ("你好，世界！", "你好,世界!"),
        ("真的吗？（是）", "真的吗?(是)"),
        ("一；二：三", "一;二:三"),
        ("６月１８号", "6月18号"),
        ("ＡＢＣａｂｃ", "ABCabc"),
        ("１００％～", "100%~"),
        ("你\u3000好", "你 好"),
    ],
)
@pytest.mark.parametrize("tokenizer", [CHAR, WORD], ids=["char", "word"])
def test_full_and_half_width_are_the_same_text(full: str, half: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.tokens(full) == tokenizer.tokens(half)


def test_every_full_width_ascii_character_becomes_its_half_width_one() -> None:
    for code in range(0x21, 0x7F):
        assert CHAR.normalise(chr(code + 0xFEE0)) == chr(code)


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\n", "\r\n", "\u3000", "\xa0", " \u2003 "])
def test_white_space_of_any_kind_is_one_space_and_none_at_the_ends(space: str) -> None:
    assert CHAR.normalise(f"{space}a{space}b{space}") == "a b"


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert CHAR.tokens("cafe\u0301") == CHAR.tokens("caf\u00e9") == list("caf\u00e9")


def test_a_lone_surrogate_is_replaced_and_never_reaches_a_file() -> None:
    assert CHAR.normalise("a\udcffb").encode("utf-8") == b"a?b"


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = CHAR.normalise(text)
    assert CHAR.normalise(once) == once


@given(st.text())
def test_no_character_but_white_space_is_lost_when_words_are_cut(text: str) -> None:
    normal = WORD.normalise(text)
    assert "".join(WORD.cut(normal)).replace(" ", "") == "".join(normal.split())


@given(st.text())
def test_characters_join_to_the_normalised_text(text: str) -> None:
    assert CHAR.join(CHAR.tokens(text)) == CHAR.normalise(text)


@pytest.mark.parametrize(
    ("traditional", "simplified"),
    [
        ("我想要一支手機", "我想要一支手机"),
        ("我們試試看！", "我们试试看!"),
        ("這是什麼啊？", "这是什么啊?"),
        ("頭髮和發展", "头发和发展"),
        ("abc", "abc"),
        ("", ""),
    ],
)
def test_traditional_characters_become_simplified_ones(traditional: str, simplified: str) -> None:
    assert Tokenizer("char", simplify=True).normalise(traditional) == simplified


def test_traditional_characters_stay_unless_asked_for() -> None:
    assert CHAR.tokens("手機") == ["手", "機"]


def test_simplified_text_is_left_as_it_is() -> None:
    tokenizer = Tokenizer("char", simplify=True)
    for sentence in corpus(100):
        assert tokenizer.normalise(sentence) == CHAR.normalise(sentence)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我们今天去公园玩。", ["我们", "今天", "去", "公园", "玩", "。"]),
        ("他买了手机，很高兴！", ["他", "买", "了", "手机", ",", "很", "高兴", "!"]),
        ("Don't stop, it's 3.14.", ["Don't", "stop", ",", "it's", "3.14", "."]),
        ("naïve café", ["naïve", "café"]),
        ("他在Python里找到了答案", ["他", "在", "Python", "里", "找到", "了", "答案"]),
        ("  ", []),
        ("", []),
    ],
)
def test_words_of_chinese_and_english(text: str, words: list[str]) -> None:
    assert WORD.tokens(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "我们今天去公园玩。",
        "Hello, it's me. (Really?)",
        "“Wait,” she said; then: nothing!",
        "他说:“好。”",
        "I have 3.14 of them.",
    ],
)
def test_cutting_joined_words_again_gives_the_same_words(text: str) -> None:
    words = WORD.tokens(text)
    assert WORD.tokens(WORD.join(words)) == words


@pytest.mark.parametrize("text", ["我们今天去公园玩。", "Hello, it's me.", "(Yes) no; why?"])
def test_words_join_to_the_text_they_came_from(text: str) -> None:
    assert WORD.join(WORD.tokens(text)) == text


def test_chinese_words_join_without_a_space() -> None:
    for sentence in corpus(100):
        part = sentence.partition("，")[2]  # a half-width comma is English as well
        assert WORD.join(WORD.tokens(part)) == WORD.normalise(part)


def words_of(text: str) -> list[str]:
    """``text``, normalised, cut after each character that is the last of its word."""
    ends = CHAR.ends(text)
    assert len(ends) == len(CHAR.cut(text))
    after = [0, *(k + 1 for k, is_last in enumerate(ends) if is_last)]
    assert after[-1] == len(text)  # the last character ends a word
    return [text[i:j] for i, j in pairwise(after)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("他买了手机,很高兴!", ["他", "买", "了", "手机", ",", "很", "高兴", "!"]),
        ("Don't stop, it's 3.14.", ["Don't", " ", "stop", ",", " ", "it's", " ", "3.14", "."]),
        ("他在Python里找到了答案", ["他", "在", "Python", "里", "找到", "了", "答案"]),
        ("手机 手机", ["手机", " ", "手机"]),
        ("电脑", ["电脑"]),
        ("a", ["a"]),
        ("", []),
    ],
)
def test_words_end_where_a_reader_would_say(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text() | st.text(alphabet="我们今天买手机电脑ab1 .,'\u0301\u3000"))
def test_characters_end_words_where_the_words_do(text: str) -> None:
    normal = CHAR.normalise(text)
    assert [word for word in words_of(normal) if word.strip()] == WORD.cut(normal)


@pytest.mark.parametrize("text", ["我们今天去公园玩。", "It's  well-known.", "", "a b"])
def test_each_token_that_is_a_word_ends_one(text: str) -> None:
    assert WORD.ends(WORD.normalise(text)) == [True] * len(WORD.tokens(text))


def test_another_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'byte'.*'char' or 'word'"):
        Tokenizer("byte")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "package", "cached", "use"),
    [
        (
            "opencc",
            "opencc-python-reimplemented",
            simplifier,
            lambda: Tokenizer("char", simplify=True).tokens("手機"),
        ),
        ("rjieba", "rjieba", segmenter, lambda: WORD.tokens("手机")),
        ("rjieba", "rjieba", segmenter, lambda: CHAR.ends("手机")),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    module: str,
    package: str,
    cached: object,
    use: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    cached.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingExtraError, match=f"pip install {package} "):
        use()


def test_text_without_chinese_needs_no_chinese_package(monkeypatch: pytest.MonkeyPatch) -> None:
    simplifier.cache_clear()
    segmenter.cache_clear()
    for module in ("opencc", "rjieba"):
        monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    assert Tokenizer("word", simplify=True).tokens("No need.") == ["No", "need", "."]
    assert CHAR.ends("No!") == [False, True, True]
