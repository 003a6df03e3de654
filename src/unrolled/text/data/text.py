"""Text to tokens and back, the same way in training and in use."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import regex

from unrolled.errors import MissingExtraError

Unit = Literal["char", "word"]

HAN = regex.compile(r"(\p{Han}+)")
WORD_BREAK = regex.compile(r"(?V1w)\b")  # Unicode's default word boundaries, UAX #29


@dataclass(frozen=True)
class Tokenizer:
    """Splits a sentence into characters or words, after bringing equal ways of writing together.

    Words of Chinese come from a segmenter (the extra ``zh``); elsewhere Unicode's word rules hold
    (UAX #29), and white space only separates.

    >>> Tokenizer("char").tokens("你好，ABC！") == Tokenizer("char").tokens("你好,ABC!")
    True
    >>> Tokenizer("word").tokens("It's  well-known.")
    ["It's", 'well', '-', 'known', '.']

    Args:
        unit: "char" or "word".
        simplify: whether Traditional Chinese characters become Simplified ones (the extra ``zh``).
    """

    unit: Unit = "char"
    simplify: bool = False

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit: got {self.unit!r}, expected 'char' or 'word'")
        if not isinstance(self.simplify, bool):
            raise TypeError(f"simplify: got {self.simplify!r}, expected True or False")

    def normalise(self, text: str) -> str:
        """``text`` with one form for each character (NFKC: full width as half width) and single spaces."""
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no character
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        return simplifier()(text) if self.simplify and HAN.search(text) else text

    def tokens(self, text: str) -> list[str]:
        """The tokens of ``text``, normalised."""
        return self.cut(self.normalise(text))

    def cut(self, text: str) -> list[str]:
        """The tokens of ``text`` that is normalised already."""
        if self.unit == "char":
            return list(text)
        tokens: list[str] = []
        for k, part in enumerate(HAN.split(text)):
            words = segmenter()(part) if k % 2 else WORD_BREAK.split(part)
            tokens += [word for word in words if word.strip()]
        return tokens

    def ends(self, text: str) -> list[bool]:
        """Of each token of ``text``, which is normalised already, whether it is the last of its word.

        >>> Tokenizer("char").ends("an ant.")
        [False, True, True, False, False, True, True]
        """
        if self.unit == "word":
            return [True] * len(self.cut(text))
        ends: list[bool] = []
        for k, part in enumerate(HAN.split(text)):
            for word in segmenter()(part) if k % 2 else WORD_BREAK.split(part):
                ends += [False] * (len(word) - 1) + [True] * bool(word)
        return ends

    def join(self, tokens: Sequence[str]) -> str:
        """The tokens as text; words are set apart by a space where their script does so.

        >>> Tokenizer("word").join(["Hello", ",", "it's", "me", ".", "我", "是", "谁"])
        "Hello, it's me. 我是谁"
        """
        if self.unit == "char":
            return "".join(tokens)
        text = ""
        for token in tokens:
            text += " " * _spaced(text[-1:], token[:1]) + token
        return text


def _spaced(left: str, right: str) -> bool:
    """Whether a space belongs between two words, from the characters that would touch."""
    if not left or not right or left in "([{“‘" or right in ",.!?;:)]}”’。、…":
        return False
    return not (_dense(left) and _dense(right))


def _dense(character: str) -> bool:
    """Whether ``character`` is of a script, or a punctuation, that is set without spaces."""
    return unicodedata.east_asian_width(character) in "WF" or character in "“”‘’"


@cache
def simplifier() -> Callable[[str], str]:
    """The conversion from Traditional to Simplified Chinese."""
    try:
        from opencc import OpenCC
    except ImportError:
        raise MissingExtraError(
            "converting Traditional Chinese", "opencc-python-reimplemented", "zh"
        ) from None
    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


@cache
def segmenter() -> Callable[[str], list[str]]:
    """The word segmenter for Chinese."""
    try:
        import rjieba
    except ImportError:
        raise MissingExtraError("cutting Chinese into words", "rjieba", "zh") from None
    cut: Callable[[str], list[str]] = rjieba.cut
    return cut
