"""The adding problem: which networks learn it, and what the lens says of them before they have trained.

    python examples/adding_problem.py [--lengths 100 200 400] [--nets tanh GRU …] [--minutes 1]

Each step of a sequence brings a number from [0, 1) and a mark, which is 1 at one step of the first half
and at one of the second, else 0. After the last step a network is asked for the sum of the two marked
numbers. Who always says 1 has a squared error of 1/6 = 0.167, so what is below was carried over time; below
0.01 the problem counts as solved. Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural
Computation 9 (1997); in this form Le, Jaitly & Hinton, arXiv 1504.00941 (2015).

Every net has 64 hidden units, a linear readout of the last state, the same data for the same seed, Adam, 32
sequences a step, gradients clipped to a norm of 1. Its learning rate was fixed beforehand, with T = 50 and
seed 100, which is not used again: of 0.0003, 0.001, 0.003 and 0.01 the middle one of those at which it
solved the problem within 20 seconds (of two, the lower).

The rule, set before any result: a run will solve the problem if the lens calls its net "healthy" at
initialisation, over all T steps (not the 64 of a report by default), on one batch, before any training;
it will not if it calls it "vanishing", "exploding", "saturated" or "dead".

The budget of a run is CPU time of one thread in training steps alone, so that a busy machine changes
little. Testing and the lens are not counted in.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unrolled
from unrolled import Recurrent, cells, remedies

H, B = 64, 32  # hidden units, sequences
RATES = {"tanh": 1e-3, "sigmoid": 3e-3, "IRNN": 1e-3, "orthogonal": 1e-3}
RATES |= {"LSTM": 3e-3, "chrono": 3e-3, "GRU": 1e-3}
GUESS = 1 / 6  # the variance of the sum of two numbers from [0, 1)
SOLVED = 0.01
EVERY = 200  # steps between two tests
TESTED, TEST_SEED = 1000, 12345  # sequences, the same for every run of a length

NETS: dict[str, Callable[[int], Recurrent]] = {
    "tanh": lambda _: Recurrent(cells.Elman, 2, H),
    "sigmoid": lambda _: Recurrent(cells.Elman, 2, H, activation="sigmoid"),
    "IRNN": lambda _: remedies.identity_weights_(Recurrent(cells.Elman, 2, H, activation="relu")),
    "orthogonal": lambda _: remedies.orthogonal_weights_(Recurrent(cells.Elman, 2, H)),
    "LSTM": lambda _: remedies.forget_bias_(Recurrent(cells.LSTM, 2, H)),
    "chrono": lambda longest: remedies.chrono_bias_(Recurrent(cells.LSTM, 2, H), longest),
    "GRU": lambda _: Recurrent(cells.GRU, 2, H),
}


def sequences(length: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers and marks ``[length, B, 2]``, and the sums of the marked numbers ``[B]``."""
    x = torch.zeros(length, batch_size, 2)
    x[..., 0] = torch.rand(length, batch_size, generator=generator)
    for low, high in ((0, length // 2), (length // 2, length)):
        steps = torch.randint(low, high, (batch_size,), generator=generator)
        x[steps, torch.arange(batch_size), 1] = 1.0
    return x, x.prod(-1).sum(0)


class Adder(nn.Module):
    """A recurrent layer and a linear readout of its last state."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(H, 1)

    def loss(self, x: Tensor, sums: Tensor) -> Tensor:
        """The mean squared error of the sums of ``x`` ``[T, B, 2]``."""
        return F.mse_loss(self.head(self.layer(x).y[-1]).squeeze(-1), sums)


def finite(number: float) -> float | None:
    """``number``, for JSON, which has no other."""
    return number if math.isfinite(number) else None


def seen(model: Adder, x: Tensor, sums: Tensor) -> dict:
    """The lens's verdict over all steps, and |dL/dh| at the first step over that at the last."""
    with unrolled.watch(model) as lens:
        model.loss(x, sums).backward()
    model.zero_grad()
    (row,) = lens.report(steps=len(x)).rows
    return {
        "state": row.verdict.state,
        "growth": finite(row.verdict.growth),
        "horizon": finite(row.verdict.horizon),  # None: without end
        "ratio": finite(float(row.norms[0] / row.norms[-1])),
    }


def run(net: str, length: int, seed: int, minutes: float, rate: float | None, watch: bool) -> dict:
    """Watch one net, train it until it has solved the problem or its time is over, watch it again."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = Adder(NETS[net](length))
    generator = torch.Generator().manual_seed(seed)
    test = sequences(length, TESTED, torch.Generator().manual_seed(TEST_SEED))
    watched = sequences(length, B, generator)
    before = seen(model, *watched)

    optimizer = torch.optim.Adam(model.parameters(), rate or RATES[net])
    seconds, steps, errors, path = 0.0, 0, [], []
    while not errors or (SOLVED <= errors[-1] < math.inf and seconds < 60 * minutes):
        start = time.process_time()
        for _ in range(EVERY):
            optimizer.zero_grad()
            model.loss(*sequences(length, B, generator)).backward()
            remedies.clip_norm_(model.parameters(), 1.0)
            optimizer.step()
        seconds += time.process_time() - start
        steps += EVERY
        with torch.no_grad():
            errors.append(float(model.loss(*test)))
        if watch and math.isfinite(errors[-1]):
            path.append({"steps": steps, "error": errors[-1], **seen(model, *watched)})
    return {
        "net": net,
        "T": length,
        "seed": seed,
        "rate": rate or RATES[net],
        "before": before,
        "after": seen(model, *watched) if math.isfinite(errors[-1]) else None,
        "solved": errors[-1] < SOLVED,
        "steps": steps,
        "seconds": seconds,
        "best": min(filter(math.isfinite, errors), default=None),
        "final": finite(errors[-1]),
        "path": path,
    }


def several(states: Iterable[str]) -> str:
    """``"healthy"`` if all are, else how many of each."""
    count = Counter(states).most_common()
    return count[0][0] if len(count) == 1 else ", ".join(f"{n} {state}" for state, n in count)


def middle(numbers: Iterable[float | None]) -> float:
    """Their median, where ``None`` is infinite."""
    return median(math.inf if n is None else n for n in numbers)


def table(runs: list[dict], nets: list[str], lengths: list[int]) -> str:
    """A line for each net and length: the verdict, then what came of it. Medians over the seeds."""
    lines = [
        f"{'':10} {'T':>4}  {'verdict at first':22} {'a step':>6} {'horizon':>7} {'first/last':>10}"
        f"  {'solved':6} {'steps':>7} {'CPU s':>6} {'error':>8}  verdict at the end"
    ]
    for net, T in product(nets, lengths):
        mine = [r for r in runs if (r["net"], r["T"]) == (net, T)]
        if not mine:
            continue
        first = [r["before"] for r in mine]
        solved = [r for r in mine if r["solved"]]
        taken = ("-", "-")
        if solved:
            taken = (
                f"{median(r['steps'] for r in solved):,.0f}",
                f"{median(r['seconds'] for r in solved):.0f}",
            )
        lines.append(
            f"{net:10} {T:4}  {several(f['state'] for f in first):22} "
            f"{middle(f['growth'] for f in first):6.3f} {middle(f['horizon'] for f in first):7.0f} "
            f"{middle(f['ratio'] for f in first):10.0e}  {len(solved)} of {len(mine)} "
            f"{taken[0]:>7} {taken[1]:>6} {middle(r['final'] for r in mine):8.3g}  "
            + several(r["after"]["state"] if r["after"] else "not finite" for r in mine)
        )
    return "\n".join(lines)


def paths(runs: list[dict]) -> str:
    """The verdict and the error on the way, for runs that were watched."""
    lines = [f"{'steps':>23} {'error':>8} {'a step':>6} {'first/last':>10}  verdict"]
    for r in runs:
        lines += [
            f"{r['net']:10} {r['T']:4} {at['steps']:7,} {at['error']:8.3g} {middle([at['growth']]):6.3f} "
            f"{middle([at['ratio']]):10.0e}  {at['state']}"
            for at in r["path"]
        ]
    return "\n".join(lines)


def comparison(runs: list[dict]) -> str:
    """How often the verdict at first was right about the end, by the rule above."""
    count = Counter((r["before"]["state"], r["solved"]) for r in runs)
    healthy = [count["healthy", True], count["healthy", False]]
    other = [
        sum(r["solved"] is s for r in runs) - n for s, n in zip((True, False), healthy, strict=True)
    ]
    lines = [f"{'verdict at first':24}{'solved':>8}{'not':>8}"]
    lines.append(f"{'healthy':24}{healthy[0]:8}{healthy[1]:8}")
    lines.append(f"{'not healthy':24}{other[0]:8}{other[1]:8}")
    for state in sorted({state for state, _ in count} - {"healthy"}):
        lines.append(f"{'  ' + state:24}{count[state, True]:8}{count[state, False]:8}")
    lines.append(f"the rule was right about {healthy[0] + other[1]} of {len(runs)} runs\n")
    lines.append("healthy at the end, which is no prediction:")
    for solved, said in ((True, "solved"), (False, "not")):
        ends = [
            r["after"] is not None and r["after"]["state"] == "healthy"
            for r in runs
            if r["solved"] is solved
        ]
        lines.append(f"{'  of those ' + said:24}{sum(ends):8} of {len(ends)}")
    return "\n".join(lines)


def main() -> None:
    """Run all, one process a run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 200, 400], metavar="T")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NET")
    parser.add_argument("--minutes", type=float, default=1.0, help="of CPU time a run, in training")
    parser.add_argument("--rate", type=float, help="of learning; by default each net's own")
    parser.add_argument("--watch", action="store_true", help="with the lens at every test")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--json", type=Path, help="a file for what was found, written run by run")
    options = parser.parse_args()

    if min(options.lengths) < 2:
        parser.error(f"--lengths: got {min(options.lengths)}, expected 2 or more, a step a mark")

    wanted = list(product(options.seeds, options.nets, options.lengths))
    runs: list[dict] = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for future in as_completed(
            pool.submit(run, net, T, seed, options.minutes, options.rate, options.watch)
            for seed, net, T in wanted
        ):
            runs.append(future.result())
            r = runs[-1]
            print(
                f"{len(runs)}/{len(wanted)} {r['net']}, T {r['T']}, seed {r['seed']}: "
                f"{r['before']['state']}, {'' if r['solved'] else 'not '}solved, {r['steps']} steps",
                file=sys.stderr,
            )
            if options.json:
                options.json.write_text(json.dumps(runs, indent=1), encoding="utf-8")
    runs.sort(key=lambda r: wanted.index((r["seed"], r["net"], r["T"])))
    print(f"always saying 1: error {GUESS:.3f}; solved: below {SOLVED}\n")
    print(table(runs, options.nets, options.lengths), end="\n\n")
    if options.watch:
        print(paths(runs), end="\n\n")
    print(comparison(runs))


if __name__ == "__main__":
    main()
