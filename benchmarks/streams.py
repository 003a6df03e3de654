"""Many independent streams of an LSTM, stepped together: D = H = 128, one step a call, float32.

    python -m benchmarks.streams [--streams B …] [--rounds N] [--smallest] [--json FILE]

Beside ``torch.nn.LSTMCell`` and ONNX Runtime's LSTM on the same batch, with equal results; and with one
stream in a hundred leaving and another joining before each step, which the peers have nothing for. The
bounds are what the machine needs at least: to move each stream's input and states once, were they
in no cache, and to multiply and add. With one stream it is the row of ``benchmarks.layers`` that is shown.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.cells import COPIED, bandwidth
from benchmarks.layers import on_torch, streaming
from benchmarks.layers.measuring import PAUSE, Problem, Row, compare, timed
from benchmarks.layers.peers import installed, show_absent
from benchmarks.peaks import FMA, SIDE, Peaks
from unrolled.layers.stream import Stream
from unrolled.scan.native import library

H = 128
INPUTS = 3
COMING = 100  # one stream of so many leaves, and another joins, before a step


def coming_and_going(layer: Any, batch_size: int) -> Callable[[], Callable[[Tensor], Tensor]]:
    """Streams of which a share leaves, and as many join, before each step."""

    def stream() -> Callable[[Tensor], Tensor]:
        made: Stream = layer.stream(batch_size)
        changing = max(1, batch_size // COMING)

        def step(x: Tensor) -> Tensor:
            made.leave(made.ids[:changing])
            made.join(changing)
            return made(x)

        return step

    return stream


@torch.no_grad()
def measure(batch_size: int, rounds: int) -> list[Row]:
    """Every contestant's row, of one step of all streams."""
    problem = Problem("streams", "LSTM", 1, batch_size, H, 1, "inference")
    layer = on_torch.layer_of(problem)
    drop_in: Any = on_torch.drop_in_of(layer, "LSTM").eval()
    xs = list(torch.randn(INPUTS, batch_size, H, generator=torch.Generator().manual_seed(0)))
    contestants, checked = [], []
    for name, stream in (
        ("torch.nn.LSTMCell", streaming.cell_stream(layer, batch_size)),
        ("unrolled", lambda: drop_in.stream(batch_size)),
    ):
        checked.append(streaming.outputs(name, stream, xs, torch.clone))
        contestants.append(streaming.contestant(name, {"": stream}, xs))
    changing = {"": coming_and_going(drop_in, batch_size)}
    contestants.append(streaming.contestant("unrolled, coming and going", changing, xs))
    if installed("ONNX Runtime"):
        from benchmarks.layers import on_onnx

        arrays = [x.unsqueeze(0).numpy() for x in xs]
        ways = {
            way: on_onnx.lstm_stepper(layer, bound=way == "io binding", batch_size=batch_size)
            for way in ("plain run", "io binding")
        }
        checked += [
            streaming.outputs("ONNX Runtime", way, arrays, lambda y: torch.from_numpy(y[0].copy()))
            for way in ways.values()
        ]
        contestants.append(streaming.contestant("ONNX Runtime", ways, arrays))
    compare(problem, checked)
    return timed(problem, contestants, rounds)


def least(batch_size: int, moved: float, computed: float | None) -> dict[str, float]:
    """Seconds that a step takes at least, at ``moved`` GB/s and ``computed`` GFLOP/s.

    Of each stream x is read, h and c are read and written, and y, which is h, is written once more.
    The weights, half a megabyte, stay in a cache.
    """
    bounds = {"memory": 4 * batch_size * (H + 5 * H) / moved / 1e9}
    if computed:
        bounds["arithmetic"] = 2 * batch_size * 4 * H * 2 * H / computed / 1e9
    return bounds


def show(rows: list[Row], bounds: dict[str, float]) -> None:
    """A line for each contestant: time, rate, and what share of the time the bounds are."""
    for row in rows:
        batch_size, taken = row.problem.batch_size, row.median
        shares = "".join(f"{seconds / taken:12.0%}" for seconds in bounds.values())
        print(
            f"{batch_size:8}  {row.contestant:28}{taken * 1e6:12.1f}{batch_size / taken:14,.0f}{shares}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, time, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--rounds", type=int, default=7)
    results.add_options(parser)
    given = parser.parse_args(arguments)
    counts, rounds, copied, side = given.streams, given.rounds, COPIED, SIDE
    if given.smallest:
        counts, rounds, copied, side = [1, 3], 1, 2**10, 8
    show_absent()
    peaks = Peaks(side)
    peaks.sample(PAUSE)
    moved, computed = bandwidth(rounds, copied), peaks.typical(FMA)
    print(
        f"{library.instruction_set()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"a large copy moves {moved:.0f} GB/s, multiply-adds reach {computed or 0:.0f} GFLOP/s")
    peak = {"copy": moved, "multiply-adds": computed}
    found: list[dict[str, Any]] = []
    print(
        f"{'streams':>8}  {'':28}{'µs a step':>12}{'streams/s':>14}{'of memory':>12}{'of FMA':>12}"
    )
    for batch_size in counts:
        alone = batch_size == 1
        rows = streaming.measure(rounds) if alone else measure(batch_size, rounds)
        bounds = least(batch_size, moved, computed)
        show(rows, bounds)
        found += [row.as_json() | {"bounds": bounds} for row in rows]
        results.write(given.json, {"peaks": peak, "rows": found})


if __name__ == "__main__":
    main()
