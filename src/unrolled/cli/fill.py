"""``unrolled fill``: the blanks of a text, filled by a cloze model."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import chain, tee
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unrolled.cli.options import not_negative, whole
from unrolled.cli.printing import is_quiet, note, note_unknown, print_json, print_why, tell
from unrolled.cli.runs import add_model, chosen
from unrolled.errors import CallError, DataError
from unrolled.text.data import Tokenizer, Vocabulary
from unrolled.text.data.corpora import lines, listed, texts
from unrolled.text.models import Cloze, Filled, Why, fill, fill_all, why
from unrolled.text.models.filling import RESCORING, share_unknown
from unrolled.text.pretrained import for_text

NAMED = 5  # lines of a file that one note names


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "fill",
        help="fill the blanks of a text",
        description="Fill each blank of a text (three or more underscores, or <blank>).",
        usage="unrolled fill [DIR] (TEXT | --input FILE [--output FILE]) [options]",
    )
    run = parser.add_argument(
        "run",
        metavar="DIR",
        help="a run of 'unrolled train cloze'; by default the bundled model",
    )
    text = parser.add_argument("text", metavar="TEXT", help='such as "…____…"')
    # Not nargs="?", which would refuse a TEXT that comes after options.
    run.required = text.required = False
    add_model(parser, "the text's language")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="fill every line of a UTF-8 file (.gz too), or of - for standard input; prints JSON lines",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the answers of --input go"
    )
    parser.add_argument(
        "--top", type=whole(1), default=5, metavar="N", help="candidates a blank (5)"
    )
    parser.add_argument(
        "--rescoring",
        type=not_negative,
        metavar="N",
        help=f"weight of how the rest of the text then reads ({RESCORING:g}, or the model's own)",
    )
    parser.add_argument(
        "--why", action="store_true", help="say which other tokens spoke for what fills each blank"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command, refuse=parser.error)


def command(arguments: argparse.Namespace) -> None:
    """Fill the text, and print it with the candidates for each blank; or a file, line by line."""
    alone = arguments.run
    if arguments.text is None and arguments.input is None and alone and not Path(alone).is_dir():
        arguments.run, arguments.text = None, alone
    sources = [name for name in ("text", "input") if getattr(arguments, name) is not None]
    if len(sources) != 1:
        got = "both" if sources else "neither"
        arguments.refuse(f"TEXT, --input: got {got}, expected one of them")
    if arguments.output is not None and arguments.input is None:
        arguments.refuse("--output: got it without --input, expected both")
    if arguments.input is not None:
        _fill_lines(arguments)
        return
    filler = _filler(arguments, arguments.text)
    result = fill(*filler.parts, arguments.text, **filler.options)
    reasons = filler.reasons(result)
    note_unknown(result.unknown, result.tokens, filler.tokenizer.unit)
    if arguments.json:
        print_json(_record(result, reasons))
        return
    print(result.filled)
    for number, blank in enumerate(result.blanks, start=1):
        listed = "  ".join(f"{c.text} {c.probability:.3f}" for c in blank.candidates)
        tell(f"blank {number}: {listed}")
    for reason in reasons:
        print_why(reason, filler.tokenizer)


class _Filler(NamedTuple):
    """What fills blanks, and how."""

    model: Cloze
    vocabulary: Vocabulary
    tokenizer: Tokenizer
    options: dict[str, Any]
    says_why: bool

    @property
    def parts(self) -> tuple[Cloze, Vocabulary, Tokenizer]:
        return self.model, self.vocabulary, self.tokenizer

    def reasons(self, result: Filled) -> list[Why]:
        """Why each blank is filled as it is, if that was asked for."""
        count = len(result.blanks) if self.says_why else 0
        return [why(*self.parts, result, number) for number in range(count)]


def _filler(arguments: argparse.Namespace, text: str) -> _Filler:
    """The model asked for; of the bundled ones the one that reads the language of ``text``."""
    directory = None if arguments.run is None else Path(arguments.run)
    _, run, model, tokenizer = chosen(directory, arguments.model, for_text(text), Cloze)
    options: dict[str, Any] = {**run.filling, "top": arguments.top}
    if arguments.rescoring is not None:
        options["rescoring"] = arguments.rescoring
    return _Filler(model, run.vocabulary, tokenizer, options, arguments.why)


def _record(result: Filled, reasons: list[Why]) -> dict[str, Any]:
    """``result`` for JSON."""
    shown = asdict(result)
    del shown["unknown"], shown["tokens"]  # said on standard error
    if reasons:
        shown["why"] = [asdict(reason) for reason in reasons]
    return shown


def _fill_lines(arguments: argparse.Namespace) -> None:
    """Fill every line of a file that is not empty; one that cannot be filled does not end the run.

    The first of them decides which bundled model is used, if one is.
    """
    source: str = arguments.input
    _check_files(source, arguments.output)
    asked: Iterator[tuple[int, str]] = filter(
        lambda line: line[1].strip(), enumerate(texts(source), start=1)
    )
    first_line = next(asked, None)
    if first_line is None:
        raise DataError(f"{listed([source])}: empty, expected one text a line")
    filler = _filler(arguments, first_line[1])
    numbers, asked = tee(chain([first_line], asked))
    results = fill_all(*filler.parts, (text for _, text in asked), **filler.options)
    done = unknown = strange = faults = 0
    named: list[int] = []
    first = ""
    with ExitStack() as stack:
        file: TextIO | None = None
        if arguments.output is not None:
            file = stack.enter_context(arguments.output.open("w", encoding="utf-8", newline="\n"))
        advance = stack.enter_context(_progress(source, arguments.output))
        for (number, _), result in zip(numbers, results, strict=True):
            done += 1
            if isinstance(result, CallError):
                first = first or f"line {number}: {result}"
                faults += 1
                print_json({"line": number, "error": str(result)}, file)
            else:
                print_json({"line": number, **_record(result, filler.reasons(result))}, file)
                unknown += bool(result.unknown)
                lost, whole = share_unknown(result.unknown, result.tokens)
                if 2 * lost > whole:
                    named += [number] * (strange < NAMED)
                    strange += 1
            advance()
    if unknown:
        note(f"lines with tokens not in the vocabulary, read as <unk>: {unknown:,} of {done:,}")
    if strange:
        which = ", ".join(map(str, named)) + ", …" * (strange > NAMED)
        note(
            f"most of the text is unknown to the model in {strange:,} of {done:,} lines "
            f"({which}); do not trust their answers"
        )
    if faults:
        raise DataError(
            f"{listed([source])}: {faults:,} of {done:,} lines could not be filled; "
            f"the first is {first}"
        )


def _check_files(source: str, output: Path | None) -> None:
    if source == "-":
        return
    if not Path(source).exists():
        raise DataError(f"{source}: no such file")
    if output is not None and output.exists() and output.samefile(source):
        raise CallError("--output: got the file of --input, expected another")


@contextmanager
def _progress(source: str, output: Path | None) -> Iterator[Callable[[], None]]:
    """A progress bar, if standard error is a terminal that shows no answers."""
    answers = output is None and sys.stdout is not None and sys.stdout.isatty()
    if sys.stderr is None or not sys.stderr.isatty() or answers or is_quiet():
        yield lambda: None
        return
    total = None
    if source != "-" and Path(source).is_file():  # what is no pipe can be read twice
        total = sum(bool(text.strip()) for text in lines(source))
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[speed]:,.0f} texts/s"),
        TimeRemainingColumn(compact=True),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task("filling", total=total, speed=0.0)

        def advance() -> None:
            speed = (progress.tasks[0].completed + 1) / max(time.monotonic() - start, 1e-9)
            progress.update(task, advance=1, speed=speed)

        yield advance
