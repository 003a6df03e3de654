"""The bundled models: two-sided networks trained on Tatoeba, for Chinese and for English.

Each is a run directory with its weights alone; ``make pretrain`` makes them.
"""

import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from unrolled.errors import CallError, MissingExtraError
from unrolled.text.data import Tokenizer
from unrolled.text.data.text import HAN
from unrolled.text.models import Cloze, Filled
from unrolled.text.models import fill as fill_by
from unrolled.text.models.filling import MARK, share_unknown
from unrolled.text.run import TextRun

NAMES = ("zh", "en")
CREDIT = (
    "trained on sentences of Tatoeba (tatoeba.org) and its contributors, CC-BY 2.0 FR, "
    "as packaged in hsg"
)

__all__ = ["CREDIT", "NAMES", "Pretrained", "fill", "for_text", "load"]


@dataclass(frozen=True)
class Pretrained:
    """A bundled model, ready for use, and the run that it is of."""

    name: str
    run: TextRun
    model: Cloze

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer; Traditional Chinese needs the extra ``zh`` only where it occurs."""
        tokenizer = self.run.tokenizer
        if not tokenizer.simplify:
            return tokenizer
        known = frozenset((*self.run.vocabulary.tokens, MARK))
        return _SimplifiesAtNeed(tokenizer.unit, simplify=True, known=known)


@dataclass(frozen=True)
class _SimplifiesAtNeed(Tokenizer):
    """Leaves a text alone whose characters are all ``known``, and any where OpenCC is missing."""

    known: frozenset[str] = frozenset()

    def normalise(self, text: str) -> str:
        plain = replace(self, simplify=False)
        text = Tokenizer.normalise(plain, text)
        if self.simplify and not self.known.issuperset(text):
            try:
                return super().normalise(text)
            except MissingExtraError:
                return text
        return text


@cache
def load(name: str) -> Pretrained:
    """The model ``name``, one of ``NAMES``; it is loaded once.

    Raises:
        CallError: there is no such model.
        RunError: its files are damaged.
    """
    if name not in NAMES:
        raise CallError(f"model: got {name!r}, expected one of {', '.join(NAMES)}")
    run = TextRun(Path(__file__).parent / name)
    model = run.model()
    assert isinstance(model, Cloze)
    return Pretrained(name, run, model)


def for_text(text: str) -> str:
    """Which of ``NAMES`` reads ``text``: Chinese if it holds a Han character, else English."""
    return "zh" if HAN.search(text) else "en"


def fill(text: str, *, top: int = 5, model: str | None = None) -> Filled:
    """Fill the blanks of ``text`` by the bundled model that reads its language.

    >>> fill("Good ____, everyone!", top=3).blanks[0].position
    5

    Args:
        text: with blanks: three or more underscores, or ``<blank>``.
        top: how many candidates to return for a blank.
        model: "zh" or "en"; by default the one ``for_text`` names.

    Raises:
        CallError: as of ``unrolled.text.models.fill``; or there is no such model.

    Warns:
        UserWarning: most of the text is unknown to the model.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: got {type(text).__name__}, expected a string")
    bundled = load(for_text(text) if model is None else model)
    result = fill_by(
        bundled.model,
        bundled.run.vocabulary,
        bundled.tokenizer,
        text,
        top=top,
        **bundled.run.filling,
    )
    lost, whole = share_unknown(result.unknown, result.tokens)
    if 2 * lost > whole:
        warnings.warn(
            f"most of the text, {lost} of {whole} tokens, is unknown to the model {bundled.name!r}; "
            "do not trust the answer",
            stacklevel=2,
        )
    return result
