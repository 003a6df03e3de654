"""Layers under the lens in the tests, and what is told of them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import unrolled
from unrolled import Recurrent, cells
from unrolled.lens import Lens

T, B, D, H = 9, 3, 3, 4

MAKES: dict[str, Callable[..., nn.Module]] = {
    "Recurrent Elman": lambda **o: Recurrent(cells.Elman, D, H, depth=2, **o),
    "Recurrent relu": lambda **o: Recurrent(cells.Elman, D, H, depth=2, activation="relu", **o),
    "Recurrent LSTM": lambda **o: Recurrent(cells.LSTM, D, H, depth=2, **o),
    "reference": lambda **o: Recurrent(cells.GRU, D, H, depth=2, backend="reference", **o),
    "drop-in layer LSTM": lambda **o: unrolled.LSTM(D, H, 2, **o),
    "torch RNN": lambda **o: nn.RNN(D, H, 2, **o),
    "torch LSTM": lambda **o: nn.LSTM(D, H, 2, **o),
    "torch GRU": lambda **o: nn.GRU(D, H, 2, **o),
}


every_layer = pytest.mark.parametrize("name", MAKES)


both_backends = pytest.mark.parametrize("backend", ["auto", "reference"])


def made(name: str, **options: object) -> Any:
    return MAKES[name](**options)


def told(seen: Lens) -> dict[str, Any]:
    """The record, after the report was made in every form; JSON must be strict."""
    report = seen.report()
    with Console(width=200, quiet=True).capture():
        Console(width=200).print(report)
    assert len(str(report).splitlines()) > len(report.rows)
    read = strict(report.to_json())
    assert read == report.record()
    return read


def strict(text: str) -> dict[str, Any]:
    """JSON, in which NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    read: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return read


def where(seen: Lens) -> tuple[str, int, int, int, int]:
    """Of the first that is not finite: the pass, level, direction, step, sequence."""
    told(seen)
    found = seen.broken()
    assert found is not None
    return found.where, found.level, found.direction, found.step, found.sequence


def is_unwatched(layer: nn.Module, kind: type) -> bool:
    return type(layer) is kind and "watcher" not in vars(layer)


def inputs(steps: int = T, batch_size: int = B) -> Tensor:
    return torch.randn(steps, batch_size, D)
