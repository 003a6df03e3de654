"""What all programs here share: two options, and results that are written as they come."""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from unrolled.files import replace
from unrolled.text.data import sentences

FEW = 300  # sentences


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--smallest`` and ``--json``, which mean the same in each program."""
    parser.add_argument(
        "--smallest",
        action="store_true",
        help="the smallest size, to see that it runs; its figures say nothing",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results to FILE, anew after each"
    )


def write(path: Path | None, found: Any) -> None:
    """Replace ``path``, if there is one, by all that was ``found``: a stop loses a row at most."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, (json.dumps(found, ensure_ascii=False, indent=1) + "\n").encode())


def few_sentences(corpus: str, folder: Path) -> list[str]:
    """A file of the first ``FEW`` sentences of ``corpus``, as what ``--data`` takes."""
    path = folder / f"{Path(corpus).stem}.txt"
    path.write_text("\n".join(itertools.islice(sentences([corpus]), FEW)), encoding="utf-8")
    return [str(path)]
