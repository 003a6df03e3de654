"""What all programs here share: two options, and results that are written as they come."""

import argparse
import itertools
import json
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

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


def machine() -> dict[str, Any]:
    """For JSON: what measured, when and how: the date, the command, processor, threads of PyTorch."""
    main = sys.modules["__main__"].__spec__
    program = "" if main is None else main.name.removesuffix(".__main__")
    words = sys.argv[1:]
    if "--json" in words:  # which says nothing of what was measured
        at = words.index("--json")
        del words[at : at + 2]
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m", program, *words]),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def few_sentences(corpus: str, folder: Path) -> list[str]:
    """A file of the first ``FEW`` sentences of ``corpus``, as what ``--data`` takes."""
    path = folder / f"{Path(corpus).stem}.txt"
    path.write_text("\n".join(itertools.islice(sentences([corpus]), FEW)), encoding="utf-8")
    return [str(path)]
