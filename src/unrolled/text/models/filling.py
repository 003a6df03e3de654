"""Filling the blanks of a text with a ``Cloze`` model."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import regex
import torch

from unrolled.errors import CallError
from unrolled.modules import evaluating
from unrolled.shapes import check_real, check_size
from unrolled.text.data.text import Tokenizer
from unrolled.text.data.vocabulary import END, START, UNKNOWN, Vocabulary
from unrolled.text.models import candidates as search
from unrolled.text.models.candidates import Guess, Tokens
from unrolled.text.models.cloze import Cloze
from unrolled.text.models.forms import one_a_word

BLANK = regex.compile(r"[_＿]{3,}|<blank>")
MARK = "\ue000"  # stands for a blank while the text is normalised: of private use, unchanged by it
LONGEST_TEXT = 1_000  # tokens
MOST_BLANKS = 20
CONTEXT = 60  # tokens on either side of a blank that are read to fill it
TOGETHER = 256  # texts that are filled at a time
LARGEST = 1 << 20  # candidates that are held at a time
BEAM = 8  # fillings of several blanks that are extended
SETTLING = 3  # rounds in which each of up to FEW blanks is filled anew, knowing the others; else 1
FEW = 4
TINY = 1e-300  # what a share that has come to nothing counts as
MOST = 1_000_000  # of rescoring and temperature
RESCORING = 0.25  # the weight of how the rest of the sentence reads, chosen on the validation split


@dataclass(frozen=True)
class Candidate:
    """What may fill a blank, a token or a word of several, and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class Blank:
    """A blank at character ``position`` of the text, and its best candidates, best first."""

    position: int
    candidates: list[Candidate]


@dataclass(frozen=True)
class Filled:
    """The text, its blanks from left to right, and the text with their best candidates.

    ``unknown`` are the tokens of the text that are not in the vocabulary, ``tokens`` all beside the
    blanks.
    """

    text: str
    blanks: list[Blank]
    filled: str
    unknown: list[str]
    tokens: list[str]


def fill(
    model: Cloze,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    text: str,
    *,
    top: int = 5,
    rescoring: float = RESCORING,
    temperature: float = 1.0,
) -> Filled:
    """Fill each blank of ``text``: with one token, or, by a model with ``words``, with one to four.

    The best candidates for a blank by p(c | rest) are ranked anew by how the sentence reads with
    them: the score of c is log p(c | rest) + ``rescoring`` · Σ_s log p(x_s | rest, c) over the other
    tokens x_s (pseudo-likelihood: Besag, "Statistical Analysis of Non-Lattice Data", 1975), and
    their probabilities are the softmax of score / ``temperature``. Forms of one Chinese word (买, 买了)
    are one candidate: the likeliest of them, with the probability of all.

    Several blanks are filled jointly: a beam search over their fillings (c_1, c_2, …) goes from the
    surest blank on, by p(c_1 | rest) · p(c_2 | rest, c_1) · …, the blanks still open read as
    ``<unk>``; then each blank's candidates are found anew, knowing what fills the others, until all
    agree or ``SETTLING`` rounds have passed (one round of more than ``FEW`` blanks). The rest is what
    stands within ``CONTEXT`` tokens of a blank.

    Args:
        model: a trained one.
        vocabulary: the model's.
        tokenizer: the model's.
        text: with blanks: three or more underscores, or ``<blank>``.
        top: how many candidates to return for a blank; by a model with ``words`` there are a few
            dozen.
        rescoring: the weight of the other tokens; 0 ranks by p(c | rest) alone.
        temperature: above 0; more than 1 makes the probabilities more alike.

    Raises:
        CallError: the text has no blank, more than ``MOST_BLANKS`` or nothing else, or is longer than
            ``LONGEST_TEXT``.
        TypeError: ``text`` is no string.
        ValueError: ``rescoring`` is below 0, ``temperature`` is not above 0, or one is beyond ``MOST``.
    """
    (result,) = fill_all(
        model,
        vocabulary,
        tokenizer,
        [text],
        top=top,
        rescoring=rescoring,
        temperature=temperature,
    )
    if isinstance(result, CallError):
        raise result
    return result


def fill_all(
    model: Cloze,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    top: int = 5,
    rescoring: float = RESCORING,
    temperature: float = 1.0,
) -> Iterator[Filled | CallError]:
    """What ``fill`` gives for each of ``texts``, in their order, up to rounding; faster for many.

    The model reads many sentences at once, those of like length together. ``texts`` is read
    ``TOGETHER`` at a time, and may be longer than memory: answers come as soon as so many are read.

    Args:
        model: a trained one.
        vocabulary: the model's.
        tokenizer: the model's.
        texts: each with blanks.
        top: as in ``fill``.
        rescoring: as in ``fill``.
        temperature: as in ``fill``.

    Returns:
        A ``Filled`` for each text, or, for one that ``fill`` refuses, the error that it raises.
    """
    check_size("top", top)
    check_scoring(rescoring, temperature)
    searching = _Search(model, vocabulary, top, rescoring, temperature)
    together = max(1, min(TOGETHER, LARGEST // top))
    rest = iter(texts)
    groups = iter(lambda: list(islice(rest, together)), [])
    return chain.from_iterable(_filled(searching, tokenizer, group) for group in groups)


def check_scoring(rescoring: float = RESCORING, temperature: float = 1.0) -> None:
    """Refuse what is no number, or out of its range.

    Raises:
        TypeError, ValueError: with the name, what was got and what is expected.
    """
    for name, value, least in (("rescoring", rescoring, 0.0), ("temperature", temperature, 1e-3)):
        check_real(name, value)
        if not least <= value <= MOST:
            raise ValueError(f"{name}: got {value!r}, expected a number from {least:g} to {MOST:,}")


Filling = tuple[Tokens | None, ...]  # of each blank; None: it is open


@dataclass
class _Sentence:
    """A text being filled; ``parts`` are the numbers before, between and after its blanks."""

    text: str
    starts: list[int]
    rest: list[str]
    parts: list[list[int]]

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + len(self.starts)

    def blank(self, filling: Filling, which: int) -> search.MaskedSentence:
        """The sentence with the other blanks filled, or ``<unk>`` where they are open."""
        numbers, place = list(self.parts[0]), 0
        for k, (tokens, part) in enumerate(zip(filling, self.parts[1:], strict=True)):
            if k == which:
                place = len(numbers)
            numbers += (UNKNOWN,) if k == which or tokens is None else tokens
            numbers += part
        start = max(0, place - CONTEXT)
        return search.MaskedSentence(numbers[start : place + CONTEXT + 1], place - start)

    def result(self, vocabulary: Vocabulary, guesses_of_each: list[list[Guess]]) -> Filled:
        blanks = [
            Blank(start, [Candidate(_text(vocabulary, g.tokens), g.probability) for g in guesses])
            for start, guesses in zip(self.starts, guesses_of_each, strict=True)
        ]
        words = iter(blank.candidates[0].text for blank in blanks)
        filled = BLANK.sub(lambda _: next(words), self.text)
        return Filled(self.text, blanks, filled, vocabulary.unknown(self.rest), self.rest)


def _text(vocabulary: Vocabulary, tokens: Tokens) -> str:
    return "".join(vocabulary.tokens[n] for n in tokens)


def _sentence(vocabulary: Vocabulary, tokenizer: Tokenizer, text: str) -> _Sentence:
    """``text`` with all blanks open; CallError if it cannot be filled."""
    if not isinstance(text, str):
        raise TypeError(f"text: got {type(text).__name__}, expected a string")
    starts = [match.start() for match in BLANK.finditer(text)]
    if not starts:
        raise CallError(
            "no blank in the text: mark each with three or more underscores, or <blank>"
        )
    if len(starts) > MOST_BLANKS:
        raise CallError(
            f"the text has {len(starts):,} blanks, expected at most {MOST_BLANKS}; fill it in parts"
        )
    between = parts_between(tokenizer, text)
    rest = [token for part in between for token in part]
    if len(rest) + len(starts) > LONGEST_TEXT:
        raise CallError(
            f"the text has {len(rest) + len(starts):,} tokens, expected at most {LONGEST_TEXT:,}"
        )
    if not any(token.strip() for token in rest):
        raise CallError("only blanks in the text: expected some words beside them")
    parts = [vocabulary.encode(part)[1:-1] for part in between]
    return _Sentence(text, starts, rest, [[START, *parts[0]], *parts[1:-1], [*parts[-1], END]])


def parts_between(tokenizer: Tokenizer, text: str) -> list[list[str]]:
    """The tokens before, between and after the blanks of ``text``: one part more than blanks."""
    marked = tokenizer.normalise(BLANK.sub(MARK, text.replace(MARK, "\ufffd")))
    return [tokenizer.cut(part) for part in marked.split(MARK)]


def share_unknown(unknown: Sequence[str], tokens: Sequence[str]) -> tuple[int, int]:
    """How many of ``tokens``, white space aside, are ``unknown``, and how many there are."""
    strange, words = set(unknown), [token for token in tokens if token.strip()]
    return sum(token in strange for token in words), len(words)


@dataclass(frozen=True)
class _Search:
    """How blanks are filled."""

    model: Cloze
    vocabulary: Vocabulary
    top: int
    rescoring: float
    temperature: float

    def candidates(self, blanks: Sequence[search.MaskedSentence], top: int) -> list[list[Guess]]:
        """The ``top`` candidates for each of ``blanks``, each form of a word apart, best first."""
        return search.candidates(
            self.model, blanks, top=top, rescoring=self.rescoring, temperature=self.temperature
        )

    def words(self, blanks: Sequence[search.MaskedSentence]) -> list[list[Guess]]:
        """The candidates that are shown for each of ``blanks``, one a word, best first."""
        candidates = self.candidates(blanks, max(self.top, search.RESCORED))
        return [one_a_word(self.vocabulary, guesses)[: self.top] for guesses in candidates]

    def fill(self, sentences: Sequence[_Sentence]) -> list[list[list[Guess]]]:
        """The candidates for each blank of each sentence; the first ones fill it."""
        results: list[list[list[Guess]]] = [[] for _ in sentences]
        single = [k for k, sentence in enumerate(sentences) if len(sentence.starts) == 1]
        blanks = [sentences[k].blank((None,), 0) for k in single]
        for k, guesses in zip(single, self.words(blanks), strict=True):
            results[k] = [guesses]
        several = [k for k, sentence in enumerate(sentences) if len(sentence.starts) > 1]
        together = self._settled([sentences[k] for k in several])
        for k, guesses_of_each in zip(several, together, strict=True):
            results[k] = guesses_of_each
        return results

    def _settled(self, sentences: Sequence[_Sentence]) -> list[list[list[Guess]]]:
        """The candidates for each of several blanks, knowing what fills the others."""
        fillings = self._jointly(sentences)
        results: list[list[list[Guess]]] = [[[] for _ in s.starts] for s in sentences]
        moving = set(range(len(sentences)))
        for turn in range(SETTLING):
            asked = sorted(k for k in moving if turn == 0 or len(sentences[k].starts) <= FEW)
            moving = set()
            for which in range(max((len(sentences[k].starts) for k in asked), default=0)):
                having = [k for k in asked if which < len(sentences[k].starts)]
                blanks = [sentences[k].blank(fillings[k], which) for k in having]
                for k, guesses in zip(having, self.words(blanks), strict=True):
                    results[k][which] = guesses
                    if guesses[0].tokens != fillings[k][which]:
                        fillings[k] = _with(fillings[k], which, guesses[0].tokens)
                        moving.add(k)
        return results

    def _jointly(self, sentences: Sequence[_Sentence]) -> list[Filling]:
        """The best filling of all blanks of each sentence that a beam search finds."""
        beams: list[list[tuple[Filling, float]]] = [
            [((None,) * len(s.starts), 0.0)] for s in sentences
        ]
        while rows := [k for k, beam in enumerate(beams) if None in beam[0][0]]:
            which = self._surest([sentences[k] for k in rows], [beams[k][0][0] for k in rows])
            asked = [
                (k, w, filling, p)
                for k, w in zip(rows, which, strict=True)
                for filling, p in beams[k]
            ]
            blanks = [sentences[k].blank(filling, w) for k, w, filling, _ in asked]
            for k in rows:
                beams[k] = []
            for (k, w, filling, p), guesses in zip(
                asked, self.candidates(blanks, BEAM), strict=True
            ):
                beams[k] += [
                    (_with(filling, w, g.tokens), p + math.log(max(g.probability, TINY)))
                    for g in guesses
                ]
            for k in rows:
                width = max(1, 2 * BEAM // len(sentences[k].starts))
                beams[k] = sorted(beams[k], key=lambda one: -one[1])[:width]
        return [beam[0][0] for beam in beams]

    def _surest(self, sentences: Sequence[_Sentence], fillings: Sequence[Filling]) -> list[int]:
        """The open blank of each sentence whose best first token is the most probable."""
        opens = [[k for k, tokens in enumerate(of) if tokens is None] for of in fillings]
        blanks = [
            sentence.blank(filling, k)
            for sentence, filling, of in zip(sentences, fillings, opens, strict=True)
            for k in of
        ]
        peaks = iter(search.surest(self.model, blanks))
        peaks_of = [{k: next(peaks) for k in of} for of in opens]
        return [max(peak_of, key=lambda k: peak_of[k]) for peak_of in peaks_of]


def _with(filling: Filling, which: int, tokens: Tokens) -> Filling:
    return (*filling[:which], tokens, *filling[which + 1 :])


def _filled(
    searching: _Search, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[Filled | CallError]:
    vocabulary = searching.vocabulary
    sentences: dict[int, _Sentence] = {}
    results: dict[int, Filled | CallError] = {}
    for k, text in enumerate(texts):
        try:
            sentences[k] = _sentence(vocabulary, tokenizer, text)
        except CallError as error:
            results[k] = error.with_traceback(None)  # which would keep the whole group
    order = sorted(sentences, key=lambda k: len(sentences[k]))
    with evaluating(searching.model), torch.no_grad():
        guesses_of_each = searching.fill([sentences[k] for k in order])
    for k, guesses in zip(order, guesses_of_each, strict=True):
        results[k] = sentences[k].result(vocabulary, guesses)
    return [results[k] for k in range(len(texts))]
