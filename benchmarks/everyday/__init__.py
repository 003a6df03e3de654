"""Everyday sentences with one blank: two test lists, and how many of their blanks a cloze run fills.

    python -m benchmarks.everyday [RUN_DIR] [--list zh|en] [--show] [--smallest] [--json FILE]

The lists are test sets: nothing is trained, tuned or selected on them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from unrolled.text.models.candidates import LONGEST_WORD
from unrolled.text.models.filling import BLANK

LISTS = ("zh", "en")
TOP = 5


class Sentence(NamedTuple):
    """A text with one blank, and the answers accepted for it, the usual one first."""

    text: str
    answers: tuple[str, ...]


class Shares(NamedTuple):
    """Of so many sentences: with an answer as the first candidate, and among the first five."""

    sentences: int
    top1: float
    top5: float


def read(name: str) -> list[Sentence]:
    """The list ``name``, one of ``LISTS``."""
    return parse((Path(__file__).parent / f"{name}.tsv").read_text(encoding="utf-8"))


def parse(text: str) -> list[Sentence]:
    r"""The sentences of ``text``: a line each, ``sentence<TAB>answer|answer|…``; ``#`` begins a comment.

    >>> parse("# a list\nA day has ____ hours.\t24|many\n")
    [Sentence(text='A day has ____ hours.', answers=('24', 'many'))]

    Raises:
        ValueError: a line is of another form, with its number.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            continue
        sentence, *fields = line.split("\t")
        if len(fields) != 1:
            raise ValueError(f"line {number}: got {len(fields)} tabs, expected one: {line!r}")
        if (blanks := len(BLANK.findall(sentence))) != 1:
            raise ValueError(f"line {number}: got {blanks} blanks, expected one: {line!r}")
        answers = tuple(fields[0].split("|"))
        if not all(answer.strip() for answer in answers):
            raise ValueError(f"line {number}: an answer is empty: {line!r}")
        found.append(Sentence(sentence, answers))
    return found


def accepted(sentence: Sentence, candidate: str) -> bool:
    """Whether ``candidate`` is an answer, in upper or lower case."""
    return candidate.casefold() in {answer.casefold() for answer in sentence.answers}


def met(
    sentences: Iterable[Sentence], tokens: Iterable[str], *, several: bool = False
) -> list[bool]:
    """For each sentence whether one of ``tokens``, alone, is an answer; or, if ``several``, up to four.

    ``several`` is for tokens of one character.
    """
    folded = {token.casefold() for token in tokens}

    def can_be(answer: str) -> bool:
        if several and len(answer) <= LONGEST_WORD:
            return folded.issuperset(answer.casefold())
        return answer.casefold() in folded

    return [any(map(can_be, s.answers)) for s in sentences]


def rank(sentence: Sentence, candidates: Sequence[str]) -> int | None:
    """The place of the first answer among the first five ``candidates``, from 1; None: none is one."""
    places = (k for k, c in enumerate(candidates[:TOP], start=1) if accepted(sentence, c))
    return next(places, None)


def scored(ranks: Sequence[int | None]) -> Shares | None:
    """The shares of ``ranks``; None of no sentence."""
    if not ranks:
        return None
    count = len(ranks)
    top1, top5 = ranks.count(1), count - ranks.count(None)
    return Shares(count, top1 / count, top5 / count)
