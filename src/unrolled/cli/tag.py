"""``unrolled tag``: a tag for every token of a text, by a tagger."""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from unrolled.cli.printing import note, print_json, print_table, tell
from unrolled.cli.runs import open_run
from unrolled.errors import CallError, DataError, RunError
from unrolled.series.data.encoded import SPLITS
from unrolled.series.data.tagged import Tagged, read_all, words_of
from unrolled.series.models.tagging import TaggingNetwork
from unrolled.series.tag_run import TagRun, evaluate, tagged
from unrolled.series.tag_scores import score_tags
from unrolled.text.data.corpora import lines, listed

AT_ONCE = 256  # lines of a file that are read together


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tag",
        help="tag the tokens of a text",
        description="Tag the tokens of a text: words and parts of speech, names, whatever was learnt.",
        usage="unrolled tag DIR (TEXT | --input FILE [--output FILE]) [options]",
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="a run of 'unrolled train tag'")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="characters, or words with spaces")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="tag every line of a UTF-8 file (.gz too), or of - for standard input",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the answers of --input go"
    )
    parser.add_argument(
        "--columns",
        action="store_true",
        help="print a token and its tag a line, and an empty line after each sentence",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, a line a text")
    parser.set_defaults(command=command, refuse=parser.error)


def command(arguments: argparse.Namespace) -> None:
    """Tag the text, or a file line by line."""
    given = [name for name in ("text", "input") if getattr(arguments, name) is not None]
    if len(given) != 1:
        got = "both" if given else "neither"
        arguments.refuse(f"TEXT, --input: got {got}, expected one of them")
    if arguments.output is not None and arguments.input is None:
        arguments.refuse("--output: got it without --input, expected both")
    if arguments.columns and arguments.json:
        arguments.refuse("--columns, --json: got both, expected one of them")
    run, model = load(arguments.run)
    texts: Iterable[str] = [arguments.text]
    if arguments.input is not None:
        _check_files(arguments.input, arguments.output)
        texts = lines(arguments.input)
    done = 0
    with ExitStack() as stack:
        file: TextIO | None = None
        if arguments.output is not None:
            file = stack.enter_context(arguments.output.open("w", encoding="utf-8", newline="\n"))
        for sentence in tagged_texts(run, model, texts):
            done += 1
            _print(sentence, arguments, file)
    if not done:
        source = "TEXT" if arguments.input is None else listed([arguments.input])
        raise DataError(f"{source}: empty, expected a text to tag")


def load(directory: Path) -> tuple[TagRun, TaggingNetwork]:
    """The run in ``directory``, which is to be of a tagger, and its model."""
    run = open_run(directory)
    if not isinstance(run, TagRun):
        raise RunError(
            f"{directory}: holds a model of kind '{run.kind}', expected 'tag', made by 'unrolled train tag'"
        )
    if run.weights_step() == 0:
        note(f"{directory}: the weights are untrained; continue with 'unrolled train … --resume'")
    return run, run.model()


def tagged_texts(run: TagRun, model: TaggingNetwork, texts: Iterable[str]) -> Iterator[Tagged]:
    """Each text that is not empty, with its tags, some at a time."""
    split = list if run.encoder.unit == "char" else str.split
    sentences = (split(text.strip()) for text in texts)
    while some := list(itertools.islice(filter(None, sentences), AT_ONCE)):
        for tokens, tags in zip(some, tagged(model, run.encoder, some), strict=True):
            yield Tagged(tokens, tags)


def _print(sentence: Tagged, arguments: argparse.Namespace, file: TextIO | None) -> None:
    tokens, tags = sentence
    words = words_of(tokens, tags)
    if arguments.json:
        shown = [{"text": text, "type": kind} for text, kind in words]
        print_json({"tokens": tokens, "tags": tags, "words": shown}, file)
    elif arguments.columns:
        for pair in zip(tokens, tags, strict=True):
            print(*pair, sep="\t", file=file or sys.stdout)
        print(file=file or sys.stdout)
    else:
        shown_words = (f"{text}/{kind}" if kind not in ("", "O") else text for text, kind in words)
        print("  ".join(shown_words), file=file or sys.stdout)


def _check_files(source: str, output: Path | None) -> None:
    if source != "-" and not Path(source).exists():
        raise DataError(f"{source}: no such file")
    if source != "-" and output is not None and output.exists() and output.samefile(source):
        raise CallError("--output: got the file of --input, expected another")


# --- What ``unrolled evaluate`` says of a tagger ----------------------------------------------------


def evaluated(directory: Path, sources: Sequence[str] | None, split: str) -> dict[str, Any]:
    """The scores of a tagger on a split of what it was trained on, or on all of other files, for JSON."""
    run, model = load(directory)
    if sources:
        options = ("format", "token_column", "tag_column", "encoding")
        reading = {name: run.command[name] for name in options if name in run.command}
        expected, predicted = [], []
        sentences = read_all(sources, **reading)
        while some := list(itertools.islice(sentences, AT_ONCE)):
            expected += [tags for _, tags in some]
            predicted += tagged(model, run.encoder, [tokens for tokens, _ in some])
        return {"data": list(sources), **score_tags(expected, predicted).record()}
    data = run.dataset()
    if not data.sentences(split):
        full = [f"--split {other} (of {data.sentences(other):,})" for other in SPLITS]
        others = [said for said, other in zip(full, SPLITS, strict=True) if data.sentences(other)]
        raise DataError(
            f"the {split} split is empty: give more text with --data, or {' or '.join(others)}"
        )
    scores, spans = evaluate(model, data.batches(split))
    return {"split": split, "nats": scores.nats, **spans.record()}


def show_scores(found: dict[str, Any]) -> None:
    """Print what ``evaluated`` gives, the types of spans as a table."""
    where = found.get("split") or listed(found["data"])
    tell(f"{where}, {found['tokens']:,} tokens: accuracy {found['accuracy']:.4f}")
    if "f1" not in found:
        return
    rows = [(name or "-", scores) for name, scores in found["types"].items()]
    rows = [*rows, ("all", found)] if len(rows) > 1 else [("all", found)]
    print_table(
        ["type", "precision", "recall", "F1", "spans"],
        [
            [name, *(f"{s[key]:.4f}" for key in ("precision", "recall", "f1")), f"{s['spans']:,}"]
            for name, s in rows
        ],
    )
