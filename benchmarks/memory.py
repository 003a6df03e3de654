"""Peak memory and time of one training step on long sequences: full BPTT against checkpointed.

    python -m benchmarks.memory [--budget SIZE] [--rounds N] [--smallest] [--json FILE]

An LSTM with H = 256 and B = 8 sequences reads D = 32 features a step, a linear head predicts 32 numbers at
every step, and the loss is their mean squared error. Each row is a process of its own: it trains on a
short sequence first, so that all code is loaded and all parameters have gradients, and makes the long
sequence's inputs and targets; what its peak (VmHWM) then rises by in one training step is the activation
memory. The time is the least of several steps.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from benchmarks import results
from unrolled import bptt

UNITS, BATCH_SIZE, FEATURES = 256, 8, 32
SHORT = 100  # steps of the sequence that comes first
BUDGETS = {1_000: "6 MiB", 10_000: "56 MiB", 100_000: "240 MiB"}  # by T
SMALLEST = {4 * SHORT: "8 MiB"}
FULL = "full"  # in place of a budget
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--budget", metavar="SIZE", help="for every T; by default " + ", ".join(BUDGETS.values())
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="steps that are timed (5)"
    )
    parser.add_argument("--row", nargs=2, metavar=("T", "BUDGET"), help=argparse.SUPPRESS)
    results.add_options(parser)
    given = parser.parse_args(arguments)
    if not CLEAR.exists():
        raise SystemExit("the peak of a process is read from /proc, which is Linux's")
    if given.row:
        steps, budget = given.row
        print(json.dumps(measured(int(steps), None if budget == FULL else budget, given.rounds)))
        return
    budgets, rounds = (SMALLEST, 1) if given.smallest else (BUDGETS, given.rounds)
    rows = []
    print(
        f"{'T':>8}  {'mode':<12} {'budget':>8} {'seconds':>9} {'activations, MiB':>17}  {'of full':>14}"
    )
    for steps, usual in budgets.items():
        budget = given.budget or usual
        full, less = row(steps, FULL, rounds), row(steps, budget, rounds)
        rows += [full, less]
        results.write(given.json, rows)
        print(
            f"{steps:>8,}  {'full':<12} {'':>8} {full['seconds']:>9.3f} {full['activation_mib']:>17.1f}"
        )
        ratio = less["seconds"] / full["seconds"]
        share = less["activation_mib"] / (
            full["activation_mib"] or math.nan
        )  # none: nan, not a fault
        print(
            f"{steps:>8,}  {'checkpointed':<12} {budget:>8} {less['seconds']:>9.3f} "
            f"{less['activation_mib']:>17.1f}  {ratio:.2f} x time, {share - 1:+.1%}"
        )


def row(steps: int, budget: str, rounds: int) -> dict[str, Any]:
    """``measured`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--row", str(steps), budget]
    command += ["--rounds", str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(steps: int, budget: str | None, rounds: int) -> dict[str, Any]:
    """The time of a training step, and by what it raises the peak of this process.

    Checkpointed if there is a ``budget``.
    """
    torch.manual_seed(0)
    layer, head = unrolled.LSTM(FEATURES, UNITS), nn.Linear(UNITS, FEATURES)
    optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=1e-3)

    def loss(x: Tensor, target: Tensor) -> Tensor:
        error: Tensor = head(layer(x)[0]) - target
        return error.square().sum()

    def step(x: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        if budget is None:
            total = loss(x, target)
        else:
            total = bptt.checkpointed_loss(layer, loss, x, target, memory=budget)
        (total / target.numel()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(2):
        step(*torch.randn(2, SHORT, BATCH_SIZE, FEATURES).unbind())
    x, target = torch.randn(2, steps, BATCH_SIZE, FEATURES).unbind()
    before = peak(clear=True)
    step(x, target)
    rise = peak() - before
    seconds = []
    for _ in range(rounds if steps < 100_000 else min(rounds, 2)):
        begin = time.perf_counter()
        step(x, target)
        seconds.append(time.perf_counter() - begin)
    return {
        "steps": steps,
        "mode": FULL if budget is None else "checkpointed",
        "seconds": min(seconds),
        "activation_mib": rise / 2**20,
        "budget": budget,
    }


def peak(*, clear: bool = False) -> int:
    """The largest resident set of this process so far, in bytes; with ``clear``, counted from now."""
    if clear:
        CLEAR.write_text("5")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
