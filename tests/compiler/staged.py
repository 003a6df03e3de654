"""Cells of several stages, and their schedules' numbers in plain PyTorch, in float64.

What is run is what the sweep runs: stage by stage, each from nothing but what it has then.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.compiler.interpret import OPERATIONS, D, H, Own, blocks
from unrolled.cells import Cell
from unrolled.compiler import StagedSchedule, Trace, Unit


class Staged(Own):
    """``Own``, and parameters of any shape."""

    def __init__(self, input_size=D, hidden_size=H):
        super().__init__(input_size, hidden_size)
        for name, shape in self.shapes(hidden_size).items():
            setattr(self, name, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def shapes(self, h):
        return {}


class InSequence(Staged):
    """Two products in sequence by one weight, turned the second time."""

    def step(self, projected, state):
        (h,) = state
        v = torch.relu(projected + h @ self.weight_hh.T)
        return (torch.tanh(v @ self.weight_hh) + 0.5 * h,)


class SideBySide(Staged):
    """Products of both states and of a gated one; a mask that two stages read."""

    blocks, states = 2, 2

    def shapes(self, h):
        return {"gate": (h, h), "both": (h, 2 * h), "scale": (1,)}

    def step(self, projected, state):
        h, c = state
        a, b = projected.chunk(2, -1)
        z = torch.sigmoid(b + c @ self.gate.T)
        seen = torch.where(h > c, h, 0.3 * h)
        new = torch.tanh(a + torch.cat([z * seen, c], -1) @ self.both.T)
        return torch.where(h > c, new, z * h), c + self.scale * (
            new - c
        ) + h @ self.weight_hh.chunk(2)[0].T


class Normed(Staged):
    """Layer normalisation over all gates, of each gate on a view, and by hand."""

    blocks = 3

    def shapes(self, h):
        return {"gain": (3 * h,), "shift": (3 * h,), "one": (h,)}

    def step(self, projected, state):
        (h,) = state
        n = self.hidden_size
        z = F.layer_norm(h @ self.weight_hh.T, (3 * n,), self.gain, self.shift)
        u = F.layer_norm(projected.view(-1, 3, n), (n,), self.one)
        a, b, c = z.chunk(3, -1)
        r = torch.sigmoid(a + u[:, 0])
        new = torch.tanh(r * b + u[:, 1])
        new = (new - new.mean(-1, keepdim=True)) * torch.rsqrt(new.var(-1, keepdim=True) + 0.1)
        return (r * h + (1 - r) * new + c / (1 + h.std(1, keepdim=True)) + u[:, 2],)


class Stopped(Staged):
    """Values through which no gradient goes, one of them multiplied."""

    def step(self, projected, state):
        (h,) = state
        with torch.no_grad():
            size = torch.sqrt((h * h).mean(-1, keepdim=True))
        return (torch.tanh(projected + h.detach() @ self.weight_hh.T) + h / (1 + size),)


class Deep(Staged):
    """Linear layers inside, an operand one block of which is constant, a derived weight."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        h = self.hidden_size
        self.wide, self.narrow = nn.Linear(3 * h, 2 * h), nn.Linear(2 * h, h, bias=False)

    def step(self, projected, state):
        (h,) = state
        seen = torch.cat([projected, h, torch.ones_like(h)], -1)
        new = self.narrow(F.softplus(self.wide(seen)))
        return (h + 0.1 * (new - h) + h @ (self.weight_hh - self.weight_hh.T),)


class Kept(Staged):
    """Sums alone, no product; one number a sequence that is clamped, compared and multiplied."""

    def step(self, projected, state):
        (h,) = state
        total = (projected * h).sum(-1, keepdim=True)
        near = total.abs().clamp(max=2.0)
        return (torch.where(total > 0, near * h, projected - near),)


CELLS: dict[str, Callable[[], Cell]] = {
    "in_sequence": InSequence,
    "side_by_side": SideBySide,
    "normed": Normed,
    "stopped": Stopped,
    "deep": Deep,
    "sums": Kept,
}


class Run:
    """One step of a schedule, forward and then backward.

    Args:
        s: the schedule.
        tensors: the cell's parameters and buffers, and what is derived from them.
        projected: ``[B, P]``.
        state: ``[B, H]`` each.
        d_next: likewise.
    """

    def __init__(
        self, s: StagedSchedule, tensors: dict[str, Tensor], projected: Tensor, state, d_next
    ) -> None:
        h = state[0].shape[-1]
        self.s, self.tensors, self.like = s, tensors, state[0]
        self.leaves = {"projected": blocks(projected, h), "state": list(state)}
        self.leaves["d_next"] = list(d_next)
        for name in s.vectors:
            parts = (
                blocks(tensors[name].flatten(), h) if tensors[name].numel() > 1 else [tensors[name]]
            )
            self.leaves[name] = [part.expand_as(self.like) for part in parts]
        found = self._pass(s.forward, {}, backward=False)
        self.next, self.kept = (
            [found[name][k] for k in sorted(found[name])] for name in ("next", "kept")
        )
        after = [unit for stage in s.forward.stages for _, unit in stage.results["next"]]
        there = dict(zip(after, self.next, strict=True)) | dict(zip(s.kept, self.kept, strict=True))
        found = self._pass(s.backward, there, backward=True)
        self.grads, self.d_state = found["grad"], [found["d_state"][k] for k in range(s.states)]

    def _pass(
        self, part, there: dict[Unit, Tensor], *, backward: bool
    ) -> dict[str, dict[int, Tensor]]:
        """What each stage sets, by its name and index."""
        set_: dict[str, dict[int, Tensor]] = {"next": {}, "kept": {}, "grad": {}, "d_state": {}}
        crossed: dict[Unit, Tensor] = {}
        for k, stage in enumerate(part.stages):
            known = there | crossed
            products = []
            for product in stage.products:
                operand = torch.cat(
                    [self._operand(u, crossed, set_, backward) for u in product.operand], -1
                )
                weight = self.tensors[product.weight]
                products += blocks(
                    operand @ (weight.T if product.transposed else weight), self.like.shape[-1]
                )
            known |= {unit: products[place] for unit, place in stage.blocks.items()}
            leaves = self.leaves if backward and k == 0 else self.leaves | {"d_next": []}
            values = {unit: _value(unit, known, leaves, self.like) for unit in stage.staging}
            for unit in stage.sums:
                total = _value(unit.args[0], known, leaves, self.like).sum(-1, keepdim=True)
                values[unit] = total.expand_as(self.like)
            for name, results in stage.results.items():
                set_[name] |= {i: _value(unit, known, leaves, self.like) for i, unit in results}
            crossed |= values
        return set_

    def _operand(self, unit: Unit, crossed, set_, backward: bool) -> Tensor:
        """A block of what a product multiplies: from where csrc/sweep/stages.h takes it."""
        if unit.value == 0:
            return torch.zeros_like(self.like)
        if backward:
            return set_["grad"][self.s.grads.index(unit)]
        return self.leaves["state"][unit.index] if unit.op == "state" else crossed[unit]

    def gathered(self, places: Iterable[int]) -> Tensor:
        """The gradients of some blocks, side by side."""
        none = torch.zeros_like(self.like)
        return torch.cat([self.grads[k] if k >= 0 else none for k in places], -1)

    def gradients(self, traced: Trace) -> dict[str, Tensor]:
        """The gradient of each parameter, by name."""
        found = {name: torch.zeros_like(t) for name, t in self.tensors.items()}
        start = 0
        for name, count in self.s.vectors.items():
            d = self.gathered(self.s.d_vector[start : start + count]).sum(0)
            found[name] = (d if found[name].numel() > 1 else d.sum()).view(found[name].shape)
            start += count
        there = dict(zip(self.s.kept, self.kept, strict=True))
        there |= {unit: self.grads[k] for k, unit in enumerate(self.s.grads)}
        for w in self.s.weight_gradients:
            rows, columns = (
                torch.cat([_value(u, there, self.leaves, self.like) for u in units], -1)
                for units in (w.rows, w.columns)
            )
            found[w.weight] += rows.T @ columns
        return {name: d for name, d in found.items() if name in traced.parameters}


def _value(unit: Unit, known: dict[Unit, Tensor], leaves: dict[str, list], like: Tensor) -> Tensor:
    """A unit's value from what is known; products and sums must be."""
    if unit in known:
        return known[unit]
    if unit.op == "constant":
        return torch.full_like(like, unit.value)
    if not unit.args:
        return leaves[unit.name or unit.op][unit.index]
    return OPERATIONS[unit.op](*(_value(arg, known, leaves, like) for arg in unit.args))
