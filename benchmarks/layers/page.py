"""The tables of docs/guides/speed.md, from what was measured.

    python -m benchmarks.layers.page [--layers FILE] [--options FILE] [--cells FILE]

``FILE`` is what ``python -m benchmarks.layers --json FILE`` wrote, or ``benchmarks.options``, or
``benchmarks.cells``; what the page shows of it goes into ``docs/guides/speed.json``, which is tracked. Then
every table of the page, between two comments that name it, is written anew from there. Without a file the
page alone is written.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks import results
from benchmarks.layers.judging import PEERS

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PAGE, FIGURES = GUIDES / "speed.md", GUIDES / "speed.json"
CELLS = ("RNN", "GRU", "LSTM")
SHOWN = {
    "layer norm": "layer normalisation",
    "zoneout": "zoneout",
    "recurrent dropout": "recurrent dropout",
    "variational dropout": "variational dropout",
    "weight drop": "weight drop",
}
OPTIONS_SIZE = [100, 32, 128]


def of_layers(report: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a report of ``benchmarks.layers``: one direction."""
    ratios = [r for r in report["ratios"]["rows"] if r["directions"] == 1]
    means = [r for r in report["ratios"]["geometric_means"] if r["directions"] == 1]
    ragged = [r for r in ratios if r["section"] == "ragged"]
    pairs = dict.fromkeys((r["contestant"], r["against"]) for r in ragged)
    return {
        **origin(report),
        "training": [
            {
                "cell": r["cell"],
                "size": [r["steps"], r["batch_size"], r["size"]],
                "against": r["against"],
                "ratio": r["ratio"],
            }
            for r in ratios
            if r["section"] == "training"
        ],
        "means": [
            {
                "section": r["section"],
                "cell": r["cell"],
                "against": r["against"],
                "ratio": r["geometric_mean"],
            }
            for r in means
            if r["section"] in ("training", "inference")
        ],
        "streaming": {
            r["contestant"]: r["seconds_median"] * 1e6
            for r in report["rows"]
            if r["section"] == "streaming"
        },
        "ragged": [spread(own, peer, ragged) for own, peer in pairs],
        "model": [
            {"cell": r["cell"], "against": r["against"], "ratio": r["ratio"]}
            for r in report["ratios"]["rows"]
            if r["section"] == "model"
        ],
    }


def spread(own: str, peer: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The range of a ratio; against full lengths, of the share of their time."""
    found = [r["ratio"] for r in rows if (r["contestant"], r["against"]) == (own, peer)]
    if peer.endswith("full"):
        found = [1 / ratio for ratio in found]
    return {"contestant": own, "against": peer, "least": min(found), "most": max(found)}


def of_options(report: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a report of ``benchmarks.options``: one size."""
    return {
        **origin(report),
        "size": OPTIONS_SIZE,
        "rows": [
            {"option": r["option"], "cell": r["cell"], "ratio": r["ratio"]}
            for r in report["rows"]
            if r["option"] in SHOWN and list(r["size"]) == OPTIONS_SIZE
        ],
    }


def of_cells(report: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a report of ``benchmarks.cells``: the range over all cells."""
    rows = report["rows"]
    sizes = dict.fromkeys(tuple(r["size"]) for r in rows)
    by_size = {size: [r["ratio"] for r in rows if tuple(r["size"]) == size] for size in sizes}
    shares = [r["bandwidth"] / report["copy"] for r in rows if "bandwidth" in r]
    copied = [1 / r["of_built_in"] for r in rows if "of_built_in" in r]
    return {
        **origin(report),
        "loop": [{"size": list(size), **ends(found)} for size, found in by_size.items()],
        "built_in": ends(copied),
        "of_copy": ends(shares),
    }


def origin(report: dict[str, Any]) -> dict[str, Any]:
    """When, how and where a report was measured."""
    return {name: report["machine"][name] for name in ("date", "command", "processor", "threads")}


def ends(found: Sequence[float]) -> dict[str, float]:
    return {"least": min(found), "mean": geometric_mean(found), "most": max(found)}


def tables(figures: dict[str, Any]) -> dict[str, str]:
    """Every table of the page by name, in Markdown, and where they come from."""
    layers, options, cells = figures["layers"], figures["options"], figures["cells"]
    return {
        "layers": source(layers),
        "training": training(layers),
        "inference": inference(layers),
        "streaming": streaming(layers),
        "ragged": ragged(layers),
        "model": model(layers),
        "options": f"{source(options)}\n{of_each_option(options)}",
        "cells": f"{source(cells)}\n{of_every_cell(cells)}",
    }


def training(layers: dict[str, Any]) -> str:
    peers = [p for p in PEERS if any(r["against"] == p for r in layers["training"])]
    heads = ["T, B, D=H", *(f"{cell}, {peer}" for cell in CELLS for peer in peers)]
    found = {(r["cell"], tuple(r["size"]), r["against"]): r["ratio"] for r in layers["training"]}
    means = {
        (r["cell"], r["against"]): r["ratio"] for r in layers["means"] if r["section"] == "training"
    }
    lines = [
        [
            ", ".join(map(str, size)),
            *(number(found.get((cell, size, peer))) for cell in CELLS for peer in peers),
        ]
        for size in dict.fromkeys(tuple(r["size"]) for r in layers["training"])
    ]
    every = ["geometric mean", *(number(means.get((c, p))) for c in CELLS for p in peers)]
    return table(heads, [*lines, every])


def inference(layers: dict[str, Any]) -> str:
    found = {
        (r["against"], r["cell"]): r["ratio"]
        for r in layers["means"]
        if r["section"] == "inference"
    }
    peers = [p for p in PEERS if any(peer == p for peer, _ in found)]
    lines = [[peer, *(number(found.get((peer, cell))) for cell in CELLS)] for peer in peers]
    return table(["against", *CELLS], lines)


def streaming(layers: dict[str, Any]) -> str:
    lines = [[name, f"{time:.1f}"] for name, time in layers["streaming"].items()]
    return table(["", "µs a step"], lines)


def ragged(layers: dict[str, Any]) -> str:
    lines = [
        [f"`{r['contestant']}`", f"{number(r['least'])} to {number(r['most'])}", words]
        for r in layers["ragged"]
        for full, words in (
            (True, "of the time of full lengths"),
            (False, "times as fast as `torch.nn`, packed"),
        )
        if r["against"].endswith("full") == full
    ]
    return table(["", "from … to", ""], lines)


def model(layers: dict[str, Any]) -> str:
    cells = [c for c in CELLS if any(r["cell"] == c for r in layers["model"])]
    found = {(r["against"], r["cell"]): r["ratio"] for r in layers["model"]}
    names = {
        "torch.nn": "the same model with `torch.nn`'s layers and PyTorch's own head",
        "torch.nn, our head": "the same, with our head on both sides",
    }
    lines = [
        [words, *(number(found.get((peer, cell))) for cell in cells)]
        for peer, words in names.items()
    ]
    return table(["against", *cells], lines)


def of_each_option(options: dict[str, Any]) -> str:
    cells = list(dict.fromkeys(r["cell"] for r in options["rows"]))
    found = {(r["option"], r["cell"]): r["ratio"] for r in options["rows"]}
    lines = [
        [words, *(number(found.get((option, cell))) for cell in cells)]
        for option, words in SHOWN.items()
    ]
    return table(["", *cells], lines)


def of_every_cell(cells: dict[str, Any]) -> str:
    found = [
        *(
            (f"the loop's time over the kernel's, T, B, H = {', '.join(map(str, r['size']))}", r)
            for r in cells["loop"]
        ),
        (
            "time of an LSTM copied by hand into a cell of your own, over the built-in one's",
            cells["built_in"],
        ),
        (
            "what cells without a product move a second, over what a large copy does",
            cells["of_copy"],
        ),
    ]
    lines = [
        [words, *(number(r[name]) for name in ("least", "mean", "most"))] for words, r in found
    ]
    return table(["", "least", "geometric mean", "most"], lines)


def source(figures: dict[str, Any]) -> str:
    """When, where and how it was measured; a note says what else is to be known."""
    note = f" {figures['note']}" if "note" in figures else ""
    return (
        f"`{figures['command']}`, {figures['date']}, {figures['threads']} threads of "
        f"{figures['processor']}.{note}\n"
    )


def number(ratio: float | None) -> str:
    """To three figures at most.

    >>> number(16.44), number(1.1), number(None)
    ('16.4', '1.1', '–')
    """
    return "–" if ratio is None else f"{ratio:.3g}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    every = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in every)


def written(page: str, figures: dict[str, Any]) -> str:
    """``page`` with every table anew.

    Raises:
        ValueError: the page has not each table once.
    """
    for name, text in tables(figures).items():
        parts = re.split(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", page, flags=re.DOTALL)
        if len(parts) != 4:
            raise ValueError(
                f"table: {name}: got {len(parts) // 3} times on the page, expected once"
            )
        before, begin, end, after = parts
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", type=Path, metavar="FILE", help="of benchmarks.layers")
    parser.add_argument("--options", type=Path, metavar="FILE", help="of benchmarks.options")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="of benchmarks.cells")
    given = parser.parse_args(arguments)
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    for name, read in (("layers", of_layers), ("options", of_options), ("cells", of_cells)):
        path: Path | None = getattr(given, name)
        if path is not None:
            figures[name] = read(json.loads(path.read_text(encoding="utf-8")))
            results.write(FIGURES, figures)
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
