"""The tables of the guide to speed are those that its JSON gives."""

import json
import re

import pytest
from benchmarks.layers import page

FIGURES = json.loads(page.FIGURES.read_text(encoding="utf-8"))


def test_the_page_is_what_the_json_gives() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.written(text, FIGURES) == text, "python -m benchmarks.layers.page writes it anew"


def test_another_figure_is_seen() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    first, *others = FIGURES["layers"]["training"]
    changed = FIGURES["layers"] | {"training": [first | {"ratio": 99.0}, *others]}
    assert "| 99 |" in page.written(text, FIGURES | {"layers": changed})


def test_a_table_that_is_not_on_the_page_is_an_error() -> None:
    with pytest.raises(ValueError, match="table: layers: got 0 times"):
        page.written("", FIGURES)


def row(section: str, **more: object) -> dict[str, object]:
    sizes = {"steps": 100, "batch_size": 1, "size": 32, "directions": 1, "cell": "GRU"}
    return {"section": section, "contestant": "unrolled", "against": "torch.nn"} | sizes | more


def test_a_report_gives_what_the_tables_show() -> None:
    machine = {"date": "2026-01-02", "command": "python -m x", "processor": "P", "threads": 3}
    report = {
        "machine": machine | {"cores": 4},
        "rows": [row("streaming", seconds_median=8e-6)],
        "ratios": {
            "rows": [
                row("training", ratio=1.5),
                row("training", ratio=9.0, directions=2),
                row("ragged", ratio=4.0, against="unrolled, full"),
                row("ragged", ratio=2.0, against="unrolled, full"),
                row("model", ratio=2.5, directions=2),
            ],
            "geometric_means": [row("training", geometric_mean=1.25)],
        },
    }
    found = page.of_layers(report)
    options = {
        "machine": machine,
        "rows": [
            {"option": "zoneout", "cell": "GRU", "size": [100, 32, 128], "ratio": 1.1},
            {"option": "zoneout", "cell": "GRU", "size": [100, 16, 64], "ratio": 7.0},
        ],
    }
    cells = {
        "machine": machine,
        "copy": 10.0,
        "rows": [
            {"cell": "LRU", "size": [9, 2, 3], "ratio": 2.0, "bandwidth": 1.0},
            {"cell": "CopiedLSTM", "size": [9, 2, 3], "ratio": 8.0, "of_built_in": 0.8},
        ],
    }
    figures = {"layers": found, "options": page.of_options(options), "cells": page.of_cells(cells)}
    shown = page.tables(figures)
    assert shown["layers"] == "`python -m x`, 2026-01-02, 3 threads of P.\n"
    assert "| 100, 1, 32 | – | 1.5 | – |" in shown["training"]
    assert "| geometric mean | – | 1.25 | – |" in shown["training"]
    assert "| unrolled | 8.0 |" in shown["streaming"]
    assert "| 0.25 to 0.5 | of the time of full lengths |" in shown["ragged"]
    assert "| 2.5 |" in shown["model"]
    assert "| zoneout | 1.1 |" in shown["options"] and "7" not in shown["options"]
    assert "over the kernel's, T, B, H = 9, 2, 3 | 2 | 4 | 8 |" in shown["cells"]
    assert "over the built-in one's | 1.25 | 1.25 | 1.25 |" in shown["cells"]
    assert "over what a large copy does | 0.1 | 0.1 | 0.1 |" in shown["cells"]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_says_the_same_to_two_figures(name: str) -> None:
    text = (page.GUIDES.parents[1] / name).read_text(encoding="utf-8")
    means = {
        (r["against"], r["cell"]): r["ratio"]
        for r in FIGURES["layers"]["means"]
        if r["section"] == "training"
    }
    rows = re.findall(
        r"^\| `?(torch\.nn|JAX)`?[,，、] ?AVX-512 \| (\S+) \| (\S+) \| (\S+) \|$", text, re.M
    )
    assert [peer for peer, *_ in rows] == ["torch.nn", "JAX"]
    for peer, *ratios in rows:
        for cell, ratio in zip(page.CELLS, ratios, strict=True):
            assert abs(float(ratio) - means[peer, cell]) < 0.051
