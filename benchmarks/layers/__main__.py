"""The command: arguments in, tables and JSON out."""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import benchmarks.layers
from benchmarks import peaks as machine_peaks
from benchmarks.layers import model, peers, ragged, streaming, tables
from benchmarks.layers.judging import all_ratios, targets
from benchmarks.layers.measuring import FEWEST, GATES, PAUSE, Row
from benchmarks.layers.showing import show, show_targets
from benchmarks.peaks import FMA, XLA, Peaks

SECTIONS = ("training", "inference", "streaming", "ragged", "model")
ROUNDS, QUICK_ROUNDS = 7, 3


def main() -> None:
    arguments = parsed()
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
    peaks = Peaks()
    rows: list[Row] = []
    profiles: list[dict[str, Any]] = []
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    sizes = arguments.sizes or (tables.QUICK if arguments.quick else tables.SIZES)
    ragged_sizes = arguments.sizes or (ragged.QUICK if arguments.quick else ragged.SIZES)
    peaks.sample(PAUSE)
    for mode in ("training", "inference"):
        if mode in arguments.only:
            for problem in tables.problems(mode, arguments.cells, sizes):
                rows += tables.measure(problem, rounds)
                peaks.sample(PAUSE)
    if "streaming" in arguments.only:
        rows += streaming.measure(rounds)
    if "ragged" in arguments.only:
        for problem in ragged.problems(arguments.cells, ragged_sizes):
            rows += ragged.measure(problem, rounds)
            peaks.sample(PAUSE)
    if "model" in arguments.only:
        more, profiles = model.measure(rounds)
        rows += more
    peaks.sample(PAUSE)

    judged = targets(rows, peaks.typical("sgemm"), peaks.typical(XLA))
    show(rows, profiles, peaks)
    show_targets(judged)
    machine["minutes"] = round((time.perf_counter() - began) / 60, 1)
    print(f"\n{machine['minutes']} minutes")
    if arguments.json:
        report = {
            "machine": machine,
            "peaks": peaks.notes(),
            "rows": [row_json(row, peaks) for row in rows],
            "ratios": all_ratios(rows),
            "targets": [asdict(target) for target in judged],
            "profiles": profiles,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers",
        description=benchmarks.layers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds: two minutes")
    parser.add_argument("--cells", nargs="+", choices=list(GATES), default=list(GATES))
    parser.add_argument("--sizes", nargs="+", type=size, metavar="T,B,H")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{FEWEST} at the least")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    return parser.parse_args()


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
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": peers.versions(),
        "threads": threads,  # of PyTorch, unrolled and ONNX Runtime
        "threads of JAX": f"a pool of its own, asked for {threads} by NPROC",
        "threads of NumPy": f"{threads}" if numpy_set else "not known: not PyPI's OpenBLAS",
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
