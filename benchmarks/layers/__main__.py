"""The command: arguments in, tables and JSON out."""

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

import benchmarks.layers
from benchmarks import peaks as machine_peaks
from benchmarks import results
from benchmarks.layers import model, peers, ragged, streaming, tables
from benchmarks.layers.judging import Target, all_ratios, targets
from benchmarks.layers.measuring import FEWEST, GATES, PAUSE, Row
from benchmarks.layers.showing import show, show_targets
from benchmarks.peaks import FMA, SIDE, XLA, Peaks

SECTIONS = ("training", "inference", "streaming", "ragged", "model")
ROUNDS = 7


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    threads = torch.get_num_threads()
    numpy_set = machine_peaks.set_numpy_threads(threads)
    peers.show_absent()
    if peers.installed("JAX"):
        from benchmarks.layers import on_jax

        on_jax.prepare(threads)
    machine = describe(threads, numpy_set)
    for name, value in machine.items():
        print(f"{name}: {value}")

    began = time.perf_counter()
    peaks = Peaks(8 if given.smallest else SIDE)
    peaks.sample(PAUSE)
    rows: list[Row] = []
    profiles: list[dict[str, Any]] = []
    for more, where in measured(given):
        rows += more
        profiles += where
        peaks.sample(PAUSE)
        machine["minutes"] = round((time.perf_counter() - began) / 60, 1)
        results.write(given.json, report(machine, rows, profiles, peaks))
    show(rows, profiles, peaks)
    show_targets(judged(rows, peaks))
    print(f"\n{machine['minutes']} minutes")


Measured = tuple[list[Row], list[dict[str, Any]]]  # and where the time of the model's steps goes


def measured(given: argparse.Namespace) -> Iterator[Measured]:
    """What is asked for, problem by problem."""
    rounds = FEWEST if given.smallest else given.rounds
    sizes, ragged_sizes = given.sizes or tables.SIZES, given.sizes or ragged.SIZES
    if given.smallest:
        sizes = ragged_sizes = tables.SMALLEST
    for mode in ("training", "inference"):
        if mode in given.only:
            for problem in tables.problems(mode, given.cells, sizes):
                yield tables.measure(problem, rounds), []
    if "streaming" in given.only:
        yield streaming.measure(rounds), []
    if "ragged" in given.only:
        for problem in ragged.problems(given.cells, ragged_sizes):
            yield ragged.measure(problem, rounds), []
    if "model" in given.only:
        yield from model.measure(rounds, smallest=given.smallest)


def judged(rows: Sequence[Row], peaks: Peaks) -> list[Target]:
    return targets(rows, peaks.typical("sgemm"), peaks.typical(XLA))


def report(
    machine: dict[str, Any], rows: Sequence[Row], profiles: list[dict[str, Any]], peaks: Peaks
) -> dict[str, Any]:
    """For JSON: all that was measured so far."""
    return {
        "machine": machine,
        "peaks": peaks.notes(),
        "rows": [row_json(row, peaks) for row in rows],
        "ratios": all_ratios(rows),
        "targets": [asdict(target) for target in judged(rows, peaks)],
        "profiles": profiles,
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers",
        description=benchmarks.layers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cells", nargs="+", choices=list(GATES), default=list(GATES))
    parser.add_argument("--sizes", nargs="+", type=size, metavar="T,B,H")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help=f"{ROUNDS}; {FEWEST} at least"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    results.add_options(parser)
    return parser.parse_args(arguments)


def size(text: str) -> tuple[int, int, int]:
    """``"100,64,256"`` as (T, B, H).

    >>> size("100,64,256")
    (100, 64, 256)
    """
    T, B, H = (int(part) for part in text.split(","))
    if min(T, B, H) < 1:
        raise ValueError("expected sizes of 1 or more")
    return T, B, H


def row_json(row: Row, peaks: Peaks) -> dict[str, Any]:
    """The row, with its GFLOP/s and its shares of the peaks where all its products are counted."""
    found = row.as_json()
    if row.problem.section in ("training", "inference"):
        found["gflops"] = row.gflops
        for key, name in (("of_sgemm", "sgemm"), ("of_xla", XLA), ("of_fma", FMA)):
            peak = peaks.typical(name)
            found[key] = None if peak is None else row.gflops / peak
    return found


def describe(threads: int, numpy_set: bool) -> dict[str, Any]:
    """What measured: processor, threads, versions."""
    return {
        **results.machine(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": peers.versions(),
        "threads": threads,  # of PyTorch, unrolled and ONNX Runtime
        "threads of JAX": f"a pool of its own, asked for {threads} by NPROC",
        "threads of NumPy": f"{threads}" if numpy_set else "not known: not PyPI's OpenBLAS",
    }


if __name__ == "__main__":
    main()
