"""Rows, contestants, the comparison before the timing, and the timing."""

import itertools
import math
import sys
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

LEAST = 0.020  # seconds that one measurement takes at least
PAUSE = 0.005  # seconds of rest between contestants, longer than idle threads spin
PATIENCE = 10.0  # seconds after which a row has no further round
FEWEST = 3  # rounds of a row at least

# Outputs and states lie in [-1, 1]; their errors do not add up over time, since each step squashes
# its state. A gradient sums over up to T·B rows, in an order of its own in every library.
OUTPUT_TOLERANCE = 1e-5  # absolute; of a number above 1, relative
GRADIENT_TOLERANCE = 3e-5  # of the largest entry of torch.nn's

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """What is computed: ``size`` is D = H, ``mode`` training or inference."""

    section: str
    cell: str
    steps: int
    batch_size: int
    size: int
    directions: int
    mode: str

    def flops(self) -> int:
        """Of the matrix products."""
        T, B, H = self.steps, self.batch_size, self.size
        forward = 2 * T * B * GATES[self.cell] * H * 2 * H * self.directions
        return 3 * forward if self.mode == "training" else forward

    def __str__(self) -> str:
        both = ", two directions" if self.directions == 2 else ""
        return f"{self.section}, {self.cell} ({self.steps}, {self.batch_size}, {self.size}){both}"


@dataclass(frozen=True)
class Contestant:
    """``read`` turns what ``call`` returns into tensors with ``torch.nn``'s names and layout."""

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], Values]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """The seconds of one call of one contestant, a round each."""

    problem: Problem
    contestant: str
    seconds: list[float]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def gflops(self) -> float:
        return self.problem.flops() / self.median / 1e9

    def as_json(self) -> dict[str, Any]:
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        figures = {
            "seconds_median": self.median,
            "seconds_min": min(self.seconds),
            "seconds_quartile1": low,
            "seconds_quartile3": high,
            "rounds": len(self.seconds),
        }
        return asdict(self.problem) | {"contestant": self.contestant} | figures | self.notes


def compare(problem: Problem, contestants: Sequence[Contestant]) -> None:
    """End the program unless all of them compute what the first one does."""
    first, *others = contestants
    expected = first.read(first.call())
    for other in others:
        complaint = difference(other.read(other.call()), expected)
        if complaint:
            raise SystemExit(
                f"{problem}: {other.name} does not compute what {first.name} does: {complaint}. "
                "Nothing is timed that is wrong."
            )


def difference(got: Values, expected: Values) -> str | None:
    """What is wrong with ``got``, or ``None``."""
    if got.keys() != expected.keys():
        return f"got {', '.join(sorted(got))}, expected {', '.join(sorted(expected))}"
    for name, right in expected.items():
        if got[name].shape != right.shape:
            return f"{name}: got shape {list(got[name].shape)}, expected {list(right.shape)}"
        largest = float(right.abs().max())
        gradient = name.startswith("gradient")
        allowed = GRADIENT_TOLERANCE * largest if gradient else OUTPUT_TOLERANCE * max(1.0, largest)
        error = float((got[name].double() - right.double()).abs().max())
        if not error <= allowed:  # false for NaN too
            return f"{name} differs by {error:.2g}, tolerance {allowed:.2g}"
    return None


def timed(problem: Problem, contestants: Sequence[Contestant], rounds: int) -> list[Row]:
    """The contestants' rows, measured in turns."""
    seconds = in_turns({c.name: c.call for c in contestants}, rounds)
    rows = [Row(problem, c.name, seconds[c.name], c.notes) for c in contestants]
    shown = ", ".join(f"{row.contestant} {row.median * 1e3:.4g} ms" for row in rows)
    print(f"{problem}: {shown}", file=sys.stderr, flush=True)
    return rows


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call of each, a round each; a round begins with another one each time."""
    began = time.perf_counter()
    repeats = {name: _repeats(call) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for k in range(max(rounds, FEWEST)):
        if k >= FEWEST and time.perf_counter() - began > PATIENCE:
            break
        start = k % len(names)
        for name in names[start:] + names[:start]:
            time.sleep(PAUSE)
            if repeats[name] > 1:  # beside a longer call, waking threads up takes no time
                calls[name]()
            found[name].append(_time(calls[name], repeats[name]))
    return found


def quickest(ways: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the quickest of several ways to call a peer."""
    repeats = {name: _repeats(call) for name, call in ways.items()}
    best = dict.fromkeys(ways, math.inf)
    for _, name in itertools.product(range(5), ways):
        best[name] = min(best[name], _time(ways[name], repeats[name]))
    return min(best, key=best.__getitem__)


def _repeats(call: Callable[[], Any]) -> int:
    """How many calls take ``LEAST`` seconds; it also warms up."""
    call()
    once = _time(call, 1)
    if once < LEAST:
        once = _time(call, max(1, int(LEAST / 2 / once)))
    return max(1, math.ceil(LEAST / once))


def _time(call: Callable[[], Any], repeats: int) -> float:
    return timeit.timeit(call, number=repeats) / repeats


def fixed_input(problem: Problem) -> tuple[Tensor, Tensor]:
    """``x`` ``[T, B, D]`` and the cotangent of the outputs ``[T, B, S*H]``, the same every time."""
    source = torch.Generator().manual_seed(problem.size)
    T, B, H = problem.steps, problem.batch_size, problem.size
    x = torch.randn(T, B, H, generator=source)
    return x, torch.randn(T, B, problem.directions * H, generator=source)
