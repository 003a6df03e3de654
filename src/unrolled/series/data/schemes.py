"""What tags mean: schemes that mark spans by their beginnings, insides and ends."""

import re
from collections.abc import Iterable, Sequence
from itertools import compress, pairwise
from operator import and_
from typing import NamedTuple

OUTSIDE = "O"
MEANING = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
PARTS = re.compile(r"([BIMELSU])(?:[-_](.+))?", re.DOTALL)


class Part(NamedTuple):
    """A tag taken apart: "B", "I", "E" or "S" (or "O" outside), and the type of its span, maybe ""."""

    place: str
    type: str


class Span(NamedTuple):
    """Steps ``start`` to ``stop`` - 1, of the type ``type``."""

    type: str
    start: int
    stop: int


def part_of(tag: str) -> Part | None:
    """A tag taken apart, or ``None`` if it marks no place in a span.

    >>> part_of("B-PER"), part_of("M"), part_of("NOUN")
    (Part(place='B', type='PER'), Part(place='I', type=''), None)
    """
    if tag == OUTSIDE:
        return Part(OUTSIDE, "")
    found = PARTS.fullmatch(tag)
    return Part(MEANING[found[1]], found[2] or "") if found else None


def marks_spans(tags: Iterable[str]) -> bool:
    """Whether ``tags`` are those of a scheme: BIO, BIOES, BILOU or BMES, with types or without.

    >>> marks_spans(["O", "B-PER", "I-PER"]), marks_spans(["B", "M", "E", "S"]), marks_spans(["V", "B"])
    (True, True, False)
    """
    parts = [part_of(tag) for tag in tags]
    places = {part.place for part in parts if part is not None}
    return None not in parts and bool(places & {"B", "I", "S"})


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a sequence of tags, as conlleval reads them, whatever the scheme.

    A span begins with "B" or "S", and where an inside or an end has nothing of its type before it; it
    ends after "E" or "S", and before whatever does not continue it.

    Source: Tjong Kim Sang & Buchholz, "Introduction to the CoNLL-2000 Shared Task: Chunking", 2000.

    >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
    [Span(type='PER', start=0, stop=2), Span(type='LOC', start=3, stop=4)]
    """
    found: list[Span] = []
    begun: tuple[str, int] | None = None  # the type of the open span, and where it began
    for t, tag in enumerate([*tags, OUTSIDE]):
        place, kind = part_of(tag) or Part(OUTSIDE, "")
        goes_on = begun is not None and place in ("I", "E") and begun[0] == kind
        if begun is not None and not goes_on:
            found.append(Span(begun[0], begun[1], t))
            begun = None
        if place != OUTSIDE and begun is None:
            begun = kind, t
        if begun is not None and place in ("E", "S"):
            found.append(Span(begun[0], begun[1], t + 1))
            begun = None
    return found


def may_follow(before: str, after: str, *, has_ends: bool) -> bool:
    """Whether the tag ``after`` may follow ``before`` in the scheme; a sequence is between two "O".

    ``has_ends``: whether the scheme marks the ends of spans, so that one must not stop without.
    """
    left, right = part_of(before) or Part(OUTSIDE, ""), part_of(after) or Part(OUTSIDE, "")
    is_open = left.place in ("B", "I")
    if right.place in ("I", "E"):
        return is_open and left.type == right.type
    return not (is_open and has_ends)


class Rules(NamedTuple):
    """Which tags may begin a sequence, follow which (``follow[before][after]``), and end it."""

    start: list[bool]
    follow: list[list[bool]]
    end: list[bool]


def rules_of(tags: Sequence[str]) -> Rules | None:
    """The rules of the scheme of ``tags``; ``None`` if they mark no spans.

    Where the ``tags`` that there are leave no way to begin, to end or to go on, all are allowed there.

    >>> rules_of(["O", "B-x", "I-x"]).follow
    [[True, True, False], [True, True, True], [True, True, True]]
    """
    if not marks_spans(tags):
        return None
    has_ends = any(part.place in ("E", "S") for part in map(part_of, tags) if part is not None)
    start = [may_follow(OUTSIDE, tag, has_ends=has_ends) for tag in tags]
    end = [may_follow(tag, OUTSIDE, has_ends=has_ends) for tag in tags]
    follow = [[may_follow(tag, after, has_ends=has_ends) for after in tags] for tag in tags]
    follow = [row if any(row) else [True] * len(tags) for row in follow]
    if not any(start):
        start = [True] * len(tags)
    if not any(map(and_, start, end)):  # a sequence of one step
        end = [True] * len(tags)
    return Rules(start, follow, end)


def keep_scheme(sequences: Iterable[Sequence[str]], tags: Sequence[str]) -> bool:
    """Whether no sequence of ``tags`` has one after another that the scheme does not allow."""
    rules = rules_of(tags)
    if rules is None:
        return False
    start, end = set(compress(tags, rules.start)), set(compress(tags, rules.end))
    follow = {tag: set(compress(tags, row)) for tag, row in zip(tags, rules.follow, strict=True)}
    return all(
        names[0] in start
        and names[-1] in end
        and all(after in follow[before] for before, after in pairwise(names))
        for names in sequences
        if names
    )
