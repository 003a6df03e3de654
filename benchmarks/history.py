"""The time of torch.nn over ours in training, commit by commit, at two sizes.

    python -m benchmarks.history [--append] [--rounds N] [--smallest] [--json FILE]

What is measured now stands below what ``benchmarks/history.jsonl`` has, a line for each commit that was
measured with ``--append``. Ratios are those of ``benchmarks.layers``, taken in turns in one run, so that
a busy machine moves them less than the times; lines of other machines say little beside each other.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.layers.measuring import FEWEST, GATES, Problem, compare, timed
from benchmarks.layers.tables import SMALLEST, Sizes, contestants

HISTORY = Path(__file__).parent / "history.jsonl"
SIZES: Sizes = ((100, 1, 128), (100, 64, 256))
ROUNDS = 7


def measured(cell: str, size: tuple[int, int, int], rounds: int) -> float:
    """The time of ``torch.nn``'s layer over that of the drop-in layer."""
    problem = Problem("training", cell, *size, 1, "training")
    both = [c for c in contestants(problem) if c.name in ("torch.nn", "unrolled")]
    compare(problem, both)
    peer, own = timed(problem, both, rounds)
    return peer.median / own.median


def commit() -> str:
    """The commit that is measured, with a + where files have changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=HISTORY.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "no commit"


def read(path: Path) -> list[dict[str, Any]]:
    """Every line; none where there is no file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shown(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each commit, a column for each cell and size."""
    columns = list(dict.fromkeys(name for line in lines for name in line["ratios"]))
    heads = ["commit", "date", *columns, "machine"]
    rows = [
        [
            line["commit"],
            line["date"],
            *(f"{line['ratios'][c]:.2f}" if c in line["ratios"] else "-" for c in columns),
            f"{line['threads']} threads of {line['processor']}, torch {line['torch']}",
        ]
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--append", action="store_true", help=f"add it to {HISTORY.name}")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help=f"{ROUNDS}; {FEWEST} at the least"
    )
    results.add_options(parser)
    given = parser.parse_args(arguments)
    if given.append and given.smallest:
        parser.error("--append: the figures of --smallest say nothing")
    sizes, rounds = (SMALLEST, FEWEST) if given.smallest else (SIZES, given.rounds)
    now: dict[str, Any] = {"commit": commit(), **results.machine(), "torch": torch.__version__}
    now["ratios"] = {}
    for size in sizes:
        for cell in GATES:
            name = f"{cell} {','.join(map(str, size))}"
            now["ratios"][name] = measured(cell, size, rounds)
            results.write(given.json, now)
    print(shown([*read(HISTORY), now]))
    if given.append:
        with HISTORY.open("a", encoding="utf-8") as file:
            file.write(json.dumps(now) + "\n")


if __name__ == "__main__":
    main()
