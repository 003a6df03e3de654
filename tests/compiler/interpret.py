"""Cells to compile, and a schedule's numbers in plain PyTorch, in float64."""

import operator
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.cells import GRU, LSTM, Cell, Elman
from unrolled.compiler import BUILTINS, Schedule, Unit, trace

B, D, H = 5, 3, 7


class Own(Cell):
    """A cell with a projection of ``blocks`` blocks, a product as wide, and parameters as asked."""

    blocks, states, transposed = 1, 1, True
    vectors: ClassVar[dict[str, int]] = {}

    def __init__(self, input_size=D, hidden_size=H):
        super().__init__(input_size, hidden_size)
        width, shape = self.blocks * hidden_size, (self.blocks * hidden_size, hidden_size)
        self.weight_ih = torch.nn.Parameter(torch.empty(width, input_size))
        self.weight_hh = torch.nn.Parameter(torch.empty(shape if self.transposed else shape[::-1]))
        for name, blocks in self.vectors.items():
            setattr(self, name, torch.nn.Parameter(torch.empty(blocks * hidden_size)))
        self.reset_parameters()

    @property
    def state_sizes(self):
        return (self.hidden_size,) * self.states

    def project(self, x):
        return x @ self.weight_ih.T


class Leaky(Own):
    def step(self, projected, state):
        (h,) = state
        return (0.9 * h + 0.1 * torch.tanh(projected + h @ self.weight_hh.T),)


class Untransposed(Own):
    """A weight ``[H, 2H]``, slices, and a square."""

    blocks, transposed = 2, False

    def step(self, projected, state):
        (h,) = state
        both = projected + h @ self.weight_hh
        gate = torch.sigmoid(both[:, : self.hidden_size])
        new = both[..., self.hidden_size :] ** 2 / 4
        return (gate * h + (1 - gate) * new,)


class Independent(Own):
    """No product: each unit has a weight of its own, kept below one by a sigmoid."""

    vectors: ClassVar = {"decay": 1, "bias": 1}

    def step(self, projected, state):
        (h,) = state
        return (torch.relu(projected + torch.sigmoid(self.decay) * h + self.bias),)


class Traces(Own):
    """Two states, one of which never meets the product; a buffer; a projected block not used."""

    blocks, states = 3, 2
    vectors: ClassVar = {"peephole": 2}

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mask", torch.arange(self.hidden_size) % 2.0)

    def step(self, projected, state):
        h, c = state
        u = projected.view(-1, 3, self.hidden_size).unbind(1)
        w = F.linear(h, self.weight_hh).unflatten(-1, (3, self.hidden_size))[:, 1]
        p, q = self.peephole.chunk(2)
        c = torch.sigmoid(u[0] + p * c) * c + self.mask * (w + q)
        return torch.where(c > h, torch.tanh(c), u[1].abs()), c


class Everything(Own):
    """Every pointwise operation that the compiler knows."""

    def step(self, projected, state):
        (h,) = state
        z = projected + h @ self.weight_hh.T
        y = torch.maximum(z, h) - torch.minimum(z * 2, h).clamp(-0.5, 0.5) + z.clamp_min(0.1)
        y = y + F.silu(z) * F.softplus(z) - F.leaky_relu(z) / (1 + z.abs()) + F.hardtanh(z)
        y = y + torch.exp(-z) * torch.log(2 + z * z) + torch.sqrt(1 + h**2) + z.pow(-2) - z**3
        y = y + torch.lerp(z, h, 0.3) + torch.lerp(z, h, torch.sigmoid(z)) + (2 - z) + 1 / (3 + z)
        y = y + torch.addcmul(z, h, z, value=0.5) + (h > 0) * z + torch.sign(z) + z.clamp(max=0.2)
        y = y + z.masked_fill((z > 0) & ~(h <= 0) | (h < -1), 0.5) + (z >= h).float()
        y = y + torch.zeros_like(h) + torch.full_like(h, 0.25) + torch.tensor(2.0) + y.square()
        y = (
            y
            - (z - (h - 0.5))
            - (z + h) * (z - h) / (z / (1 + (2 + h * h) / (3 + z * z))) * -(z * h)
        )
        return (torch.where(z != h, y, h),)


class Passing(Own):
    """The output is the input, the second state the first one's past: little to compute or keep."""

    states = 2

    def step(self, projected, state):
        h, _ = state
        return projected, h


class Twice(Own):
    """One product used twice, and a state that another equals."""

    states = 2

    def step(self, projected, state):
        h, c = state
        new = torch.tanh(projected + h @ self.weight_hh.T)
        return new * c, new - (h @ self.weight_hh.T) * h


CELLS: dict[str, Callable[[], Cell]] = {
    **BUILTINS,
    "lstm_without_bias": lambda: LSTM(D, H, bias=False),
    "gru_without_bias": lambda: GRU(D, H, bias=False),
    "half_tanh": lambda: Elman(D, H, activation=lambda z: torch.tanh(z) * 0.5),
    "leaky": Leaky,
    "untransposed": Untransposed,
    "independent": Independent,
    "traces": Traces,
    "everything": Everything,
    "passing": Passing,
    "twice": Twice,
    "one_unit": lambda: Untransposed(1, 1),
}

OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **{
        name: getattr(operator, name)
        for name in ("add", "sub", "mul", "neg", "gt", "lt", "ge", "le")
    },
    **{
        name: getattr(torch, name)
        for name in ("sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs")
    },
    "div": operator.truediv,
    "max": torch.maximum,
    "min": torch.minimum,
    "select": torch.where,
}


def blocks(tensor: Tensor, h: int) -> list[Tensor]:
    return list(tensor.split(h, -1))


def evaluate(
    order: Iterable[Unit], values: dict[Unit, Tensor], leaves: dict[str, list], like
) -> None:
    """Add the value of each unit in ``order``, from its operands and from ``leaves``."""
    for unit in order:
        if unit.op == "constant":
            values[unit] = torch.full_like(like, unit.value)
        elif unit.args:
            values[unit] = OPERATIONS[unit.op](*(values[arg] for arg in unit.args))
        else:
            values[unit] = leaves[unit.name or unit.op][unit.index]


def forward(s: Schedule, leaves: dict[str, list]) -> tuple[list[Tensor], list[Tensor]]:
    """The next states and what is kept."""
    values: dict[Unit, Tensor] = {}
    evaluate(s.forward[0].units, values, leaves, leaves["state"][0])
    return [values[unit] for unit in s.next], [values[unit] for unit in s.kept]


def backward(
    s: Schedule, after, kept, leaves: dict[str, list]
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradient blocks and the states' gradients, from nothing but what the sweep has then."""
    values = dict(zip(s.kept, kept, strict=True)) | dict(zip(s.next, after, strict=True))
    there = {name: value for name, value in leaves.items() if name not in ("projected", "product")}
    evaluate(s.backward, values, there, leaves["state"][0])
    return [values[unit] for unit in s.grads], [values[unit] for unit in s.d_state]


def leaves_of(cell: Cell, s: Schedule, projected: Tensor, state, d_next) -> dict[str, list]:
    """What a schedule's leaves are in one step of the cell."""
    h, (stage,) = state[0].shape[-1], s.forward
    tensors = {n: t.detach() for n, t in (*cell.named_parameters(), *cell.named_buffers())}
    prologue = trace(cell).prologue
    if prologue is not None:
        tensors |= {f"derived_{k}": d.detach() for k, d in enumerate(prologue(*tensors.values()))}
    leaves = {"projected": blocks(projected, h), "state": list(state), "d_next": list(d_next)}
    leaves |= {
        name: [v.expand_as(state[0]) for v in blocks(tensors[name], h)] for name in s.vectors
    }
    if stage.weight:
        weight = tensors[stage.weight]
        leaves["product"] = blocks(state[0] @ (weight.T if stage.transposed else weight), h)
    return leaves
