"""Tagged sequences from files: columns as in CoNLL's tasks, or text of words with their tags."""

import gzip
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from unrolled.errors import CallError, DataError
from unrolled.series.data.schemes import Span, part_of, spans

FORMATS = ("columns", "words", "segmented")
HEAD = 50  # lines by which the format is told
GAP = re.compile(r"[ \t]+")  # not every space: U+3000 may be a token
DOCUMENT = "-DOCSTART-"  # in place of a token: what CoNLL-2003 has between documents
RANGE = re.compile(
    r"\d+[-.]\d+"
)  # numbers of CoNLL-U's words that are written as one, or not at all
LONGEST_LINE = 1_000_000  # bytes; a longer line is a file of another kind


class Tagged(NamedTuple):
    """A sentence: its tokens, and the tag of each."""

    tokens: list[str]
    tags: list[str]


def read_tagged(
    path: str | Path,
    format: str | None = None,  # noqa: A002, the word for it
    *,
    token: int = 0,
    tag: int = -1,
    encoding: str = "utf-8",
) -> Iterator[Tagged]:
    """The sentences of a file, one after another.

    - "columns": a line a token, its columns with tabs between, or else spaces; an empty line between
      sentences. Comments, and the lines between CoNLL-2003's documents, are left out.
    - "words": a line a sentence, ``我/r 爱/v 北京/ns``. Its characters become the tokens, with tags that
      say where words begin and end: ``S-r S-v B-ns E-ns``.
    - "segmented": the same without tags: ``我 爱 北京``, with the tags ``S S B E``. This one has to be
      asked for.

    Args:
        path: the file (``.gz`` is unpacked), or "-" for standard input.
        format: one of these; by default columns or words, told from the first lines.
        token: the column of tokens, from 0; a negative one counts from the last.
        tag: that of tags.
        encoding: of the file, by Python's names.

    Raises:
        DataError: the file cannot be read, or a line is not as the others; the text names it.
        CallError: there is no such format or encoding.
    """
    name = "standard input" if str(path) == "-" else str(path)
    if format is not None and format not in FORMATS:
        raise CallError(f"format: got {format!r}, expected one of {', '.join(FORMATS)}")
    _check_encoding(encoding)
    return _read(path, name, format, token, tag, encoding)


def read_all(
    paths: Iterable[str | Path],
    format: str | None = None,  # noqa: A002
    *,
    token_column: int = 0,
    tag_column: int = -1,
    encoding: str = "utf-8",
) -> Iterator[Tagged]:
    """The sentences of several files, as ``read_tagged`` gives them.

    Raises:
        DataError, CallError: as there; or standard input is named twice.
    """
    paths = list(paths)
    if [str(path) for path in paths].count("-") > 1:
        raise CallError("data: standard input, '-', can be read only once")
    return chain.from_iterable(
        read_tagged(path, format, token=token_column, tag=tag_column, encoding=encoding)
        for path in paths
    )


def _read(
    path: str | Path,
    name: str,
    format: str | None,  # noqa: A002
    token: int,
    tag: int,
    encoding: str,
) -> Iterator[Tagged]:
    rows = _lines(path, name, encoding)
    head = list(islice(rows, HEAD))
    rows = chain(head, rows)
    chosen = format or format_of(head)
    is_empty = True
    if chosen == "columns":
        for sentence in _columns(rows, name, token, tag):
            is_empty = False
            yield sentence
    else:
        for number, line in enumerate(rows, start=1):
            words = [word for word in GAP.split(line) if word]
            if words:
                is_empty = False
                yield tag_characters(_tagged(words, name, number) if chosen == "words" else words)
    if is_empty:
        raise DataError(f"{name}: empty, expected a token and its tag a line, or a sentence a line")


def format_of(head: Iterable[str]) -> str:
    r"""The format of a file that begins with the lines ``head``: "words" or "columns".

    >>> format_of(["我/r 爱/v", "你/r"]), format_of(["我\tO", "", "爱\tO"])
    ('words', 'columns')

    "segmented" is never guessed: a line of columns that lost one looks like it.
    """
    words = [word for line in head for word in GAP.split(line) if word]
    has_tabs = any("\t" in line for line in head)
    return "words" if words and not has_tabs and all(map(_is_tagged, words)) else "columns"


def _is_tagged(word: str) -> bool:
    return bool(re.fullmatch(r".+/[^/]+", word))


def _columns(rows: Iterable[str], name: str, token: int, tag: int) -> Iterator[Tagged]:
    """Sentences of a line a token."""
    tokens: list[str] = []
    tags: list[str] = []
    first: tuple[int, int] | None = None  # the number of the first line with columns, and how many
    has_tabs = False
    for number, line in enumerate(rows, start=1):
        if not line.strip(" \t"):
            if tokens:
                yield Tagged(tokens, tags)
                tokens, tags = [], []
            continue
        if first is None:
            has_tabs = "\t" in line
        cells = line.split("\t") if has_tabs else GAP.split(line.strip(" \t"))
        if line.startswith("#") and not tokens and _is_comment(line, cells, first):
            continue
        if first is None:
            first = number, len(cells)
            _check_columns(name, number, cells, token, tag)
        if len(cells) != first[1]:
            between = "tabs" if has_tabs else "spaces"
            raise DataError(
                f"{name}: line {number} has {_counted(cells)}, expected {first[1]} as line {first[0]} "
                f"with {between} between; sentences have an empty line between them"
            )
        if cells[0] == DOCUMENT or (token != 0 and RANGE.fullmatch(cells[0])):
            continue
        found = cells[token], cells[tag]
        for what, text in zip(("token", "tag"), found, strict=True):
            if not text:
                raise DataError(f"{name}: line {number} has an empty {what}, expected one")
        tokens.append(found[0])
        tags.append(found[1])
    if tokens:
        yield Tagged(tokens, tags)


def _is_comment(line: str, cells: Sequence[str], first: tuple[int, int] | None) -> bool:
    """Whether a line before a sentence that begins with "#" is no token: it has other columns, or a "="."""
    if first is not None:
        return len(cells) != first[1] or " = " in line
    return len(cells) == 1 or " = " in line or "\t" not in line


def _check_columns(name: str, number: int, cells: Sequence[str], token: int, tag: int) -> None:
    """Refuse a first line that has not the columns of token and tag."""
    if len(cells) < 2:
        raise DataError(
            f"{name}: line {number} has {_counted(cells)}, expected a token and its tag with a tab or "
            "spaces between; of words with spaces between, the format is 'words' or 'segmented'"
        )
    for what, place in (("token", token), ("tag", tag)):
        if not -len(cells) <= place < len(cells):
            raise CallError(
                f"{what} column: got {place}, but {name} has {len(cells)} columns, expected from 0 to "
                f"{len(cells) - 1}, or from -{len(cells)} to -1 from the last"
            )
    if token % len(cells) == tag % len(cells):
        raise CallError(
            f"token column, tag column: got {token} and {tag}, expected two of {len(cells)}"
        )


def _counted(cells: Sequence[str]) -> str:
    shown = " ".join(cells)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    return f"{len(cells)} column{'s' * (len(cells) > 1)} ({shown!r})"


def _tagged(words: Sequence[str], name: str, number: int) -> list[tuple[str, str]]:
    """Words with their tags; the brackets around names of several words are left out."""
    found = []
    for word in words:
        if not _is_tagged(word):
            raise DataError(
                f"{name}: line {number} has {word!r}, expected a word and its tag as in 北京/ns; of words "
                "without tags, the format is 'segmented'"
            )
        text, _, tag = word.rpartition("/")
        inner = text[1:] if len(text) > 1 and text[0] == "[" else text
        found.append((inner, tag.partition("]")[0] or tag))
    return found


def tag_characters(words: Iterable[str | tuple[str, str]]) -> Tagged:
    """The characters of words, or of (word, tag), with tags that say where words begin and end.

    >>> tag_characters([("我", "r"), ("天安门", "ns")])
    Tagged(tokens=['我', '天', '安', '门'], tags=['S-r', 'B-ns', 'M-ns', 'E-ns'])
    >>> tag_characters(["我", "爱", "北京"]).tags
    ['S', 'S', 'B', 'E']
    """
    tokens: list[str] = []
    tags: list[str] = []
    for word in words:
        text, kind = (word, "") if isinstance(word, str) else (word[0], f"-{word[1]}")
        places = "S" if len(text) == 1 else "B" + "M" * (len(text) - 2) + "E"
        tokens += text
        tags += [place + kind for place in places]
    return Tagged(tokens, tags)


def words_of(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """The spans as (text, type), and each token outside of them, of the type "O"; of characters, words.

    >>> words_of("我爱北京", ["S-r", "S-v", "B-ns", "E-ns"])
    [('我', 'r'), ('爱', 'v'), ('北京', 'ns')]

    Where the tags mark no spans, each token and its tag.
    """
    if any(part_of(tag) is None for tag in tags):
        return list(zip(tokens, tags, strict=True))
    begun = {span.start: span for span in spans(tags)}
    covered = {t for span in begun.values() for t in range(span.start, span.stop)}
    join = "" if all(len(token) == 1 for token in tokens) else " "
    found = []
    for t, token in enumerate(tokens):
        if t in begun:
            span: Span = begun[t]
            found.append((join.join(tokens[span.start : span.stop]), span.type))
        elif t not in covered:
            found.append((token, "O"))
    return found


def _check_encoding(encoding: str) -> None:
    """Refuse a name that Python does not know, or one in whose files the bytes of a line end are others."""
    try:
        is_known = "\n".encode(encoding) == b"\n"
    except LookupError:
        is_known = False
    if not is_known:
        raise CallError(
            f"encoding: got {encoding!r}, expected one such as utf-8, gb18030, big5 or latin-1; convert "
            "a file of another to UTF-8"
        )


def _lines(path: str | Path, name: str, encoding: str) -> Iterator[str]:
    """The lines of a file, without their ends.

    Raises:
        DataError: it cannot be read or decoded, or is no text.
    """
    try:
        with _opened(path, name) as file:
            for number, raw in enumerate(file, start=1):
                yield _decoded(raw, name, number, encoding)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None


def _opened(path: str | Path, name: str) -> BinaryIO:
    if str(path) == "-":
        if sys.stdin is None:
            raise DataError(f"{name}: closed, expected tagged text")
        return sys.stdin.buffer
    if str(path).endswith(".gz"):
        return cast(BinaryIO, gzip.open(path))
    return Path(path).open("rb")


def _decoded(raw: bytes, name: str, number: int, encoding: str) -> str:
    """A line of a file as text."""
    if len(raw) > LONGEST_LINE:
        raise DataError(
            f"{name}: line {number} has more than {LONGEST_LINE:,} bytes, expected a sentence"
        )
    if b"\0" in raw:
        raise DataError(
            f"{name}: line {number} has a zero byte, expected text; convert UTF-16 to UTF-8 first"
        )
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: line {number} is not {encoding.upper()} (byte {error.start + 1} of the line); "
            "convert the file, or name its encoding, such as gb18030"
        ) from None
    return text.removeprefix("\ufeff").rstrip("\r\n")
