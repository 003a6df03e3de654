"""Sequences of different lengths: packed and with ``lengths``, against full ones and ``torch.nn``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmarks.layers import on_torch
from benchmarks.layers.measuring import (
    Contestant,
    Problem,
    Row,
    Values,
    compare,
    fixed_input,
    timed,
)
from benchmarks.layers.tables import Sizes
from unrolled import Recurrent, cells

SIZES: Sizes = ((100, 64, 256), (100, 32, 128))
CELLS = {"RNN": cells.Elman, "LSTM": cells.LSTM, "GRU": cells.GRU}


def problems(names: Sequence[str], sizes: Sizes) -> list[Problem]:
    return [Problem("ragged", cell, T, B, H, 1, "training") for cell in names for T, B, H in sizes]


def measure(problem: Problem, rounds: int) -> list[Row]:
    """Rows of training, each with the share of its steps that are within the lengths."""
    layer = on_torch.layer_of(problem)
    drop_in, recurrent = on_torch.drop_in_of(layer, problem.cell), recurrent_of(layer, problem.cell)
    x, cotangent = fixed_input(problem)
    lengths = spread(problem.steps, problem.batch_size)
    full = [
        on_torch.training("torch.nn", layer, x, cotangent),
        on_torch.training("unrolled, full", drop_in, x, cotangent),
        with_lengths("Recurrent, full", recurrent, x, cotangent, None),
    ]
    ragged = [
        packed("torch.nn, packed", layer, x, cotangent, lengths),
        packed("unrolled, packed", drop_in, x, cotangent, lengths),
        with_lengths("Recurrent, lengths", recurrent, x, cotangent, lengths),
    ]
    compare(problem, full)
    compare(problem, ragged)
    share = float(lengths.sum()) / (problem.steps * problem.batch_size)
    rows = timed(problem, ragged + full[1:], rounds)
    shares = [share] * len(ragged) + [1.0] * len(full[1:])
    return [
        replace(row, notes={"real_share": round(real, 4)})
        for row, real in zip(rows, shares, strict=True)
    ]


def spread(steps: int, batch_size: int) -> Tensor:
    """Lengths evenly spread over 1 … T, in random order."""
    order = torch.randperm(batch_size, generator=torch.Generator().manual_seed(0))
    return torch.linspace(1, steps, batch_size).round().long()[order]


def recurrent_of(layer: nn.RNNBase, cell: str) -> Recurrent:
    made = Recurrent(CELLS[cell], layer.input_size, layer.hidden_size)
    named = {f"cells.0.{k.removesuffix('_l0')}": v for k, v in layer.state_dict().items()}
    made.load_state_dict(named)
    return made


def packed(
    name: str, layer: nn.RNNBase, x: Tensor, cotangent: Tensor, lengths: Tensor
) -> Contestant:
    """A ``PackedSequence`` in and out; the packing itself is not timed."""
    sequence = pack_padded_sequence(x, lengths, enforce_sorted=False)
    data = sequence.data.requires_grad_()
    given = PackedSequence(
        data, sequence.batch_sizes, sequence.sorted_indices, sequence.unsorted_indices
    )
    backwards = pack_padded_sequence(cotangent, lengths, enforce_sorted=False).data
    parameters = dict(layer.named_parameters())
    inputs = [data, *parameters.values()]

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = layer(given)[0].data
        return y, torch.autograd.grad(y, inputs, backwards)

    def padded(rows: Tensor) -> Tensor:
        return pad_packed_sequence(given._replace(data=rows.detach()), total_length=len(x))[0]

    def read(result: Any) -> Values:
        y, (of_x, *of_parameters) = result
        found = zip(parameters, of_parameters, strict=True)
        values = {"y": padded(y), "gradient of x": padded(of_x)}
        return values | {f"gradient of {name}": g for name, g in found}

    return Contestant(name, call, read)


def with_lengths(
    name: str, layer: Recurrent, x: Tensor, cotangent: Tensor, lengths: Tensor | None
) -> Contestant:
    x = x.clone().requires_grad_()
    parameters = {k.removeprefix("cells.0."): v for k, v in layer.named_parameters()}
    inputs = [x, *parameters.values()]

    def call() -> tuple[Any, tuple[Tensor, ...]]:
        y: Any = layer(x, lengths=lengths).y
        return y, torch.autograd.grad(y, inputs, cotangent)

    def read(result: Any) -> Values:
        y, (of_x, *of_parameters) = result
        found = zip(parameters, of_parameters, strict=True)
        values = {"y": y.detach(), "gradient of x": of_x}
        return values | {f"gradient of {name}_l0": g for name, g in found}

    return Contestant(name, call, read)
