"""``unrolled fill``: the blanks of a text, filled by a cloze model."""

import argparse
from dataclasses import asdict
from pathlib import Path

from unrolled.cli.options import not_negative, whole
from unrolled.cli.printing import note_unknown, print_json
from unrolled.cli.runs import load
from unrolled.models import Cloze, fill
from unrolled.models.filling import RESCORING


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "fill",
        help="fill the blanks of a text",
        description="Fill each blank of a text (three or more underscores, or <blank>) with one token.",
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="a run of 'unrolled train cloze'")
    parser.add_argument("text", metavar="TEXT", help='such as "…____…"')
    parser.add_argument(
        "--top", type=whole(1), default=5, metavar="N", help="candidates a blank (5)"
    )
    parser.add_argument(
        "--rescoring",
        type=not_negative,
        default=RESCORING,
        metavar="N",
        help=f"weight of how the rest of the text then reads ({RESCORING:g})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Fill the text, and print it with the candidates for each blank."""
    run, model = load(arguments.run, Cloze)
    result = fill(
        model,
        run.vocabulary,
        run.tokenizer,
        arguments.text,
        top=arguments.top,
        rescoring=arguments.rescoring,
    )
    note_unknown(result.unknown)
    if arguments.json:
        shown = asdict(result)
        del shown["unknown"]  # said on standard error
        print_json(shown)
        return
    print(result.filled)
    for number, blank in enumerate(result.blanks, start=1):
        found = "  ".join(f"{c.token} {c.probability:.3f}" for c in blank.candidates)
        print(f"blank {number}: {found}")
