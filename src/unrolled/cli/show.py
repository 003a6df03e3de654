"""``unrolled show``: a network as it unrolls in time, as a picture and as a formula."""

import argparse

from unrolled import lens
from unrolled.cli.options import CELLS, file, whole
from unrolled.cli.printing import note, tell
from unrolled.diagrams.formula import MOST_STEPS
from unrolled.errors import CallError
from unrolled.layers import Recurrent

FEWEST = {"grud": 5, "continuoustimelstm": 3}  # features that a cell which reads gaps has at least


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "show",
        help="draw a network as it unrolls, and its formula",
        description="The network that a layer is over some steps, and its output as a formula.",
    )
    parser.add_argument("--cell", choices=sorted(CELLS), default="elman", help="which cell (elman)")
    parser.add_argument(
        "--steps", type=whole(1, MOST_STEPS), default=4, metavar="N", help="steps of time (4)"
    )
    parser.add_argument(
        "--depth", type=whole(1, 16), default=1, metavar="N", help="recurrent layers (1)"
    )
    parser.add_argument("--bidirectional", action="store_true", help="read in both directions")
    parser.add_argument(
        "--at",
        type=whole(1, MOST_STEPS),
        metavar="N",
        help="the step of the formula; by default the last one, in both directions the middle one",
    )
    parser.add_argument("--latex", action="store_true", help="print the formula as LaTeX")
    parser.add_argument(
        "--svg", type=file(".svg"), metavar="FILE", help="write the picture to FILE"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Print the picture and the formula, and write the picture if asked."""
    steps = arguments.steps
    at = arguments.at or ((steps + 1) // 2 if arguments.bidirectional else steps)
    if at > steps:
        raise CallError(f"--at: got {at}, expected a step up to --steps, which is {steps}")
    layer = Recurrent(
        CELLS[arguments.cell],
        FEWEST.get(arguments.cell, 1),
        1,
        depth=arguments.depth,
        bidirectional=arguments.bidirectional,
    )
    drawing = lens.draw(layer, steps)
    print(drawing, end="\n\n")
    try:
        formula = lens.expand(layer, at, steps)
    except ValueError as error:
        note(f"no formula: {error}")
    else:
        print(formula.latex if arguments.latex else formula)
        tell(f"where {formula.where}")
    if arguments.svg is not None:
        drawing.save(arguments.svg)
        note(f"the picture is in {arguments.svg}")
