"""Prints what was measured and judged."""

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any

from benchmarks.layers.judging import PEERS, RAGGED, Table, Target, grouped, ratios
from benchmarks.layers.measuring import Row
from benchmarks.peaks import FMA, XLA, Peaks


def show(rows: Sequence[Row], profiles: list[dict[str, Any]], peaks: Peaks) -> None:
    for section in ("training", "inference"):
        table = grouped(rows, section)
        for directions in (1, 2):
            some = {p: row for p, row in table.items() if p.directions == directions}
            if some:
                title = f"{section}, {'one direction' if directions == 1 else 'two directions'}"
                show_table(title, some, peaks)
    streaming, ragged, model = (grouped(rows, s) for s in ("streaming", "ragged", "model"))
    if streaming:
        show_streaming(streaming)
    if ragged:
        show_ragged(ragged)
    if model:
        show_model(model, profiles)
    peaks.show()


def show_table(title: str, table: Table, peaks: Peaks) -> None:
    """Times, ratios, and the share of the peaks that ``unrolled`` reaches."""
    peers = [peer for peer in PEERS if any(peer in row for row in table.values())]
    heads = ["cell", "T", "B", "H", "unrolled", *peers, *(f"× {p}" for p in peers), "GFLOP/s"]
    bounds = {"sgemm": "of sgemm", XLA: "of XLA's", FMA: "of FMA"}
    lines = []
    for p, row in table.items():
        own = row["unrolled"]
        line = [p.cell, *(str(n) for n in (p.steps, p.batch_size, p.size)), milliseconds(own)]
        line += [milliseconds(row[peer]) for peer in peers]
        line += [f"{row[peer].median / own.median:.2f}" for peer in peers]
        line.append(f"{own.gflops:.1f}")
        for name in bounds:
            peak = peaks.typical(name)
            line.append("-" if peak is None else f"{100 * own.gflops / peak:.0f} %")
        lines.append(line)
    show_lines(
        f"{title} (ms; × is the peer's time over unrolled's)", [*heads, *bounds.values()], lines
    )
    for peer in peers:
        found = ratios(table, "unrolled", peer)
        by_cell = {
            cell: geometric_mean(r for p, r in found.items() if p.cell == cell)
            for cell in dict.fromkeys(p.cell for p in found)
        }
        shown = ", ".join(f"{cell} {mean:.2f}" for cell, mean in by_cell.items())
        every = geometric_mean(found.values())
        print(
            f"  geometric mean × {peer}: {shown}, all {every:.2f}, lowest {min(found.values()):.2f}"
        )


def show_streaming(table: Table) -> None:
    for p, row in table.items():
        own = row["unrolled"]
        lines = [
            [
                name,
                f"{r.median * 1e6:.2f}",
                f"{min(r.seconds) * 1e6:.2f}",
                f"{r.median / own.median:.2f}",
                r.notes.get("way", ""),
            ]
            for name, r in row.items()
        ]
        title = f"streaming, {p.cell}, one step, T = B = 1, D = H = {p.size}"
        show_lines(title, ["contestant", "µs", "best", "× unrolled", "way"], lines)


def show_ragged(table: Table) -> None:
    heads = ["cell", "T", "B", "H", "real", *next(iter(table.values()))]
    for own, peer in RAGGED:
        short = own.split(", ")[1]
        heads.append(f"{short} / full" if peer.endswith("full") else f"{short} × torch.nn")
    lines = []
    for p, row in table.items():
        share = row["torch.nn, packed"].notes["real_share"]
        line = [p.cell, str(p.steps), str(p.batch_size), str(p.size), f"{share:.3f}"]
        line += [milliseconds(r) for r in row.values()]
        for own, peer in RAGGED:
            ratio = row[peer].median / row[own].median
            line.append(f"{1 / ratio if peer.endswith('full') else ratio:.2f}")
        lines.append(line)
    show_lines(
        "ragged, training (ms; real: the share of the steps within the lengths)", heads, lines
    )


def show_model(table: Table, profiles: list[dict[str, Any]]) -> None:
    phases = [name for name in profiles[0] if name not in ("cell", "contestant")]
    by_name = {(profile["cell"], profile["contestant"]): profile for profile in profiles}
    lines = []
    for p, row in table.items():
        for name, r in row.items():
            peers = (row["torch.nn"], row["torch.nn, our head"])
            line = [p.cell, name, f"{r.notes['tokens_per_second']:,}"]
            line += [f"{peer.median / r.median:.2f}" for peer in peers]
            line.append(milliseconds(r))
            line += [f"{by_name[p.cell, name][phase] * 1e3:.2f}" for phase in phases]
            lines.append(line)
    heads = ["cell", "contestant", "tokens/s", "× torch.nn", "× with our head", "a step", *phases]
    show_lines("model: a step of training a cloze model (ms)", heads, lines)


def show_targets(targets: Sequence[Target]) -> None:
    words = {True: "met", False: "MISSED", None: "not measured"}
    lines = [
        [
            target.name,
            target.target,
            "-" if target.reached is None else f"{target.reached:.2f}",
            words[target.met],
            target.where,
        ]
        for target in targets
    ]
    show_lines("targets", ["", "target", "reached", "", "furthest off"], lines)


def show_lines(title: str, heads: list[str], lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    print(f"\n{title}")
    for line in [heads, *lines]:
        cells = [
            text.rjust(width) if is_number(lines[0][k]) else text.ljust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


def is_number(text: str) -> bool:
    return text == "-" or text[:1].isdigit()


def milliseconds(row: Row) -> str:
    return f"{row.median * 1e3:.4g}"
