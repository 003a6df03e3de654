"""What the commands print, and to whom."""

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from unrolled.cli.language import columns, translated
from unrolled.errors import DataWarning
from unrolled.lens import Report
from unrolled.text.data import Tokenizer
from unrolled.text.data.text import Unit
from unrolled.text.models import ContextToken, Why
from unrolled.text.models.filling import share_unknown

NEUTRAL, FOR, AGAINST = (140, 140, 140), (224, 127, 28), (42, 143, 208)  # grey, orange, blue
UNITS: dict[Unit, str] = {"char": "characters", "word": "words"}
QUIET, JSON = ContextVar("quiet", default=False), ContextVar("json", default=False)
STRONGEST = 3  # tokens for, and as many against


def print_json(value: object, file: TextIO | None = None) -> None:
    """Print ``value`` as one line of JSON, in plain ASCII where the file is not UTF-8."""
    file = file or sys.stdout
    encoding = (getattr(file, "encoding", None) or "").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=encoding != "utf8", allow_nan=False), file=file)


def print_report(report: Report) -> None:
    """Print ``report``: on a terminal as a table in colours, else as plain text."""
    if sys.stdout is not None and sys.stdout.isatty():
        Console().print(report.shown(translated))
    else:
        print(report.told(translated))


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO | None = None
) -> None:
    """Print a table in plain text: a line for each row, or on a narrower terminal a block."""
    file = sys.stdout if file is None else file
    head = [translated(name, file) for name in head]
    widths = [max(map(columns, column)) for column in zip(head, *rows, strict=True)]
    is_terminal = file is not None and file.isatty()
    if is_terminal and sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns:
        for row in rows:
            print(row[0], file=file)
            for name, cell in zip(head[1:], row[1:], strict=True):
                print(f"  {padded(name, max(map(columns, head)))}  {cell}".rstrip(), file=file)
        return
    for line in (head, *rows):
        print("  ".join(map(padded, line, widths)).rstrip(), file=file)


def padded(text: str, width: int) -> str:
    """``text`` with spaces after it, ``width`` columns wide."""
    return text + " " * (width - columns(text))


def print_why(why: Why, tokenizer: Tokenizer) -> None:
    """Print what spoke for a token and what against it: on a terminal below the text in colours."""
    if sys.stdout is not None and sys.stdout.isatty():
        Console().print(coloured(why, tokenizer), soft_wrap=True)
    ranked = sorted(why.tokens, key=lambda one: -one.influence)
    told = [one for one in ranked if abs(one.influence) >= 0.005]  # else it would read 0.00
    spoke_for = _named([one for one in told if one.influence > 0])
    against = _named([one for one in reversed(told) if one.influence < 0])
    tell(f"why {why.blank + 1}: {_seen(why.text)}  for: {spoke_for}  against: {against}")


def _named(tokens: Sequence[ContextToken]) -> str:
    shown = [f"{_seen(t.token)} {t.influence:+.2f} {t.side}" for t in tokens[:STRONGEST]]
    return ", ".join(shown) or "none"


def _seen(token: str) -> str:
    return "␣" if token.isspace() else token


def coloured(why: Why, tokenizer: Tokenizer) -> Text:
    """The text of ``why``: orange what spoke for its token, blue what spoke against, grey neither.

    The stronger the colour, the larger the influence, beside the largest of the text.
    """
    most = max(abs(one.influence) for one in why.tokens) or 1.0
    left = sum(one.side == "left" for one in why.tokens)
    pieces = [(one.token, _style(one.influence / most)) for one in why.tokens]
    pieces.insert(left, (why.text, Style(bold=True, underline=True)))
    text, before = Text(), ""
    for token, style in pieces:
        space = tokenizer.join([before, token])[len(before) :].removesuffix(token)
        text.append(space).append(token, style)
        before = token
    return text


def _style(share: float) -> Style:
    """From grey at 0 to all orange at 1, to all blue at -1."""
    end = FOR if share > 0 else AGAINST
    mixed = (n + abs(share) * (e - n) for n, e in zip(NEUTRAL, end, strict=True))
    return Style(color=Color.from_rgb(*mixed))


@contextmanager
def speaking(*, quiet: bool, json: bool) -> Iterator[None]:
    """Inside, notes and progress are left out if ``quiet``; with ``json`` standard output is left alone."""
    before = QUIET.set(quiet), JSON.set(json)
    try:
        yield
    finally:
        QUIET.reset(before[0])
        JSON.reset(before[1])


def is_quiet() -> bool:
    """Whether notes and progress are left out."""
    return QUIET.get()


def is_json() -> bool:
    """Whether standard output is to hold JSON alone."""
    return JSON.get()


def say(text: str) -> None:
    """Say what is being done: on standard output, or if that is to hold JSON alone, on standard error."""
    if not is_quiet():
        file = sys.stderr if is_json() else sys.stdout
        print(translated(text, file), file=file)


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Say a table, where ``say`` says a text."""
    if not is_quiet():
        print_table(head, rows, sys.stderr if is_json() else sys.stdout)


def tell(text: str) -> None:
    """Tell what came of it, on standard output."""
    print(translated(text))


def note(text: str) -> None:
    """Say ``text`` on standard error."""
    if sys.stderr is not None and not is_quiet():
        print(translated(f"unrolled: note: {text}", sys.stderr), file=sys.stderr)


@contextmanager
def logs_as_notes() -> Iterator[None]:
    """Inside, what the library logs is said as notes are: in their language, or left out."""

    def say_or_not(record: logging.LogRecord) -> bool:
        record.msg, record.args = translated(record.getMessage(), sys.stderr), ()
        return not is_quiet()

    logger = logging.getLogger("unrolled")
    logger.addFilter(say_or_not)
    try:
        yield
    finally:
        logger.removeFilter(say_or_not)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Inside, a ``DataWarning`` is a note."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, DataWarning):
                note(str(message))
            else:
                others(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def note_unknown(unknown: Sequence[str], tokens: Sequence[str] = (), unit: Unit = "char") -> None:
    """Say which tokens the model does not know, if any, and whether they are most of ``tokens``."""
    if unknown:
        note(f"not in the vocabulary, read as <unk>: {' '.join(unknown)}")
    lost, whole = share_unknown(unknown, tokens)
    if 2 * lost > whole:
        note(
            f"most of the text, {lost:,} of {whole:,} {UNITS[unit]}, is unknown to the model; "
            "do not trust the answer"
        )
