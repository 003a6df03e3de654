"""The files that are longer than most, each with what keeps it whole.

    python -m tools.sizes

A source file has up to 400 lines, a test file up to 1,000. One that is longer and not named here fails;
so does one that is named and has become shorter.
"""

import subprocess
import sys
from pathlib import Path

MOST, MOST_OF_TESTS = 400, 1000
WHOLE = {
    "csrc/tests/kernels.cpp": "every kernel against serial and finite differences, one list of shapes",
    "src/unrolled/bptt/checkpointed.py": "two calls that share how a layer is cut into segments",
    "src/unrolled/bptt/gradcheck.py": "one check: what is probed, how far off, and in which words",
    "src/unrolled/bptt/recompute.py": "one autograd function: a chain of segments that are run again",
    "src/unrolled/bptt/truncated.py": "BPTT(k1, k2) and its unbiased kin, which share all but one draw",
    "src/unrolled/bptt/windows.py": "one dataset: half of it is checks of what it is given",
    "src/unrolled/cells/cell.py": "the contract of cells, half of it docstrings",
    "src/unrolled/compiler/staged.py": "one schedule: its forward and backward stages are found together",
    "src/unrolled/compiler/trace.py": "one trace: of the step, of its gradient, and of what it reads",
    "src/unrolled/layers/recurrent.py": "one layer, half of it docstrings",
    "src/unrolled/layers/torch_layers.py": "three layers over one base, and the swap of their class",
    "src/unrolled/lens/render/charts.py": "the pictures, one function each",
    "src/unrolled/lens/trials.py": "the trials and what is said of them",
    "src/unrolled/scan/native/calls.py": "one place where a kernel is called",
    "src/unrolled/series/estimator.py": "what both estimators of sequences share, half of it docstrings",
    "src/unrolled/series/forecaster.py": "one estimator, half of it docstrings",
    "src/unrolled/series/stream.py": "one stream: its series, a row, and what is saved of them",
    "src/unrolled/series/render/record.py": "what the two pages of forecasts show, one record each",
}
SOURCES = ("src", "csrc", "tools", "benchmarks", "examples", "tests")
KINDS = {".py", ".h", ".cpp", ".js", ".css", ".html"}


def lengths(root: Path) -> dict[str, int]:
    """The lines of each source file that is kept, but for what is generated."""
    kept = subprocess.run(
        ["git", "ls-files", *SOURCES], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    return {
        name: (root / name).read_text("utf-8").count("\n")
        for name in kept
        if Path(name).suffix in KINDS and "generated" not in name and (root / name).exists()
    }


def faults(lines: dict[str, int], whole: dict[str, str] | None = None) -> list[str]:
    """What is too long without a reason, and what has a reason and needs none."""
    whole = WHOLE if whole is None else whole
    long = {
        name
        for name, count in lines.items()
        if count > (MOST_OF_TESTS if name.startswith("tests/") else MOST)
    }
    said = [
        f"{name}: got {lines[name]} lines, expected at most "
        f"{MOST_OF_TESTS if name.startswith('tests/') else MOST}; split it where it has two jobs, or say "
        "in tools/sizes.py what keeps it whole"
        for name in sorted(long - whole.keys())
    ]
    return said + [
        f"{name}: is short enough; take it out of tools/sizes.py"
        for name in sorted(whole.keys() - long)
    ]


def main() -> None:
    """Print the list; fail on a file that it does not know."""
    lines = lengths(Path(__file__).parents[1])
    for name, reason in sorted(WHOLE.items(), key=lambda item: -lines.get(item[0], 0)):
        print(f"{lines.get(name, 0):5} {name}: {reason}")
    wrong = faults(lines)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
