"""Peak memory and time of each command, as a table.

    python -m benchmarks.commands [--only NAME…] [--smallest] [--json FILE]

Each command is a process of its own, run once; its peak is the largest resident size of it or of any
process that it waited for. A time is worth quoting only if the machine has nothing else to do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import results

SENTENCE = "我的手机坏了,我打算____一部新手机。"
MINUTES, LINES = 5.0, 1000  # of the training, of the file that is filled
SMALLEST = 0.02, 10
ROOT = Path(__file__).parent.parent


def commands(folder: Path, minutes: float) -> dict[str, list[str]]:
    """The arguments of Python for each command, which come after one another in ``folder``."""
    unrolled, run, texts = ["-m", "unrolled"], str(folder / "cloze"), str(folder / "blanks.txt")
    lm = str(folder / "lm")
    train = ["--minutes", str(minutes), "--data"]
    return {
        "train cloze (the demo)": [*unrolled, "train", "cloze", *train, "tatoeba-zh", "--out", run],
        "train lm": [*unrolled, "train", "lm", *train, "shakespeare", "--out", lm],
        "fill, one sentence": [*unrolled, "fill", SENTENCE],
        "fill, a file": [*unrolled, "fill", "--input", texts, "--output", f"{texts}.jsonl"],
        "evaluate": [*unrolled, "evaluate", run],
        "diagnose": [*unrolled, "diagnose", run],
        "diagnose --html": [*unrolled, "diagnose", run, "--html", str(folder / "lens.html")],
        "generate": [*unrolled, "generate", lm],
        "show": [*unrolled, "show"],
        "make bench": ["-m", "benchmarks.layers", "--json", str(folder / "layers.json")],
        "make docs": ["-m", "sphinx", "-qW", "docs", str(folder / "html")],
        "make test": ["-m", "pytest", "-q"],
    }


LONG = ("make bench", "make docs", "make test")  # left out of the smallest run


def measured(arguments: list[str]) -> dict[str, float]:
    """Seconds and peak MiB of Python with ``arguments``."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: ended with {process.returncode}")
    return {"seconds": time.monotonic() - start, "MiB": usage.ru_maxrss / 1024}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = commands(Path(), MINUTES)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    results.add_options(parser)
    arguments = parser.parse_args(argv)
    minutes, lines = SMALLEST if arguments.smallest else (MINUTES, LINES)
    rows = {}
    print("| command | peak memory | time |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "blanks.txt").write_text(f"{SENTENCE}\n" * lines, encoding="utf-8")
        for name, command in commands(Path(folder), minutes).items():
            if name not in (arguments.only or names) or (arguments.smallest and name in LONG):
                continue
            rows[name] = measured(command)
            shown = f"{rows[name]['MiB']:,.0f} MiB | {rows[name]['seconds']:,.1f} s"
            print(f"| {name} | {shown} |", flush=True)
            results.write(arguments.json, rows)


if __name__ == "__main__":
    main()
