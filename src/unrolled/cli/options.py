"""Types of options: each refuses a bad value where it is given."""

import argparse
import csv
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unrolled import cells
from unrolled.bptt.schedule import parse as parse_memory
from unrolled.cells import Cell
from unrolled.training.remedies import read as read_remedy


class Collecting(argparse.Action):
    """An option that may be given again and again: each value, a pair, adds an entry to a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        before = getattr(namespace, self.dest, None) or {}
        setattr(namespace, self.dest, before | dict([values]))


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="a TOML file of options, with a table for each command; the command line wins",
    )
    parser.add_argument(
        "--quiet", action="store_true", default=argparse.SUPPRESS, help="no notes, no progress"
    )


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a whole number from {least} to {most}"
            )
        return value

    return parse


def number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """A finite number that ``accepts`` takes; ``expected`` says which."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not accepts(value):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return value

    return parse


def memory(text: str) -> int:
    """Bytes from a text such as "256MiB"."""
    try:
        return parse_memory(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("memory: ")) from None


def names(text: str) -> list[str]:
    """Names from a text such as "temp,wind"; one with a comma stands in double quotes."""
    found = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not all(found) or len(set(found)) < len(found) or not found:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected names that differ, between commas"
        )
    return found


def quantiles(text: str) -> list[float]:
    """Levels between 0 and 1 from a text such as "0.1,0.5,0.9"."""
    try:
        found = [float(level) for level in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < level < 1 for level in found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected levels between 0 and 1 that differ, such as 0.1,0.5,0.9"
        )
    return sorted(found)


def file(*suffixes: str) -> Callable[[str], Path]:
    """A file that can be written, whose name ends in one of ``suffixes``."""

    def parse(text: str) -> Path:
        path = Path(text)
        if not path.name.endswith(suffixes) or path.name in suffixes:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a name that ends in {' or '.join(suffixes)}"
            )
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a folder that is there")
        # The file is replaced by another of its folder.
        places = [path, path.parent] if path.exists() else [path.parent]
        if path.is_dir() or not all(os.access(place, os.W_OK) for place in places):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a file that can be written")
        return path

    return parse


def remedy(text: str) -> tuple[str, float | str | None]:
    """A remedy with its value, from a text such as "chrono_bias=100"."""
    try:
        return read_remedy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


LARGEST = 1e6
positive = number(lambda value: 0 < value <= LARGEST, f"a number above 0, up to {LARGEST:,.0f}")
not_negative = number(lambda value: 0 <= value <= LARGEST, f"a number from 0 to {LARGEST:,.0f}")
fraction = number(lambda value: 0 <= value < 1, "a number from 0 up to, but not, 1")

# Of a network by itself, by their names in lower case.
CELLS: dict[str, type[Cell]] = {
    name.lower(): kind
    for name in cells.__all__
    if isinstance(kind := getattr(cells, name), type)
    and issubclass(kind, Cell)
    and kind not in (Cell, cells.GatedCell)
}
